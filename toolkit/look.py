"""Looking at both servers at once, and waiting for neither longer than PATIENCE. Reads only.

A server that hangs is left to a daemon thread, which ends with the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import psutil

from toolkit.app import App
from toolkit.broker import view
from toolkit.broker.connection import BROKER_AWAY
from toolkit.broker.view import QueueView, WorkerView
from toolkit.errors import DependencyUnreachable, NotInitialised, ToolkitError
from toolkit.ledger import migrate, queries
from toolkit.ledger.database import SESSION_UNREACHABLE
from toolkit.ledger.reading import reading
from toolkit.ledger.views import Summary
from toolkit.settings import masked
from toolkit.status import Process, Schema, Server, Status

if TYPE_CHECKING:
    import redis

T = TypeVar("T")

PATIENCE: Final = 1.5
"""Seconds that both servers together are waited for."""
WINDOW: Final = timedelta(hours=1)
"""Of the runs that are counted."""


@dataclass(frozen=True, slots=True)
class _Database:
    url: str
    version: str
    schema: Schema
    summary: Summary | None


@dataclass(frozen=True, slots=True)
class _Broker:
    url: str
    version: str
    queues: tuple[QueueView, ...]
    workers: tuple[WorkerView, ...]


class _Asked(Generic[T]):
    """A question that somebody may never answer, put in a thread of its own."""

    def __init__(self, question: Callable[[], T]) -> None:
        self._question = question
        self._answer: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            self._answer = self._question()
        except BaseException as error:  # noqa: BLE001  raised where the answer is taken
            self._error = error

    def answer(self, deadline: float) -> T | str:
        """The answer, or why there is none; `deadline` is monotonic. Errors that are not of a server away are raised."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            return f"no answer within {PATIENCE:g} s"
        if isinstance(self._error, (DependencyUnreachable, *SESSION_UNREACHABLE, *BROKER_AWAY)):
            return " ".join(str(self._error).split())
        if self._error is not None:
            raise self._error
        assert self._answer is not None  # noqa: S101  questions answer with a value or an error
        return self._answer


def look(app: App, *, patience: float = PATIENCE) -> Status:
    """Look at everything once. Raises SettingError for a setting that cannot be used; a server away is in the Status."""
    wanted = migrate.head()
    names = app.registry.queues
    deadline = time.monotonic() + patience
    asked_database = _Asked(lambda: _look_at_database(app, wanted))
    asked_broker = _Asked(lambda: _look_at_broker(app, names))
    database, broker = asked_database.answer(deadline), asked_broker.answer(deadline)
    ledger = None if isinstance(database, str) else database
    queue = None if isinstance(broker, str) else broker
    settings = app.settings
    return Status(
        release=settings.release,
        postgres=_server("PostgreSQL", "DATABASE_URL", settings.database_url, database),
        broker=_server("the broker", "REDIS_URL", settings.redis_url, broker),
        schema=ledger.schema if ledger else None,
        ledger=ledger.summary if ledger else None,
        queues=queue.queues if queue else None,
        workers=queue.workers if queue else None,
        processes={
            worker.name: _process(worker.pid)
            for worker in queue.workers
            if worker.host == app.host and worker.pid
        }
        if queue
        else {},
        longest=max((spec.timeout for spec in app.registry), default=0.0),
    )


def _process(pid: int) -> Process:
    """What this host says of that process."""
    try:
        status = psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return Process.GONE
    if status in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}:
        return Process.STOPPED
    return Process.GONE if status in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD} else Process.RUNS


def _server(name: str, variable: str, given: str | None, seen: _Database | _Broker | str) -> Server:
    away = isinstance(seen, str)
    return Server(
        name=name,
        state="away" if away else "ok",
        source=variable if given else "embedded",
        url=masked((given or "") if isinstance(seen, str) else seen.url),
        version="" if isinstance(seen, str) else seen.version,
        detail=seen if isinstance(seen, str) else "",
    )


def _look_at_database(app: App, wanted: str) -> _Database:
    database = app.brief()
    found: str | None = None
    summary: Summary | None = None
    problem = remedy = ""
    version = "?"
    try:
        with reading(database, within=PATIENCE) as session:
            version = session.info.parameter_status("server_version") or version
            row = session.execute("SELECT version_num FROM toolkit.alembic_version").fetchone()
            found = row[0] if row else None
            summary = queries.summary(session, WINDOW)
    except NotInitialised:
        pass  # `found` tells: missing, or older than the columns that were asked for
    except DependencyUnreachable:
        raise
    except ToolkitError as error:
        problem, remedy = str(error), error.remedy
    return _Database(
        database.url,
        version.split()[0],
        Schema(found, wanted, problem, remedy),
        summary,
    )


def _look_at_broker(app: App, names: Sequence[str]) -> _Broker:
    broker: redis.Redis = app.broker
    now = datetime.now(UTC)
    return _Broker(
        app.redis_url,
        _version(broker.info("server")),
        tuple(view.queue_view(broker, name, now) for name in names),
        tuple(view.workers(broker, names, now)),
    )


def _version(info: dict[str, object]) -> str:
    """`valkey 9.1.2`, `redis 7.4`."""
    name = str(info.get("server_name", "redis"))
    return f"{name} {info.get(f'{name}_version', info.get('redis_version', '?'))}"
