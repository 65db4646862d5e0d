"""A workspace that serves a small model in process, by the real protocol, on a Unix socket."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Collection, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import uvicorn

from modelplane.resources.gate_run import ServedModel
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision
from modelplane.stages.serving import RunningModel
from modelplane.stages.workspace import Workspace
from modelplane_runtime.app import Identity, RuntimeApp
from modelplane_runtime.signature import Signature, TensorSpec, fit
from modelplane_runtime.tensors import Array

SIGNATURE: dict[str, Any] = {
    "inputs": [
        {"name": "amount", "datatype": "FP64", "shape": [-1]},
        {"name": "country", "datatype": "BYTES", "shape": [-1]},
    ],
    "outputs": [{"name": "score", "datatype": "FP64", "shape": [-1]}],
}


def request(amount: float = 12.5, country: str = "NL") -> dict[str, Any]:
    """One inference request that the model takes."""
    return {
        "inputs": [
            {"name": "amount", "datatype": "FP64", "shape": [1], "data": [amount]},
            {"name": "country", "datatype": "BYTES", "shape": [1], "data": [country]},
        ]
    }


def served(version: str = "1.0.0", **fields: Any) -> ServedModel:
    artifact = Artifact(format="skops", digest=f"sha256:{version}")
    revision = make_revision("fraud", version, artifact, RuntimeSpec())
    return ServedModel(revision=revision, **{"signature": SIGNATURE, **fields})


class Scorer:
    """Scores half of each amount; its one output is called `output`."""

    platform = "test"

    def __init__(self, output: str, *, told: bool = True) -> None:
        self._output = output
        inputs = (TensorSpec("amount", "FP64", (-1,)), TensorSpec("country", "BYTES", (-1,)))
        outputs = (TensorSpec(output, "FP64", (-1,)),) if told else ()
        self.signature = Signature(inputs, outputs)

    def prepare(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        return fit(tensors, self.signature.inputs)

    def predict(self, prepared: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        return {self._output: np.asarray(prepared["amount"] / 2)}


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@dataclass
class InProcess:
    """Stands in for `Workspace`; `names` are those that were served."""

    work_dir: Path
    output_dir: Path
    model: Scorer
    candidate_dir: Path = Path("/nothing")
    names: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def serve(
        self, served: ServedModel, artifact: Path, *, name: str = "candidate"
    ) -> AsyncIterator[RunningModel]:
        self.names.append(name)
        app = RuntimeApp(Identity(name, served.revision.version, "0"))
        app.serve(self.model)
        address = self.work_dir / "model.sock"
        config = uvicorn.Config(app, log_config=None, lifespan="off")
        server = _Server(config)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(address))
            listener.listen()
            running = asyncio.create_task(server.serve([listener]))
            transport = httpx.AsyncHTTPTransport(uds=str(address))
            try:
                async with httpx.AsyncClient(transport=transport, base_url="http://model") as http:
                    yield RunningModel(name, address, os.getpid(), 0.1, http)
            finally:
                server.should_exit = True
                await running
                address.unlink(missing_ok=True)


@contextmanager
def workspace(model: Scorer | None = None) -> Iterator[tuple[Workspace, InProcess]]:
    """Give a workspace whose folders go with it; as what it stands in for, and as itself."""
    folder = Path(tempfile.mkdtemp(prefix="mp-", dir="/tmp"))
    (folder / "out").mkdir()
    made = InProcess(folder, folder / "out", model or Scorer("score"))
    try:
        yield cast(Workspace, made), made
    finally:
        shutil.rmtree(folder, ignore_errors=True)
