"""The contenders: how each is started, and how jobs are asked of it.

RQ's run from RQ's own command line, two processes, quiet, with its default serializer; their jobs are queued with
`enqueue_many`. Freshfetch's is `toolkit worker -n 2`; its jobs are asked for with toolkit.enqueue, in one transaction, each
in a trace of its own, and moved to the broker by its own relay.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psycopg
import redis
from rq import Queue

from jobs.images.spec import SPEC
from scripts.benchmarks import plain
from scripts.benchmarks.room import MERCHANT

ROOT = Path(__file__).parents[2]
PROCESSES = 2

_ASK = """
SELECT count(toolkit.enqueue(%s, jsonb_build_object('purchaseOrderId', id, 'merchantId', %s::text),
                             '00-' || md5('trace' || id) || '-' || left(md5('span' || id), 16) || %s))
FROM unnest(%s::text[]) AS o (id)
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender runs: the URLs of its database and broker, a collector's if there is one, and a folder."""

    database: str
    broker: str
    collector: str
    folder: Path


class Contender(Protocol):
    """`key` is its letter in the issue; `jobs` are raced by default, after `warm` others."""

    @property
    def key(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def jobs(self) -> int: ...
    @property
    def warm(self) -> int: ...
    @property
    def attaches(self) -> bool:
        """False when its job does nothing."""

    def commands(self, place: Place) -> Sequence[tuple[list[str], dict[str, str]]]:
        """Argument vector and environment of each process to start."""

    def ask(self, broker: redis.Redis, database: str, orders: Sequence[str]) -> None:
        """Ask for a job an order."""


def _environment(place: Place, more: Mapping[str, str]) -> dict[str, str]:
    ours = {name for name in os.environ if name.startswith(("TOOLKIT_", "OTEL_"))}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"PYTHONPATH": str(ROOT), "TOOLKIT_HOME": str(place.folder)} | dict(more)


@dataclass(frozen=True, slots=True)
class Freshfetch:
    """`toolkit worker -n 2` as it ships. `telemetry` off: no spans, none of the body's log lines, no export."""

    key: str
    title: str
    jobs: int
    warm: int = 16
    wait: float = 0.0
    telemetry: bool = True
    attaches: bool = True

    def commands(self, place: Place) -> Sequence[tuple[list[str], dict[str, str]]]:
        more = {
            "DATABASE_URL": place.database,
            "REDIS_URL": place.broker,
            "TOOLKIT_METRICS_PORT": "0",
            "TOOLKIT_BENCH_WAIT": str(self.wait),
            "TOOLKIT_JOBS": f"scripts.benchmarks.memory:{'SPEC' if self.telemetry else 'SILENT'}",
        }
        if self.telemetry:
            more["OTEL_EXPORTER_OTLP_ENDPOINT"] = place.collector
        command = [sys.executable, "-m", "toolkit.cli", "worker", "-n", str(PROCESSES)]
        return [(command, _environment(place, more))]

    def ask(self, broker: redis.Redis, database: str, orders: Sequence[str]) -> None:  # noqa: ARG002
        with psycopg.connect(database) as connection:
            sampled = "-01" if self.telemetry else "-00"
            connection.execute(_ASK, (SPEC.name, MERCHANT, sampled, list(orders)))


@dataclass(frozen=True, slots=True)
class PlainRQ:
    """Two of RQ's own workers. `worker_class` is rq's SimpleWorker or its default, the forking Worker."""

    key: str
    title: str
    jobs: int
    warm: int = 16
    wait: float = 0.0
    worker_class: str = "rq.SimpleWorker"
    attaches: bool = True

    def commands(self, place: Place) -> Sequence[tuple[list[str], dict[str, str]]]:
        url = place.database.replace("postgresql://", "postgresql+psycopg://", 1)
        environment = _environment(place, {"BENCH_DATABASE": url})
        command = [sys.executable, "-m", "rq.cli", "worker", "--quiet", "--worker-class", self.worker_class,
                   "--url", place.broker, SPEC.queue]  # fmt: skip
        return [(command, environment)] * PROCESSES

    def ask(self, broker: redis.Redis, database: str, orders: Sequence[str]) -> None:  # noqa: ARG002
        Queue(SPEC.queue, connection=broker).enqueue_many(
            [
                Queue.prepare_data(plain.process_images, (order, MERCHANT, self.wait))
                if self.attaches
                else Queue.prepare_data(plain.nothing)
                for order in orders
            ]
        )


def scaled(jobs: float, scale: float) -> int:
    """A part of so many jobs, at least two a process."""
    return max(2 * PROCESSES, round(jobs * scale))
