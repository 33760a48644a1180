"""Runs: begin, hold, finish, lease. Each is one statement over the functions of migration 0001.

The holder of a job is the run (run_id, fence) whose outcome is null. Beginning a run commits asynchronously: if the
server crashes in that moment the run never was, its random run_id can never be held again, and the intent still stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from toolkit.errors import NotFound, Superseded
from toolkit.jobspec import CONTROL
from toolkit.ledger.database import Session
from toolkit.run import CORE_SKIP_REASONS, Mode, Outcome, Reason, Run, RunRecord

_FINISH = "SELECT toolkit.finish_run(%s, %s, %s::jsonb, %s)"

FOUND_GONE: Final = "SELECT p.job_id FROM toolkit.replay_item p WHERE 'SKIP-GONE' IN (p.verdict, p.settled)"
"""SQL: jobs that a replay's plan found gone; given up or not, there is nothing left to do for them."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The answer to `begin`: a run and the payload's JSON text; `refusal` is why it must not run ('' when it may);
    `retries` made since the job was asked for or replayed; the trace that asked for the job; and the run to link to: the one
    before this, or the failed one that this replays."""

    run: Run
    payload: str
    refusal: str
    retries: int
    traceparent: str | None
    tracestate: str | None
    previous_run_id: str | None
    previous_trace_id: str | None
    previous_span_id: str | None


def begin(
    session: Session,
    job_id: str,
    *,
    worker: str,
    host: str,
    release: str,
    lease: float,
    mode: Mode,
) -> Begun:
    """Become the holder of the job for `lease` seconds. Raises NotFound when the ledger has no such intent."""
    row: Any = session.execute(
        "SELECT verdict, run_id::text, fence, job_name, queue, payload, number, asked_at, started_at, queue_wait,"
        " replay_of::text, retries, traceparent, tracestate,"
        " previous_run_id, previous_trace_id, previous_span_id"
        " FROM toolkit.begin_run(%s, %s, %s, %s, %s, %s)",
        (job_id, worker, host, release, lease, mode.value),
    ).fetchone()
    (
        verdict,
        run_id,
        fence,
        job_name,
        queue,
        payload,
        number,
        asked_at,
        started_at,
        queue_wait,
        replay_of,
        *rest,
    ) = row
    if verdict == "unknown":
        raise NotFound(f"the ledger has no job {job_id}")
    run = Run(
        run_id=run_id,
        fence=fence,
        job_id=job_id,
        job_name=job_name,
        queue=queue,
        number=number,
        mode=mode,
        release=release,
        asked_at=asked_at,
        started_at=started_at,
        queue_wait=queue_wait,
        replay_of=replay_of,
    )
    return Begun(run, payload, "" if verdict == "run" else verdict, *rest)


def hold(session: Session, run: Run, lock_timeout: str) -> None:
    """Within a transaction: go on only as the holder, waiting for no lock longer than `lock_timeout` from here on.
    Raises psycopg.Error with SQLSTATE TK001 when superseded."""
    session.execute("SELECT toolkit.hold_run(%s, %s, %s)", (run.run_id, run.fence, lock_timeout))


def finish(session: Session, run: Run, record: RunRecord, *, uncounted: bool = False) -> Outcome:
    """Write how the run ended; returns the outcome that stands in the ledger.

    It differs from the record's when the run had ended before: the answer to its commit was lost, or it was given up.
    `uncounted` leaves the record for a supervisor to count. Raises Superseded when the run was given up as lost.
    """
    row = session.execute(
        _FINISH,
        (run.run_id, run.fence, msgspec.json.encode(record).decode(), uncounted),
    ).fetchone()
    standing = row[0] if row else "unknown"
    if standing in {Outcome.LOST, "unknown"} and record.outcome is not Outcome.LOST:
        raise Superseded(f"run {run.run_id} of job {run.job_id} was given up as lost; nothing was written")
    return Outcome(standing)


def finish_held(session: Session, run: Run, record: RunRecord, *, uncounted: bool = False) -> None:
    """Finish a run that this transaction holds (`hold`): it cannot have ended before, so the answer is not waited for."""
    session.execute(_FINISH, (run.run_id, run.fence, msgspec.json.encode(record).decode(), uncounted))


def renew(session: Session, workers: Sequence[str], lease: float) -> int:
    """Renew the leases of every open run of these workers; returns how many."""
    return session.execute(
        "UPDATE toolkit.run SET lease_until = clock_timestamp() + %s * interval '1 second'"
        " WHERE outcome IS NULL AND worker = ANY(%s)",
        (lease, list(workers)),
    ).rowcount


def last_success(session: Session, job_name: str) -> datetime | None:
    """When the job last came to a good end; None when it never did, or not in the newest 10,000 runs."""
    row: Any = session.execute(
        "SELECT max(finished_at) FILTER (WHERE outcome IN ('processed', 'skipped') AND job_name = %s)"
        " FROM (SELECT * FROM toolkit.run ORDER BY started_at DESC LIMIT 10000) newest",
        (job_name,),
    ).fetchone()
    moment: datetime | None = row[0]
    return moment


def lose(session: Session, worker: str, error_type: str) -> list[str]:
    """Close the open runs of a worker process that died; `error_type` is the signal's name. Returns their job ids."""
    return [
        row[0]
        for row in session.execute(
            "SELECT job_id FROM toolkit.run WHERE worker = %s AND outcome IS NULL AND toolkit.lose_run(run_id, %s, %s)",
            (worker, Reason.KILLED, error_type),
        ).fetchall()
    ]


def lose_unanswered(session: Session, job_id: str, worker: str) -> int:
    """Close the runs of this job that this worker began without learning of it; returns how many."""
    return session.execute(
        "SELECT FROM toolkit.run WHERE job_id = %s AND worker = %s AND outcome IS NULL AND toolkit.lose_run(run_id, %s, %s)",
        (job_id, worker, Reason.LEASE_EXPIRED, "BeginUnanswered"),
    ).rowcount


def lose_expired(session: Session) -> list[str]:
    """Close the runs whose host fell silent past their lease. Returns their job ids."""
    return [
        row[0]
        for row in session.execute(
            "SELECT job_id FROM toolkit.run WHERE outcome IS NULL AND lease_until < clock_timestamp()"
            " AND toolkit.lose_run(run_id, %s, 'LeaseExpired')",
            (Reason.LEASE_EXPIRED,),
        ).fetchall()
    ]


def ended_after(session: Session, worker: str, told: datetime | None) -> list[RunRecord]:
    """Records, as far as the ledger has them (no samples), of the worker's runs that ended by themselves and started after
    the one it last told of; None: it told of none. A worker does one run at a time, so there is at most one."""
    rows = session.execute(
        "SELECT toolkit.record_of(r)::text FROM toolkit.run r WHERE worker = %s AND outcome <> 'lost'"
        " AND started_at > coalesce(%s, clock_timestamp() - interval '1 day') ORDER BY started_at",
        (worker, told),
    ).fetchall()
    return [msgspec.json.decode(row[0], type=RunRecord) for row in rows]


def take_uncounted(session: Session, limit: int = 1000) -> list[RunRecord]:
    """Records of runs that no supervisor counted yet (inline runs, lost runs); each is given out exactly once."""
    rows = session.execute(
        "UPDATE toolkit.run r SET uncounted = NULL FROM"
        " (SELECT run_id, uncounted FROM toolkit.run WHERE uncounted IS NOT NULL"
        "  ORDER BY finished_at LIMIT %s FOR UPDATE SKIP LOCKED) taken"
        " WHERE r.run_id = taken.run_id RETURNING taken.uncounted::text",
        (limit,),
    ).fetchall()
    return [msgspec.json.decode(row[0], type=RunRecord) for row in rows]


@dataclass(frozen=True, slots=True)
class EndedSince:
    """How many runs ended after a cursor: all of them, those that are due to be told, those that will not be looked at again;
    and the cursor for the next look."""

    cursor: datetime
    ended: int
    due: int
    settled: int


def ended_since(
    session: Session, workers: str, cursor: datetime | None, *, told: float, settled: float, longest: float
) -> EndedSince:
    """Runs that workers whose name begins with `workers` ended, by the database's clock, without lost and unneeded ones.
    `told`, `settled`: seconds ago; `longest`: seconds that a run may take. Without a cursor: of the last hour."""
    row: Any = session.execute(
        "WITH moment AS (SELECT clock_timestamp() AS now), since AS ("
        "  SELECT now, coalesce(%(cursor)s::timestamptz, now - interval '1 hour') AS cursor FROM moment)"
        " SELECT since.now - %(settled)s * interval '1 second', count(r.run_id),"
        "  count(r.run_id) FILTER (WHERE r.finished_at <= since.now - %(told)s * interval '1 second'),"
        "  count(r.run_id) FILTER (WHERE r.finished_at <= since.now - %(settled)s * interval '1 second')"
        " FROM since LEFT JOIN toolkit.run r ON r.started_at > since.cursor - %(longest)s * interval '1 second'"
        "  AND r.finished_at > since.cursor AND starts_with(r.worker, %(workers)s)"
        "  AND r.outcome <> 'lost' AND r.reason <> ALL(%(core)s)"
        " GROUP BY since.now",
        {
            "cursor": cursor, "told": told, "settled": settled, "longest": longest, "workers": workers,
            "core": sorted(CORE_SKIP_REASONS),
        },
    ).fetchone()  # fmt: skip
    return EndedSince(*row)


def unresolved(session: Session) -> dict[str, int]:
    """Jobs given up as failed or lost within seven days that still stand so, by job name. Those that a replay's plan found
    gone are resolved: there is nothing left to do for them. Planted ones are left out."""
    rows = session.execute(
        "SELECT i.job_name, count(*) FROM toolkit.intent i"
        " WHERE i.outcome IN ('failed', 'lost') AND i.done_at > clock_timestamp() - interval '7 days' AND i.job_name <> %s"
        f"  AND NOT EXISTS (SELECT FROM ({FOUND_GONE}) gone WHERE gone.job_id = i.job_id) GROUP BY 1",
        (CONTROL,),
    ).fetchall()
    return dict(rows)
