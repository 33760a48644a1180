"""What a process knows of the toggles, kept up to date by one thread: LISTEN on a connection of its own, and a poll.

    watcher = Watcher(url=…, names=("ASYNC_IMAGE_PROCESSING",), process=…, switched_off=settings.switched_off)
    watcher.start()                    # reads once; without the store everything is sync until it answers
    watcher.known("ASYNC_IMAGE_PROCESSING")

A new version is in force here first, then told to the listeners, then acknowledged in the ledger: a receipt never comes
before the effect. An order that was decided under an older version and is not committed yet holds the acknowledgement back
(`pledge`), so no such order appears after the receipt.

When the store is away the last known value stays, marked stale. A value that nobody has confirmed for FRESH seconds (the
process was frozen, the store hangs) is read again before it is used.

Defaults: a poll every 0.5 s, a heartbeat every 2 s, a new connection every 0.5 s while the store is away. Known weakness:
behind a transaction pooler LISTEN hears nothing, and the poll alone does the work.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

import psycopg

from toolkit.ledger import toggles
from toolkit.ledger.database import Session
from toolkit.ledger.toggles import Toggle
from toolkit.toggle.decide import Known, layer, variant

POLL = 0.5
BEAT = 2.0
FRESH = 2.0

Event = Literal["ready", "changed", "stale", "error"]
Listener = Callable[[Event, str, Known], None]
Kind = Literal["importer", "worker", "supervisor"]


@dataclass(frozen=True, slots=True)
class Process:
    """Who acknowledges. `name` is unique: host, pid and a random part."""

    name: str
    kind: Kind
    host: str
    pid: int
    release: str


def _mark(known: Known) -> tuple[int, datetime | None]:
    """Tells versions apart, after a database was restored to an older state too."""
    return known.version, known.toggle.at if known.toggle else None


@dataclass(slots=True)
class Pledge:
    """An order being made: `keep` says under which version it is decided; it ends with the order's transaction."""

    _watcher: Watcher
    _token: int

    def keep(self, name: str) -> None:
        """From here until the pledge ends, no newer version than the present one is acknowledged."""
        self._watcher._pledged[self._token] = (name, self._watcher.known(name).version)  # noqa: SLF001  its other half


@dataclass(slots=True)
class Watcher:
    """`start()` it once, `close()` it at the end. `known()` never waits, except to read again what is no longer fresh."""

    url: str
    names: Sequence[str]
    process: Process
    switched_off: Callable[[str], bool]
    direct: bool = True
    """The connection is this process's own, with no pooler between."""
    listeners: list[Listener] = field(default_factory=list)
    connect_timeout: int = 3
    _known: dict[str, Known] = field(default_factory=dict)
    _looked: float = 0.0
    _tried: float = 0.0
    _acked: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    _beat: float = 0.0
    _pledged: dict[int, tuple[str, int]] = field(default_factory=dict)
    _tokens: Iterator[int] = field(default_factory=itertools.count)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _connection: Session | None = None
    _heard: bool = False
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _bell: tuple[socket.socket, socket.socket] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Read the toggles once (`wait`), and go on in a thread. A store that is away is not an error here: `known` says so."""
        self._bell = socket.socketpair()
        for end in self._bell:
            end.settimeout(0)
        if wait:
            self.run_once()
        self._thread = threading.Thread(target=self._run, name="toggle", daemon=True)
        self._thread.start()

    def known(self, name: str) -> Known:
        """What this process knows of the toggle; read again first when nobody has confirmed it for FRESH seconds."""
        now = time.monotonic()
        if now - self._looked > FRESH and now - self._tried > FRESH and self._thread is not None:
            self._tried = now
            self._read_again()
        return self._known.get(name, Known())

    @contextlib.contextmanager
    def pledge(self) -> Iterator[Pledge]:
        """Around an order's transaction."""
        token = next(self._tokens)
        try:
            yield Pledge(self, token)
        finally:
            if self._pledged.pop(token, None) is not None:
                self._ring()

    def close(self) -> None:
        """Say goodbye to the ledger, if it listens, and end the thread."""
        self._stop.set()
        self._ring()
        if self._thread is not None:
            self._thread.join(timeout=5)
        for end in self._bell or ():
            end.close()
        self._bell = None

    # -- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            if self.run_once():
                self._sleep(POLL)
            else:
                self._stop.wait(POLL)
        with contextlib.suppress(psycopg.Error, OSError):
            if self._connection is not None:
                toggles.leave(self._connection, self.process.name)
        self._hang_up()

    def run_once(self) -> bool:
        """One look: read, tell, acknowledge. False when the store is away."""
        try:
            connection = self._connected()
            while True:
                self._heard = False
                self._take(toggles.read(connection, self.names), at=time.monotonic())
                self._acknowledge(connection)
                if not self._heard:
                    return True
        except (psycopg.Error, OSError) as error:
            self._lost(error)
            return False

    def _connected(self) -> Session:
        if self._connection is None:
            connection = self._open()
            try:
                connection.execute(f"LISTEN {toggles.CHANNEL}")
                self._connection, self._beat = connection, time.monotonic()
                for name in self.names:
                    self._say(connection, name, None, "", "")
            except BaseException:
                self._connection = None
                connection.close()
                raise
            self._acked.clear()
        return self._connection

    def _open(self) -> Session:
        connection: Session = psycopg.connect(
            self.url,
            autocommit=True,
            connect_timeout=self.connect_timeout,
            application_name=f"freshfetch {self.process.kind}",
            options="-c timezone=UTC -c statement_timeout=5000",
            prepare_threshold=None,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=10_000,
        )
        connection.add_notify_handler(self._hear)
        return connection

    def _hear(self, _: psycopg.Notify) -> None:
        self._heard = True

    def _sleep(self, seconds: float) -> None:
        """Until a flip is heard, an order's transaction ends, or `seconds` have passed."""
        if self._connection is None or self._bell is None:
            return
        bell = self._bell[0].fileno()
        ready, _, _ = select.select([self._connection.fileno(), bell], [], [], seconds)
        if bell in ready:
            with contextlib.suppress(BlockingIOError):
                self._bell[0].recv(64)

    def _ring(self) -> None:
        if self._bell is not None:
            with contextlib.suppress(OSError):
                self._bell[1].send(b".")

    def _read_again(self) -> None:
        """On a connection of the moment: the thread's own may be the one that hangs."""
        try:
            with psycopg.connect(
                self.url,
                autocommit=True,
                connect_timeout=self.connect_timeout,
                options="-c timezone=UTC -c statement_timeout=3000",
            ) as connection:
                self._take(toggles.read(connection, self.names), at=time.monotonic(), behind=True)
        except (psycopg.Error, OSError) as error:
            self._lost(error, hang_up=False)
        finally:
            self._ring()

    # -- what is known -------------------------------------------------------------------------------------------

    def _take(self, found: dict[str, Toggle], *, at: float, behind: bool = False) -> None:
        """The store has answered. `behind`: another read may have been faster, so never go back a version."""
        with self._lock:
            for name in self.names:
                before = self._known.get(name, Known())
                after = Known(reached=True, toggle=found.get(name))
                if behind and before.reached and after.version < before.version:
                    after = replace(before, stale_since=None, why="")
                self._known[name] = after
                if not before.reached or before.stale_since is not None:
                    self._tell("ready", name, after)
                if before.reached and _mark(before) != _mark(after):
                    self._tell("changed", name, after)
            self._looked = at

    def _lost(self, error: BaseException, *, hang_up: bool = True) -> None:
        """The store is away: what is known stays, and is stale."""
        if hang_up:
            self._hang_up()
        why = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
            why = "schema toolkit is missing: run `toolkit init`"
        self._tried = time.monotonic()
        with self._lock:
            for name in self.names:
                before = self._known.get(name, Known())
                after = replace(before, stale_since=before.stale_since or datetime.now(UTC), why=why)
                self._known[name] = after
                if before.stale_since is None:
                    self._tell("stale" if before.reached else "error", name, after)

    def _tell(self, event: Event, name: str, known: Known) -> None:
        for listener in tuple(self.listeners):
            listener(event, name, known)

    # -- acknowledging -------------------------------------------------------------------------------------------

    def _position(self, name: str) -> tuple[int, str, str]:
        known, off = self._known.get(name, Known()), self.switched_off(name)
        return known.version, variant(known, switched_off=off), layer(known, switched_off=off)

    def _acknowledge(self, connection: Session) -> None:
        beat = time.monotonic() - self._beat >= BEAT
        for name in self.names:
            position = self._position(name)
            if any(at < position[0] for of, at in tuple(self._pledged.values()) if of == name):
                continue
            if beat or self._acked.get(name) != position:
                self._say(connection, name, *position)
                self._acked[name] = position
        if beat:
            self._beat = time.monotonic()

    def _say(self, session: Session, name: str, version: int | None, variant: str, layer: str) -> None:
        toggles.ack(
            session,
            name,
            process=self.process.name,
            kind=self.process.kind,
            host=self.process.host,
            pid=self.process.pid,
            release=self.process.release,
            version=version,
            variant=variant,
            layer=layer,
            direct=self.direct,
        )

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                connection.close()
