"""What of a deployment is at work, as the ledger sees it: whose processes, whose runs, whose orders; and whether every job
that was asked for is somewhere. Reads only, each by index; call it inside `reading()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from toolkit.ledger.database import Session


@dataclass(frozen=True, slots=True)
class Process:
    """A process that looks at a toggle: `kind` is importer, worker or supervisor; `version` the toggle's that it goes by."""

    toggle: str
    process: str
    kind: str
    host: str
    pid: int
    release: str
    version: int | None
    silent: float
    connected: bool


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest run of a release."""

    release: str
    job_id: str
    worker: str
    host: str
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asked for jobs lately: a release, how many, and when last."""

    release: str
    jobs: int
    last: datetime


@dataclass(frozen=True, slots=True)
class Account:
    """Jobs asked for in a span, by how they stand; `pushed` are those that a broker should have."""

    asked: int
    processed: int
    skipped: int
    failed: int
    lost: int
    running: int
    unpushed: int
    pushed: int


def processes(session: Session) -> list[Process]:
    """Every process that is connected, or has been silent for no longer than a minute."""
    with session.cursor(row_factory=class_row(Process)) as cursor:
        return cursor.execute(
            "SELECT toggle, process, kind, host, pid, release, version, silent, connected FROM toolkit.toggle_seen"
            " WHERE connected OR silent < 60 ORDER BY kind, host, process"
        ).fetchall()


def last_runs(session: Session, since: datetime) -> list[LastRun]:
    """The newest run of each release that began since then, of any job."""
    with session.cursor(row_factory=class_row(LastRun)) as cursor:
        return cursor.execute(
            "SELECT * FROM (SELECT DISTINCT ON (release) release, job_id, worker, host, started_at FROM toolkit.run"
            " WHERE started_at >= %s ORDER BY release, started_at DESC) newest ORDER BY started_at DESC",
            (since,),
        ).fetchall()


def asked_by(session: Session, since: datetime, job_name: str) -> list[Asked]:
    """Releases that asked for jobs since then, the newest first."""
    with session.cursor(row_factory=class_row(Asked)) as cursor:
        return cursor.execute(
            "SELECT release, count(*)::int AS jobs, max(created_at) AS last FROM toolkit.intent"
            " WHERE created_at >= %s AND job_name = %s GROUP BY release ORDER BY last DESC",
            (since, job_name),
        ).fetchall()


def account(session: Session, since: datetime, until: datetime, job_name: str) -> Account:
    """The jobs asked for in [since, until), each counted once."""
    row: Any = session.execute(
        "SELECT count(*), count(*) FILTER (WHERE done AND outcome = 'processed'), count(*) FILTER (WHERE outcome = 'skipped'),"
        " count(*) FILTER (WHERE outcome = 'failed'), count(*) FILTER (WHERE outcome = 'lost'),"
        " count(*) FILTER (WHERE NOT done AND running), count(*) FILTER (WHERE NOT done AND NOT running AND pushed_at IS NULL),"
        " count(*) FILTER (WHERE NOT done AND NOT running AND pushed_at IS NOT NULL)"
        " FROM (SELECT i.pushed_at, i.done_at IS NOT NULL AS done,"
        "   CASE WHEN i.done_at IS NOT NULL THEN coalesce(i.outcome, 'processed') END AS outcome,"
        "   i.done_at IS NULL AND EXISTS (SELECT FROM toolkit.run r WHERE r.job_id = i.job_id AND r.outcome IS NULL) AS running"
        "   FROM toolkit.intent i WHERE i.created_at >= %s AND i.created_at < %s AND i.job_name = %s) jobs",
        (since, until, job_name),
    ).fetchone()
    return Account(*row)


def pushed_open(session: Session, before: datetime, job_name: str, *, limit: int = 100_000) -> list[str]:
    """Open jobs without a run that were pushed before then, and are due: the broker must have each of them."""
    rows = session.execute(
        "SELECT i.job_id FROM toolkit.intent i WHERE i.done_at IS NULL AND i.pushed_at < %s AND i.due_at < %s AND i.job_name = %s"
        " AND NOT EXISTS (SELECT FROM toolkit.run r WHERE r.job_id = i.job_id AND r.outcome IS NULL) LIMIT %s",
        (before, before, job_name, limit),
    ).fetchall()
    return [row[0] for row in rows]


def oldest_unpushed(session: Session) -> float:
    """Seconds that the oldest due job has waited for a relay; 0.0 when none does."""
    row: Any = session.execute(
        "SELECT coalesce(extract(epoch FROM now() - min(due_at)), 0)::float8 FROM toolkit.intent"
        " WHERE pushed_at IS NULL AND done_at IS NULL AND mode = 'async' AND job_name <> ALL (toolkit.held_jobs())"
    ).fetchone()
    return max(0.0, float(row[0]))


def ended_after(session: Session, moment: datetime, job_name: str) -> int:
    """Asynchronous runs that began and ended after that moment (counted up to 100): does the queue move?"""
    row: Any = session.execute(
        "SELECT count(*) FROM (SELECT FROM toolkit.run WHERE started_at >= %s AND outcome IS NOT NULL AND outcome <> 'lost'"
        " AND mode = 'async' AND job_name = %s LIMIT 100) few",
        (moment, job_name),
    ).fetchone()
    return int(row[0])


def clean_jobs(
    session: Session, release: str, since: datetime, job_name: str, wrote: Sequence[str], *, limit: int
) -> int:
    """How many distinct jobs of this release began since then, were processed and reached the write: one of the counts named in
    `wrote` is above 0. At most `limit` runs are looked at."""
    row: Any = session.execute(
        "SELECT count(DISTINCT job_id) FROM ("
        "  SELECT job_id FROM toolkit.run WHERE release = %s AND started_at >= %s AND job_name = %s"
        "  AND outcome = 'processed' AND EXISTS (SELECT FROM unnest(%s::text[]) w WHERE (counts ->> w)::bigint > 0)"
        "  ORDER BY started_at LIMIT %s) few",
        (release, since, job_name, list(wrote), limit),
    ).fetchone()
    return int(row[0])
