"""The RQ worker: RQ's SimpleWorker with its bookkeeping batched. Warm, one queue, one job at a time.

RQ sends about fifty commands in eighteen round trips a job. Here a job's end and the search for the next one share a round
trip, and its start is the second: the same keys, written by RQ's own methods into one pipeline, so that `rq info` and
rq-dashboard see what they always see. A failed or retried job takes RQ's own path.

What RQ's own worker does and this one leaves to the supervisor: registry clean-up (it may requeue a job that runs), the
scheduler, and the intermediate queue.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import cast

import redis
from redis.client import Pipeline
from rq import Queue, SimpleWorker
from rq.exceptions import DequeueTimeout, DeserializationError, NoSuchJobError, StopRequested
from rq.executions import Execution
from rq.job import Job, JobStatus, Retry
from rq.results import Result as RQResult
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty
from rq.utils import now, utcformat
from rq.worker import WorkerStatus

from toolkit.broker.batch import Batch, Taken
from toolkit.broker.codec import FreshJob
from toolkit.errors import DependencyUnreachable, NotFound, ToolkitError
from toolkit.failures import said
from toolkit.jobspec import CONTROL
from toolkit.ledger import intents
from toolkit.ledger.trouble import UNREACHABLE
from toolkit.perform import Performed, Performer
from toolkit.run import Mode
from toolkit.telemetry import catalog

BLOCK = 10
"""Seconds that an idle worker waits for a job before it beats its heart and waits again."""

TIMEOUTS: tuple[type[BaseException], ...] = (JobTimeoutException,)


def time_limit(seconds: float) -> AbstractContextManager[object]:
    """RQ's own job time limit (SIGALRM, main thread only): raises JobTimeoutException. It cannot interrupt C code that
    holds on; the supervisor kills a process that overruns."""
    return UnixSignalDeathPenalty(max(1, round(seconds)), JobTimeoutException)  # type: ignore[no-untyped-call]


class JobRefused(ToolkitError):
    """What lies in the queue is not a job of ours: not JSON, not a registered name, or not a payload of ids."""


class JobFailed(ToolkitError):
    """A job that ended in failure, in the words that go to RQ's failed job registry."""


class FreshWorker(SimpleWorker):
    """One queue, JSON only, registered jobs only. `performer` does the work."""

    log_result_lifespan = False

    def __init__(self, queue: str, *, name: str, connection: redis.Redis, performer: Performer) -> None:
        super().__init__(
            [Queue(queue, connection=connection, job_class=FreshJob, serializer=JSONSerializer)],
            name=name,
            connection=connection,
            job_class=FreshJob,
            serializer=JSONSerializer,
            log_job_description=False,
        )
        self.performer = performer
        self.queue: Queue = self.queues[0]
        self._batch = Batch(
            connection, self.queue.key, self.queue.intermediate_queue_key, FreshJob.redis_job_namespace_prefix
        )
        self._next: FreshJob | None = None
        self._suspended = False
        self._waiting = False
        self._beaten = False

    # -- taking jobs ---------------------------------------------------------------------------------------------

    def check_for_suspension(self, burst: bool) -> None:
        """`rq suspend` is seen in the round trip that takes the next job; only then does RQ's own wait begin."""
        if self._suspended:
            super().check_for_suspension(burst)

    @property
    def should_run_maintenance_tasks(self) -> bool:
        """Never: the supervisor looks after the registries."""
        return False

    def dequeue_job_and_maintain_ttl(
        self,
        timeout: int | None,
        max_idle_time: int | None = None,  # noqa: ARG002  RQ's words
    ) -> tuple[FreshJob, Queue] | None:
        """The next job: the one that came with the end of the last, else wait for one. None ends the worker: a burst that is
        done (`timeout` None), or a stop; a job that it has in hand by then goes back."""
        while self._next is None and not self._stop_requested:
            self._next = self._take()
            if self._next is None and timeout is None:
                return None
            if self._next is None:
                self._next = self._wait()
            if self._suspended:
                self.check_for_suspension(burst=False)
        if self._stop_requested or self._next is None:
            return None
        job, self._next = self._next, None
        return job, self.queue

    def _shutdown(self) -> None:
        """SIGTERM while it waits for a job: stop at once. Else stop after what is in hand: RQ's exception would fall into the
        middle of a round trip and leave the job that comes with it in nobody's hand."""
        self._stop_requested = True
        if self._waiting:
            raise StopRequested

    @property
    def told_to_stop(self) -> bool:
        """False when `work` ended for any other reason."""
        return self._stop_requested

    def teardown(self) -> None:
        """RQ's; and the job that was taken and not begun goes back, first in its queue."""
        if self._next is not None and self.connection.lrem(
            self.queue.intermediate_queue_key, 1, self._next.id
        ):
            self.connection.lpush(self.queue.key, self._next.id)
        super().teardown()  # type: ignore[no-untyped-call]

    def _take(self) -> FreshJob | None:
        """The first job of the queue, None when it is empty or suspended."""
        while True:
            pipe = self._batch.pipeline()
            self._beat(pipe, WorkerStatus.IDLE, self.worker_ttl + 60)
            taken = self._batch.run(pipe, take=True)
            job = self._taken(taken)
            if job is not None or taken.job_id is None:
                return job

    def _wait(self) -> FreshJob | None:
        """Block until a job comes, as RQ does, with a heartbeat each time nothing came."""
        while not self._suspended:
            self._waiting = True  # from here on a stop raises; one that came before is seen now
            try:
                if self._stop_requested:
                    return None
                _, job_id = self.queue.lmove(self.connection, self.queue.key, BLOCK)
            except DequeueTimeout:
                pipe = self.connection.pipeline(transaction=False)
                self.heartbeat(pipeline=pipe)
                pipe.exists(WORKERS_SUSPENDED)
                self._suspended = bool(pipe.execute()[-1])
                continue
            finally:
                self._waiting = False
            fields = self.connection.hgetall(FreshJob.redis_job_namespace_prefix.encode() + job_id)
            job = self._restored(job_id, cast("dict[bytes, bytes]", fields))
            if job is not None:
                return job
        return None

    def _taken(self, taken: Taken) -> FreshJob | None:
        self._suspended = taken.suspended
        return None if taken.job_id is None else self._restored(taken.job_id, taken.fields or {})

    def _restored(self, job_id: bytes, fields: dict[bytes, bytes]) -> FreshJob | None:
        """The job of this hash; None when there is no such job or it cannot be read: then it is out of the queue, and the
        reconciler pushes it again if the ledger knows it."""
        try:
            job = FreshJob(job_id.decode(), connection=self.connection, serializer=self.serializer)
            job.restore(fields)
        except (NoSuchJobError, ValueError, KeyError) as error:
            if fields:
                self._refused(repr(job_id), error)
            self.connection.lrem(self.queue.intermediate_queue_key, 1, cast("str", job_id))
            return None
        return job

    def _refused(self, job_id: str, error: Exception) -> None:
        catalog.emit(
            self.performer.log,
            catalog.JOB_REFUSED,
            job_id=job_id,
            job_name="job",
            queue=self.queue.name,
            error_message=said(error),
        )

    # -- doing them ----------------------------------------------------------------------------------------------

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Start, perform, end: two round trips to the broker when nothing goes wrong."""
        assert isinstance(job, FreshJob)  # noqa: S101  our own job_class
        execution = self._start(job)
        try:
            performed = self._perform(job)
        except (*UNREACHABLE, DependencyUnreachable):
            raise  # how the run ended is not in the ledger: this process ends with it, and its supervisor closes the run
        except Exception as error:  # noqa: BLE001  RQ keeps what could not even be begun
            job.ended_at = now()
            self._refused(job.id, error)
            self._fail(job, execution, error)
            return
        job.ended_at = now()
        record = performed.record
        if performed.yields:
            self._end(job, execution, performed=None)
        elif record is not None and record.retry_in is not None:
            job._result = Retry(max=(job.number_of_retries or 0) + 1, interval=round(record.retry_in))
            self.handle_job_retry(job, queue, job._result, queue.started_job_registry, execution)
        elif record is not None and record.failure is not None and record.job_name != CONTROL:
            self._fail(job, execution, JobFailed(record.failure.traceback or record.failure.message))
        else:  # a planted failure, too, is nothing that RQ should keep for a year
            self._end(job, execution, performed)

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """RQ's; but the one that RQ sends after each job went out with the job's end."""
        if self._beaten and pipeline is None:
            self._beaten = False
            return
        super().heartbeat(timeout, pipeline)

    def _beat(self, pipe: Pipeline, state: WorkerStatus, ttl: int) -> None:
        """RQ's `set_state` and `heartbeat` in two commands."""
        self._state = state
        self.last_heartbeat = now()
        pipe.hset(self.key, mapping={"state": state.value, "last_heartbeat": utcformat(self.last_heartbeat)})
        pipe.expire(self.key, ttl)

    def _perform(self, job: FreshJob) -> Performed:
        try:
            return self.performer.perform(job.id, mode=Mode.ASYNC)
        except NotFound:
            self._adopt(job)
            return self.performer.perform(job.id, mode=Mode.ASYNC)

    def _adopt(self, job: FreshJob) -> None:
        """A job that plain RQ put here: give it its intent, if it is one of ours and carries only ids."""
        try:
            name, payload = job.asked()
        except DeserializationError as error:
            raise JobRefused(
                f"job {job.id} is not JSON and was not decoded: {error}",
                remedy="ask for jobs with toolkit.enqueue; no pickle is ever read",
            ) from error
        spec = self.performer.registry.get(name)
        typed = spec.decode(payload)
        with self.performer.database.session() as session:
            intents.adopt(session, spec, job.id, typed, job.enqueued_at or job.created_at)

    def _start(self, job: FreshJob) -> Execution:
        """RQ's `prepare_execution` and `prepare_job_execution` in one round trip."""
        pipe = self._batch.pipeline()
        ttl = self.get_heartbeat_ttl(job)
        execution = Execution.create(job, ttl, pipeline=pipe, worker_name=self.name)
        self.executions[execution.id] = execution
        self._beat(pipe, WorkerStatus.BUSY, max(ttl, self.worker_ttl) + 60)
        job.prepare_for_execution(self.name, pipeline=pipe)
        pipe.persist(job.key)
        pipe.lrem(self.queue.intermediate_queue_key, 1, job.id)
        self._batch.run(pipe, take=False)
        return execution

    def _end(self, job: FreshJob, execution: Execution, performed: Performed | None) -> None:
        """RQ's `handle_job_success` and the taking of the next job in one round trip. `performed` None: another worker
        has the job now, and only this execution is taken back."""
        pipe = self._batch.pipeline()
        if performed is not None:
            self._record_success(pipe, job, execution, performed.answer)
        self.cleanup_execution(job, pipeline=pipe, execution=execution)
        self._beat(pipe, WorkerStatus.IDLE, self.worker_ttl + 60)
        self._beaten = True
        pipe.exists(job.dependents_key)
        taken = self._batch.run(pipe, take=not self._stop_requested)
        self._next = self._taken(taken)
        if performed is not None and taken.answers[-1]:
            self.queue.enqueue_dependents(job)

    def _record_success(
        self, pipe: Pipeline, job: FreshJob, execution: Execution, answer: dict[str, object]
    ) -> None:
        ttl = job.get_result_ttl(self.default_result_ttl)
        self.increment_successful_job_count(pipeline=pipe)
        ended, started = job.ended_at or now(), job.started_at or now()
        self.increment_total_working_time(ended - started, pipe)
        if ttl == 0:
            job.delete(pipeline=pipe, remove_from_queue=False)
            return
        job._status = JobStatus.FINISHED
        at = utcformat(ended)
        pipe.hset(job.key, mapping={"status": JobStatus.FINISHED, "ended_at": at, "last_heartbeat": at})
        RQResult.create(
            job,
            RQResult.Type.SUCCESSFUL,
            return_value=answer,
            ttl=ttl,
            worker_name=self.name,
            pipeline=pipe,
            execution_id=execution.id,
            execution_started_at=execution.created_at,
            execution_ended_at=job.ended_at,
        )
        job.finished_job_registry.add(job, ttl, pipe)
        if ttl > 0:
            pipe.expire(job.key, ttl)

    def _fail(self, job: FreshJob, execution: Execution, error: Exception) -> None:
        job._status = JobStatus.FAILED
        self.handle_job_failure(job, self.queue, exc_string=said(error), execution=execution)
