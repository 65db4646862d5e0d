"""What every store of artifacts promises."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import shutil
import tarfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from modelplane.adapters.blobs.trees import TreeBlobs
from modelplane.client.artifacts import detect_format, digest_tree, tar_stream
from modelplane.errors import InvalidResource, NoSpace, NotFound, TerminalError
from modelplane.ports.blobs import Blobs, StoredTree

NOTHING = f"sha256:{'0' * 64}"


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "blobs")
    return f"memory://blobs-{uuid.uuid4().hex}"


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


def names_in(url: str) -> set[str]:
    files, root = fsspec.core.url_to_fs(url)
    return {place.rsplit("/", 1)[-1] for place in files.ls(root, detail=False)}


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
        self, url: str, blobs: Blobs
    ) -> None:
        files, root = fsspec.core.url_to_fs(url)
        files.makedirs(f"{root}/.partial-abc/tree", exist_ok=True)
        files.pipe_file(f"{root}/.partial-abc/tree/file", b"half")
        assert await blobs.list() == []
        TreeBlobs(url)
        assert names_in(url) == set()


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
        with fsspec.open(stored_file(url, digest, name), "wb") as file:
            file.write(b"other")
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
        files, root = fsspec.core.url_to_fs(url)
        files.rm(stored_file(root, digest, "MLmodel"))
        files.pipe_file(stored_file(root, digest, "added"), b"x")
        with pytest.raises(TerminalError, match="MLmodel is missing, added was added"):
            await anext(aiter(blobs.read(digest)))


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


class TestTrees:
    """The digest, the stream and the format of a tree, which all stores share."""

    def test_the_digest_is_that_of_paths_sizes_and_bytes(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        for root, order in ((one, ["a", "b/c"]), (two, ["b/c", "a"])):
            for name in order:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(name)
        (two / "a").chmod(0o755)
        assert digest_tree(one) == digest_tree(two)
        assert b"".join(tar_stream(one)) == b"".join(tar_stream(two))
        (two / "a").rename(two / "z")
        assert digest_tree(one) != digest_tree(two)

    def test_the_digest_never_changes(self, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").write_bytes(b"bytes")
        content = hashlib.sha256(b"bytes").hexdigest()
        line = f"model.onnx\0005\0{content}\n".encode()
        tree = digest_tree(tmp_path / "model.onnx")
        assert tree.digest == f"sha256:{hashlib.sha256(line).hexdigest()}"
        assert (tree.size_bytes, tree.files) == (5, 1)

    def test_long_names_and_big_files_fit_the_stream(self, tmp_path: Path) -> None:
        name = "/".join(["folder" * 20] * 3) + "/" + "n" * 200
        (tmp_path / "tree" / name).parent.mkdir(parents=True)
        (tmp_path / "tree" / name).write_bytes(b"x" * 3_000_000)
        content = b"".join(tar_stream(tmp_path / "tree"))
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            assert [(one.name, one.size) for one in archive] == [(name, 3_000_000)]

    @pytest.mark.parametrize("what", ["missing", "empty", "link", "pipe", "no UTF-8"])
    def test_what_cannot_be_taken(self, tmp_path: Path, what: str) -> None:
        tree = tmp_path / "tree"
        if what != "missing":
            tree.mkdir()
        if what == "link":
            (tree / "link").symlink_to("/etc/passwd")
        if what == "pipe":
            os.mkfifo(tree / "pipe")
        if what == "no UTF-8":
            Path(os.fsdecode(os.fsencode(tree) + b"/\xff")).write_text("x")
        for read in (digest_tree, lambda path: list(tar_stream(path))):
            with pytest.raises(InvalidResource) as caught:
                read(tree)
            str(caught.value).encode()

    @pytest.mark.parametrize(
        ("names", "format_"),
        [
            (["MLmodel", "model.pkl"], "mlflow"),
            (["model.onnx"], "onnx"),
            (["model.skops"], "skops"),
            (["model.joblib"], "joblib"),
            (["model.PKL"], "joblib"),
            (["serve.py"], None),
            (["a.onnx", "b.onnx"], None),
        ],
    )
    def test_formats(self, tmp_path: Path, names: list[str], format_: str | None) -> None:
        for name in names:
            (tmp_path / name).write_text("")
        assert detect_format(tmp_path) == format_
        if len(names) == 1:
            assert detect_format(tmp_path / names[0]) == format_
