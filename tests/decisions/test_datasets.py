"""Which version of a dataset data is: the digest decides, numbers only grow, links hold."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.datasets import (
    clean_dataset_name,
    clean_uri,
    dataset_names,
    link_datasets,
    register_data,
)
from modelplane.decisions.registry_index import RegistryIndex
from modelplane.errors import Conflict, InvalidResource
from modelplane.resources.dataset import Dataset, DatasetReference, DatasetVersion
from modelplane.resources.meta import check_model_name


def reference(name: str = "tx", digest: str = "sha256:a", **more: object) -> DatasetReference:
    return DatasetReference.model_validate({"name": name, "digest": digest, **more})


def write(index: RegistryIndex, written: Iterable[Dataset | DatasetVersion]) -> None:
    """Store what was decided, as a transaction does."""
    for resource in written:
        type(resource).model_validate(resource.to_dict())  # what is written can be read again
        index.put(resource)


def test_new_data_becomes_a_version_and_the_same_data_is_that_version() -> None:
    index = RegistryIndex()
    first = link_datasets([reference(rows=5, size_bytes=9, uri="march.csv")], index, "anna")
    assert [resource.key.kind for resource in first.written] == ["Dataset", "DatasetVersion"]
    write(index, first.written)
    assert first.references[0].version == "1"
    stored = index.dataset_versions["tx@1"]
    assert (stored.spec.rows, stored.spec.uri, stored.spec.author) == (5, "march.csv", "anna")
    assert stored.metadata.labels == {"modelplane.dev/dataset": "tx"}
    again = link_datasets([reference()], index, "ben")
    assert (again.references[0].version, again.written) == ("1", ())
    other = link_datasets([reference(digest="sha256:b")], index, "ben")
    assert other.references[0].version == "2"


def test_what_the_datas_own_tool_calls_it_is_taken_when_it_is_free() -> None:
    index = RegistryIndex()
    delta = [reference(digest=f"delta:{n}", version=str(n)) for n in (1, 3)]
    linked = link_datasets(delta, index, "anna")
    write(index, linked.written)
    assert [one.version for one in linked.references] == ["1", "3"]
    assert index.dataset_versions["tx@3"].spec.number == 2
    # Number 3 would be called 3, which names other data.
    plain = link_datasets([reference(digest="sha256:c")], index, "anna")
    assert plain.references[0].version == "3.1"
    taken = link_datasets([reference(digest="delta:new", version="1")], index, "anna")
    assert taken.references[0].version == "3.1"
    odd = link_datasets([reference(digest="delta:odd", version="a b/c")], index, "anna")
    assert odd.references[0].version == "3.1"


def test_one_push_may_name_the_same_data_twice() -> None:
    both = [reference(context="training"), reference(context="evaluation")]
    linked = link_datasets(both, RegistryIndex(), "anna")
    assert [one.version for one in linked.references] == ["1", "1"]
    assert len(linked.written) == 2


def test_data_without_a_digest_is_no_version_but_may_name_one() -> None:
    index = RegistryIndex()
    write(index, register_data(reference(rows=7), index, "anna").written)
    unknown = link_datasets([reference(digest="unknown"), reference("x", "unknown")], index, "a")
    assert ([one.version for one in unknown.references], unknown.written) == ([None, None], ())
    named = link_datasets([reference(digest="unknown", version="1")], index, "a")
    assert (named.references[0].digest, named.references[0].rows) == ("sha256:a", 7)


def test_names_that_cannot_be_names_are_cleaned() -> None:
    odd = reference("s3://lake/day=1/märz #2.csv", uri="s3://u:p@lake/x")
    linked = link_datasets([odd], RegistryIndex(), "anna")
    assert linked.references[0].name == "s3-lake-day=1-märz -2.csv"
    assert linked.references[0].uri == "s3://lake/x"
    assert dataset_names([odd, odd]) == ("s3-lake-day=1-märz -2.csv",)


@given(st.text(max_size=400))
def test_every_name_can_be_cleaned_and_a_good_one_stays(name: str) -> None:
    cleaned = clean_dataset_name(name)
    assert check_model_name(cleaned) == cleaned
    assert clean_dataset_name(cleaned) == cleaned


@given(st.text(max_size=80))
def test_cleaning_a_uri_never_fails_and_is_done_once(uri: str) -> None:
    assert clean_uri(clean_uri(uri)) == clean_uri(uri)


@given(
    user=st.text("abcdef", max_size=5),
    password=st.text("uvwxyz", min_size=6, max_size=9),
    scheme=st.sampled_from(["https", "s3", "postgresql", "ftp", "ssh"]),
    parameter=st.sampled_from(["token", "X-Amz-Signature", "sig", "api_key", "AWSAccessKeyId"]),
)
def test_no_password_stays_in_a_uri(user: str, password: str, scheme: str, parameter: str) -> None:
    uri = f"{scheme}://{user}:{password}@host/path?{parameter}={password}&versionId=3"
    assert password not in clean_uri(uri)
    assert clean_uri(uri).endswith("host/path?versionId=3")


def test_a_version_that_is_asked_for_must_be_free() -> None:
    index = RegistryIndex()
    first = register_data(reference(), index, "anna", version="2026-03", description="payments")
    write(index, first.written)
    assert (first.result, first.version.metadata.name) == ("created", "tx@2026-03")
    assert index.datasets["tx"].spec.description == "payments"
    again = register_data(reference(), index, "anna", version="march")
    assert (again.result, again.written) == ("unchanged", ())
    assert "tx@2026-03" in again.warnings[0]
    with pytest.raises(Conflict, match="tx@2026-03 is other data: it has digest sha256:a"):
        register_data(reference(digest="sha256:b"), index, "anna", version="2026-03")


@pytest.mark.parametrize(
    ("data", "version", "paths"),
    [
        (reference("a/b"), None, ["name"]),
        (reference(digest="unknown"), None, ["digest"]),
        (reference(digest="sha256:" + "a" * 400), None, ["digest"]),
        (reference(), "a b", ["version"]),
        (reference(), "a@b", ["version"]),
        (reference("", ""), "", ["name", "digest", "version"]),
    ],
)
def test_what_cannot_be_registered_is_told_by_field(
    data: DatasetReference, version: str | None, paths: list[str]
) -> None:
    with pytest.raises(InvalidResource) as failed:
        register_data(data, RegistryIndex(), "anna", version=version)
    assert [field.path for field in failed.value.fields] == paths


def test_a_dataset_that_was_deleted_goes_on_counting() -> None:
    index = RegistryIndex()
    for digest in ("sha256:a", "sha256:b"):
        write(index, register_data(reference(digest=digest), index, "anna").written)
    index.remove(index.datasets["tx"])
    known = register_data(reference(), index, "anna")
    assert (known.result, [one.key.kind for one in known.written]) == ("unchanged", ["Dataset"])
    new = register_data(reference(digest="sha256:c"), index, "anna")
    assert new.version.metadata.name == "tx@3"


REFERENCES = st.builds(
    reference,
    name=st.sampled_from(["tx", "images", "a/b", "a:b"]),
    digest=st.sampled_from(["unknown", *(f"sha256:{letter}" for letter in "abcdef")]),
    version=st.sampled_from([None, "1", "2", "3", "2.1", "march", "not a version"]),
)


@given(pushes=st.lists(st.lists(REFERENCES, max_size=4), max_size=12))
def test_whatever_is_pushed_versions_and_data_stay_one_to_one(
    pushes: list[list[DatasetReference]],
) -> None:
    index = RegistryIndex()
    told: dict[tuple[str, str], str] = {}
    for pushed in pushes:
        linked = link_datasets(pushed, index, "anna")
        before = dict(index.dataset_versions)
        write(index, linked.written)
        assert all(index.dataset_versions[name] is one for name, one in before.items())
        assert not link_datasets(pushed, index, "ben").written
        for given_, one in zip(pushed, linked.references, strict=True):
            assert one.digest == given_.digest or given_.digest == "unknown"
            if one.digest != "unknown":
                assert one.version is not None
                assert told.setdefault((one.name, one.digest), one.version) == one.version
                assert index.dataset_versions[f"{one.name}@{one.version}"].spec.digest == one.digest
    for name, dataset in index.datasets.items():
        numbers = [one.spec.number for one in index.versions_of_dataset(name).values()]
        assert sorted(numbers) == list(range(1, dataset.status.last_number + 1))
