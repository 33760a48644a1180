"""What the ledger knows of jobs, runs and failures, for people who look. Reads only; call it inside `reading()`.

Recent windows, what is open and what failed go by index. Known weakness: a payload has none, so `about` reads every job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from psycopg import sql
from psycopg.rows import class_row

from toolkit.errors import NotFound
from toolkit.jobspec import CONTROL
from toolkit.ledger.database import Session
from toolkit.ledger.runs import FOUND_GONE
from toolkit.ledger.traces import TraceChunk
from toolkit.ledger.views import RUNNING, WAITING, FailedGroup, Filters, JobLine, JobView, RunView, Summary
from toolkit.run import CORE_SKIP_REASONS, Outcome

_RUNS = """
SELECT r.run_id::text, r.number, r.outcome, r.reason, r.counts, r.mode, r.release, r.worker, r.host, r.queue_wait,
    r.started_at, r.finished_at, r.duration, r.lease_until, r.error_type, r.error_message, r.sqlstate,
    r.constraint_name AS "constraint", r.fingerprint, r.traceback, r.retry_at, r.replay_of::text, r.trace_id, r.span_id
FROM toolkit.run r WHERE r.job_id = %s ORDER BY r.number"""

_ASKED = """
SELECT coalesce(split_part(i.traceparent, '-', 2), ''), coalesce((
    SELECT CASE WHEN p.settled = 'SKIP-GONE' THEN p.settled_detail ELSE p.detail END FROM toolkit.replay_item p
    WHERE p.job_id = i.job_id AND 'SKIP-GONE' IN (p.verdict, p.settled) ORDER BY p.replay_id DESC LIMIT 1), '')
FROM toolkit.intent i WHERE i.job_id = %s"""

_LINES = """
SELECT i.job_id, i.job_name, i.queue, i.payload, i.mode, i.release,
    i.created_at AS asked_at, i.pushed_at, i.due_at, i.done_at,
    CASE WHEN i.done_at IS NOT NULL THEN coalesce(i.outcome, 'processed')
         WHEN EXISTS (SELECT FROM toolkit.run o WHERE o.job_id = i.job_id AND o.outcome IS NULL) THEN 'running'
         ELSE 'waiting' END AS state,
    (SELECT count(*) FROM toolkit.run n WHERE n.job_id = i.job_id) AS runs,
    r.outcome AS last_outcome, r.reason, r.counts, r.error_type, r.error_message,
    r.queue_wait, r.started_at, r.duration, r.retry_at,
    CASE WHEN i.done_at IS NULL AND i.pushed_at IS NULL THEN (SELECT min(t.name) FROM toolkit.toggle t
        WHERE i.job_name = ANY(t.jobs) AND t.held_until > clock_timestamp()) END AS held_by
FROM chosen i LEFT JOIN LATERAL (
    SELECT * FROM toolkit.run r
    WHERE r.job_id = i.job_id AND NOT (coalesce(r.outcome, '') = 'skipped' AND r.reason = ANY(%(core)s))
    ORDER BY r.number DESC LIMIT 1) r ON true
ORDER BY i.created_at DESC, i.job_id"""

_OPEN: Final = """(i.done_at IS NULL AND i.pushed_at IS NOT NULL
    OR i.pushed_at IS NULL AND i.done_at IS NULL AND i.mode = 'async'
    OR i.done_at IS NULL AND i.mode = 'sync' AND i.created_at > now() - interval '1 hour')"""
"""Each part as the index of migration 0001 that answers it has it; an inline job is begun at once, or never."""
_HELD: Final = "(SELECT r.job_id FROM toolkit.run r WHERE r.outcome IS NULL)"
_BAD: Final = "(SELECT r.job_id FROM toolkit.run r WHERE r.outcome IN ('failed', 'lost'))"
_CONDITIONS: Final[Mapping[str, str]] = {
    WAITING: f"{_OPEN} AND i.job_id NOT IN {_HELD}",
    RUNNING: f"i.done_at IS NULL AND i.job_id IN {_HELD}",
    Outcome.PROCESSED: "i.done_at IS NOT NULL AND i.outcome = 'processed'",
    Outcome.SKIPPED: "i.done_at IS NOT NULL AND i.outcome = 'skipped'",
    Outcome.FAILED: f"i.done_at IS NOT NULL AND i.outcome = 'failed' AND i.job_name <> '{CONTROL}' AND i.job_id IN {_BAD}",
    Outcome.LOST: f"i.done_at IS NOT NULL AND i.outcome = 'lost' AND i.job_id IN {_BAD}",
}
CARRIES: Final = "jsonb_path_exists(i.payload, '$.* ? (@ == $id)', jsonb_build_object('id', %(about)s::text))"
"""SQL: the payload of intent `i` has the value `about` at its top level."""

_FAILED_GROUPS: Final = f"""
SELECT * FROM (SELECT coalesce(r.fingerprint, '') AS fingerprint, r.job_name, r.outcome, r.reason,
    coalesce(r.error_type, '') AS error_type, coalesce(r.sqlstate, '') AS sqlstate,
    coalesce(r.constraint_name, '') AS "constraint",
    count(*) AS runs, count(DISTINCT r.job_id) AS jobs,
    count(DISTINCT r.job_id) FILTER (WHERE i.done_at IS NULL) AS open,
    count(DISTINCT r.job_id) FILTER (WHERE i.done_at IS NOT NULL AND i.outcome IN ('failed', 'lost')
                                       AND gone.job_id IS NULL) AS given_up,
    min(r.started_at) AS first_seen, max(r.started_at) AS last_seen,
    array_agg(DISTINCT r.release ORDER BY r.release) AS releases,
    (array_agg(r.job_id ORDER BY r.started_at DESC))[1] AS example_job_id,
    coalesce((array_agg(r.error_message ORDER BY r.started_at DESC))[1], '') AS example_message
FROM toolkit.run r JOIN toolkit.intent i USING (job_id) LEFT JOIN (SELECT DISTINCT * FROM ({FOUND_GONE}) g) gone USING (job_id)
WHERE r.outcome IN ('failed', 'lost') AND r.started_at >= %s AND r.job_name <> %s
GROUP BY 1, 2, 3, 4, 5, 6, 7) kind ORDER BY open + given_up = 0, runs DESC, last_seen DESC LIMIT %s"""

_NOW: Final = f"""
SELECT now() - %s,
    unpushed.jobs, unpushed.age, due.jobs, due.age, due.retries, due.next_retry, held.running, held.silent, bad.unresolved
FROM (SELECT count(*) FILTER (WHERE i.due_at <= now()) AS jobs,
             extract(epoch FROM now() - min(i.due_at) FILTER (WHERE i.due_at <= now()))::float8 AS age,
             count(*) FILTER (WHERE i.due_at > now()) AS retries,
             min(i.due_at) FILTER (WHERE i.due_at > now()) AS next_retry
        FROM toolkit.intent i WHERE {{waiting}}) due,
     (SELECT count(*) AS jobs, extract(epoch FROM now() - min(due_at))::float8 AS age FROM toolkit.intent
       WHERE pushed_at IS NULL AND done_at IS NULL AND mode = 'async' AND job_name <> ALL (toolkit.held_jobs())) unpushed,
     (SELECT count(*) AS running, count(*) FILTER (WHERE lease_until < now()) AS silent
        FROM toolkit.run WHERE outcome IS NULL) held,
     (SELECT count(DISTINCT r.job_id) AS unresolved FROM toolkit.run r JOIN toolkit.intent i USING (job_id)
       WHERE r.outcome IN ('failed', 'lost') AND r.started_at >= now() - %s AND r.job_name <> '{CONTROL}'
         AND (i.done_at IS NULL OR i.outcome IN ('failed', 'lost'))
         AND NOT EXISTS (SELECT FROM ({FOUND_GONE}) gone WHERE gone.job_id = r.job_id)) bad"""


def list_jobs(session: Session, filters: Filters) -> list[JobLine]:
    """At most `limit` jobs, the newest first; planted failures only when asked for by name or id."""
    conditions: list[str] = ["true"]
    if filters.job_name is None and filters.about is None:
        conditions.append("i.job_name <> %(control)s")
    if filters.state is not None:
        conditions.append(_CONDITIONS[filters.state])
    if filters.job_name is not None:
        conditions.append("i.job_name = %(job_name)s")
    if filters.since is not None:
        conditions.append("i.created_at >= %(since)s")
    if filters.about is not None:
        conditions.append(CARRIES)
    chosen = sql.SQL(
        "SELECT * FROM toolkit.intent i WHERE {} ORDER BY i.created_at DESC LIMIT %(limit)s"
    ).format(sql.SQL(" AND ").join(map(sql.SQL, conditions)))
    return _lines(session, chosen, {"job_name": filters.job_name, "since": filters.since, "about": filters.about,
                                    "limit": filters.limit, "control": CONTROL})  # fmt: skip


def lines(session: Session, job_ids: Sequence[str]) -> list[JobLine]:
    """These jobs, the newest first."""
    return _lines(
        session,
        sql.SQL("SELECT * FROM toolkit.intent i WHERE i.job_id = ANY(%(ids)s)"),
        {"ids": list(job_ids)},
    )


def _lines(session: Session, chosen: sql.Composable, values: dict[str, Any]) -> list[JobLine]:
    query = sql.SQL("WITH chosen AS ({}) {}").format(chosen, sql.SQL(_LINES))
    with session.cursor(row_factory=class_row(JobLine)) as cursor:
        return cursor.execute(query, values | {"core": sorted(CORE_SKIP_REASONS)}).fetchall()


def job(session: Session, job_id: str) -> JobView:
    """A job and its runs in their order. Raises NotFound."""
    found = lines(session, [job_id])
    if not found:
        raise NotFound(f"the ledger has no job {job_id}")
    asked: Any = session.execute(_ASKED, (job_id,)).fetchone()
    with session.cursor(row_factory=class_row(RunView)) as cursor:
        runs = cursor.execute(_RUNS, (job_id,)).fetchall()
    return JobView(line=found[0], asked_trace_id=asked[0], gone=asked[1], runs=tuple(runs))


def span_chunks(session: Session, job_ids: Sequence[str], trace_ids: Sequence[str]) -> list[TraceChunk]:
    """The kept spans of these jobs, and those of these traces that belong to no job, oldest first."""
    with session.cursor(row_factory=class_row(TraceChunk)) as cursor:
        return cursor.execute(
            "SELECT trace_id, job_id, spans FROM toolkit.trace"
            " WHERE job_id = ANY(%s) OR trace_id = ANY(%s) AND job_id = '' ORDER BY recorded_at",
            (list(job_ids), list(trace_ids)),
        ).fetchall()


def newest_asked(session: Session) -> datetime | None:
    """When the newest job was asked for; None when there is none."""
    row: Any = session.execute(
        "SELECT created_at FROM toolkit.intent ORDER BY created_at DESC LIMIT 1"
    ).fetchone()
    return row[0] if row else None


def failed_groups(session: Session, since: datetime, *, limit: int = 50) -> list[FailedGroup]:
    """Runs that began since then and failed or were lost, grouped by fingerprint (and what it leaves out: SQLSTATE and
    constraint): those with unresolved jobs first, the most frequent of each first. A job that a replay found gone is resolved.
    Planted ones are left out."""
    with session.cursor(row_factory=class_row(FailedGroup)) as cursor:
        return cursor.execute(_FAILED_GROUPS, (since, CONTROL, limit)).fetchall()


def count_runs(session: Session, since: datetime) -> dict[str, int]:
    """How many runs began since then, by outcome; every outcome and `running` is a key. Planted ones are left out."""
    rows = session.execute(
        "SELECT coalesce(outcome, 'running'), count(*) FROM toolkit.run WHERE started_at >= %s AND job_name <> %s"
        " GROUP BY 1",
        (since, CONTROL),
    ).fetchall()
    return dict.fromkeys((*(outcome.value for outcome in Outcome), RUNNING), 0) | dict(rows)


def summary(session: Session, window: timedelta) -> Summary:
    """The ledger now, and its runs of the last `window`."""
    query = sql.SQL(_NOW).format(waiting=sql.SQL(_CONDITIONS[WAITING]))
    row: Any = session.execute(query, (window, window)).fetchone()
    since, unpushed, unpushed_age, due, due_age, retries, next_retry, running, silent, unresolved = row
    return Summary(
        since=since, runs=count_runs(session, since), unpushed=unpushed, unpushed_age=max(0.0, unpushed_age or 0.0),
        due=due, due_age=max(0.0, due_age or 0.0), running=running, silent=silent, retries=retries, next_retry=next_retry,
        unresolved=unresolved,
    )  # fmt: skip
