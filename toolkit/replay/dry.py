"""A dry run: the job's body for real, on live data, with every write rolled back and nothing told.

The body fetches and searches as ever. Each of its guarded writes runs in a transaction of its own that is rolled back at
once: what it would attach is known, and no lock is held across a search. Everything else that the body does in the
database is in READ ONLY transactions, which the server enforces. There is no run: no row, no count, no span.

Known weakness: a write that needs what an earlier write of the same run left behind does not find it; and what a body does
outside the database (it should do nothing there but read) is not rolled back.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from toolkit.errors import ToolkitError
from toolkit.failures import failure_of
from toolkit.jobspec import Registry
from toolkit.ledger import replays
from toolkit.ledger.database import Database, Session
from toolkit.perform import LOCK_TIMEOUT, GuardedWrite, JobContext
from toolkit.replay.plan import Decoded, decode
from toolkit.run import Failure, Mode, Result, Run, RunRecord, record
from toolkit.telemetry.logs import Log
from toolkit.telemetry.traces import Tracing

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a run would have come to: its result, or (with what it had come to by then) its failure."""

    job_id: str
    result: Result
    failure: Failure | None


class ReadOnly(Database):
    """Another Database's connections, in READ ONLY transactions only."""

    def __init__(self, database: Database) -> None:  # builds no engine of its own
        self._database = database
        self.url = database.url

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session inside a READ ONLY transaction: a transaction of the caller's is a savepoint in it."""
        with self._database.session() as session, session.transaction():
            session.execute("SET TRANSACTION READ ONLY")
            yield session

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A connection in a READ ONLY transaction."""
        with self._database.begin() as connection:
            connection.execute(sa.text("SET TRANSACTION READ ONLY"))
            yield connection

    def close(self) -> None:
        """The connections are the other Database's."""


class DryContext(JobContext):
    """A JobContext whose guarded writes leave nothing behind."""

    __slots__ = ("writable",)

    writable: Database

    def guarded_write(self, action: Callable[[GuardedWrite], T]) -> T:
        """Run `action` in one short transaction, roll it back, and return what it said. A lock that is held fails it."""
        with self.writable.session() as session, session.transaction(force_rollback=True):
            session.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            write = GuardedWrite(session, self._finish)
            result = action(write)
        self.ended = write.ended
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRunner:
    """Runs bodies dry, in this process. `resources` are the opened JobSpec resources by job name."""

    registry: Registry
    database: Database
    tracing: Tracing
    log: Log
    resources: Mapping[str, Any]
    release: str
    host: str
    time_limit: Callable[[float], AbstractContextManager[object]]
    timeouts: tuple[type[BaseException], ...]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def run(self, job_id: str) -> DryRun:
        """One job, whatever its state. Raises ToolkitError when its payload cannot be decoded, or there is no such job."""
        with self.database.session() as session:
            found = replays.snapshots(session, [job_id])
        if not found:
            raise ToolkitError(f"the ledger has no job {job_id}")
        snapshot = found[0]
        decoded: Decoded = decode(self.registry.specs, snapshot)
        if decoded.payload is None:
            raise ToolkitError(f"job {job_id} cannot be decoded: {decoded.error}")
        spec = self.registry.get(snapshot.job_name)
        context = self._context(job_id, snapshot.job_name)
        try:
            with self.time_limit(spec.timeout):
                result = spec.body(context, decoded.payload)
        except Exception as error:  # noqa: BLE001  a body may raise anything; it is what the dry run is there to show
            failure = failure_of(error, in_app=spec.in_app, timeouts=self.timeouts)
            return DryRun(job_id, context.so_far, failure)
        finally:
            self.tracing.take()
        return DryRun(job_id, result, None)

    def _context(self, job_id: str, job_name: str) -> DryContext:
        spec, moment = self.registry.get(job_name), self.now()
        run = Run(
            run_id=str(uuid.uuid4()), fence=0, job_id=job_id, job_name=job_name, queue=spec.queue, number=0,
            mode=Mode.SYNC, release=self.release, asked_at=moment, started_at=moment, queue_wait=0.0,
        )  # fmt: skip

        def finish(_session: Session, result: Result) -> RunRecord:
            return record(run, result, worker="dry-run", host=self.host, finished_at=self.now(), duration=0.0)

        context = DryContext(
            spec=spec, run=run, database=ReadOnly(self.database), resources=self.resources.get(job_name),
            tracer=self.tracing.tracer, log=self.log.bind(job_id=job_id, job_name=job_name, queue=spec.queue, dry_run=True),
            now=self.now, _finish=finish,
        )  # fmt: skip
        context.writable = self.database
        return context
