"""The Unix socket that a server listens on: claimed before it starts, removed when it ends."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from modelplane_runtime.errors import SocketError

# sun_path holds 108 bytes with the closing zero.
MAX_PATH_BYTES = 107
_BACKLOG = 2048
_CONNECT_TIMEOUT_S = 1.0


def claim_socket(path: Path) -> socket.socket:
    """Bind and listen, readable by the owner alone; a stale socket is replaced.

    Raises
    ------
    SocketError
        The path is too long, taken by a live server or by another kind of file, or not writable.
    """
    length = len(os.fsencode(path))
    if length > MAX_PATH_BYTES:
        raise SocketError(
            f"the socket path has {length} bytes, the system allows {MAX_PATH_BYTES}: "
            f"use a shorter directory ({path})"
        )
    _remove_stale(path)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode must be right from the first moment, so it comes from the umask.
    old_umask = os.umask(0o177)
    try:
        server.bind(os.fspath(path))
        server.listen(_BACKLOG)
    except OSError as error:
        server.close()
        raise SocketError(f"cannot listen on {path}: {error.strerror}") from error
    finally:
        os.umask(old_umask)
    server.setblocking(False)
    return server


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise SocketError(f"cannot look at {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise SocketError(f"{path} is there and is not a socket: remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            raise SocketError(f"cannot tell whether {path} is in use: {error}") from error
    raise SocketError(f"another process listens on {path}: stop it or choose another path")


def release_socket(path: Path, inode: int) -> None:
    """Remove the socket file if it is still the one with this inode."""
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except OSError:
        return
