"""Looking at ledger and broker for the doctor. Reads only; the broker first, so that a job that moves on meanwhile is never
taken for a lost one. What a first look finds counts only when a second one, a moment later, finds the very same.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psutil
import redis

from toolkit.broker import census, dead
from toolkit.broker.census import Census
from toolkit.doctor.findings import Finding, Snapshot, Stray, confirmed, decide
from toolkit.jobspec import Registry
from toolkit.ledger import adoption, checkup
from toolkit.ledger.database import Database
from toolkit.ledger.reading import clock, reading

GRACE: Final = 10.0
"""Seconds after it was due or pushed before a job counts as forgotten."""
SETTLE: Final = 1.0
"""Seconds between the two looks: longer than any job takes from one place of the broker to the next."""
SILENCE: Final = 480.0
"""Seconds without a heartbeat after which RQ itself has forgotten a worker (its default is 420)."""
_PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Doctor:
    """Looks; see `toolkit.doctor.repair` for what it does about it. `now` is the wall clock, for heartbeats."""

    database: Database
    broker: redis.Redis
    registry: Registry
    now: Callable[[], datetime]
    grace: float = GRACE

    def diagnose(self, settle: Callable[[float], object]) -> list[Finding]:
        """What is wrong, seen twice; `settle` waits so many seconds. Raises DependencyUnreachable and the broker's errors."""
        first = decide(self.look(), grace=self.grace)
        if not first:
            return []
        settle(SETTLE)
        return confirmed(first, decide(self.look(), grace=self.grace))

    def look(self) -> Snapshot:
        """One look at both."""
        longest = max((spec.timeout for spec in self.registry.specs.values()), default=0.0)
        seen = census.take(
            self.broker,
            self.registry.queues,
            now=self.now(),
            alive=alive,
            silence=max(SILENCE, longest + 60),
        )
        with reading(self.database, within=_PATIENCE) as session:
            done = checkup.done_among(session, _in_question(seen))
            return Snapshot(
                census=seen,
                now=clock(session),
                jobs={job.job_id: job for job in checkup.open_jobs(session, self.registry.runnable)},
                runs=checkup.held_runs(session),
                done={one.job_id: one for one in done},
                strays=[
                    Stray(one.job_id, one.queue, one.asked.function, one.asked.refused)
                    for one in dead.find(self.broker, self.registry, lambda ids: adoption.known(session, ids))
                ],
            )


def _in_question(seen: Census) -> list[str]:
    """Jobs whose end in the ledger matters: not those that only wait, or only finished."""
    dull = {(census.WAITING,), (census.FINISHED,), (census.SCHEDULED,), (census.DEFERRED,)}
    return [job_id for job_id, places in seen.places.items() if places not in dull or job_id in seen.expiring]


def alive(host: str, pid: int) -> bool | None:
    """Whether that process runs; None on another host."""
    return psutil.pid_exists(pid) if host == socket.gethostname() else None
