"""Failed jobs for the tests of replay: really failed, through relay, RQ and worker; and the way to run them again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import redis

from jobs.images.search.protocol import Product, SearchResult
from tests.brokering import new_relay, work
from tests.orders import Order, ask, new_order
from tests.performing import Heard, failing, found, in_memory, performing, spec_with
from toolkit.jobspec import Registry, RetryPolicy
from toolkit.ledger.database import Database
from toolkit.replay.execute import Replays

NO_RETRY = spec_with(retry=RetryPolicy(attempts=0))
IN_MEMORY = spec_with(resources=in_memory)
"""For TOOLKIT_JOBS of a command: its search needs nobody."""
DOWN = failing("connect_timeout")


@dataclass
class Shop:
    """A catalog, a ledger and a broker; `down`: the image host does not answer."""

    url: str
    redis_url: str
    home: Path
    database: Database
    broker: redis.Redis
    connection: psycopg.Connection
    down: bool = False
    heard: Heard = field(default_factory=Heard)

    def search(self, product: Product) -> SearchResult:
        """The image search as it is now."""
        return DOWN(product) if self.down else found(product)

    def order(self, drafts: int = 2, *, merchant: str = "m-own") -> tuple[Order, str]:
        """An order, and the job that was asked for it."""
        order = new_order(self.connection, drafts, merchant=merchant)
        return order, ask(self.connection, order)

    def work(self) -> None:
        """Relay and worker, until nothing waits."""
        while new_relay(self.database, self.broker).run_once():
            pass
        with performing(self.url, self.search, spec=NO_RETRY, sink=self.heard) as performer:
            work(self.broker, performer)

    def failed(self, drafts: int = 2, *, merchant: str = "m-own") -> tuple[Order, str]:
        """An order whose job failed because the image host was down."""
        order, job_id = self.order(drafts, merchant=merchant)
        with self.outage():
            self.work()
        return order, job_id

    @contextmanager
    def outage(self) -> Iterator[None]:
        """The image host is down."""
        self.down = True
        try:
            yield
        finally:
            self.down = False

    def replays(self, **changes: Any) -> Replays:
        """The replay room, as `test` at release `test`."""
        usual = {
            "database": self.database,
            "registry": Registry.of([NO_RETRY]),
            "release": "test",
            "who": "tester",
        }
        return Replays(**(usual | changes))

    def environ(self, **settings: str) -> dict[str, str]:
        """The environment of a command."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("TOOLKIT_", "OTEL_"))
        }
        return kept | {
            "DATABASE_URL": self.url, "REDIS_URL": self.redis_url, "TOOLKIT_HOME": str(self.home),
            "TOOLKIT_RELEASE": "test", "TOOLKIT_OPERATOR": "ann",
        } | settings  # fmt: skip

    def toolkit(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """A command, as it is typed into a pipe."""
        return subprocess.run(
            [sys.executable, "-m", "toolkit.cli", *arguments], env=self.environ(**settings), capture_output=True, text=True,
            timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def rows(self, query: str, *values: object) -> list[Any]:
        """The rows of a query; a list of values when it has one column."""
        found = self.connection.execute(query, values).fetchall()
        return [row[0] if len(row) == 1 else row for row in found]

    def runs(self, job_id: str) -> list[tuple[str, str, bool]]:
        """(outcome, reason, is a replay) of the job's runs, in order."""
        return self.rows(
            "SELECT coalesce(outcome, ''), reason, replay_of IS NOT NULL FROM toolkit.run WHERE job_id = %s ORDER BY number",
            job_id,
        )

    def where(self, job_id: str) -> list[str]:
        """In which of RQ's places for waiting and failed jobs a job is, as often as it is there."""
        waiting = [b"queued"] * self.broker.lrange("rq:queue:images", 0, -1).count(job_id.encode())
        parked = [
            name.encode()
            for name in ("failed", "finished", "scheduled", "wip", "deferred")
            if any(
                member.split(b":")[0] == job_id.encode()
                for member in self.broker.zrange(f"rq:{name}:images", 0, -1)
            )
        ]
        return [place.decode() for place in (*waiting, *parked)]


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    """The JSON document that a command printed."""
    assert done.stdout, done.stderr
    return json.loads(done.stdout)
