"""The bytes of an artifact: one digest for one tree of files, and what is no tree."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from modelplane.client.artifacts import detect_format, digest_tree, tar_stream
from modelplane.errors import InvalidResource


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
