"""Failed jobs that reached the broker behind the ledger's back get their place in it: an intent that is done, as failed, and
the run that failed. From then on they are as any failed job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from toolkit.jobspec import JobSpec, Payload
from toolkit.ledger.database import Session, array_of
from toolkit.run import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedRun:
    """What is known of the run that failed. Times are aware."""

    asked_at: datetime
    started_at: datetime
    finished_at: datetime
    worker: str
    failure: Failure


def known(session: Session, job_ids: Sequence[str]) -> set[str]:
    """Those of these jobs that the ledger has. Reads only."""
    rows = session.execute(
        "SELECT job_id FROM toolkit.intent WHERE job_id = ANY(%s)", (array_of(job_ids),)
    ).fetchall()
    return {row[0] for row in rows}


def adopt_failed(session: Session, spec: JobSpec, job_id: str, payload: Payload, run: FailedRun) -> bool:
    """Write both in one statement; False when the ledger has the job already, and nothing changes."""
    failure = run.failure
    row = session.execute(
        """
WITH adopted AS (
    INSERT INTO toolkit.intent (job_id, job_name, queue, payload, created_at, due_at, pushed_at, pushes, done_at, outcome)
    VALUES (%(job)s, %(name)s, %(queue)s, %(payload)s::jsonb, %(asked)s, %(asked)s, %(asked)s, 1, %(finished)s, 'failed')
    ON CONFLICT (job_id) DO NOTHING
    RETURNING job_id, job_name, queue, mode
)
INSERT INTO toolkit.run (job_id, job_name, queue, number, mode, worker, host, release, queue_wait, started_at, finished_at,
                         duration, outcome, reason, error_type, error_message, sqlstate, constraint_name, fingerprint, traceback)
SELECT job_id, job_name, queue, 1, mode, %(worker)s, '', '',
       greatest(0, extract(epoch FROM %(started)s::timestamptz - %(asked)s::timestamptz)), %(started)s, %(finished)s,
       greatest(0, extract(epoch FROM %(finished)s::timestamptz - %(started)s::timestamptz)), 'failed',
       %(reason)s, %(type)s, %(message)s, %(sqlstate)s, %(constraint)s, %(fingerprint)s, %(traceback)s
FROM adopted RETURNING run_id""",
        {
            "job": job_id,
            "name": spec.name,
            "queue": spec.queue,
            "payload": spec.encode(payload).decode(),
            "asked": run.asked_at,
            "started": run.started_at,
            "finished": run.finished_at,
            "worker": run.worker,
            "reason": failure.reason,
            "type": failure.error_type,
            "message": failure.message,
            "sqlstate": failure.sqlstate,
            "constraint": failure.constraint,
            "fingerprint": failure.fingerprint,
            "traceback": failure.traceback,
        },
    ).fetchone()
    return row is not None
