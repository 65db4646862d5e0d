"""What every store of artifacts promises."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import shutil
import tarfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest

from modelplane.adapters.blobs.trees import TreeBlobs
from modelplane.client.artifacts import digest_tree, tar_stream
from modelplane.decisions.registry_check import VersionLabel
from modelplane.errors import InvalidResource, NoSpace, NotFound, TerminalError
from modelplane.ports.blobs import Blobs, StoredTree, Verified
from modelplane.resources.model import version_id

NOTHING = f"sha256:{'0' * 64}"
NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
UNREADABLE = (b"", b"{", b"[]", b"{}", b"\xff", b'{"id": "mv-other"}', b'{"created_at": "x"}')


def label_for(digest: str, version: str = "1.0.0") -> VersionLabel:
    unique_id = version_id("fraud", version, digest)
    return VersionLabel(unique_id, "fraud", version, digest, NOW)


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "blobs")
    if request.param == "memory":
        return f"memory://blobs-{uuid.uuid4().hex}"
    return f"s3://{request.getfixturevalue('bucket')}/team/models"


@pytest.fixture
def blobs(url: str) -> Blobs:
    return TreeBlobs(url)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    (root / "nested/deep").mkdir(parents=True)
    (root / "MLmodel").write_text("flavors: {}")
    (root / "nested/weights.bin").write_bytes(bytes(range(256)) * 9_000)
    (root / "nested/deep/ünïcode name.txt").write_text("x")
    (root / "empty").write_bytes(b"")
    return root


async def stream(path: Path) -> AsyncIterator[bytes]:
    for piece in tar_stream(path):
        yield piece


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


def tar_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for entry, content in entries:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def entry(name: str, type_: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = type_, target
    return made


async def unpacked(blobs: Blobs, digest: str, where: Path) -> Path:
    content = b"".join([piece async for piece in blobs.read(digest)])
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(where, filter="data")
    return where


def stored_file(url: str, digest: str, name: str) -> str:
    return f"{url}/{digest.removeprefix('sha256:')}/{name}"


def opened(url: str) -> tuple[Any, str]:
    """The storage itself, to look into it and to damage it."""
    options = {}
    if url.startswith("s3://"):
        options = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"], "use_listings_cache": False}
    files, root = fsspec.core.url_to_fs(url, **options)
    return files, root


def names_in(url: str) -> set[str]:
    files, root = opened(url)
    found = files.find(root, withdirs=True)
    return {place.removeprefix(f"{root}/").partition("/")[0] for place in found if place != root}


class TestStoring:
    async def test_a_tree_comes_back_as_it_was(
        self, blobs: Blobs, model: Path, tmp_path: Path
    ) -> None:
        tree = digest_tree(model)
        stored = await blobs.put(stream(model), tree.digest)
        assert stored == StoredTree(tree.digest, tree.size_bytes, 4)
        copy = await unpacked(blobs, tree.digest, tmp_path / "copy")
        assert digest_tree(copy) == tree
        assert (copy / "nested/deep/ünïcode name.txt").read_text() == "x"

    async def test_a_single_file_is_a_tree_of_one(self, blobs: Blobs, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").write_bytes(b"onnx")
        tree = digest_tree(tmp_path / "model.onnx")
        await blobs.put(stream(tmp_path / "model.onnx"), tree.digest)
        copy = await unpacked(blobs, tree.digest, tmp_path / "copy")
        assert (copy / "model.onnx").read_bytes() == b"onnx"

    async def test_storing_again_changes_nothing(self, blobs: Blobs, model: Path) -> None:
        digest = digest_tree(model).digest
        first = await blobs.put(stream(model), digest)
        assert await blobs.put(stream(model), digest) == first
        both = await asyncio.gather(*(blobs.put(stream(model), digest) for _ in range(3)))
        assert set(both) == {first}
        assert await blobs.list() == [first]

    async def test_many_at_once(self, blobs: Blobs, tmp_path: Path) -> None:
        paths = []
        for count in range(5):
            paths.append(tmp_path / f"{count}.onnx")
            paths[-1].write_bytes(b"x" * count)
        digests = [digest_tree(path).digest for path in paths]
        await asyncio.gather(
            *(blobs.put(stream(p), d) for p, d in zip(paths, digests, strict=True))
        )
        assert [one.digest for one in await blobs.list()] == sorted(digests)

    async def test_finding_and_deleting(self, blobs: Blobs, model: Path) -> None:
        digest = digest_tree(model).digest
        assert await blobs.find(digest) is None
        assert await blobs.list() == []
        await blobs.delete(digest)
        stored = await blobs.put(stream(model), digest)
        assert await blobs.find(digest) == stored
        await blobs.delete(digest)
        assert await blobs.find(digest) is None
        assert await blobs.list() == []
        with pytest.raises(NotFound, match=digest):
            await anext(aiter(blobs.read(digest)))
        assert await blobs.put(stream(model), digest) == stored

    async def test_it_is_there_after_a_restart(self, url: str, blobs: Blobs, model: Path) -> None:
        stored = await blobs.put(stream(model), digest_tree(model).digest)
        assert await TreeBlobs(url).list() == [stored]


class TestRefusing:
    """Happens before the storage is asked, so a bucket would show nothing more."""

    @pytest.fixture(params=["local", "memory"])
    def url(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        is_local = request.param == "local"
        return str(tmp_path / "blobs") if is_local else f"memory://blobs-{uuid.uuid4().hex}"

    async def test_other_bytes_than_announced(self, url: str, blobs: Blobs, model: Path) -> None:
        with pytest.raises(InvalidResource, match="arrived altered"):
            await blobs.put(stream(model), NOTHING)
        assert await blobs.list() == []
        assert names_in(url) == set(), "nothing is left behind"

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"this is no tar" * 100,
            tar_of((entry("../escape"), b"x")),
            tar_of((entry("a/../../escape"), b"x")),
            tar_of((entry("/tmp/escape"), b"x")),
            tar_of((entry("link", tarfile.SYMTYPE, "/etc/passwd"), b"")),
            tar_of((entry("a"), b"x"), (entry("link", tarfile.LNKTYPE, "a"), b"")),
            tar_of((entry("device", tarfile.CHRTYPE), b"")),
            tar_of((entry("pipe", tarfile.FIFOTYPE), b"")),
            tar_of((entry("sparse", tarfile.GNUTYPE_SPARSE), b"")),
            tar_of((entry("twice"), b"x"), (entry("twice"), b"y")),
            tar_of((entry("a"), b"x"), (entry("a/b"), b"y")),
            tar_of((entry("folder", tarfile.DIRTYPE), b"")),
            tar_of((entry("cut"), b"x" * 5_000))[:2_000],
        ],
        ids=[
            "nothing", "no tar", "parent", "hidden parent", "absolute", "symbolic link",
            "hard link", "device", "pipe", "sparse", "twice", "file as folder", "no file", "cut",
        ],
    )  # fmt: skip
    async def test_what_is_no_plain_tree(self, url: str, blobs: Blobs, content: bytes) -> None:
        with pytest.raises(InvalidResource):
            await blobs.put(pieces(content), NOTHING)
        assert names_in(url) == set()

    @pytest.mark.parametrize(
        "digest", ["", "sha256:", "../../etc", f"sha256:{'G' * 64}", f"sha256:../{'a' * 61}"]
    )
    async def test_what_is_no_digest(self, blobs: Blobs, model: Path, digest: str) -> None:
        with pytest.raises(InvalidResource, match="digest"):
            await blobs.put(stream(model), digest)
        with pytest.raises(InvalidResource, match="digest"):
            await blobs.find(digest)

    async def test_an_interrupted_upload_leaves_nothing(
        self, url: str, blobs: Blobs, model: Path
    ) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield next(tar_stream(model))
            raise ConnectionAbortedError("the client went away")

        with pytest.raises(ConnectionAbortedError):
            await blobs.put(broken(), digest_tree(model).digest)
        assert names_in(url) == set()

    async def test_what_a_killed_process_left_goes_at_the_next_start(
        self, url: str, tmp_path: Path
    ) -> None:
        scratch = tmp_path / "scratch"
        place = (tmp_path / "blobs" if url.startswith("/") else scratch) / ".partial-abc"
        (place / "tree").mkdir(parents=True)
        (place / "tree/file").write_bytes(b"half")
        blobs = TreeBlobs(url, scratch)
        assert await blobs.list() == []
        assert place.exists(), "another process may be writing there"
        blobs.prepare()
        assert not place.exists()


class TestReading:
    @pytest.mark.parametrize(
        ("name", "what"),
        [("MLmodel", "has other bytes"), ("nested/weights.bin", "has other bytes")],
    )
    async def test_altered_bytes_are_never_served(
        self, url: str, blobs: Blobs, model: Path, name: str, what: str
    ) -> None:
        digest = digest_tree(model).digest
        await blobs.put(stream(model), digest)
        files, root = opened(url)
        files.pipe_file(stored_file(root, digest, name), b"other")
        with pytest.raises(TerminalError, match=f"{name} {what}"):
            await anext(aiter(blobs.read(digest)))

    async def test_altered_bytes_are_mended_as_the_error_says(
        self, tmp_path: Path, model: Path
    ) -> None:
        blobs = TreeBlobs(str(tmp_path / "store"))
        digest = digest_tree(model).digest
        await blobs.put(stream(model), digest)
        tree = tmp_path / "store" / digest.removeprefix("sha256:")
        (tree / "MLmodel").write_text("other")
        with pytest.raises(TerminalError) as caught:
            await anext(aiter(blobs.read(digest)))
        assert f"restore {tree} from a backup, or remove it and push" in caught.value.hint
        shutil.rmtree(tree)
        assert await blobs.find(digest) is None
        await blobs.put(stream(model), digest)
        assert await anext(aiter(blobs.read(digest)))

    async def test_lost_and_added_files_are_named(
        self, url: str, blobs: Blobs, model: Path
    ) -> None:
        digest = digest_tree(model).digest
        await blobs.put(stream(model), digest)
        files, root = opened(url)
        files.rm(stored_file(root, digest, "MLmodel"))
        files.pipe_file(stored_file(root, digest, "added"), b"x")
        with pytest.raises(TerminalError, match="MLmodel is missing, added was added"):
            await anext(aiter(blobs.read(digest)))


class TestVerifying:
    async def test_whole_bytes_are_whole(self, blobs: Blobs, model: Path) -> None:
        tree = digest_tree(model)
        await blobs.put(stream(model), tree.digest)
        assert await blobs.verify(tree.digest) == Verified(tree.digest, tree.size_bytes)
        with pytest.raises(NotFound):
            await blobs.verify(NOTHING)

    async def test_what_was_altered_is_named(self, url: str, blobs: Blobs, model: Path) -> None:
        digest = digest_tree(model).digest
        await blobs.put(stream(model), digest)
        files, root = opened(url)
        files.pipe_file(stored_file(root, digest, "MLmodel"), b"other")
        files.rm(stored_file(root, digest, "empty"))
        files.pipe_file(stored_file(root, digest, "nested/added"), b"x")
        verified = await blobs.verify(digest)
        assert verified.difference == (
            "MLmodel has other bytes, empty is missing, nested/added was added"
        )

    async def test_the_time_of_storing_is_known(self, blobs: Blobs, model: Path) -> None:
        before = datetime.now(UTC) - timedelta(seconds=2)
        stored = await blobs.put(stream(model), digest_tree(model).digest)
        for found in (await blobs.find(stored.digest), *await blobs.list()):
            assert found is not None
            assert found.whole
            assert found.stored_at is not None
            assert before < found.stored_at <= datetime.now(UTC) + timedelta(seconds=1)


class TestUnendedUploads:
    """Where folders cannot be moved in one step, an upload may stop between two files."""

    @pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
    def url(self, request: pytest.FixtureRequest) -> str:
        if request.param == "memory":
            return f"memory://blobs-{uuid.uuid4().hex}"
        return f"s3://{request.getfixturevalue('bucket')}"

    async def test_they_are_not_there_until_they_are_told_from_whole_ones(
        self, url: str, blobs: Blobs, model: Path, tmp_path: Path
    ) -> None:
        digest = digest_tree(model).digest
        files, root = opened(url)
        files.pipe_file(stored_file(root, digest, "MLmodel"), b"half")
        files.pipe_file(stored_file(root, digest, "nested/more"), b"")
        assert await blobs.find(digest) is None
        with pytest.raises(NotFound):
            await anext(aiter(blobs.read(digest)))
        with pytest.raises(NotFound):
            await blobs.label(label_for(digest))
        (found,) = await blobs.list()
        assert (found.digest, found.whole, found.size_bytes) == (digest, False, 4)
        assert await blobs.delete(digest, unless_since=datetime.now(UTC) + DAY)
        assert names_in(url) == set()

    async def test_the_next_upload_ends_it(
        self, url: str, blobs: Blobs, model: Path, tmp_path: Path
    ) -> None:
        tree = digest_tree(model)
        files, root = opened(url)
        files.pipe_file(stored_file(root, tree.digest, "MLmodel"), b"half")
        await blobs.put(stream(model), tree.digest)
        assert digest_tree(await unpacked(blobs, tree.digest, tmp_path / "copy")) == tree


class TestLabels:
    async def test_a_version_is_found_from_its_files(self, blobs: Blobs, model: Path) -> None:
        digest = digest_tree(model).digest
        with pytest.raises(NotFound):
            await blobs.label(label_for(digest))
        await blobs.put(stream(model), digest)
        one, two = label_for(digest), label_for(digest, "2.0.0")
        for label in (one, two, one, replace(two, created_at=NOW + DAY)):
            await blobs.label(label)
        assert set(await blobs.labels()) == {one, two}, "the first writing counts"
        await blobs.unlabel(one.id)
        await blobs.unlabel(one.id)
        assert await blobs.labels() == [two]
        assert [tree.digest for tree in await blobs.list()] == [digest]

    async def test_one_that_cannot_be_read_has_its_id_and_is_written_again(
        self, url: str, blobs: Blobs, model: Path
    ) -> None:
        digest = digest_tree(model).digest
        await blobs.put(stream(model), digest)
        label = label_for(digest)
        await blobs.label(label)
        files, root = opened(url)
        for content in UNREADABLE:
            files.pipe_file(f"{root}/.versions/{label.id}.json", content)
            assert await blobs.labels() == [VersionLabel(label.id)]
            await blobs.label(label)
            assert await blobs.labels() == [label]

    async def test_an_id_that_is_no_id_becomes_no_path(self, blobs: Blobs) -> None:
        for name in ("", "..", "../x", "a/b", ".hidden"):
            with pytest.raises(InvalidResource, match="unique id"):
                await blobs.unlabel(name)

    @pytest.mark.slow
    async def test_what_was_stored_or_labelled_lately_is_not_taken_away(
        self, blobs: Blobs, model: Path
    ) -> None:
        digest = digest_tree(model).digest
        await blobs.put(stream(model), digest)
        now = datetime.now(UTC)
        assert not await blobs.delete(digest, unless_since=now - DAY)
        await asyncio.sleep(2.1)  # S3 tells times in whole seconds
        since = datetime.now(UTC) - timedelta(seconds=1)
        await blobs.label(label_for(digest))
        assert not await blobs.delete(digest, unless_since=since)
        await blobs.unlabel(label_for(digest).id)
        assert await blobs.delete(digest, unless_since=since)
        assert await blobs.find(digest) is None
        assert await blobs.delete(NOTHING, unless_since=since)


class TestFullDisk:
    async def test_a_full_disk_says_so_and_stores_nothing(
        self, url: str, blobs: Blobs, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_space(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("modelplane.client.unpacking.shutil.copyfileobj", no_space)
        with pytest.raises(NoSpace):
            await blobs.put(stream(model), digest_tree(model).digest)
        assert await blobs.list() == []
        assert names_in(url) == set()
        monkeypatch.undo()
        await blobs.put(stream(model), digest_tree(model).digest)


class TestSingleFiles:
    async def test_files_are_listed_by_path_and_read_alone(self, blobs: Blobs, model: Path) -> None:
        digest = digest_tree(model).digest
        await blobs.put(stream(model), digest)
        listed = await blobs.list_files(digest)
        assert [(file.path, file.size_bytes) for file in listed] == [
            ("MLmodel", 11),
            ("empty", 0),
            ("nested/deep/ünïcode name.txt", 1),
            ("nested/weights.bin", 256 * 9_000),
        ]
        for file in listed:
            content = b"".join([piece async for piece in blobs.read_file(digest, file.path)])
            assert content == (model / file.path).read_bytes()

    @pytest.mark.parametrize("path", ["nothing", "nested", "", "../MLmodel", "/etc/passwd"])
    async def test_what_is_no_file_of_the_tree_is_not_read(
        self, blobs: Blobs, model: Path, path: str
    ) -> None:
        digest = digest_tree(model).digest
        await blobs.put(stream(model), digest)
        for missing in (blobs.read_file(digest, path), blobs.read_file(NOTHING, "MLmodel")):
            with pytest.raises(NotFound):
                await anext(missing)
        with pytest.raises(NotFound):
            await blobs.list_files(NOTHING)

    async def test_an_altered_file_is_not_given_out(
        self, blobs: Blobs, url: str, model: Path
    ) -> None:
        digest = digest_tree(model).digest
        await blobs.put(stream(model), digest)
        files, _ = fsspec.core.url_to_fs(url)
        files.pipe_file(stored_file(url, digest, "MLmodel"), b"flavors: []")
        with pytest.raises(TerminalError, match="MLmodel"):
            await anext(blobs.read_file(digest, "MLmodel"))
        assert b"".join([p async for p in blobs.read_file(digest, "empty")]) == b""
