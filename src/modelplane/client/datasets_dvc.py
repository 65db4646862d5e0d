"""Data under DVC: what a ``.dvc`` file or a ``dvc.lock`` says of it.

Called by `datasets`. Believes what DVC wrote; the data itself may be elsewhere and is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelplane.decisions.datasets import clean_dataset_name
from modelplane.errors import InvalidResource
from modelplane.resources.dataset import DatasetReference
from modelplane.resources.documents import parse_documents

_HASHES = ("md5", "etag", "checksum")
"""What DVC tells data by: MD5 of files; of data that it only imports, what the storage says."""


def describe_dvc(file: Path, output: str | None) -> DatasetReference:
    """Return the reference to what a DVC file stands for.

    Parameters
    ----------
    file
        ``NAME.dvc`` or ``dvc.lock``.
    output
        The path of one output as the file has it; may be left out when there is only one.

    Raises
    ------
    InvalidResource
        The file cannot be read, has no such output, or the output has no hash yet.
    """
    outputs = list(_outputs_of(_read(file)))
    named = [one for one in outputs if output is None or one["path"] == output]
    if not named or (output is None and len(outputs) > 1):
        there = ", ".join(sorted({one["path"] for one in outputs})) or "none"
        wanted = "more than one output" if output is None and named else f"no output {output!r}"
        raise InvalidResource(f"{file} has {wanted}", hint=f"its outputs are: {there}")
    found = named[0]
    kind = next((name for name in _HASHES if found.get(name)), None)
    if kind is None:
        raise InvalidResource(
            f"{file} has no hash of {found['path']}", hint="run `dvc commit`, then try again"
        )
    place = file.parent / str(found.get("wdir", ".")) / found["path"]
    return DatasetReference(
        name=clean_dataset_name(place.name),
        digest=f"{kind}:{found[kind]}",
        size_bytes=_count(found.get("size")),
        files=_count(found.get("nfiles")) or (None if _is_folder(found) else 1),
        uri=str(place),
        format="dvc",
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InvalidResource(f"the DVC file {file} cannot be read: {error}") from None
    documents = parse_documents(text, str(file))
    data = documents[0].data if documents else None
    if not isinstance(data, dict):
        raise InvalidResource(f"{file} is no DVC file: it holds no map")
    return data


def _outputs_of(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the outputs of a DVC file, those of a pipeline's stages too."""
    stages = data.get("stages")
    holders = [data, *(stages.values() if isinstance(stages, dict) else ())]
    for holder in holders:
        outputs = holder.get("outs") if isinstance(holder, dict) else None
        for one in outputs if isinstance(outputs, list) else ():
            if isinstance(one, dict) and isinstance(one.get("path"), str):
                yield {"wdir": data.get("wdir", "."), **one}


def _is_folder(output: dict[str, Any]) -> bool:
    return str(output.get("md5", "")).endswith(".dir")


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
