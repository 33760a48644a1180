"""What the checks of verify-deploy ask of the ledger: what a release's runs came to, how long they took, what kinds of error
it has beside those of before. Reads only; call it inside `reading()`. Each function is one statement, by index.

A run is evidence of a release when the release began it inside the window. Left out: test orders (nobody's business), and
replays, which people choose among the jobs that failed. Only `error_kinds` and `history` leave nothing out: an error is one,
whoever asked. Times in UTC, durations in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.rows import class_row

from toolkit.ledger.database import Session
from toolkit.run import CORE_SKIP_REASONS, Outcome


@dataclass(frozen=True, slots=True)
class Window:
    """The runs of a release that began from `since` on and before `until`."""

    release: str
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Ended:
    """How many runs ended so. `last`: no other attempt followed by itself."""

    outcome: str
    reason: str
    last: bool
    runs: int

    @property
    def redundant(self) -> bool:
        """True for deliveries that another run had made needless."""
        return self.outcome == Outcome.SKIPPED and self.reason in CORE_SKIP_REASONS


@dataclass(frozen=True, slots=True)
class Timing:
    """What a processed run took, and what its job waited in the queue before (0 for one that ran inline)."""

    duration: float
    queue_wait: float
    mode: str


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """Failed and lost runs of one kind, and the jobs that they were of. `known`: it was there before the window, or another
    release has it, too. `given_up`: runs after which no other attempt followed. `job_id`, `trace_id` are of the newest, one
    that was given up if any was."""

    fingerprint: str
    job_name: str
    outcome: str
    reason: str
    error_type: str
    message: str
    sqlstate: str
    constraint: str
    runs: int
    jobs: int
    given_up: int
    known: bool
    job_id: str
    trace_id: str

    @property
    def kind(self) -> str:
        """Its name, as in History: the fingerprint, or what ended a run that was lost."""
        return self.fingerprint or self.error_type

    @property
    def label(self) -> str:
        """How people call it."""
        about = f" {self.constraint}" if self.constraint else ""
        return f"{self.error_type or self.reason}{about} ({self.fingerprint or self.outcome})"


@dataclass(frozen=True, slots=True)
class History:
    """The newest runs before a window: how many jobs they ended, and how many jobs each kind of error hit."""

    jobs: int
    kinds: dict[str, int]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A run of one job."""

    number: int
    outcome: str | None
    reason: str
    release: str
    trace_id: str


_OURS: Final = """toolkit.run r WHERE r.release = %(release)s AND r.started_at >= %(since)s AND r.started_at < %(until)s
    AND r.job_name = %(job_name)s AND r.replay_of IS NULL
    AND NOT EXISTS (SELECT FROM toolkit.test_order t WHERE t.job_id = r.job_id)"""

# For a lost run, no EXISTS: nearly all runs have no fingerprint, and PostgreSQL would read the whole table to find one.
_KINDS: Final = """
WITH found AS (
    SELECT r.fingerprint, r.job_name, r.outcome, r.reason, r.error_type, r.sqlstate, r.constraint_name, count(*) AS runs,
        count(DISTINCT r.job_id) AS jobs, count(*) FILTER (WHERE r.retry_at IS NULL) AS given_up,
        (array_agg(r.error_message ORDER BY r.retry_at IS NULL DESC, r.started_at DESC))[1] AS message,
        (array_agg(r.job_id ORDER BY r.retry_at IS NULL DESC, r.started_at DESC))[1] AS job_id,
        (array_agg(r.trace_id ORDER BY r.retry_at IS NULL DESC, r.started_at DESC))[1] AS trace_id
    FROM toolkit.run r
    WHERE r.release = %(release)s AND r.started_at >= %(since)s AND r.started_at < %(until)s
        AND r.outcome IN ('failed', 'lost') AND r.job_name = ANY(%(job_names)s)
    GROUP BY 1, 2, 3, 4, 5, 6, 7)
SELECT coalesce(k.fingerprint, '') AS fingerprint, k.job_name, k.outcome, k.reason, coalesce(k.error_type, '') AS error_type,
    coalesce(k.message, '') AS message, coalesce(k.sqlstate, '') AS sqlstate,
    coalesce(k.constraint_name, '') AS "constraint", k.runs, k.jobs, k.given_up,
    CASE WHEN k.fingerprint IS NULL THEN coalesce((
        SELECT true FROM toolkit.run o WHERE o.outcome IN ('failed', 'lost') AND o.fingerprint IS NULL
        AND o.error_type IS NOT DISTINCT FROM k.error_type AND (o.started_at < %(since)s OR o.release <> %(release)s)
        ORDER BY o.fingerprint, o.started_at LIMIT 1), false)
    ELSE EXISTS (
        SELECT FROM toolkit.run o WHERE o.outcome IN ('failed', 'lost') AND o.fingerprint = k.fingerprint
        AND (o.started_at < %(since)s OR o.release <> %(release)s)) END AS known,
    k.job_id, k.trace_id
FROM found k ORDER BY k.given_up DESC, k.runs DESC, 1, 5"""

_HISTORY: Final = """
WITH newest AS (
    SELECT r.job_id, r.outcome, r.fingerprint, r.error_type, r.retry_at IS NULL AND r.outcome <> 'lost'
            AND r.reason NOT IN ('already_done', 'already_running') AS ended FROM toolkit.run r
    WHERE r.started_at < %(before)s AND r.outcome IS NOT NULL AND r.job_name = ANY(%(job_names)s)
    ORDER BY r.started_at DESC LIMIT %(limit)s),
kinds AS (
    SELECT coalesce(fingerprint, error_type, '') AS kind, count(DISTINCT job_id) AS jobs
    FROM newest WHERE outcome IN ('failed', 'lost') GROUP BY 1)
SELECT (SELECT count(*) FROM newest WHERE ended) AS jobs,
    (SELECT coalesce(jsonb_object_agg(kind, jobs), '{}') FROM kinds) AS kinds"""


def ended_runs(session: Session, window: Window, job_name: str) -> list[Ended]:
    """What the job's runs in the window came to."""
    with session.cursor(row_factory=class_row(Ended)) as cursor:
        return cursor.execute(
            "SELECT r.outcome, r.reason, r.retry_at IS NULL AND r.outcome <> 'lost' AS last, count(*) AS runs"
            f" FROM {_OURS} AND r.outcome IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
            _asked(window, job_name),
        ).fetchall()


def lost_jobs(session: Session, window: Window, job_name: str) -> int:
    """Jobs that were given up because they killed their workers."""
    row: Any = session.execute(
        f"SELECT count(DISTINCT r.job_id) FROM {_OURS} AND r.outcome = 'lost' AND EXISTS (SELECT FROM toolkit.intent i"
        " WHERE i.job_id = r.job_id AND (i.outcome = 'lost' AND i.done_at IS NOT NULL OR i.reopened_after >= r.number))",
        _asked(window, job_name),
    ).fetchone()
    return int(row[0])


def timings(session: Session, window: Window, job_name: str, *, limit: int) -> list[Timing]:
    """Of the job's processed runs in the window, the newest `limit`."""
    with session.cursor(row_factory=class_row(Timing)) as cursor:
        return cursor.execute(
            f"SELECT r.duration, r.queue_wait, r.mode FROM {_OURS} AND r.outcome = 'processed'"
            " ORDER BY r.started_at DESC LIMIT %(limit)s",
            _asked(window, job_name) | {"limit": limit},
        ).fetchall()


def error_kinds(session: Session, window: Window, job_names: Sequence[str]) -> list[ErrorKind]:
    """The kinds of error that the release's runs of these jobs had in the window, those that were given up most often first.
    A lost run has no fingerprint: what ended it (SIGSEGV, LeaseExpired) is its kind."""
    with session.cursor(row_factory=class_row(ErrorKind)) as cursor:
        return cursor.execute(
            _KINDS,
            {
                "release": window.release, "since": window.since, "until": window.until, "job_names": list(job_names),
            },
        ).fetchall()  # fmt: skip


def jobs_ended(session: Session, window: Window, job_names: Sequence[str]) -> int:
    """Jobs of these names that a run in the window brought to an end, good or bad, whoever asked for them."""
    row: Any = session.execute(
        "SELECT count(*) FROM toolkit.run WHERE release = %s AND started_at >= %s AND started_at < %s"
        " AND outcome IN ('processed', 'skipped', 'failed') AND retry_at IS NULL"
        " AND reason NOT IN ('already_done', 'already_running') AND job_name = ANY(%s)",
        (window.release, window.since, window.until, list(job_names)),
    ).fetchone()
    return int(row[0])


def history(session: Session, before: datetime, job_names: Sequence[str], *, limit: int) -> History:
    """The newest `limit` runs of these jobs that began before then, of any release, and their kinds of error."""
    with session.cursor(row_factory=class_row(History)) as cursor:
        row = cursor.execute(
            _HISTORY, {"before": before, "job_names": list(job_names), "limit": limit}
        ).fetchone()
    assert row is not None  # noqa: S101  a SELECT without FROM always gives a row
    return row


def attempts(session: Session, job_id: str) -> list[Attempt]:
    """The job's runs in order, without deliveries that were not needed."""
    with session.cursor(row_factory=class_row(Attempt)) as cursor:
        return cursor.execute(
            "SELECT number, outcome, reason, release, trace_id FROM toolkit.run"
            " WHERE job_id = %s AND reason NOT IN ('already_done', 'already_running') ORDER BY number",
            (job_id,),
        ).fetchall()


def _asked(window: Window, job_name: str) -> dict[str, Any]:
    return {
        "release": window.release,
        "since": window.since,
        "until": window.until,
        "job_name": job_name,
    }
