"""An S3 server for tests, over HTTP: moto's, in a thread of the test's own process."""

from __future__ import annotations

import socket
import socketserver
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

KEY, SECRET = "test-key-id", "test-secret-that-is-nowhere-printed"


@dataclass(frozen=True)
class S3Server:
    """One running server; it takes any credentials until told otherwise."""

    url: str

    @property
    def variables(self) -> dict[str, str]:
        """What clients read: the endpoint and credentials."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self) -> str:
        """Make a bucket of its own and return its name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self._send("PUT", f"/{name}")
        return name

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Let the server know nobody's credentials."""
        self._send("POST", "/moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self._send("POST", "/moto-api/reset-auth", b"inf")

    def _send(self, method: str, path: str, body: bytes | None = None) -> None:
        headers = {"content-type": "text/plain"}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200


@contextmanager
def s3_server(port: int = 0) -> Iterator[S3Server]:
    """Run a server, on a port of the kernel's choice, until the block is left.

    All servers of one process have the same buckets.
    """
    # Takes half a second, which only the few tests that run a server should wait for.
    from moto.server import ThreadedMotoServer  # noqa: PLC0415

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield S3Server(f"http://{host}:{port}")
    finally:
        server.stop()


@contextmanager
def stumbling(target: str) -> Iterator[tuple[str, list[int]]]:
    """Stand before a server and break every second connection."""
    address = urlsplit(target)
    counted: list[int] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            counted.append(len(counted))
            if len(counted) % 2:
                return
            with socket.create_connection((address.hostname, address.port), 10) as server:
                back = threading.Thread(target=pump, args=(server, self.request))
                back.start()
                pump(self.request, server)
                back.join(10)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", counted
        finally:
            server.shutdown()
            thread.join(5)


def pump(source: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            to.sendall(piece)
        to.shutdown(socket.SHUT_WR)
