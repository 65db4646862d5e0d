"""Where a check works: its folders, and the versions it may run.

Made by `running` from the variables that the agent sets; handed to each check. Knows nothing of
what is checked.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from modelplane.adapters.runtime.servers import RuntimeServers
from modelplane.resources.gate_run import ServedModel
from modelplane.stages.serving import RunningModel, Server, replica_of

__all__ = ["RunningModel", "Workspace"]

MAX_REQUEST_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders of a stage's job.

    Attributes
    ----------
    work_dir
        Its own, empty at the beginning and gone afterwards.
    output_dir
        What is left here becomes the evidence of the stage.
    candidate_dir, champion_dir
        The files of both versions; read only.
    environments_dir
        The agent's directory of environments: what replicas built is not built again.
    socket_dir
        For Unix sockets, whose paths are limited to 107 bytes.
    reuse_interpreter
        Whether versions without requirements of their own run in the present interpreter.
    """

    work_dir: Path
    output_dir: Path
    candidate_dir: Path
    champion_dir: Path | None
    environments_dir: Path
    socket_dir: Path
    reuse_interpreter: bool = True

    def serve(
        self, served: ServedModel, artifact: Path, *, name: str = "candidate"
    ) -> AbstractAsyncContextManager[RunningModel]:
        """Run the real model server of a version, in its own environment, on a Unix socket.

        Parameters
        ----------
        served
            The version.
        artifact
            The folder of its files.
        name
            Of the model in the server's addresses, of the socket and of the log; servers that
            run at one time have different names.

        Raises
        ------
        CheckImpossible
            On entering: the version cannot be served.
        InfrastructureFailed
            On entering: this machine cannot serve it now.
        """
        servers = RuntimeServers(
            self.environments_dir,
            reuse_interpreter=self.reuse_interpreter,
            max_body_bytes=MAX_REQUEST_BYTES,
        )
        self.socket_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.output_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Server(
            servers,
            replica_of(served, name),
            artifact,
            self.work_dir,
            self.socket_dir / f"{name}.sock",
            self.output_dir / f"{name}.log",
        ).run()
