"""What is said of data where it lies: digest, rows, columns; and which file is at fault."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import deltalake
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from modelplane.client import datasets_parquet
from modelplane.client.artifacts import digest_tree
from modelplane.client.datasets import DataWarning, describe_data, describe_datasets
from modelplane.errors import InvalidResource
from modelplane.resources.dataset import DataColumn, DatasetReference


@pytest.fixture
def without_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets_parquet, "_import_arrow", lambda: None)


def columns_of(reference: DatasetReference) -> dict[str, str]:
    return {column.name: column.type for column in reference.columns}


# -- files and folders ------------------------------------------------------------------------


def test_a_csv_file_has_its_header_and_its_records(tmp_path: Path) -> None:
    file = tmp_path / "march.csv"
    file.write_bytes(b'\xef\xbb\xbfid;"the\nname";amount\n1;a;2.5\n2;"b\n;b";3\n\n')
    found = describe_data(file)
    assert found.name == "march.csv"
    assert found.digest == digest_tree(file).digest
    assert (found.rows, found.files, found.size_bytes) == (2, 1, file.stat().st_size)
    assert columns_of(found) == {"id": "text", "the\nname": "text", "amount": "text"}
    assert (found.format, found.uri) == ("file", str(file))


@settings(max_examples=40)
@given(
    rows=st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2,
                 max_size=2),
        max_size=8,
    )
)  # fmt: skip
def test_records_are_counted_as_a_csv_writer_meant_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    file = tmp_path_factory.mktemp("csv") / "rows.csv"
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    file.write_text("\r\n".join(["a,b", *quoted]) + "\r\n", encoding="utf-8", newline="")
    found = describe_data(file)
    assert found.rows == len(rows)
    assert columns_of(found) == {"a": "text", "b": "text"}


def test_a_csv_file_that_is_none_keeps_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "broken.csv"
    file.write_text('a,b\n"' + "x" * 200_000)
    with pytest.warns(DataWarning, match=r"broken\.csv"):
        found = describe_data(file)
    assert found.digest == digest_tree(file).digest
    assert (found.rows, found.columns) == (None, ())


def test_other_files_and_folders_are_their_digest(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"1")
    (folder / "b.png").write_bytes(b"22")
    one, all_ = describe_datasets([folder / "a.png", folder])
    assert (one.format, one.rows, one.files) == ("file", None, 1)
    assert (all_.format, all_.name, all_.files, all_.size_bytes) == ("folder", "images", 2, 3)
    assert all_.digest == digest_tree(folder).digest


def test_errors_say_which_file_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InvalidResource, match=r"no dataset at .*missing\.csv"):
        describe_data(tmp_path / "missing.csv")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InvalidResource, match=r"dataset at .*empty cannot be read: it holds no"):
        describe_data(empty)
    (empty / "link").symlink_to("/etc/hostname")
    with pytest.raises(InvalidResource, match="link"):
        describe_data(empty)
    lock = tmp_path / "dvc.lock"
    lock.write_text("stages: {}")
    with pytest.raises(InvalidResource, match=r"dvc\.lock@data/prepared\.csv"):
        describe_data(lock)


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret.csv"
    file.write_text("a\n")

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InvalidResource, match=r"secret\.csv cannot be read: Permission denied"):
        describe_data(file)


def test_data_elsewhere_is_recorded_without_secrets() -> None:
    with pytest.warns(DataWarning, match="without digest"):
        found = describe_data("https://ana:pw@host/lake/march.parquet?versionId=7&sig=abc", "march")
    assert found.uri == "https://host/lake/march.parquet?versionId=7"
    assert (found.name, found.digest) == ("march", "unknown")


def test_a_file_uri_is_a_path(tmp_path: Path) -> None:
    file = tmp_path / "a b.csv"
    file.write_text("x\n1\n")
    assert describe_data(file.as_uri()).rows == 1


# -- Parquet ----------------------------------------------------------------------------------


@pytest.fixture
def table() -> pyarrow.Table:
    return pyarrow.table({"id": [1, 2, 3], "who": ["a", "b", None]})


def test_parquet_tells_its_rows_and_columns(tmp_path: Path, table: pyarrow.Table) -> None:
    file = tmp_path / "one.parquet"
    parquet.write_table(table, file)
    found = describe_data(file)
    assert (found.format, found.rows) == ("parquet", 3)
    assert found.columns == (
        DataColumn(name="id", type="int64"),
        DataColumn(name="who", type="string"),
    )


def test_a_folder_of_parquet_is_one_table(tmp_path: Path, table: pyarrow.Table) -> None:
    folder = tmp_path / "many"
    for day, more in (("1", table), ("2", table.append_column("late", [[True] * 3]))):
        (folder / f"day={day}").mkdir(parents=True)
        parquet.write_table(more, folder / f"day={day}" / "part-0.parquet")
    (folder / "_SUCCESS").touch()
    (folder / ".part-0.crc").write_bytes(b"1")
    found = describe_data(folder)
    assert (found.format, found.rows, found.files) == ("parquet", 6, 4)
    assert columns_of(found) == {"id": "int64", "who": "string", "late": "bool", "day": "text"}


def test_without_pyarrow_the_digest_stays_and_the_rest_is_said_to_lack(
    tmp_path: Path, table: pyarrow.Table, without_arrow: None
) -> None:
    file = tmp_path / "one.parquet"
    parquet.write_table(table, file)
    with pytest.warns(DataWarning, match="pyarrow, which is not installed"):
        found = describe_data(file)
    assert (found.format, found.rows, found.columns) == ("parquet", None, ())
    assert found.digest == digest_tree(file).digest


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InvalidResource, match=r"bad\.parquet is no readable Parquet file"):
        describe_data(tmp_path / "bad.parquet")


# -- Delta ------------------------------------------------------------------------------------


@pytest.fixture
def delta(tmp_path: Path, table: pyarrow.Table) -> Path:
    """Version 0: three rows; 1: six; 2: four, two deleted; 3: one more column, and five."""
    path = tmp_path / "tx"
    deltalake.write_deltalake(path, table)
    deltalake.write_deltalake(path, table, mode="append")
    deltalake.DeltaTable(path).delete("id = 1")
    late = pyarrow.table({"id": [9], "who": ["z"], "late": [[1, 2]]})
    deltalake.write_deltalake(path, late, mode="append", schema_mode="merge")
    return path


def test_a_delta_table_is_its_latest_version(delta: Path) -> None:
    found = describe_data(delta)
    assert (found.format, found.name, found.version) == ("delta", "tx", "3")
    assert found.uri == f"{delta}@3"
    assert found.digest.startswith("delta:")
    assert columns_of(found) == {"id": "long", "who": "string", "late": "array<long>"}
    table = deltalake.DeltaTable(delta)
    assert found.rows == table.to_pyarrow_table().num_rows == 5
    sizes = [(delta / name).stat().st_size for name in table.to_pyarrow_dataset().files]
    assert (found.files, found.size_bytes) == (len(sizes), sum(sizes))


def test_each_version_of_a_delta_table_can_be_named(delta: Path) -> None:
    found = [describe_data(f"{delta}@{version}") for version in range(4)]
    assert [one.version for one in found] == ["0", "1", "2", "3"]
    for one in found:
        table = deltalake.DeltaTable(delta, version=int(one.version or 0))
        assert one.rows == table.to_pyarrow_table().num_rows
        assert list(columns_of(one)) == [field.name for field in table.schema().fields]
    assert len({one.digest for one in found}) == 4
    assert describe_data(f"{delta}@3") == describe_data(delta)


def test_a_checkpoint_says_the_same_as_the_commits(delta: Path, tmp_path: Path) -> None:
    before = [describe_data(f"{delta}@{version}") for version in range(4)]
    deltalake.DeltaTable(delta).create_checkpoint()
    (delta / "_delta_log" / f"{0:020}.json").unlink()  # as cleaning the log does
    assert describe_data(delta) == before[3]
    deltalake.write_deltalake(delta, pyarrow.table({"id": [7]}), mode="append", schema_mode="merge")
    assert describe_data(delta).rows == 6
    assert describe_data(f"{delta}@3") == before[3]
    with pytest.raises(InvalidResource, match="no version 2") as failed:
        describe_data(f"{delta}@2")
    assert "cleaned away" in failed.value.hint


def test_a_checkpoint_in_parts_counts_only_when_it_is_whole(delta: Path) -> None:
    before = describe_data(delta)
    deltalake.DeltaTable(delta).create_checkpoint()
    log = delta / "_delta_log"
    (whole,) = log.glob("*.checkpoint.parquet")
    table = parquet.read_table(whole)
    half = table.num_rows // 2
    parts = [log / f"{3:020}.checkpoint.{n:010}.{2:010}.parquet" for n in (1, 2)]
    parquet.write_table(table.slice(0, half), parts[0])
    parquet.write_table(table.slice(half), parts[1])
    whole.unlink()
    (log / f"{0:020}.json").unlink()
    assert describe_data(delta) == before
    parts[1].unlink()
    with pytest.raises(InvalidResource, match="no version 3"):
        describe_data(delta)


def test_a_checkpoint_may_keep_its_files_beside_it(delta: Path) -> None:
    before = describe_data(delta)
    deltalake.DeltaTable(delta).create_checkpoint()
    log = delta / "_delta_log"
    (classic,) = log.glob("*.checkpoint.parquet")
    rows = parquet.read_table(classic)
    (log / "_sidecars").mkdir()
    added = rows.filter(rows["add"].is_valid()).select(["add"])
    parquet.write_table(added, log / "_sidecars" / "part-1.parquet")
    metadata = next(row["metaData"] for row in rows.to_pylist() if row["metaData"])
    lines = [{"metaData": metadata}, {"sidecar": {"path": "part-1.parquet"}}]
    uid = "80a083e8-7026-4e79-81be-64bd76c43a11"
    (log / f"{3:020}.checkpoint.{uid}.json").write_text("\n".join(map(json.dumps, lines)))
    classic.unlink()
    (log / f"{0:020}.json").unlink()
    assert describe_data(delta) == before


def test_without_pyarrow_the_commits_are_enough(delta: Path, without_arrow: None) -> None:
    before = describe_data(delta)
    deltalake.DeltaTable(delta).create_checkpoint()
    assert describe_data(delta) == before
    (delta / "_delta_log" / f"{0:020}.json").unlink()
    with pytest.raises(InvalidResource, match="begins with a checkpoint") as failed:
        describe_data(delta)
    assert "install pyarrow" in failed.value.hint


def test_a_copy_of_a_delta_table_is_the_same_data(delta: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(delta, tmp_path / "elsewhere" / "tx"))
    assert describe_data(copy).digest == describe_data(delta).digest


def test_partitions_with_odd_names_are_found_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "parts"
    table = pyarrow.table({"city": ["São Paulo/%", "x y"], "n": [1, 2]})
    deltalake.write_deltalake(path, table, partition_by=["city"])
    assert describe_data(path).rows == 2


def test_a_vacuumed_version_is_no_longer_data(delta: Path) -> None:
    table = deltalake.DeltaTable(delta)
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert describe_data(delta).rows == 5
    with pytest.raises(InvalidResource, match="which is gone"):
        describe_data(f"{delta}@1")


def test_deletion_vectors_are_rows_that_do_not_count(delta: Path) -> None:
    log = delta / "_delta_log"
    added = next(
        action["add"]
        for line in (log / f"{3:020}.json").read_text().splitlines()
        if "add" in (action := json.loads(line))
    )
    vector = {"storageType": "u", "pathOrInlineDv": "ab^-aqEH", "offset": 1, "sizeInBytes": 4}
    masked = {**added, "deletionVector": {**vector, "cardinality": 1}}
    removed = {"path": added["path"], "dataChange": True}
    lines = [json.dumps({"add": masked}), json.dumps({"remove": removed})]
    before = describe_data(delta)
    (log / f"{4:020}.json").write_text("\n".join(lines))
    found = describe_data(delta)
    assert before.rows is not None
    assert (found.rows, found.files) == (before.rows - 1, before.files)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1 is no JSON object"),
        ("[]", "line 1 is no JSON object"),
        ('{"add": {}}', "form that is not known"),
        ('{"metaData": {"id": "x", "schemaString": "?"}}', "unknown schema"),
    ],
)
def test_a_damaged_log_is_named(delta: Path, line: str, said: str) -> None:
    (delta / "_delta_log" / f"{4:020}.json").write_text(line)
    with pytest.raises(InvalidResource, match=said) as failed:
        describe_data(delta)
    assert "tx" in failed.value.message
    assert describe_data(f"{delta}@3").rows == 5


def test_a_version_that_never_was_and_an_empty_log(delta: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidResource, match="no version 9") as failed:
        describe_data(f"{delta}@9")
    assert "from 0 to 3" in failed.value.hint
    (tmp_path / "new" / "_delta_log").mkdir(parents=True)
    with pytest.raises(InvalidResource, match="holds no commit"):
        describe_data(tmp_path / "new")


# -- DVC --------------------------------------------------------------------------------------

MD5 = hashlib.md5(b"data").hexdigest()


def test_a_dvc_file_is_believed_without_the_data(tmp_path: Path) -> None:
    file = tmp_path / "data.csv.dvc"
    file.write_text(f"outs:\n- md5: {MD5}\n  size: 37891850\n  hash: md5\n  path: data.csv\n")
    found = describe_data(file)
    assert found.digest == f"md5:{MD5}"
    assert (found.name, found.format, found.size_bytes) == ("data.csv", "dvc", 37891850)
    assert (found.files, found.uri) == (1, str(tmp_path / "data.csv"))


def test_a_folder_under_dvc_and_its_working_directory(tmp_path: Path) -> None:
    file = tmp_path / "images.dvc"
    out = f"- md5: {MD5}.dir\n  size: 10\n  nfiles: 7\n  path: images\n"
    file.write_text(f"wdir: raw\nouts:\n{out}")
    found = describe_data(file, "pictures")
    assert (found.name, found.digest, found.files) == ("pictures", f"md5:{MD5}.dir", 7)
    assert found.uri == str(tmp_path / "raw" / "images")


def test_one_output_of_a_pipeline(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    outs: dict[str, Any] = {"outs": [{"path": "data/a.csv", "md5": MD5, "size": 4}]}
    lock.write_text(json.dumps({"schema": "2.0", "stages": {"prepare": {"cmd": "x", **outs}}}))
    assert describe_data(f"{lock}@data/a.csv").digest == f"md5:{MD5}"
    with pytest.raises(InvalidResource, match="no output 'b'") as failed:
        describe_data(f"{lock}@b")
    assert "data/a.csv" in failed.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("outs: [{path: a}]", "no hash of a"),
        ("outs: [{path: a, md5: x}, {path: b, md5: y}]", "more than one output"),
        ("deps: []", "no output"),
        ("- 1", "no DVC file"),
        ("outs: [", "not YAML"),
    ],
)
def test_dvc_files_that_say_too_little(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "x.dvc"
    file.write_text(text)
    with pytest.raises(InvalidResource, match=said) as failed:
        describe_data(file)
    assert "x.dvc" in failed.value.message


# -- frames and references --------------------------------------------------------------------


def test_frames_and_references_are_taken_as_they_are() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, None], "b": ["x", "y"]})
    known = DatasetReference(name="test", digest="sha256:known")
    by_reference, by_frame = describe_datasets({"judged": known, "live": frame})
    assert (by_reference.name, by_reference.digest) == ("judged", "sha256:known")
    assert (by_frame.format, by_frame.rows, by_frame.columns[0].name) == ("frame", 2, "a")
    assert describe_datasets({"live": frame.copy()})[0].digest == by_frame.digest
    changed = frame.assign(a=[1.0, 2.0])
    assert describe_datasets({"live": changed})[0].digest != by_frame.digest
    renamed = frame.rename(columns={"a": "c"})
    assert describe_datasets({"live": renamed})[0].digest != by_frame.digest
    (single,) = describe_datasets(__file__)
    assert single.name == "test_datasets.py"
    with pytest.raises(InvalidResource, match="not int"):
        describe_data(3)


def test_of_very_wide_data_the_first_columns_are_recorded(tmp_path: Path) -> None:
    file = tmp_path / "wide.csv"
    file.write_text(",".join(f"c{n}" for n in range(1500)) + "\n")
    with pytest.warns(DataWarning, match="1,500 columns: the first 1,000"):
        found = describe_data(file)
    assert len(found.columns) == 1000


def test_describing_warns_of_nothing_when_all_is_known(delta: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        describe_data(delta)
