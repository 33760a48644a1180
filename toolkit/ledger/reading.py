"""Read-only sight of the ledger: one snapshot, no right but SELECT needed (role toolkit_observer), never a write.

Defaults: a statement may take 10 s; then the server ends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import psycopg

from toolkit.errors import NotInitialised, ToolkitError
from toolkit.ledger.database import Database, Session

PATIENCE = 10.0
"""Seconds that one statement may take."""


@contextmanager
def reading(database: Database, *, within: float = PATIENCE) -> Iterator[Session]:
    """A session in a READ ONLY transaction with one snapshot: what is read by several statements fits together.

    Raises NotInitialised when schema `toolkit` is missing or older, ToolkitError when the login may not read it or a
    statement takes longer than `within` seconds, DependencyUnreachable when PostgreSQL is away.
    """
    try:
        with database.session() as session, session.transaction():
            session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            session.execute(f"SET LOCAL statement_timeout = {round(within * 1000)}")
            session.execute("SET LOCAL jit = off")  # compiling takes longer than these queries
            yield session
    except (
        psycopg.errors.InvalidSchemaName,
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedColumn,
    ) as error:
        raise NotInitialised(
            f"schema toolkit is missing or older than this release: {error.diag.message_primary}",
            remedy="run `toolkit init`",
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise ToolkitError(
            f"this login may not read the ledger: {error.diag.message_primary}",
            remedy="GRANT toolkit_observer TO the login in DATABASE_URL",
        ) from error
    except psycopg.errors.QueryCanceled as error:
        raise ToolkitError(
            f"PostgreSQL took longer than {within:g} s and was stopped",
            remedy="ask for less: --since 1h, --limit 20",
        ) from error


def clock(session: Session) -> datetime:
    """The database's time at the snapshot: ages are told by the clock that wrote the times."""
    row = session.execute("SELECT transaction_timestamp()").fetchone()
    assert row is not None  # noqa: S101  a SELECT without FROM always gives a row
    moment: datetime = row[0]
    return moment
