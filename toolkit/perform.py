"""A run, from begin to end, as a pipeline of small steps; the same for a worker and for an importer inline.

    begin (become the holder) → guard the payload → body → finish (fenced) → tell (log, span, record)

Whatever happens, a run that began ends in exactly one record, and the ledger, the metrics, the log and the root span say
the same, because they are made from it. A run that was given up as lost meanwhile tells nothing: who gave it up did.

Known weakness: when PostgreSQL stays away for longer than FINISH_PATIENCE the run is left open, and `perform` raises: the
worker process ends with it, and its supervisor closes the run as lost; an inline run's lease expires.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import psycopg
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer
from opentelemetry.util.types import AttributeValue

from toolkit.errors import Superseded, UnknownJob
from toolkit.failures import failure_of
from toolkit.jobspec import JobSpec, Registry
from toolkit.ledger import runs
from toolkit.ledger.database import Database, Pinned, Session, patiently, pipelined
from toolkit.run import Failure, Mode, Outcome, Reason, Result, Run, RunRecord, record
from toolkit.telemetry import catalog
from toolkit.telemetry.logs import Log
from toolkit.telemetry.record_view import log_event, log_fields, span_attributes
from toolkit.telemetry.traces import Tracing, context_from, link_to

T = TypeVar("T")

FINISH_PATIENCE = 60.0
"""Seconds that a run waits for PostgreSQL to come back before it gives its place up."""

WRITE_PATIENCE = 10.0
"""Seconds that a guarded write tries again when it meets a lock that is held, before the run fails as transient."""

LOCK_TIMEOUT = "800ms"
"""For locks that a body does not ask for NOWAIT. Shorter than PostgreSQL's deadlock_timeout (1 s): in a deadlock with the
shop's own statements it is the job that gives way, not the shop."""

LOCK_WAITS = (0.02, 0.1)
"""Seconds between two tries of a guarded write that met a held lock: the first wait, doubled up to the second."""

_YIELDING = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)


class Sink(Protocol):
    """Where a process hands over what it has to tell: a worker to its supervisor, an importer to the ledger."""

    uncounted: bool
    """True when the ledger must keep the record for a supervisor to count."""

    def began(self, run: Run, timeout: float, trace_id: str) -> None:
        """A run holds its job now; past `timeout` seconds its process may be killed."""

    def ended(self, ended: RunRecord) -> None:
        """A run ended."""

    def spans(self, trace_id: str, job_id: str, run_id: str, data: bytes, count: int) -> None:
        """The finished spans of a run, as OTLP bytes."""

    def dropped(self, signal: str, reason: str, count: int = 1) -> None:
        """Telemetry that was lost before it came here; words of the catalog."""


@dataclass(slots=True)
class GuardedWrite:
    """One guarded write: the psycopg session inside its transaction, which holds the run."""

    session: Session
    _finish: Callable[[Session, Result], RunRecord]
    ended: RunRecord | None = None

    def finish(self, result: Result) -> None:
        """Finish the run in this transaction: the last thing a last write does."""
        self.ended = self._finish(self.session, result)


@dataclass(slots=True)
class JobContext:
    """What a job body gets beside its payload."""

    spec: JobSpec
    run: Run
    database: Database
    resources: Any
    tracer: Tracer
    log: Log
    now: Callable[[], datetime]
    _finish: Callable[[Session, Result], RunRecord]
    so_far: Result = field(default=Result(), init=False)
    """What is committed already: the body keeps it up to date, so that a run that fails half way tells the truth."""
    ended: RunRecord | None = field(default=None, init=False)
    """The record, once a guarded write has finished the run."""
    pending: RunRecord | None = field(default=None, init=False)
    """The record of a last write whose commit may or may not have been carried out."""

    @contextmanager
    def span(self, name: str, **attributes: AttributeValue) -> Iterator[Span]:
        """A child span of the run; an exception marks it as failed with `error.type`."""
        with self.tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                mark_failed(span, type(error).__qualname__)
                raise

    def guarded_write(self, action: Callable[[GuardedWrite], T]) -> T:
        """Run `action` in one short transaction at READ COMMITTED that holds this run; again when it met a held lock.

        Raises psycopg.Error: TK001 when the run is superseded (nothing is written), lock errors after WRITE_PATIENCE.
        """
        deadline = time.monotonic() + WRITE_PATIENCE
        pause, longest = LOCK_WAITS
        while True:
            try:
                with self.database.session() as session, pipelined(session):
                    runs.hold(session, self.run, LOCK_TIMEOUT)
                    write = GuardedWrite(session, self._finish)
                    result = action(write)
                    self.pending = write.ended
                self.ended = write.ended
                return result
            except _YIELDING:
                if time.monotonic() > deadline:
                    raise
                time.sleep(pause)  # the lock's holder gives no signal across sessions
                pause = min(longest, 2 * pause)


@dataclass(frozen=True, slots=True)
class Performed:
    """How a delivery ended, for whoever delivered it. `record` is None when the run was superseded: another run has the
    job now, and the broker's entry is no longer ours to change."""

    record: RunRecord | None
    answer: dict[str, object]

    @property
    def yields(self) -> bool:
        """True when another run has the job: leave the broker's entry alone."""
        return self.record is None or self.record.reason == Reason.ALREADY_RUNNING


@dataclass(frozen=True, slots=True, kw_only=True)
class Performer:
    """Performs jobs for one process. `resources` are the opened JobSpec resources by job name; `random` gives [0, 1)."""

    registry: Registry
    database: Database
    tracing: Tracing
    log: Log
    sink: Sink
    resources: Mapping[str, Any]
    worker: str
    host: str
    release: str
    lease: float
    random: Callable[[], float]
    time_limit: Callable[[float], AbstractContextManager[object]]
    """Ends the body with one of `timeouts` after so many seconds."""
    timeouts: tuple[type[BaseException], ...]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def perform(self, job_id: str, *, mode: Mode) -> Performed:
        """Perform one delivery of a job. Raises NotFound when the ledger has no such intent, an error of UNREACHABLE or
        DependencyUnreachable when PostgreSQL stays away; errors of the job itself end in the record, never in an exception."""
        with closing(Pinned(self.database)) as database:
            return dataclasses.replace(self, database=database)._perform(job_id, mode)  # noqa: SLF001  a copy of itself

    def _perform(self, job_id: str, mode: Mode) -> Performed:
        clock = _Clock(time.time_ns(), time.monotonic())
        begun = self._begin(job_id, mode)
        run = begun.run
        began_ns = time.time_ns()
        with self._root_span(begun, clock.started_ns) as span:
            trace_id, span_id = _ids(span)
            self.tracing.tracer.start_span(catalog.SPAN_BEGIN, start_time=clock.started_ns).end(began_ns)
            log = self.log.bind(job_id=run.job_id, job_name=run.job_name, queue=run.queue)

            def finished(
                result: Result, failure: Failure | None = None, retry_in: float | None = None
            ) -> RunRecord:
                return record(
                    run, result, failure=failure, worker=self.worker, host=self.host, finished_at=self.now(),
                    duration=time.monotonic() - clock.started, trace_id=trace_id, span_id=span_id, retry_in=retry_in,
                )  # fmt: skip

            if begun.refusal:
                ended: RunRecord | None = finished(Result(outcome=Outcome.SKIPPED, reason=begun.refusal))
                catalog.emit(log, catalog.RUN_NOT_NEEDED, reason=begun.refusal)
            else:
                ended = self._attempt(begun, span, log, finished)
            if ended is not None:
                span.set_attributes(span_attributes(ended))
                if ended.failure is not None:
                    mark_failed(span, ended.failure.error_type)
                catalog.emit(log, log_event(ended), **log_fields(ended))
        if ended is not None:
            self.sink.ended(ended)
        data, count = self.tracing.take()
        self.sink.spans(trace_id, run.job_id, run.run_id, data, count)
        if lost := self.tracing.take_dropped():
            self.sink.dropped("spans", "buffer_full", lost)
        return Performed(record=ended, answer=_answer(ended))

    def _begin(self, job_id: str, mode: Mode) -> runs.Begun:
        again = False

        def begin() -> runs.Begun:
            nonlocal again
            with self.database.session() as session:
                if again:  # the answer to the last try may be lost, and its run open, in nobody's hand
                    runs.lose_unanswered(session, job_id, self.worker)
                again = True
                return runs.begin(
                    session, job_id, worker=self.worker, host=self.host, release=self.release, lease=self.lease, mode=mode
                )  # fmt: skip

        return patiently(begin, within=FINISH_PATIENCE)

    @contextmanager
    def _root_span(self, begun: runs.Begun, start_ns: int) -> Iterator[Span]:
        """CONSUMER span `perform {queue}`: linked to the span that asked, and its child on the first run; a later run
        starts a trace of its own, linked to the run that it tries again or replays."""
        run = begun.run
        asked = context_from(begun.traceparent, begun.tracestate)
        links = [link_to(asked.span_context, catalog.LINK_ASKED)] if asked else []
        replays = run.replay_of is not None and run.replay_of == begun.previous_run_id
        if run.number > 1 and begun.previous_trace_id and begun.previous_span_id:
            before = _span_context(begun.previous_trace_id, begun.previous_span_id)
            kind = catalog.LINK_REPLAY if replays else catalog.LINK_RETRY
            links.append(link_to(before, kind, begun.previous_run_id or ""))
        with self.tracing.tracer.start_as_current_span(
            catalog.span_perform(run.queue),
            context=asked.context if asked and run.number == 1 else self.tracing.no_parent,
            kind=SpanKind.CONSUMER,
            links=links,
            start_time=start_ns,
            attributes=catalog.messaging_attributes("process", run.queue, run.job_id),
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield span

    def _attempt(
        self, begun: runs.Begun, span: Span, log: Log, finished: Callable[..., RunRecord]
    ) -> RunRecord | None:
        run = begun.run

        def finish_inside(session: Session, result: Result) -> RunRecord:
            ended = finished(result)
            runs.finish_held(session, run, ended, uncounted=self.sink.uncounted)
            return ended

        spec: JobSpec | None = None
        context: JobContext | None = None
        try:
            spec = self.registry.get(run.job_name)
            self.sink.began(run, spec.timeout, _ids(span)[0])
            context = JobContext(
                spec=spec, run=run, database=self.database, resources=self.resources.get(spec.name),
                tracer=self.tracing.tracer, log=log, now=self.now, _finish=finish_inside,
            )  # fmt: skip
            payload = spec.decode(begun.payload)
            with self.time_limit(spec.timeout):
                result = spec.body(context, payload)
            ended = context.ended or finished(result)
        except UnknownJob as error:
            ended = finished(Result(), failure_of(error, in_app=()))
        except Exception as error:  # noqa: BLE001  a job may raise anything; it ends in the record
            if context is not None and context.ended is not None:
                ended = (
                    context.ended
                )  # the run had finished in its last write; what came after changes nothing
            else:
                failure = failure_of(error, in_app=spec.in_app if spec else (), timeouts=self.timeouts)
                so_far = context.so_far if context else Result()
                ended = finished(so_far, failure, self._retry_in(spec, failure, begun.retries))
        if context is not None and context.ended is not None:
            return ended
        pending = context.pending if context else None
        try:
            return self._finish_outside(run, ended, pending, log)
        except (TypeError, ValueError, psycopg.DataError) as error:  # a result that JSON or jsonb cannot hold
            return self._finish_outside(run, finished(Result(), failure_of(error, in_app=())), pending, log)

    def _finish_outside(
        self, run: Run, ended: RunRecord, pending: RunRecord | None, log: Log
    ) -> RunRecord | None:
        """Finish a run that its body did not finish, waiting for PostgreSQL if it must; None when superseded."""

        def write() -> Outcome:
            with self.database.session() as session:
                return runs.finish(session, run, ended, uncounted=self.sink.uncounted)

        try:
            standing = patiently(write, within=FINISH_PATIENCE)
        except Superseded:
            catalog.emit(log, catalog.RUN_SUPERSEDED, run_id=run.run_id, number=run.number)
            return None
        if standing is ended.outcome:
            return ended
        # The answer to the last write's commit was lost, and it had been carried out: the ledger's word stands.
        assert pending is not None and pending.outcome is standing  # noqa: S101, PT018  nobody else finishes a held run
        return pending

    def _retry_in(self, spec: JobSpec | None, failure: Failure, retries: int) -> float | None:
        if spec is None or not failure.retryable or retries >= spec.retry.attempts:
            return None
        return spec.retry.wait(retries, self.random())


@dataclass(frozen=True, slots=True)
class _Clock:
    started_ns: int
    started: float


def mark_failed(span: Span, error_type: str) -> None:
    """`error.type` and an error status: absent on success."""
    span.set_attribute(catalog.ATTR_ERROR_TYPE, error_type)
    span.set_status(Status(StatusCode.ERROR))


def _answer(ended: RunRecord | None) -> dict[str, object]:
    if ended is None:
        return {"success": True, "skipped": True, "reason": Reason.SUPERSEDED.value}
    if ended.failure is not None:
        return {"success": False, "reason": ended.reason, "error": ended.failure.message}
    return Result(outcome=ended.outcome, reason=ended.reason, counts=ended.counts).answer()


def _ids(span: Span) -> tuple[str, str]:
    context = span.get_span_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def _span_context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )
