"""The supervisor's chores, each on its own interval, one thread: leases, lost hosts, reconciliation, RQ's scheduler, gauges.

A chore that fails because PostgreSQL or the broker is away, or refuses, is told once when that begins and once when it is
over, and tried again at its next time. `run_once(now)` does what is due and returns the names of what it did.

When PostgreSQL comes back, every lease may have run out: runs are given up only after all hosts have had the time to renew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from types import MappingProxyType

import redis
from rq import Queue
from rq.registry import FinishedJobRegistry
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer

from toolkit.broker import view
from toolkit.broker.connection import BROKER_TROUBLE
from toolkit.broker.reconcile import Reconciler
from toolkit.errors import DependencyUnreachable
from toolkit.ledger import intents, runs, traces
from toolkit.ledger.database import Database
from toolkit.ledger.trouble import TROUBLE
from toolkit.telemetry import catalog
from toolkit.telemetry.logs import Log
from toolkit.telemetry.metrics import Metrics


@dataclass(slots=True)
class Outages:
    """Which dependencies are away right now, or refuse what they are asked: for the log (told once) and for /readyz. Safe to
    use from many threads.

    Each has its own word for whoever met it, and it is over when all of them got on: one who may only look at a broker that
    takes no more writes does not call it well.
    """

    log: Log
    _met: dict[tuple[str, str], str] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def away(self) -> dict[str, str]:
        """`database`, `broker`, both or none, and what they said."""
        with self._lock:
            return {dependency: message for (dependency, _), message in self._met.items()}

    def guard(self, action: Callable[[], object], *dependencies: str, by: str) -> bool:
        """Do `action` for `by`; False when one of its dependencies was away."""
        try:
            action()
        except (*TROUBLE, DependencyUnreachable) as error:
            self._began("database", by, error)
            return False
        except BROKER_TROUBLE as error:
            self._began("broker", by, error)
            return False
        for dependency in dependencies:
            self._over(dependency, by)
        return True

    def _began(self, dependency: str, by: str, error: BaseException) -> None:
        message = " ".join(str(error).split())
        with self._lock:
            new = not self._has(dependency)
            self._met[dependency, by] = message
        if new:
            event = catalog.DATABASE_UNREACHABLE if dependency == "database" else catalog.BROKER_UNREACHABLE
            catalog.emit(self.log, event, error_message=message)

    def _over(self, dependency: str, by: str) -> None:
        with self._lock:
            over = self._met.pop((dependency, by), None) is not None and not self._has(dependency)
        if over:
            event = catalog.DATABASE_REACHED if dependency == "database" else catalog.BROKER_REACHED
            catalog.emit(self.log, event)

    def _has(self, dependency: str) -> bool:
        return any(met == dependency for met, _ in self._met)


@dataclass(slots=True)
class _Chore:
    every: float
    action: Callable[[], object]
    needs: tuple[str, ...]
    due: float = 0.0


class Keeper:
    """The chores of one supervisor. `workers()` names its living worker processes; `more`: other rooms' chores, by name, with
    the seconds between two times; they need the database."""

    def __init__(
        self,
        *,
        database: Database,
        broker: redis.Redis,
        queues: Sequence[str],
        reconciler: Reconciler,
        metrics: Metrics,
        outages: Outages,
        workers: Callable[[], Sequence[str]],
        lease: float,
        now: Callable[[], datetime],
        more: Mapping[str, tuple[float, Callable[[], object]]] = MappingProxyType({}),
    ) -> None:
        self._database = database
        self._broker = broker
        self._queues = queues
        self._reconciler = reconciler
        self._metrics = metrics
        self._outages = outages
        self._workers = workers
        self._lease = lease
        self._now = now
        self._scheduler = RQScheduler(
            queues, connection=broker, serializer=JSONSerializer, logging_level="WARNING"
        )
        self._looks_soon = 0
        self._hurried = False
        both = ("database", "broker")
        self._chores = {
            "renew": _Chore(lease / 3, self._renew, ("database",)),
            "lose": _Chore(min(2.0, lease / 3), self._lose, ("database",)),
            "count": _Chore(0.5, self._count, ("database",)),
            "mark": _Chore(0.5, self._mark, ("broker",)),
            "reconcile": _Chore(10.0, self._reconcile, both),
            "schedule": _Chore(0.5, self._schedule, ("broker",)),
            "queues": _Chore(2.0, self._queue_gauges, ("broker",)),
            "intents": _Chore(2.0, self._intent_gauges, ("database",)),
            "backlog": _Chore(15.0, self._backlog_gauge, ("database",)),
            "ask database": _Chore(5.0, self._ask_database, ("database",)),
            "ask broker": _Chore(5.0, self._ask_broker, ("broker",)),
            "prune": _Chore(300.0, self._prune, both),
        } | {name: _Chore(every, action, ("database",)) for name, (every, action) in more.items()}

    def run_once(self, now: float) -> list[str]:
        """Do every chore that is due at `now` (monotonic seconds); returns the names of those that succeeded."""
        done = []
        away: set[str] = (
            set()
        )  # met in this round: nobody waits for it a second time, and leases are renewed in time
        for name, chore in self._chores.items():
            if now < chore.due or away & set(chore.needs):
                continue
            chore.due = now + chore.every
            if self._outages.guard(chore.action, *chore.needs, by=name):
                done.append(name)
            else:
                away |= set(chore.needs) & self._outages.away.keys()
        if "database" in away:
            lose = self._chores["lose"]
            lose.due = max(lose.due, now + self._lease / 3 + 1.0)
        if self._looks_soon and now >= self._chores["reconcile"].due - 9.5:
            self._looks_soon -= 1
            self._hurried = True
            self._chores["reconcile"].due = now
        return done

    def look_soon(self) -> None:
        """A worker died: look for its job three times within two seconds, wherever it left it, however new it is."""
        self._looks_soon = 3

    def _renew(self) -> None:
        with self._database.session() as session:
            runs.renew(session, self._workers(), self._lease)

    def _lose(self) -> None:
        with self._database.session() as session:
            lost = runs.lose_expired(session)
        if lost:
            self.look_soon()

    def _count(self) -> None:
        with self._database.session() as session:
            records = runs.take_uncounted(session)
        for record in records:
            self._metrics.observe(record)

    def _mark(self) -> None:
        if self._reconciler.broker_was_emptied():
            self._reconciler.run_once(grace=0.0)

    def _reconcile(self) -> None:
        hurried, self._hurried = self._hurried, False
        self._reconciler.run_once(grace=0.0 if hurried else None)

    def _schedule(self) -> None:
        """RQ's scheduler without its process: retries whose time has come go back to their queue."""
        if self._scheduler.should_reacquire_locks:
            self._scheduler.acquire_locks()  # type: ignore[no-untyped-call]
        if self._scheduler.acquired_locks:
            self._scheduler.heartbeat()  # type: ignore[no-untyped-call]
            self._scheduler.enqueue_scheduled_jobs()  # type: ignore[no-untyped-call]

    def _queue_gauges(self) -> None:
        for queue in self._queues:
            seen = view.queue_view(self._broker, queue, self._now())
            self._metrics.set_queue(queue, seen.states(), seen.oldest_age)

    def _intent_gauges(self) -> None:
        with self._database.session() as session:
            backlog = intents.backlog(session)
        self._metrics.set_intents(backlog.unpushed, backlog.oldest_age)

    def _backlog_gauge(self) -> None:
        with self._database.session() as session:
            unresolved = runs.unresolved(session)
        self._metrics.set_failed_backlog(unresolved)

    def _ask_database(self) -> None:
        with self._database.session() as session:
            asked = time.monotonic()
            session.execute("SELECT 1")
            self._metrics.round_trip("database", time.monotonic() - asked)

    def _ask_broker(self) -> None:
        asked = time.monotonic()
        self._broker.ping()
        self._metrics.round_trip("broker", time.monotonic() - asked)

    def _prune(self) -> None:
        with self._database.session() as session:
            traces.prune(session)
        for queue in self._queues:
            # The finished registry only forgets; RQ's started registry would requeue, and is left alone.
            FinishedJobRegistry(
                queue=Queue(queue, connection=self._broker, serializer=JSONSerializer)
            ).cleanup()

    def release(self) -> None:
        """Give RQ's scheduler lock back."""
        self._outages.guard(self._scheduler.release_locks, by="release")
