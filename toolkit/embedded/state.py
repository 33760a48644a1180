"""What the embedded servers keep in their home, and how their processes are known again.

Everything secret is in files of mode 0600, written whole or not at all. A process counts as a server of ours
only if its command line names our own data: a pid alone proves nothing after a crash or a reboot.

Ports: chosen once from 20000 to 29999, below the range that outgoing connections take; kept while free.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from toolkit.errors import DependencyUnreachable, UsageError

LOOPBACK = "127.0.0.1"
_PORTS = range(20_000, 30_000)
_LOG_LIMIT = 10_000_000  # bytes; a longer log is set aside at the next start, once
_POLL = 0.02  # seconds
_START_PATIENCE = 60.0  # seconds; crash recovery of a laptop's data takes less
_QUIET = 2.0  # seconds until whoever waits for a start is told so
_LOCK_PATIENCE = 120.0  # seconds; a first start with a cold disk takes about three


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """One running server. `url` holds the password; `data` is the folder it writes to, `log` the file."""

    name: str
    pid: int
    url: str
    version: str
    log: Path
    data: Path


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server keeps across restarts: its port, its password, and the version that was started last."""

    port: int
    password: str
    version: str


def read_identity(path: Path) -> Identity | None:
    """The kept identity, or None if there is none. Raises UsageError for a file that is not one."""
    try:
        return Identity(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{path} is damaged: {error}", remedy=f"mend it, or move {path.parent} away"
        ) from error


def keep_identity(path: Path, identity: Identity) -> None:
    """Write the identity, readable by its owner only."""
    write_private(path, json.dumps(dataclasses.asdict(identity)))


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old one or the new one, and only its owner can read."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    fresh.replace(path)


def new_password() -> str:
    """A password that needs no quoting in a URL."""
    return secrets.token_urlsafe(24)


def free_port(preferred: int | None) -> int:
    """`preferred` if it can be had on loopback, otherwise another free one."""
    candidates = [] if preferred is None else [preferred]
    candidates += secrets.SystemRandom().sample(_PORTS, 100)
    for port in candidates:
        if is_free(port):
            return port
    raise DependencyUnreachable(
        f"no free port on {LOOPBACK} among 100 tried",
        remedy="end the programs that hold ports 20000 to 29999",
    )


def is_free(port: int) -> bool:
    """Whether a server could listen on that loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def process_of(pid: int, program: str, *words: str) -> psutil.Process | None:
    """The process `pid` if it is alive and runs `program` with all of `words` on its command line."""
    try:
        process = psutil.Process(pid)
        command = process.cmdline()  # empty for a zombie
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    ours = bool(command) and Path(command[0]).name == program and set(words) <= set(command[1:])
    return process if ours else None


def is_alive(pid: int) -> bool:
    """Whether a process of that number runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_stopped(pid: int) -> bool:
    """Whether a SIGSTOP holds the process: its port takes connections, and nobody answers."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def silent(name: str, pid: int) -> DependencyUnreachable:
    """What to say of a server whose process is there and does not answer."""
    if is_stopped(pid):
        return DependencyUnreachable(
            f"the embedded {name} does not answer: a SIGSTOP holds its process {pid}",
            remedy=f"let it go on: kill -CONT {pid}",
        )
    return DependencyUnreachable(
        f"the embedded {name} does not answer, though its process {pid} runs",
        remedy="wait for one that loads its data: toolkit up\nstart one that hangs anew: toolkit down; toolkit up",
    )


def await_ready(
    look: Callable[[], EmbeddedServer | None],
    tell: Callable[[str], object],
    *,
    name: str,
    pid: int,
    log: Path,
    offset: int,
    remedy: str = "",
) -> EmbeddedServer:
    """Wait until `look` finds the server that process `pid` is to become; `tell` is called once if that takes a while.

    Raises DependencyUnreachable, with the log since `offset`, if it ends first (`remedy` is for that) or takes over a minute;
    at once for a process that a SIGSTOP holds."""
    began, told = time.monotonic(), False
    while True:
        alive = is_alive(pid)  # asked first, so that a last look follows the end
        found = look()
        if found:
            return found
        waited = time.monotonic() - began
        if is_stopped(pid):
            raise silent(name, pid)
        if not alive or waited > _START_PATIENCE:
            what = f"is not ready after {_START_PATIENCE:.0f} s" if alive else "ended while starting"
            said = log_since(log, offset)
            what_then = "; start it anew: toolkit down; toolkit up" if alive else remedy
            raise DependencyUnreachable(
                f"the server {pid} {what}:\n{said}", remedy=f"the whole log is {log}" + what_then
            )
        if waited > _QUIET and not told:
            told = True
            tell(f"{name}, process {pid}, is not ready yet: up to {_START_PATIENCE:.0f} s; see {log}")
        time.sleep(_POLL)


def end(process: psutil.Process, *steps: tuple[int, float]) -> None:
    """Send each signal in turn, wait so many seconds for the end. psutil never signals a reused pid. A process that a SIGSTOP
    holds goes on, else it would hear none of them.

    An end is seen by `is_alive`: some containers' init leaves zombies about for seconds, or for good."""
    for signal, patience in steps:
        try:
            process.send_signal(signal)
            process.resume()
        except psutil.NoSuchProcess:
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not is_alive(process.pid):
                return
            time.sleep(_POLL)
    raise DependencyUnreachable(
        f"process {process.pid} does not end", remedy=f"look at it with: ps -fp {process.pid}"
    )


def prepare_log(path: Path) -> int:
    """Make the log (0600) if it is missing, set a long one aside; returns where the next line goes."""
    if path.exists() and path.stat().st_size > _LOG_LIMIT:
        path.replace(path.with_name(path.name + ".1"))
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    return path.stat().st_size


def log_since(path: Path, offset: int, lines: int = 12) -> str:
    """The last lines written to a log after `offset`."""
    with path.open("rb") as file:
        file.seek(offset)
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


def open_home(home: Path) -> None:
    """Make the home with mode 0700. A folder with other things in it keeps the mode its owner gave it."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner, me = home.stat().st_uid, os.geteuid()
    if me not in (owner, 0):
        raise UsageError(f"{home} belongs to user {owner}", remedy="set TOOLKIT_HOME to a folder of your own")
    if not any(home.iterdir()):
        home.chmod(0o700)


@contextmanager
def exclusive(home: Path) -> Iterator[None]:
    """Hold the home's lock: one `up` or `down` at a time. It ends with its process, however that ends."""
    with (home / "lock").open("a") as file:
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DependencyUnreachable(
                        f"another program has held {home / 'lock'} for {_LOCK_PATIENCE:.0f} s",
                        remedy="wait for the other `toolkit up` or `toolkit down`, or end it",
                    ) from None
                time.sleep(_POLL)
        yield
