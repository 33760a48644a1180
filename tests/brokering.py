"""The broker's side in the test's own process: a relay, and a worker that works until the queue is empty."""

from __future__ import annotations

import signal

import redis

from jobs.images.spec import SPEC
from toolkit.broker.relay import Relay
from toolkit.broker.worker import FreshWorker
from toolkit.jobspec import Registry
from toolkit.ledger.database import Database
from toolkit.perform import Performer
from toolkit.telemetry import logs

REGISTRY = Registry.of([SPEC])


def new_relay(database: Database, broker: redis.Redis, batch: int = 500) -> Relay:
    """A relay of the image job's queue."""
    return Relay(database, broker, REGISTRY, logs.get_logger(), batch=batch)


def work(broker: redis.Redis, performer: Performer, name: str = "test-worker") -> None:
    """One worker, until its queue is empty; it ends as a worker does, so nothing of it stays in RQ's books."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        FreshWorker("images", name=name, connection=broker, performer=performer).work(
            burst=True, logging_level="WARNING"
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
