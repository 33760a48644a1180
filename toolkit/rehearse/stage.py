"""The turnstile: each actor runs in a thread of its own, and one SQL statement is issued at a time.

After each turn the stage waits until every actor is at its gate, over, or waiting inside the server for somebody who is
not moving; who waits, and for whom, PostgreSQL itself says (`pg_blocking_pids`, asked on a connection of its own). Nothing
here sleeps to provoke a race.

Defaults: an actor that neither comes back nor waits for a lock for 30 s ends the rehearsal with StageStuck. Known weakness:
two sessions that one COMMIT wakes run on at the same time, in the server's order, which no schedule controls.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from toolkit.errors import ToolkitError
from toolkit.ledger.database import Database
from toolkit.rehearse.connection import Ended, ScheduledConnection
from toolkit.rehearse.words import CRASH, LOCAL, Actor, Step

Chooser = Callable[[Mapping[str, str]], str]
"""Gives the next turn: from who can go on, and their next statement, to a name."""

STUCK = 30.0
"""Seconds."""

_BLOCKING = "SELECT pid, pg_blocking_pids(pid) FROM unnest(%s::int[]) AS pid"
_LOCKS = """
SELECT l.pid, c.relname, bool_or(l.mode <> 'AccessShareLock') FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE l.pid = ANY(%s) AND l.granted AND c.relkind = 'r' AND c.relnamespace <> 'pg_catalog'::regnamespace
GROUP BY l.pid, c.relname ORDER BY c.relname
"""


class StageStuck(ToolkitError):
    """An actor neither came back nor waits for a lock that another actor holds."""


class _State(enum.Enum):
    RUNNING = 1
    AT_GATE = 2
    OVER = 3


class Part:
    """An actor in one schedule: the gate of its connections, and what it did. Also its Seat."""

    def __init__(self, actor: Actor, stage: Stage, database: Database, shared: dict[str, Any]) -> None:
        self.actor = actor
        self.name = actor.name
        self.database = database
        self.shared = shared
        self._on_commit: Callable[[], object] = lambda: None
        self.stage = stage
        self.state = _State.RUNNING
        self.sql = ""
        self.params: Any = None
        self.pid = 0
        self.ended = False
        self.gave_way = False
        self.touched: dict[str, bool] = {}
        self.ending = ""
        self.errors: list[str] = []
        self.rows: int | None = None
        self.turn = threading.Semaphore(0)
        self.connection: ScheduledConnection | None = None
        self.failure: BaseException | None = None

    def run(self) -> None:
        """The thread: the actor's code, from beginning to end."""
        try:
            self.ending = self.actor.act(self)
        except Ended:
            self.ending = "ended"
        except psycopg.Error as error:
            self.ending = described(error)
        except BaseException as error:  # noqa: BLE001  an actor may raise anything; it is told as its ending
            self.ending = f"bug {type(error).__name__}: {error}"
            self.failure = error
        finally:
            self.stage.changed(self, _State.OVER)

    def enter(self, connection: ScheduledConnection, sql: str, params: Any) -> None:
        """Gate: wait for the turn."""
        self.connection, self.pid = connection, connection.info.backend_pid
        self.sql, self.params = sql, params
        if not self.ended:
            self.stage.changed(self, _State.AT_GATE)
            self.turn.acquire()
        self._end_if_told(connection)

    def leave(self, connection: ScheduledConnection, error: psycopg.Error | None, rows: int | None) -> None:
        """Gate: the statement came back."""
        self.rows = rows
        if error is not None:
            self.errors.append(described(error))
            self.gave_way |= error.sqlstate == "55P03"
        self._end_if_told(connection)
        if error is None and self.sql.startswith("COMMIT"):
            self._on_commit()

    def check(self) -> None:
        """Gate: a killed process gets no connection."""
        if self.ended:
            raise Ended

    @property
    def comes_again(self) -> bool:
        """True when it met a held lock, gave way, and is about to try again: polling is a kind of waiting, and it goes on
        when another transaction has ended."""
        return self.gave_way and self.sql.startswith("BEGIN")

    def crash(self, actor: str) -> None:
        """Seat: end another actor's session; a turn of its own."""
        self.sql, self.params = f"{CRASH} {actor}", None
        self.stage.changed(self, _State.AT_GATE)
        self.turn.acquire()
        self.stage.end(actor)

    def after_commit(self, call: Callable[[], object]) -> None:
        """Seat: call this after every COMMIT."""
        self._on_commit = call

    def _end_if_told(self, connection: ScheduledConnection) -> None:
        if self.ended:
            connection.close()
            raise Ended


class Stage:
    """One schedule of some actors. `control` is a connection of the stage's own, in autocommit."""

    def __init__(
        self,
        actors: Sequence[tuple[Actor, Database]],
        control: psycopg.Connection[Any],
        *,
        watch_locks: bool = False,
        footprints: bool = False,
        render: Callable[[str, Any], str] | None = None,
    ) -> None:
        self._changed = threading.Condition()
        self._control = control
        self._watch_locks = watch_locks
        self._footprints = footprints
        self._render = render
        self._leaving: list[int] = []
        shared: dict[str, Any] = {}
        self.parts = {actor.name: Part(actor, self, database, shared) for actor, database in actors}
        self.deadlocks = 0
        self.disturbed = False
        self._released = False

    def changed(self, part: Part, state: _State) -> None:
        """Called by an actor's thread."""
        with self._changed:
            part.state = state
            self._changed.notify()

    def end(self, name: str) -> None:
        """End an actor's session. One that waits inside the server ends when its statement does: the server does not
        notice a dead client before."""
        part = self.parts[name]
        part.ended = True
        if part.pid and part.state is not _State.OVER:
            self._leaving.append(part.pid)
        if part.state is _State.AT_GATE:
            part.state = _State.RUNNING
            part.turn.release()

    def play(self, choose: Chooser) -> list[Step]:
        """All turns, until every actor is over."""
        threads = [
            threading.Thread(target=part.run, name=part.name, daemon=True) for part in self.parts.values()
        ]
        for thread in threads:
            thread.start()
        steps: list[Step] = []
        self._settle()
        while ready := self._ready():
            steps.append(self._turn(self.parts[choose(ready)]))
        for thread in threads:
            thread.join()
        return steps

    def _ready(self) -> dict[str, str]:
        """Who can be given a turn, in the order of the scenario. Empty: all are over."""
        while True:
            waiting = [part for part in self.parts.values() if part.state is _State.AT_GATE]
            free = [part for part in waiting if not self._is_held(part)]
            eager = [part for part in free if not part.comes_again]
            if eager or (free and len(free) == len(waiting)):
                return {part.name: part.sql for part in eager or free}
            if free:  # they met the lock of one who is held: once is enough
                self._released = True
                continue
            if waiting:
                self._let_them_give_up()
                if not any(p.state is _State.AT_GATE and not self._is_held(p) for p in self.parts.values()):
                    self._released = True
                continue
            if all(part.state is _State.OVER for part in self.parts.values()):
                return {}
            self._settle(whole=True)

    def _is_held(self, part: Part) -> bool:
        return part.actor.held and not self._released and part.sql.startswith(("COMMIT", "ROLLBACK"))

    def _let_them_give_up(self) -> None:
        """Those who wait for a held session may have a time limit of their own: give it a second."""
        deadline = time.monotonic() + 1.2
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    not self._running()
                    or any(p.errors for p in self.parts.values())
                    or time.monotonic() > deadline
                ),
                timeout=1.2,
            )
        if self._running():
            self._settle()

    def _turn(self, part: Part) -> Step:
        """Give `part` its turn and wait for what comes of it."""
        waiting = [one for one in self._running() if one is not part]
        before = {name: len(one.errors) for name, one in self.parts.items()}
        sql, params = part.sql, part.params
        part.rows = None
        part.state = _State.RUNNING
        part.turn.release()
        blockers = self._settle()
        errors = {
            name: "; ".join(one.errors[before[name] :])
            for name, one in self.parts.items()
            if len(one.errors) > before[name]
        }
        timed_out = any("55P03" in errors.get(one.name, "") for one in waiting)
        self.disturbed |= timed_out and not self.deadlocks and not self._holds()
        if sql.startswith(("COMMIT", "ROLLBACK")):
            for one in self.parts.values():
                one.gave_way &= one is part
        woke = tuple(one.name for one in waiting if one.name not in blockers)
        alone = not woke and not errors and part.name not in blockers
        return Step(
            actor=part.name,
            sql=sql,
            waits_for=tuple(blockers.get(part.name, ())),
            woke=woke,
            errors=errors,
            touched=self._touched(part, sql) if self._footprints and alone else None,
            rows=part.rows,
            locks=self._held() if self._watch_locks else {},
            rendered=self._render(sql, params) if self._render else "",
        )

    def _holds(self) -> bool:
        return any(part.actor.held for part in self.parts.values())

    def _running(self) -> list[Part]:
        return [part for part in self.parts.values() if part.state is _State.RUNNING]

    def _settle(self, *, whole: bool = False) -> dict[str, list[str]]:
        """Wait until nobody moves. Returns who waits inside the server, and for whom; with `whole` only when somebody
        has come back."""
        deadline = time.monotonic() + STUCK
        in_deadlock = False
        patience = 0.002
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._running(), timeout=patience)
                running = self._running()
            if not running:
                self._await_departures()
                return {}
            blockers = self._blockers(running)
            caught = _cycle(blockers)
            if caught and not in_deadlock:
                self.deadlocks += 1
            in_deadlock = bool(caught)
            if len(blockers) == len(running) and not caught and not whole:
                self._await_departures()
                return blockers
            if whole and len(running) < len([p for p in self.parts.values() if p.state is not _State.OVER]):
                return blockers
            if time.monotonic() > deadline:
                raise StageStuck(
                    f"after {STUCK:.0f} s {', '.join(part.name for part in running)} neither came back nor waits for a lock",
                    remedy="an actor must do nothing that blocks but its SQL statements",
                )
            patience = min(0.02, patience * 1.5)

    def _blockers(self, running: Sequence[Part]) -> dict[str, list[str]]:
        """Of those who run: who waits for a lock, and which actors hold it."""
        names = {part.pid: part.name for part in self.parts.values() if part.pid}
        pids = [part.pid for part in running if part.pid]
        rows = self._control.execute(_BLOCKING, (pids,)).fetchall()
        return {
            names[pid]: [names[one] for one in dict.fromkeys(by) if one in names]
            for pid, by in rows
            if any(one in names for one in by)
        }

    def _await_departures(self) -> None:
        """A killed client's locks are gone when its server process is."""
        over = [p.pid for p in self.parts.values() if p.ended and p.state is _State.OVER]
        leaving = [pid for pid in self._leaving if pid in over]
        deadline = time.monotonic() + STUCK
        while leaving and time.monotonic() < deadline:
            leaving = [
                row[0]
                for row in self._control.execute(
                    "SELECT pid FROM pg_stat_activity WHERE pid = ANY(%s)", (leaving,)
                ).fetchall()
            ]
        self._leaving = [pid for pid in self._leaving if pid not in over]

    def _touched(self, part: Part, sql: str) -> dict[str, bool] | None:
        """Tables that this turn read (False) or locked and wrote (True), by the locks of its transaction; None when that
        cannot be told: everything."""
        if sql.startswith(LOCAL):
            return {}
        if sql.startswith("COMMIT"):
            return part.touched
        if part.connection is None or part.connection.info.transaction_status != TransactionStatus.INTRANS:
            return None
        part.touched = self._locks([part.pid]).get(part.name, {})
        return part.touched

    def _held(self) -> dict[str, tuple[str, ...]]:
        """Tables in which each actor's transaction has locked or written."""
        locks = self._locks([part.pid for part in self.parts.values() if part.pid])
        return {name: tuple(t for t, strong in tables.items() if strong) for name, tables in locks.items()}

    def _locks(self, pids: Sequence[int]) -> dict[str, dict[str, bool]]:
        names = {part.pid: part.name for part in self.parts.values() if part.pid}
        found: dict[str, dict[str, bool]] = {}
        for pid, table, strong in self._control.execute(_LOCKS, (list(pids),)).fetchall():
            found.setdefault(names[pid], {})[table] = strong
        return found


def described(error: psycopg.Error) -> str:
    """SQLSTATE and constraint of a server's error: `23503 ProductImage_productDraftId_fkey`."""
    state = error.sqlstate or type(error).__name__
    return f"{state} {error.diag.constraint_name}" if error.diag.constraint_name else state


def _cycle(blockers: Mapping[str, Sequence[str]]) -> bool:
    """True when some wait in a circle. Pure."""
    for start in blockers:
        seen, front = set[str](), list(blockers[start])
        while front:
            one = front.pop()
            if one == start:
                return True
            if one not in seen:
                seen.add(one)
                front += blockers.get(one, ())
    return False
