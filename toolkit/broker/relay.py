"""The relay: committed intents into RQ. Woken by NOTIFY, polling as well, in batches; any number of relays at once.

A batch is locked, pushed in one round trip and marked in one transaction, so another relay skips it. A relay that dies
after the push and before the commit pushes again, and the placing script leaves jobs that wait already alone. When the
broker is away the intents wait. Emits: relay.pushed.

Defaults: batches of 500, a poll every 0.5 s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event

import psycopg
import redis

from toolkit.broker.codec import encoder
from toolkit.broker.place import Placer
from toolkit.jobspec import Registry
from toolkit.ledger import intents
from toolkit.ledger.database import Database, pipelined
from toolkit.telemetry import catalog
from toolkit.telemetry.logs import Log

BATCH = 500
POLL = 0.5


@dataclass(slots=True)
class Relay:
    """Moves intents of the registry's jobs; what only another release knows is left to it. `run_once()` does one batch and
    returns how many it moved."""

    database: Database
    broker: redis.Redis
    registry: Registry
    log: Log
    batch: int = BATCH
    _placer: Placer = field(init=False)

    def __post_init__(self) -> None:
        self._placer = Placer(self.broker)

    def run_once(self) -> int:
        """Push one batch; returns its size, 0 when nothing waits. Raises when PostgreSQL or the broker is away."""
        with self.database.session() as session, pipelined(session):
            # Not worth a wait for the disk: if the server crashes and forgets that these were pushed, they are pushed
            # again, and the placing script leaves them where they are.
            session.execute("SET LOCAL synchronous_commit = off")
            batch = intents.claim_unpushed(session, self.registry.runnable, self.batch)
            if batch:
                self.push(batch)
                intents.mark_pushed(session, [intent.job_id for intent in batch])
        return len(batch)

    def push(self, batch: Sequence[intents.Intent], *, again: bool = False) -> int:
        """Place these intents in their queues; returns how many were put in (the others waited or ran already)."""
        by_queue: dict[str, list[intents.Intent]] = defaultdict(list)
        for intent in batch:
            by_queue[intent.queue].append(intent)
        placed = 0
        for queue, some in by_queue.items():
            encode = {
                name: encoder(self.registry.get(name), self.broker) for name in {one.job_name for one in some}
            }
            jobs = [(one.job_id, encode[one.job_name](one)) for one in some]
            count = sum(self._placer.place(queue, jobs, again=again))
            placed += count
            event = catalog.RELAY_PUSHED_AGAIN if again else catalog.RELAY_PUSHED
            catalog.emit(self.log, event, count=count, queue=queue)
        return placed


class Doorbell:
    """Hears NOTIFY on a connection of its own; any trouble with it only means that polling does the work."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def wait(self, seconds: float, stop: Event) -> None:
        """Until somebody asked for a job, `seconds` have passed, or `stop` is set (noticed within `seconds`)."""
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=5)
                self._connection.execute(f"LISTEN {intents.CHANNEL}")
            for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                return
        except psycopg.Error:
            self.close()
            stop.wait(seconds)

    def close(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
