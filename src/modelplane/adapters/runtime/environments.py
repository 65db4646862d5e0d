"""Builds a version's environment: a virtual environment with its packages and the model server.

Called by the agent. Environments are content-addressed under ``root/environments/<key>``; a build
holds a lock, works in place (scripts hold absolute paths, so nothing is renamed) and writes its
marker last. A directory without a marker is what a crash left, and is built again. Runs no model
and starts no server.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import uv

import modelplane_runtime
from modelplane_runtime import requirements as needs

_MARKER = ".ready"
_LOCK_POLL_S = 0.1
_LOG_TAIL_BYTES = 4000
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
# In uv's words: no connection, an answer that broke off, or a server's own fault.
_UNREACHABLE = re.compile(
    r"error sending request|HTTP status server error|dns error|[Cc]onnection (refused|reset)"
    r"|tcp connect error|error decoding response body|operation timed out|[Nn]o space left"
)

# Never handed to a model server or to uv: they would change what Python imports, or are ours.
_DROPPED = frozenset(
    {"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "CONDA_PREFIX"}
)
_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """What an environment must hold.

    Parameters
    ----------
    format
        The artifact's format: ``skops``, ``joblib``, ``onnx``, ``mlflow`` or ``command``.
    requirements
        Text of a requirements file, hash-locked or not. None takes the format's default.
    python
        Path of the interpreter to build with; the running one unless given.
    """

    format: str
    requirements: str | None = None
    python: Path | None = None


@dataclass(frozen=True, slots=True)
class EnvironmentReady:
    """An environment that can run the version.

    Parameters
    ----------
    python
        Its interpreter.
    key
        Its content address; starts with ``current-`` for the running interpreter.
    build_s
        Seconds that building took; 0 when it was there.
    """

    python: Path
    key: str
    build_s: float = 0.0


class FailureReason(StrEnum):
    """Why there is no environment."""

    INSTALL_FAILED = "install_failed"
    TIMED_OUT = "timed_out"
    NOT_WRITABLE = "not_writable"


@dataclass(frozen=True, slots=True)
class EnvironmentFailed:
    """An environment that could not be built; nothing of it is left.

    Parameters
    ----------
    key
        Its content address.
    reason
        The kind of failure.
    message
        What happened and what to do.
    log_tail
        The last lines of the installer's output, without credentials.
    """

    key: str
    reason: FailureReason
    message: str
    log_tail: str = ""


class _BuildError(Exception):
    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


async def build(
    spec: EnvironmentSpec, root: Path, *, timeout_s: float = 900.0, use_current: bool = False
) -> EnvironmentReady | EnvironmentFailed:
    """Give the environment of a spec, building it if it is not there.

    Safe to call for one key from several tasks and processes at once, and to cancel: the
    installer dies with the call.

    Parameters
    ----------
    spec
        What it must hold.
    root
        Directory of all environments; on the installer's cache's file system, files are shared.
    timeout_s
        Bound on waiting for another build and building.
    use_current
        Take the running interpreter where the format's packages are importable; the spec's
        requirements are not looked at then.
    """
    if use_current and spec.python is None and _current_suffices(spec.format):
        return EnvironmentReady(Path(sys.executable), f"current-{compute_key(spec)}")
    key = compute_key(spec)
    log = root / "environments" / f"{key}.log"
    started = time.monotonic()
    try:
        directory = root / "environments" / key
        directory.parent.mkdir(parents=True, exist_ok=True)
        if _is_ready(directory):
            return EnvironmentReady(_python_of(directory), key)
        async with asyncio.timeout(timeout_s), _lock(root / "environments" / f"{key}.lock") as lock:
            if not _is_ready(directory):
                await _build_locked(spec, directory, log, lock)
    except TimeoutError:
        return _failed(key, FailureReason.TIMED_OUT, f"not built within {timeout_s:g} s", log)
    except _BuildError as error:
        return _failed(key, error.reason, error.message, log)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        message = f"cannot write the environment: {error.strerror}{where}"
        return _failed(key, FailureReason.NOT_WRITABLE, message, log)
    return EnvironmentReady(_python_of(directory), key, time.monotonic() - started)


def is_transient(failed: EnvironmentFailed) -> bool:
    """Return whether building again may help: the failure is of a machine or a network."""
    if failed.reason is not FailureReason.INSTALL_FAILED:
        return True
    return _UNREACHABLE.search(failed.log_tail) is not None


def compute_key(spec: EnvironmentSpec) -> str:
    """Compute the content address of a spec: 64 hexadecimal digits of SHA-256.

    It covers the requirements, the interpreter's build, the platform and the model server's
    requirements and source, so that another of any of them is another environment.
    """
    parts = {
        "requirements": _requirement_lines(spec),
        "python": _interpreter_build(spec.python),
        "platform": [sysconfig.get_platform(), *platform.libc_ver()],
        "runtime": _runtime_digest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _interpreter_build(python: Path | None) -> str:
    if python is None:
        return f"{sys.base_prefix} {sys.version}"
    try:
        found = python.resolve().stat()
    except OSError:
        return str(python)  # the build will say that it is not there
    return f"{python.resolve()} {found.st_size} {found.st_mtime_ns}"


def child_environment(user_environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Compute the environment variables of a model server.

    Little is inherited, so that no secret of the control plane reaches a model; one thread for
    numerical libraries, since replicas share the cores, unless the user says otherwise.

    Parameters
    ----------
    user_environment
        The deployment's own variables. What would change the interpreter's imports, and
        ``MODELPLANE_*``, is dropped.
    """
    child = {name: os.environ[name] for name in _PASSED if name in os.environ}
    child.setdefault("LANG", "C.UTF-8")
    child |= dict.fromkeys(_THREAD_VARIABLES, "1")
    child |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    child |= {k: v for k, v in (user_environment or {}).items() if not _is_dropped(k)}
    return child


def _is_dropped(name: str) -> bool:
    return name in _DROPPED or name.startswith("MODELPLANE_")


def installer_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Compute the variables of uv: the user's own, and pip's where uv has none of its own.

    pip merges its indexes while uv takes the first that knows a package; where pip's extra
    indexes are taken over, so is pip's rule.
    """
    child = {name: value for name, value in environment.items() if not _is_dropped(name)}
    child["UV_PYTHON_DOWNLOADS"] = "never"
    translated = (
        ("PIP_INDEX_URL", ("UV_DEFAULT_INDEX", "UV_INDEX_URL"), " "),
        ("PIP_EXTRA_INDEX_URL", ("UV_INDEX", "UV_EXTRA_INDEX_URL"), " "),
        ("PIP_FIND_LINKS", ("UV_FIND_LINKS",), ","),
        ("PIP_NO_INDEX", ("UV_NO_INDEX",), " "),
        ("PIP_CERT", ("SSL_CERT_FILE",), " "),
    )
    for pip_name, uv_names, separator in translated:
        value = environment.get(pip_name)
        if value and not any(name in environment for name in uv_names):
            child[uv_names[0]] = separator.join(value.split())
            if pip_name == "PIP_EXTRA_INDEX_URL":
                child.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return child


def _requirement_lines(spec: EnvironmentSpec) -> list[str]:
    own = spec.requirements
    if own is None:
        lines = list(needs.DEFAULT_REQUIREMENTS.get(spec.format, ()))
    else:
        lines = [line.rstrip() for line in own.splitlines() if line.strip()]
    if spec.format != "command":
        lines += [*needs.LOADER_REQUIREMENTS.get(spec.format, ()), *needs.RUNTIME_REQUIREMENTS]
    return lines


def _current_suffices(format: str) -> bool:
    modules = (*needs.RUNTIME_MODULES, *needs.NEEDED_MODULES.get(format, ()))
    return all(_is_importable(module) for module in modules)


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _runtime_source() -> Path:
    return Path(modelplane_runtime.__file__).parent


def _runtime_files() -> list[Path]:
    return sorted(_runtime_source().rglob("*.py"))


def _runtime_digest() -> str:
    digest = hashlib.sha256(modelplane_runtime.__version__.encode())
    for path in _runtime_files():
        digest.update(str(path.relative_to(_runtime_source())).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _copy_runtime(root: Path) -> Path:
    """Copy the model server to where an upgrade does not reach it; return what to import from."""
    target = root / "runtimes" / _runtime_digest()
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".copy-"))
    try:
        for path in _runtime_files():
            place = temporary / "modelplane_runtime" / path.relative_to(_runtime_source())
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
        temporary.chmod(0o755)
        with contextlib.suppress(FileExistsError, OSError):  # another process was faster
            temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not target.is_dir():
        raise _BuildError(FailureReason.NOT_WRITABLE, f"cannot write the model server to {target}")
    return target


def _python_of(directory: Path) -> Path:
    return directory / "bin" / "python"


def _is_ready(directory: Path) -> bool:
    return (directory / _MARKER).is_file() and _python_of(directory).exists()


@contextlib.asynccontextmanager
async def _lock(path: Path) -> AsyncIterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_POLL_S)
        yield descriptor
    finally:
        os.close(descriptor)


async def _build_locked(spec: EnvironmentSpec, directory: Path, log: Path, lock: int) -> None:
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
    log.unlink(missing_ok=True)
    try:
        await _install(spec, directory, log, lock)
    except BaseException:
        # Shielded from nothing: removing is quick, and must not be skipped when cancelled.
        shutil.rmtree(directory, ignore_errors=True)
        raise
    _write_marker(directory, spec)


async def _install(spec: EnvironmentSpec, directory: Path, log: Path, lock: int) -> None:
    uv_path = uv.find_uv_bin()
    interpreter = str(spec.python or sys.executable)
    await _run([uv_path, "venv", "--python", interpreter, str(directory)], log, lock)
    lines = _requirement_lines(spec)
    if lines:
        wanted = directory / "requirements.txt"
        wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
        install = [uv_path, "pip", "install", "--python", str(_python_of(directory))]
        await _run([*install, "--requirements", str(wanted)], log, lock)
    if spec.format == "command":
        return
    runtime = await asyncio.to_thread(_copy_runtime, directory.parent.parent)
    for site_packages in directory.glob("lib/python*/site-packages"):
        (site_packages / "modelplane_runtime.pth").write_text(f"{runtime}\n", encoding="utf-8")
    check = [str(_python_of(directory)), "-c", "import modelplane_runtime.server"]
    await _run(check, log, lock)


async def _run(command: Sequence[str], log: Path, lock: int) -> None:
    """Run one step of a build to its end, its output appended to the log.

    The lock's descriptor is handed down: should this process be killed, nobody builds the same
    environment while its orphan still writes to it.
    """
    environment = installer_environment(os.environ)
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=log.parent,
            pass_fds=(lock,),
            start_new_session=True,
        )
    try:
        code = await process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if code != 0:
        step = "the model server does not start in it" if "-c" in command else "uv failed"
        raise _BuildError(
            FailureReason.INSTALL_FAILED,
            f"{step} (exit code {code}): see the log for the requirement at fault",
        )


def _write_marker(directory: Path, spec: EnvironmentSpec) -> None:
    content = json.dumps({"format": spec.format, "requirements": _requirement_lines(spec)})
    temporary = directory / f"{_MARKER}.new"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / _MARKER)


def _failed(key: str, reason: FailureReason, message: str, log: Path) -> EnvironmentFailed:
    return EnvironmentFailed(key, reason, message, _read_tail(log))


def _read_tail(log: Path) -> str:
    try:
        data = log.read_bytes()[-_LOG_TAIL_BYTES:]
    except OSError:
        return ""
    return _CREDENTIALS.sub("***@", data.decode(errors="replace")).strip()
