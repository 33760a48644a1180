"""Toggles in the ledger: read, flip, acknowledge; and the jobs in flight under one.

A toggle that was never flipped has no row: `read` leaves it out, and its default is in force. `flip` is compare-and-set by
version. Times are in UTC, durations in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from toolkit.errors import FlipLost
from toolkit.ledger.database import Session

CHANNEL = "toolkit_toggle"
"""NOTIFY channel of flips: a hint only."""


@dataclass(frozen=True, slots=True)
class Toggle:
    """One version of a toggle. `percent` of the orders are asynchronous while it is enabled; `pins` (merchant id → on or
    off) come before that. While `held_until` lies ahead, the relay hands no job of `jobs` to the broker."""

    name: str
    version: int
    enabled: bool
    percent: int
    pins: Mapping[str, bool]
    jobs: Sequence[str]
    held_until: datetime | None
    lease_until: datetime | None
    who: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class SeenBy:
    """A process and what it has seen of a toggle. `version` None: it has not read it yet; `silent`: seconds since its last
    heartbeat; `connected`: its connection to the server is open, so it may act."""

    process: str
    kind: str
    host: str
    pid: int
    release: str
    version: int | None
    variant: str
    layer: str
    started_at: datetime
    acked_at: datetime | None
    silent: float
    connected: bool


@dataclass(frozen=True, slots=True)
class InFlight:
    """Open asynchronous jobs: `waiting` in the ledger for a relay, `queued` in the broker (retries too), `running`."""

    waiting: int
    queued: int
    running: int


# An interval beyond datetime's range ('infinity') comes back as the last moment that Python knows.
_COLUMNS = (
    "name, version, enabled, percent, pins, jobs, CASE WHEN held_until = 'infinity' THEN '9999-12-31Z' ELSE held_until END"
    " AS held_until, lease_until, who, reason, at"
)


def read(session: Session, names: Sequence[str]) -> dict[str, Toggle]:
    """The present version of these toggles; one that was never flipped is missing."""
    with session.cursor(row_factory=class_row(Toggle)) as cursor:
        rows = cursor.execute(
            f"SELECT {_COLUMNS} FROM toolkit.toggle WHERE name = ANY(%s)", (list(names),)
        ).fetchall()
    return {row.name: row for row in rows}


def history(session: Session, name: str, limit: int = 50) -> list[Toggle]:
    """The newest versions of a toggle, newest first."""
    with session.cursor(row_factory=class_row(Toggle)) as cursor:
        return cursor.execute(
            f"SELECT {_COLUMNS} FROM toolkit.toggle_history WHERE name = %s ORDER BY version DESC LIMIT %s",
            (name, limit),
        ).fetchall()


def flip(
    session: Session,
    name: str,
    *,
    version: int,
    enabled: bool,
    percent: int,
    pins: Mapping[str, bool],
    jobs: Sequence[str],
    hold: float | None,
    lease: float | None,
    who: str,
    reason: str,
) -> Toggle:
    """Move a toggle on from `version` (0: never flipped). `hold` and `lease` in seconds. Raises FlipLost when somebody was
    faster."""
    try:
        with session.cursor(row_factory=class_row(Toggle)) as cursor:
            row = cursor.execute(
                f"SELECT {_COLUMNS} FROM toolkit.flip(%s, %s, %s, %s, %s, %s, %s::float8, %s::float8, %s, %s)",
                (name, version, enabled, percent, Jsonb(dict(pins)), list(jobs), hold, lease, who, reason),
            ).fetchone()
    except psycopg.Error as error:
        if error.sqlstate == "TK002":
            raise FlipLost(
                str(error.diag.message_primary), remedy=f"toolkit toggle status {name}, then decide again"
            ) from error
        raise
    assert row is not None  # noqa: S101  the function returns its row or raises
    return row


def release_hold(session: Session, name: str, version: int) -> bool:
    """End the hold of this version; False when the toggle has moved on. Wakes the relays."""
    return (
        session.execute(
            "WITH freed AS (UPDATE toolkit.toggle SET held_until = NULL WHERE name = %s AND version = %s RETURNING name)"
            " SELECT pg_notify('toolkit_intent', '') FROM freed",
            (name, version),
        ).rowcount
        > 0
    )


def extend_hold(session: Session, name: str, version: int) -> bool:
    """Let the hold of this version last as long from now as it did from the flip; False when the toggle has moved on."""
    return (
        session.execute(
            "UPDATE toolkit.toggle t SET held_until = clock_timestamp() + (h.held_until - h.at) FROM toolkit.toggle_history h"
            " WHERE t.name = %s AND t.version = %s AND h.name = t.name AND h.version = t.version",
            (name, version),
        ).rowcount
        > 0
    )


def ack(
    session: Session,
    toggle: str,
    *,
    process: str,
    kind: str,
    host: str,
    pid: int,
    release: str,
    version: int | None,
    variant: str,
    layer: str,
    direct: bool,
) -> None:
    """Say which version this process goes by (None: about to read). `direct`: the connection is the process's own."""
    session.execute(
        "SELECT toolkit.toggle_ack(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        (toggle, process, kind, host, pid, release, version, variant, layer, direct),
    )


def leave(session: Session, process: str) -> None:
    """The process ends, or looks no more."""
    session.execute("SELECT toolkit.toggle_leave(%s)", (process,))


def seen_by(session: Session, name: str) -> list[SeenBy]:
    """Every process that looks at the toggle, by kind and name."""
    with session.cursor(row_factory=class_row(SeenBy)) as cursor:
        return cursor.execute(
            "SELECT process, kind, host, pid, release, version, variant, layer, started_at, acked_at, silent, connected"
            " FROM toolkit.toggle_seen WHERE toggle = %s ORDER BY kind, process",
            (name,),
        ).fetchall()


# An order's mode is its own: jobs asked for in synchronous mode are their importers' and are not counted.
# Both halves have an index of their own; said in one, PostgreSQL reads every intent there ever was.
_OPEN = (
    "FROM toolkit.intent i WHERE (i.pushed_at IS NULL AND i.done_at IS NULL AND i.mode = 'async'"
    " OR i.pushed_at IS NOT NULL AND i.done_at IS NULL AND i.mode = 'async') AND i.job_name = ANY(%s)"
)
_RUNNING = "EXISTS (SELECT FROM toolkit.run r WHERE r.job_id = i.job_id AND r.outcome IS NULL)"


def in_flight(session: Session, jobs: Sequence[str]) -> InFlight:
    """The open asynchronous jobs of these names, as the ledger knows them. Reads only."""
    row: Any = session.execute(
        f"SELECT count(*) FILTER (WHERE NOT running AND pushed_at IS NULL),"
        f" count(*) FILTER (WHERE NOT running AND pushed_at IS NOT NULL), count(*) FILTER (WHERE running)"
        f" FROM (SELECT i.pushed_at, {_RUNNING} AS running {_OPEN}) open",
        (list(jobs),),
    ).fetchone()
    return InFlight(*row)


def lock_open(session: Session, jobs: Sequence[str], after: tuple[Any, str], limit: int) -> list[Any]:
    """Lock open jobs without a run, in order, past `after` (created_at, job_id). Rows (job_id, queue, created_at); the caller
    is in a transaction. A relay that is handing some of them over right now is waited for."""
    return session.execute(
        f"SELECT i.job_id, i.queue, i.created_at {_OPEN} AND NOT {_RUNNING} AND (i.created_at, i.job_id) > (%s, %s)"
        " ORDER BY i.created_at, i.job_id LIMIT %s FOR NO KEY UPDATE OF i",
        (list(jobs), *after, limit),
    ).fetchall()


def take_back(session: Session, job_ids: Sequence[str]) -> None:
    """These jobs lie in the ledger again: the broker does not have them any more."""
    session.execute("UPDATE toolkit.intent SET pushed_at = NULL WHERE job_id = ANY(%s)", (list(job_ids),))


def held(session: Session, jobs: Sequence[str], limit: int) -> list[str]:
    """Ids of open jobs that lie in the ledger without a run, oldest first."""
    return [
        row[0]
        for row in session.execute(
            f"SELECT i.job_id {_OPEN} AND i.pushed_at IS NULL AND NOT {_RUNNING} ORDER BY i.created_at, i.job_id LIMIT %s",
            (list(jobs), limit),
        ).fetchall()
    ]
