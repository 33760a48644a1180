"""Intents: asking for a job in the caller's transaction, and what the relay needs to hand them to the broker.

Claiming is by state (`pushed_at is null`), never by "id greater than the last", which misses rows that commit late.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
from psycopg.rows import class_row

from toolkit.errors import NotInitialised
from toolkit.jobspec import JobSpec, Payload
from toolkit.ledger.database import Session, array_of
from toolkit.run import Mode

if TYPE_CHECKING:
    import sqlalchemy as sa

CHANNEL = "toolkit_intent"
"""NOTIFY channel that wakes the relay: a hint only."""


class Intent(msgspec.Struct, frozen=True, gc=False):
    """One asked job as the relay pushes it. `payload` is JSON text; `due_at`: since when it may run; `replay_of`: the failed
    run that it was asked again to replay."""

    job_id: str
    job_name: str
    queue: str
    payload: str
    created_at: datetime
    due_at: datetime
    replay_of: str | None
    traceparent: str | None
    tracestate: str | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """Intents that no relay has pushed: how many, and the age of the oldest in seconds (0.0 when none)."""

    unpushed: int
    oldest_age: float


_COLUMNS = (
    "job_id, job_name, queue, payload::text AS payload, created_at, due_at, replay_of::text AS replay_of, traceparent,"
    " tracestate"
)


def ask(
    connection: sa.Connection,
    spec: JobSpec,
    payload: Payload | Mapping[str, Any],
    *,
    mode: Mode = Mode.ASYNC,
    release: str = "",
    context: Mapping[str, str] | None = None,
) -> str:
    """Ask for a job in the caller's transaction; returns its job_id. `context`: W3C traceparent and tracestate.

    Raises PayloadRefused before the database is asked, NotInitialised when schema `toolkit` is not there or does not know the
    job as this release does.
    """
    from sqlalchemy import exc  # noqa: PLC0415  the caller's transaction has loaded it; the relay does without

    raw = spec.encode(payload).decode()
    carried = context or {}
    try:
        job_id: str = connection.exec_driver_sql(
            "SELECT toolkit.enqueue(%s, %s::jsonb, %s, %s, %s, %s)",
            (spec.name, raw, carried.get("traceparent"), carried.get("tracestate"), mode.value, release),
        ).scalar_one()
    except exc.ProgrammingError as error:
        if isinstance(error.orig, psycopg.errors.InvalidSchemaName | psycopg.errors.UndefinedFunction):
            raise NotInitialised("schema toolkit is missing", remedy="run `toolkit init`") from error
        raise
    except exc.DataError as error:
        if isinstance(
            error.orig, psycopg.errors.InvalidParameterValue
        ):  # our guard took it: the database's is of another release
            raise NotInitialised(
                f"the database refuses what this release asks for: {error.orig.diag.message_primary}",
                remedy="run `toolkit init`",
            ) from error
        raise
    return job_id


def adopt(session: Session, spec: JobSpec, job_id: str, payload: Payload, asked_at: datetime) -> None:
    """Give a job that reached the broker behind the ledger's back its intent, so that its runs are accounted for."""
    session.execute(
        "INSERT INTO toolkit.intent (job_id, job_name, queue, payload, created_at, due_at, pushed_at, pushes)"
        " VALUES (%s, %s, %s, %s::jsonb, %s, %s, clock_timestamp(), 1) ON CONFLICT DO NOTHING",
        (job_id, spec.name, spec.queue, spec.encode(payload).decode(), asked_at, asked_at),
    )


def claim_unpushed(session: Session, job_names: Sequence[str], limit: int) -> list[Intent]:
    """Lock up to `limit` intents that wait for a relay, but none of a job that a toggle holds. The caller is in a
    transaction; other relays skip these."""
    with session.cursor(row_factory=class_row(Intent)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM toolkit.intent WHERE pushed_at IS NULL AND done_at IS NULL AND mode = 'async'"
            " AND job_name = ANY(%s) AND job_name <> ALL (toolkit.held_jobs())"
            " ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED",
            (list(job_names), limit),
        ).fetchall()


def mark_pushed(session: Session, job_ids: Sequence[str]) -> None:
    """The broker has them now. (Not before: who looks for what the broker forgot goes by this time.)"""
    session.execute(
        "UPDATE toolkit.intent SET pushed_at = clock_timestamp(), pushes = pushes + 1 WHERE job_id = ANY(%s)",
        (array_of(job_ids),),
    )


def now(session: Session) -> datetime:
    """The database's clock, which `pushed_at` is told by."""
    row = session.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None  # noqa: S101  a SELECT without FROM gives a row
    moment: datetime = row[0]
    return moment


def overdue(session: Session, job_names: Sequence[str], *, before: datetime) -> Iterator[Intent]:
    """Open intents that the broker should have and that nobody runs: pushed and due before `before`, or
    inline runs whose importer died, before they began or in the middle, or that are to be tried again. None of a job that a
    toggle holds. Streams; the caller is in a transaction and looks into the broker."""
    with session.cursor(name="overdue", row_factory=class_row(Intent)) as cursor:
        cursor.itersize = 2000
        cursor.execute(
            f"SELECT {_COLUMNS} FROM toolkit.intent i WHERE done_at IS NULL AND job_name = ANY(%s)"
            " AND (pushed_at < %s"
            "      OR (mode = 'sync' AND pushed_at IS NULL AND EXISTS"
            "          (SELECT FROM toolkit.run r WHERE r.job_id = i.job_id AND (r.outcome = 'lost' OR r.retry_at IS NOT NULL)))"
            "      OR (mode = 'sync' AND pushed_at IS NULL AND created_at < clock_timestamp() - interval '1 minute'"
            "          AND NOT EXISTS (SELECT FROM toolkit.run r WHERE r.job_id = i.job_id)))"
            " AND job_name <> ALL (toolkit.held_jobs())"
            " AND due_at < %s"
            " AND NOT EXISTS (SELECT FROM toolkit.run r WHERE r.job_id = i.job_id AND r.outcome IS NULL)",
            (list(job_names), before, before),
        )
        yield from cursor


def open_among(session: Session, job_ids: Sequence[str]) -> list[Intent]:
    """Those of these jobs that still need a run, and that no toggle holds."""
    with session.cursor(row_factory=class_row(Intent)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM toolkit.intent WHERE job_id = ANY(%s) AND done_at IS NULL"
            " AND job_name <> ALL (toolkit.held_jobs())",
            (list(job_ids),),
        ).fetchall()


def backlog(session: Session) -> Backlog:
    """Intents not yet pushed. Reads only."""
    row = session.execute(
        "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(due_at)), 0)::float8 FROM toolkit.intent"
        " WHERE pushed_at IS NULL AND done_at IS NULL AND mode = 'async'"
    ).fetchone()
    assert row is not None  # noqa: S101  an aggregate always gives a row
    return Backlog(unpushed=row[0], oldest_age=max(0.0, row[1]))
