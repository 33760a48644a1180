"""What `toolkit doctor` asks of the ledger: open jobs, runs in hand, how jobs ended; and the lock under which it mends one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from toolkit.ledger.database import Session
from toolkit.run import Outcome


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job that still needs a run. `runs`: how many it had; `held`: some run has it now."""

    job_id: str
    queue: str
    mode: str
    pushed_at: datetime | None
    due_at: datetime
    pushes: int
    runs: int
    held: bool


@dataclass(frozen=True, slots=True)
class HeldRun:
    """A run that has not ended."""

    run_id: str
    job_id: str
    queue: str
    worker: str
    host: str
    lease_until: datetime | None


@dataclass(frozen=True, slots=True)
class DoneJob:
    """A job that needs no further run."""

    job_id: str
    outcome: str
    done_at: datetime

    @property
    def good(self) -> bool:
        """It came to a good end."""
        return is_good(self.outcome)


@dataclass(frozen=True, slots=True)
class Standing:
    """A job under lock: `done` is its outcome, None while it is open."""

    job_id: str
    queue: str
    done: str | None
    held: bool


def is_good(outcome: str) -> bool:
    """A job that ended so wants no replay."""
    return outcome in {Outcome.PROCESSED, Outcome.SKIPPED}


def open_jobs(session: Session, job_names: Sequence[str]) -> Iterator[OpenJob]:
    """The open jobs of these names, but none that a toggle holds back. Streams, in the caller's transaction."""
    with session.cursor(name="open_jobs", row_factory=class_row(OpenJob)) as cursor:
        cursor.itersize = 2000
        cursor.execute(
            "SELECT i.job_id, i.queue, i.mode, i.pushed_at, i.due_at, i.pushes, coalesce(r.runs, 0)::int AS runs,"
            " coalesce(r.held, false) AS held"
            " FROM toolkit.intent i LEFT JOIN LATERAL (SELECT count(*) AS runs, bool_or(r.outcome IS NULL) AS held"
            "   FROM toolkit.run r WHERE r.job_id = i.job_id) r ON true"
            " WHERE i.done_at IS NULL AND i.job_name = ANY(%s) AND i.job_name <> ALL (toolkit.held_jobs())",
            (list(job_names),),
        )
        yield from cursor


def held_runs(session: Session) -> list[HeldRun]:
    """Every run that has not ended."""
    with session.cursor(row_factory=class_row(HeldRun)) as cursor:
        return cursor.execute(
            "SELECT run_id::text, job_id, queue, worker, host, lease_until FROM toolkit.run WHERE outcome IS NULL"
        ).fetchall()


def done_among(session: Session, job_ids: Sequence[str]) -> list[DoneJob]:
    """Those of these jobs that are done."""
    with session.cursor(row_factory=class_row(DoneJob)) as cursor:
        return cursor.execute(
            "SELECT job_id, outcome, done_at FROM toolkit.intent WHERE job_id = ANY(%s) AND done_at IS NOT NULL",
            (list(job_ids),),
        ).fetchall()


def hold(session: Session, job_ids: Sequence[str]) -> list[Standing]:
    """Lock these jobs until the transaction ends, so that none of them begins a run, and say how they stand."""
    with session.cursor(row_factory=class_row(Standing)) as cursor:
        cursor.execute(
            "SELECT FROM toolkit.intent WHERE job_id = ANY(%s) ORDER BY job_id FOR NO KEY UPDATE",
            (list(job_ids),),
        )
        return cursor.execute(
            "SELECT job_id, queue, CASE WHEN done_at IS NOT NULL THEN coalesce(outcome, '') END AS done,"
            " EXISTS (SELECT FROM toolkit.run r WHERE r.job_id = i.job_id AND r.outcome IS NULL) AS held"
            " FROM toolkit.intent i WHERE job_id = ANY(%s) ORDER BY job_id",
            (list(job_ids),),
        ).fetchall()
