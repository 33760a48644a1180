"""The embedded PostgreSQL 18: made, started, found and stopped.

It listens on loopback and, where the path fits into the 107 bytes of a socket address, on a Unix socket as
well, which the URL prefers (a round trip costs about two thirds). Its only user, `freshfetch`, is a superuser
and needs the password (scram) everywhere. Data are as safe as PostgreSQL's defaults: fsync and synchronous
commit are on. The log has a time, a pid and a SQLSTATE on each line; a log over 10 MB is set aside at the
next start.

Known weakness: a log-in manager with RemoveIPC=yes may remove the shared memory when the user logs out.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote

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
    write_private,
)
from toolkit.errors import DependencyUnreachable

NAME = "postgres"
_USER = "freshfetch"
_SOCKET_LIMIT = 107  # bytes in a Unix socket's address
_TRIES = 3  # ports, should another program take the one just found free
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "max_connections": "200",
    "cluster_name": "freshfetch",
    "log_line_prefix": "%m [%p] %e %a ",
    "log_checkpoints": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


def find(home: Path) -> EmbeddedServer | None:
    """The running server of this home, if it is ready for connections and nothing holds it. Reads only."""
    identity = read_identity(_identity_file(home))
    place = _place(home)
    lines = _pid_file(place / "data")
    process = _postmaster(place / "data")
    if identity is None or process is None or len(lines) < 8 or lines[7].strip() != "ready":
        return None
    if is_stopped(process.pid):
        return None
    url = f"postgresql://{_USER}:{identity.password}@{LOOPBACK}:{lines[3]}/{_USER}"
    if lines[4]:
        url += f"?host={quote(lines[4])}"
    return EmbeddedServer(NAME, process.pid, url, identity.version, place / "postgres.log", place / "data")


def running(home: Path) -> psutil.Process | None:
    """The process of this home's server, whether it answers or not."""
    return _postmaster(_place(home) / "data")


def start(home: Path, options: Mapping[str, str], tell: Callable[[str], object]) -> EmbeddedServer:
    """Start the server, made first if there is none yet; the caller holds the home's lock.

    `options` are further settings of postgresql.conf; `tell` hears of a start that takes long.
    Raises DependencyUnreachable with the end of the log if it does not come up."""
    place = accounts.make_place(home)
    account = accounts.account_of(place)
    data, log = place / "data", place / "postgres.log"
    bin_folder = accounts.programs()
    identity = _identity(home, data, bin_folder)
    offset = prepare_log(log)
    accounts.give(log, account)
    if not data.exists():
        _initialise(place, identity.password, bin_folder)
    ready = partial(await_ready, lambda: find(home), tell, name=NAME, log=log, offset=offset)
    if process := _postmaster(data):
        # Alive, though not ready a moment ago: somebody's `up` was killed meanwhile, or it is held.
        return ready(pid=process.pid)
    _clear_remains(place)
    for _ in range(_TRIES):
        identity = Identity(free_port(identity.port), identity.password, identity.version)
        keep_identity(_identity_file(home), identity)
        _configure(place, identity.port, options)
        pid = accounts.launch([bin_folder / "postgres", "-D", data], account, cwd=place, log=log)
        try:
            return ready(pid=pid)
        except DependencyUnreachable:
            if is_free(identity.port):  # it was not the port
                raise
    raise DependencyUnreachable(f"PostgreSQL lost {_TRIES} ports to other programs", remedy=f"see {log}")


def stop(home: Path) -> bool:
    """Stop the server of this home, fast but cleanly; False if none was running."""
    process = running(home)
    if process is None:
        return False
    end(process, (signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))
    return True


def destroy(home: Path) -> None:
    """Delete the stopped server's data, log and password."""
    shutil.rmtree(_place(home), ignore_errors=True)
    if (home / "postgres").is_symlink():
        (home / "postgres").unlink()
    _identity_file(home).unlink(missing_ok=True)


def _place(home: Path) -> Path:
    return (home / "postgres").resolve()


def _identity_file(home: Path) -> Path:
    return home / "postgres.json"


def _pid_file(data: Path) -> list[str]:
    """postmaster.pid: pid, data folder, start time, port, socket folder, address, shared memory, state."""
    try:
        return (data / "postmaster.pid").read_text(errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _postmaster(data: Path) -> psutil.Process | None:
    lines = _pid_file(data)
    if not lines or not lines[0].isdigit():
        return None
    return process_of(int(lines[0]), "postgres", "-D", str(data))


def _identity(home: Path, data: Path, bin_folder: Path) -> Identity:
    kept = read_identity(_identity_file(home))
    if kept is None and data.exists():
        raise DependencyUnreachable(
            f"{data} has data, but its password, {_identity_file(home)}, is gone",
            remedy=f"bring the file back, or give the data up: move {home / 'postgres'} away",
        )
    version = accounts.run([bin_folder / "postgres", "--version"], None, cwd=home).split()[-1]
    fresh = Identity(free_port(None), new_password(), version) if kept is None else kept
    identity = Identity(fresh.port, fresh.password, version)
    keep_identity(_identity_file(home), identity)  # before there are data: data without a password are lost
    return identity


def _initialise(place: Path, password: str, bin_folder: Path) -> None:
    """Make the cluster and its database aside, and move it into place whole: a kill never leaves half."""
    for remains in place.glob("new-*"):
        shutil.rmtree(remains, ignore_errors=True)
    work = place / f"new-{secrets.token_hex(4)}"
    work.mkdir(mode=0o700)
    write_private(work / "password", password)
    maker = accounts.initdb_account(place)
    accounts.give(work, maker)
    # The built-in C.UTF-8 sorts the same on every machine, whatever locales that has.
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    access = [
        "--no-instructions",
        f"--username={_USER}",
        f"--pwfile={work / 'password'}",
        "--auth=scram-sha-256",
    ]
    data = work / "data"
    accounts.run([bin_folder / "initdb", "-D", data, *access, *locale], maker, cwd=place)
    single: list[str | Path] = [bin_folder / "postgres", "--single", "-D", data, "postgres"]
    accounts.run(single, maker, cwd=place, text=f"CREATE DATABASE {_USER}\n")
    with (data / "postgresql.conf").open("a") as file:
        file.write("include 'freshfetch.conf'\n")
    accounts.give(data, accounts.account_of(place))
    data.rename(place / "data")
    shutil.rmtree(work)


def _configure(place: Path, port: int, options: Mapping[str, str]) -> None:
    """Write what this start decides; the file is included at the end of postgresql.conf."""
    account = accounts.account_of(place)
    sockets = place / "run"
    sockets.mkdir(mode=0o700, exist_ok=True)
    accounts.give(sockets, account)
    fits = len(os.fsencode(sockets / f".s.PGSQL.{port}")) <= _SOCKET_LIMIT and not set('",\n') & set(
        str(sockets)
    )
    settings = {
        **_SETTINGS,
        "port": str(port),
        "unix_socket_directories": str(sockets) if fits else "",
        **options,
    }
    lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items()]
    target = place / "data" / "freshfetch.conf"
    write_private(target, "".join(lines))
    accounts.give(target, account)


def _clear_remains(place: Path) -> None:
    """Clear away what a killed postmaster leaves behind and a new one would stumble over.

    Its children hold the shared memory until they notice. And while some process has its pid, be it a stranger or its
    own zombie, PostgreSQL takes the lock files in the data folder and beside the socket for those of a postmaster."""
    data = place / "data"
    for process in psutil.process_iter():
        try:
            orphan = process.name() == "postgres" and Path(process.cwd()) == data
        except psutil.Error:
            continue
        if orphan:
            end(process, (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
    lines = _pid_file(data)
    if not lines or not lines[0].isdigit() or psutil.pid_exists(int(lines[0])):
        (data / "postmaster.pid").unlink(missing_ok=True)
    shutil.rmtree(place / "run", ignore_errors=True)
