"""Jobs that the broker forgot are pushed again: the ledger's open intents against what the broker holds.

A broker that was emptied, restored to an older state, or lost the last second of its append-only file lacks jobs that the
ledger knows as pushed. And a worker that is killed between taking a job and beginning its run leaves the job in passing:
such a job is taken back when it has been there, with no run, for PASSING seconds.

One host does this at a time (advisory lock). The broker is read before the ledger, and only what was pushed before that
counts, so a job that moves on or comes meanwhile is not mistaken for a lost one; at worst a job is delivered twice, and the
second delivery is skipped.

Known weakness: each look reads every waiting id of the broker, 36 bytes a job.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import redis

from toolkit.broker import view
from toolkit.broker.relay import Relay
from toolkit.ledger import intents
from toolkit.ledger.database import Database

_LOCK = 0x66726563
_MARK = "freshfetch:broker"

PASSING = 0.4
"""Seconds that a job may be between two places of the broker; a worker that lives takes a few milliseconds."""


@dataclass(slots=True)
class Reconciler:
    """Compares ledger and broker. `grace`: seconds after its push before a job can count as forgotten."""

    database: Database
    broker: redis.Redis
    relay: Relay
    grace: float = 5.0
    clock: Callable[[], float] = time.monotonic
    _in_passing: dict[str, float] = field(default_factory=dict)
    """Since when a look has found a job in passing."""

    def broker_was_emptied(self) -> bool:
        """True once after the broker lost its memory: the mark that we left there is gone."""
        return bool(self.broker.set(_MARK, "1", nx=True))

    def run_once(self, *, grace: float | None = None) -> int:
        """One look; returns how many jobs were pushed again. Raises when PostgreSQL or the broker is away."""
        registry = self.relay.registry
        with self.database.session() as session:
            before = intents.now(session) - timedelta(seconds=self.grace if grace is None else grace)
        resting: set[str] = set()
        passing: set[str] = set()
        for queue in registry.queues:
            some_resting, some_passing = view.known_ids(self.broker, queue)
            resting |= some_resting
            passing |= some_passing
        pushed = 0
        looked_at = self.clock()
        seen_in_passing: dict[str, float] = {}
        with self.database.session() as session, session.transaction():
            locked = session.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,)).fetchone()
            if locked is None or not locked[0]:
                return 0
            forgotten: list[intents.Intent] = []
            for intent in intents.overdue(session, registry.runnable, before=before):
                if intent.job_id in resting:
                    continue
                if intent.job_id in passing:
                    since = self._in_passing.get(intent.job_id, looked_at)
                    if looked_at - since < PASSING:
                        seen_in_passing[intent.job_id] = since
                        continue
                forgotten.append(intent)
            for start in range(0, len(forgotten), self.relay.batch):
                some = forgotten[start : start + self.relay.batch]
                pushed += self.relay.push(some, again=True)
                intents.mark_pushed(session, [intent.job_id for intent in some])
        self._in_passing = seen_in_passing
        return pushed
