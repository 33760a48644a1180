"""PostgreSQL and Valkey for a laptop and the tests, both in one home: `up`, `find`, `down`, `destroy`.

`up` finds what runs and starts what does not; two at once are safe; the servers outlive it. Nothing here
reads the environment: whether DATABASE_URL or REDIS_URL replace a server is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil

from toolkit.embedded import postgres, state, valkey
from toolkit.embedded.state import EmbeddedServer, exclusive, open_home
from toolkit.errors import DependencyUnreachable

__all__ = ["EmbeddedServer", "Found", "Servers", "destroy", "down", "find", "silent", "up"]

_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Servers:
    """Both servers, running."""

    postgres: EmbeddedServer
    valkey: EmbeddedServer


@dataclass(frozen=True, slots=True)
class Found:
    """What runs of a home's servers, and answers."""

    postgres: EmbeddedServer | None
    valkey: EmbeddedServer | None

    @property
    def both(self) -> Servers | None:
        """Both servers, if both run."""
        return Servers(self.postgres, self.valkey) if self.postgres and self.valkey else None


def find(home: Path) -> Found:
    """Look for the servers of this home; reads only, and a home that does not exist has none.

    Raises DependencyUnreachable for a home that may not be read."""
    home = home.resolve()
    with _explained(home):
        return Found(postgres.find(home), valkey.find(home))


def silent(home: Path, name: str) -> DependencyUnreachable | None:
    """What to say of a server that `find` does not find though its process is there; None where there is none."""
    server = {postgres.NAME: postgres, valkey.NAME: valkey}[name]
    process = server.running(home.resolve())
    return state.silent(name, process.pid) if process else None


def up(
    home: Path,
    extra_options: Mapping[str, str] = _NO_OPTIONS,
    tell: Callable[[str], object] = lambda _: None,
) -> Servers:
    """Have both servers running, and return them.

    `extra_options` are settings of postgresql.conf, for a PostgreSQL that is started now; `tell` hears of a start that takes
    over 2 s.
    Raises DependencyUnreachable if a server cannot be started, UsageError if the home cannot be used."""
    home = home.resolve()
    running = find(home).both
    if running:
        return running
    with _explained(home):
        open_home(home)
        with exclusive(home):
            found = find(home)
            return Servers(
                found.postgres or postgres.start(home, extra_options, tell),
                found.valkey or valkey.start(home, tell),
            )


def down(home: Path) -> list[str]:
    """Stop the servers of this home and nothing else; returns the names of those that ran."""
    home = home.resolve()
    if not (home / "lock").exists():
        return []
    with _explained(home), exclusive(home):
        return [server.NAME for server in (valkey, postgres) if server.stop(home)]


def destroy(home: Path) -> None:
    """Stop the servers and delete their data, logs and passwords, for good."""
    home = home.resolve()
    down(home)
    with _explained(home):
        postgres.destroy(home)
        valkey.destroy(home)


@contextmanager
def _explained(home: Path) -> Iterator[None]:
    """A full disk, a missing right: whatever the system refuses is told with the home it happened in."""
    try:
        yield
    except (OSError, psutil.AccessDenied) as error:
        raise DependencyUnreachable(
            f"the embedded servers in {home} cannot be managed: {error}",
            remedy="make room or rights there, or set TOOLKIT_HOME to another folder",
        ) from error
