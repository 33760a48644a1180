"""What becomes of the jobs that are queued when a toggle goes off: `finish` leaves them to the workers, `hold` takes them
back into the ledger, `reclaim` takes them back and does them here.

    hold:     the flip bars the relay → waiting jobs leave RQ, back to `pushed_at is null` → they wait for the next flip
    reclaim:  the same, then each is performed inline (mode sync); what fails transiently goes back to the workers

Nothing is marked before it is done. A job is begun through the ledger like any delivery, so a worker that has it in hand keeps
it, and whoever comes second finds it done. When the command dies half way, its run's lease and the hold's own end give the
rest back to the workers. RQ's own suspension is not used: it stops every worker of that broker, for other jobs too, and one
that waits for work takes one more job first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from opentelemetry.trace import Tracer

from toolkit.broker.park import park
from toolkit.ledger import toggles
from toolkit.ledger.database import Database
from toolkit.ledger.toggles import Toggle
from toolkit.perform import Performer
from toolkit.run import Mode, RunRecord
from toolkit.telemetry import catalog
from toolkit.telemetry.logs import Log

BATCH = 500


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """Jobs done here, jobs that failed for good, and jobs left to the workers (in hand there, or to be tried again)."""

    done: int
    failed: int
    left: int


def take_back(
    database: Database, broker: redis.Redis, standing: Toggle, *, log: Log, tracer: Tracer, batch: int = BATCH
) -> int:
    """Take every waiting job of a held toggle out of the broker; returns how many. Call it after the flip: the relay hands
    nothing over any more, and what it was handing over is waited for."""
    after: tuple[Any, str] = ("-infinity", "")
    taken = 0
    with tracer.start_as_current_span(
        catalog.SPAN_HOLD, attributes={catalog.FLAG_KEY: standing.name}
    ) as span:
        while True:
            with database.session() as session, session.transaction():
                rows = toggles.lock_open(session, standing.jobs, after, batch)
                parked = park(broker, [(job_id, queue) for job_id, queue, _ in rows]) if rows else []
                if parked:
                    toggles.take_back(session, parked)
            taken += len(parked)
            if len(rows) < batch:
                break
            after = (rows[-1][2], rows[-1][0])
        span.set_attribute("toggle.taken_back", taken)
        catalog.emit(log, catalog.TOGGLE_TAKEN_BACK, toggle=standing.name, count=taken)
    return taken


def reclaim(
    database: Database,
    performer: Performer,
    standing: Toggle,
    log: Log,
    progress: Callable[[int, RunRecord | None], None],
) -> Reclaimed:
    """Do the held jobs of a toggle here, oldest first, each exactly once, then end the hold. `progress` gets how many were
    seen to and the run's record. Ends early when somebody else flips meanwhile."""
    done = failed = left = 0
    tried: set[str] = set()
    try:
        while fresh := _next(database, standing.jobs, tried):
            for job_id in fresh:
                tried.add(job_id)
                record = performer.perform(job_id, mode=Mode.SYNC).record
                if record is None or record.retry_in is not None or _elsewhere(record):
                    left += 1
                elif record.failure is not None:
                    failed += 1
                else:
                    done += 1
                progress(len(tried), record)
                if not _still_ours(database, standing):
                    return Reclaimed(done, failed, left)
        return Reclaimed(done, failed, left)
    finally:
        with database.session() as session:
            toggles.release_hold(session, standing.name, standing.version)
        catalog.emit(log, catalog.TOGGLE_RECLAIMED, toggle=standing.name, count=done, left=left)


def _next(database: Database, jobs: Sequence[str], tried: set[str]) -> list[str]:
    """Held jobs that were not tried here yet."""
    with database.session() as session:
        waiting = toggles.held(session, jobs, BATCH + len(tried))
    return [job_id for job_id in waiting if job_id not in tried][:BATCH]


def _elsewhere(record: RunRecord) -> bool:
    return record.reason in {"already_running", "already_done"}


def _still_ours(database: Database, standing: Toggle) -> bool:
    """Renew the hold for the next job; False when the toggle has moved on."""
    with database.session() as session:
        return toggles.extend_hold(session, standing.name, standing.version)
