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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from opentelemetry.trace import Tracer

from toolkit.broker.park import park
from toolkit.ledger import toggles
from toolkit.ledger.database import Database
from toolkit.ledger.toggles import InFlight, Toggle
from toolkit.perform import Performer
from toolkit.run import Mode, RunRecord
from toolkit.telemetry import catalog
from toolkit.telemetry.logs import Log

BATCH = 500
SETTLE = 1.0
"""Seconds in which a worker that has taken a job begins it."""
LOOKS = 10
"""At what has not begun, within SETTLE."""


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """Jobs done here, jobs that failed for good, and jobs left to the workers: all that are open when the hold ends, be they in
    hand there, taken and not begun, or to be tried again."""

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


def not_begun(
    database: Database, jobs: Sequence[str], *, settle: Callable[[float], object], within: float = SETTLE
) -> int:
    """Jobs that were handed to the broker, could not be taken back, and that no run has `within` seconds later either: taken by
    a worker that is stopped or gone, or forgotten by the broker. `settle` waits so many seconds. Call it during the hold."""
    for _ in range(LOOKS):
        count = _open(database, jobs).queued
        if not count:
            break
        settle(within / LOOKS)
    return count


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
    try:
        for tried, record in enumerate(_records(database, performer, standing), start=1):
            if record is not None and record.retry_in is None and not _elsewhere(record):
                failed += record.failure is not None
                done += record.failure is None
            progress(tried, record)
        now = _open(database, standing.jobs)
        left = now.waiting + now.queued + now.running
        return Reclaimed(done, failed, left)
    finally:
        with database.session() as session:
            toggles.release_hold(session, standing.name, standing.version)
        catalog.emit(log, catalog.TOGGLE_RECLAIMED, toggle=standing.name, count=done, left=left)


def _records(database: Database, performer: Performer, standing: Toggle) -> Iterator[RunRecord | None]:
    """Perform one held job after the other, while the toggle stands as it did."""
    tried: set[str] = set()
    while fresh := _next(database, standing.jobs, tried):
        for job_id in fresh:
            tried.add(job_id)
            yield performer.perform(job_id, mode=Mode.SYNC).record
            if not _still_ours(database, standing):
                return


def _open(database: Database, jobs: Sequence[str]) -> InFlight:
    with database.session() as session:
        return toggles.in_flight(session, jobs)


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
