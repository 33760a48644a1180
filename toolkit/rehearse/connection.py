"""Connections that wait for their turn: a psycopg connection and cursor whose every statement passes a gate.

BEGIN, COMMIT, ROLLBACK and SAVEPOINT are statements too, also when psycopg or SQLAlchemy sends them by itself. The gate is
open while a connection is not checked out (SQLAlchemy's pool events), so a pool's own statements take no turn. Pipelines
are played one statement at a time: the server does them in the same order, and others may come in between.

Known weakness: `stream()`, COPY data and server-side cursors' FETCH take a turn when they start, not for each row. The
seams are psycopg's own methods `_exec_command` and `_maybe_prepare_gen`, which are not public; the tests hold them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import psycopg
import sqlalchemy as sa
from psycopg import pq

from toolkit.ledger.database import Database


class Gate(Protocol):
    """Where a statement waits for its turn."""

    def enter(self, connection: ScheduledConnection, sql: str, params: Any) -> None:
        """Come back when it is this statement's turn. Raises Ended when the session was ended meanwhile."""

    def leave(self, connection: ScheduledConnection, error: psycopg.Error | None, rows: int | None) -> None:
        """The statement came back from the server."""

    def check(self) -> None:
        """Before a connection is given out: raises Ended when the session was ended."""


class Ended(BaseException):
    """The process of this session was killed, as far as the rehearsal goes: no code of it may run on."""


class _NoPipeline:
    """What `pipeline()` gives here; statements are sent one at a time."""

    def sync(self) -> None:
        """Nothing is waiting."""


class ScheduledConnection(psycopg.Connection[Any]):
    """A connection with a gate; `at_gate` False lets statements pass."""

    gate: Gate
    at_gate = False

    def _exec_command(self, command: Any, result_format: pq.Format = pq.Format.TEXT) -> Any:
        sql = _as_text(command, self)
        if not self.at_gate or sql.startswith("DEALLOCATE"):  # psycopg's own housekeeping touches no row
            return (yield from super()._exec_command(command, result_format))
        self.gate.enter(self, sql, None)
        try:
            result = yield from super()._exec_command(command, result_format)
        except psycopg.Error as error:
            self.gate.leave(self, error, None)
            raise
        self.gate.leave(self, None, None)
        return result

    @contextmanager
    def pipeline(self) -> Iterator[Any]:
        """Each statement for itself."""
        yield _NoPipeline()

    def rollback(self) -> None:
        """As psycopg's; nothing to roll back on a connection that was ended."""
        if not self.closed:
            super().rollback()


class ScheduledCursor(psycopg.Cursor[Any]):
    """A cursor of a connection with a gate."""

    def _execute_gen(self, query: Any, params: Any = None, **options: Any) -> Any:
        self._given = (query, params)
        yield from super()._execute_gen(query, params, **options)

    def _maybe_prepare_gen(self, pgq: Any, **options: Any) -> Any:
        connection = self.connection
        assert isinstance(connection, ScheduledConnection)  # noqa: S101  only such connections make such cursors
        if not connection.at_gate:
            yield from super()._maybe_prepare_gen(pgq, **options)
            return
        query, params = getattr(self, "_given", (pgq.query, None))
        connection.gate.enter(connection, _as_text(query, connection), params)
        try:
            yield from super()._maybe_prepare_gen(pgq, **options)
        except psycopg.Error as error:
            connection.gate.leave(connection, error, None)
            raise
        connection.gate.leave(connection, None, self._rowcount)


class ScheduledDatabase(Database):
    """A Database whose sessions pass `gate`. `settings` are server settings of its connections."""

    def __init__(
        self, url: str, gate: Gate, *, isolation: str, application_name: str, settings: dict[str, str]
    ) -> None:
        super().__init__(url, application_name=application_name)
        options = " ".join(
            f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings.items()
        )

        def connect() -> ScheduledConnection:
            connection = ScheduledConnection.connect(
                url,
                cursor_factory=ScheduledCursor,
                application_name=application_name,
                options=f"-c timezone=UTC {options}",
                autocommit=True,
            )
            connection.isolation_level = psycopg.IsolationLevel[isolation.replace(" ", "_")]
            connection.gate = gate
            return connection

        self._sessions = sa.create_engine(
            "postgresql+psycopg://",
            creator=connect,
            isolation_level="AUTOCOMMIT",
            pool_size=2,
            max_overflow=2,
        )
        self.engine = self._sessions.execution_options(isolation_level=isolation)
        sa.event.listen(self._sessions, "checkout", _given_out)
        sa.event.listen(self._sessions, "checkin", _handed_back)


def _given_out(connection: ScheduledConnection, *_: Any) -> None:
    connection.gate.check()
    connection.at_gate = True


def _handed_back(connection: ScheduledConnection | None, *_: Any) -> None:
    if connection is not None:
        connection.at_gate = False


def _as_text(query: Any, connection: psycopg.Connection[Any]) -> str:
    if isinstance(query, bytes):
        return query.decode()
    if isinstance(query, str):
        return query
    return str(query.as_string(connection))
