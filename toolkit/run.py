"""What a run is: the words, the legal moves and the one record at its end. Pure: no clock, no I/O.

    asked ──▶ running ──▶ processed | skipped | failed          written by the holder of the run, once
                     └──▶ lost                                  written by a supervisor when the holder is gone

A RunRecord is the single source of the ledger's row, the metrics, the log line and the root span's attributes.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """How a run ended."""

    PROCESSED = "processed"
    SKIPPED = "skipped"
    FAILED = "failed"
    LOST = "lost"


class Mode(StrEnum):
    """Who runs the body: a worker, or the importer inline."""

    ASYNC = "async"
    SYNC = "sync"


class Reason(StrEnum):
    """The toolkit's own reasons; a JobSpec adds its own for skips. Together they are the closed list of a job."""

    ALREADY_DONE = "already_done"  # skipped: an earlier run finished the job
    ALREADY_RUNNING = "already_running"  # skipped: another worker holds the job
    TRANSIENT = "transient"  # failed: network, 5xx, time-outs; retried
    INTEGRITY = "integrity"  # failed: SQLSTATE class 23; never retried
    PAYLOAD_REFUSED = "payload_refused"  # failed: the guard at the worker
    TIMEOUT = "timeout"  # failed: the job's own time limit
    SUPERSEDED = "superseded"  # failed: given up as lost meanwhile, nothing written
    ERROR = "error"  # failed: anything else, a bug
    KILLED = "killed"  # lost: the worker process died; error_type is the signal or exit code
    LEASE_EXPIRED = "lease_expired"  # lost: the whole host fell silent


CORE_SKIP_REASONS = frozenset({Reason.ALREADY_DONE, Reason.ALREADY_RUNNING})


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One measurement of a job's own metric: counters are added, histograms observe. Labels in the catalog's order."""

    metric: str
    labels: tuple[str, ...]
    value: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a job body returns: `processed` or `skipped` with a reason; counts by name; samples for its metrics."""

    outcome: Outcome = Outcome.PROCESSED
    reason: str = ""
    counts: dict[str, int] = {}
    samples: tuple[Sample, ...] = ()

    def answer(self) -> dict[str, object]:
        """What the caller of the job sees, e.g. `{"success": true, "skipped": true, "reason": "no_drafts"}`."""
        answer: dict[str, object] = {"success": True, "skipped": self.outcome is Outcome.SKIPPED}
        if self.reason:
            answer["reason"] = self.reason
        return answer | dict(self.counts)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run failed. `error_type` is the exception's class name, or a signal's for a lost run."""

    reason: str
    error_type: str
    message: str = ""
    sqlstate: str = ""
    constraint: str = ""
    fingerprint: str = ""
    traceback: str = ""
    retryable: bool = False


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that holds its job: (run_id, fence) is checked by every guarded write. Times are in UTC."""

    run_id: str
    fence: int
    job_id: str
    job_name: str
    queue: str
    number: int
    mode: Mode
    release: str
    asked_at: datetime
    started_at: datetime
    queue_wait: float
    replay_of: str | None = None


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Everything worth telling of a run that ended. Durations in seconds, times in UTC."""

    run_id: str
    job_id: str
    job_name: str
    queue: str
    number: int
    mode: Mode
    release: str
    worker: str
    host: str
    outcome: Outcome
    reason: str = ""
    counts: dict[str, int] = {}
    samples: tuple[Sample, ...] = ()
    failure: Failure | None = None
    asked_at: datetime
    started_at: datetime
    finished_at: datetime
    duration: float
    queue_wait: float
    trace_id: str = ""
    span_id: str = ""
    replay_of: str | None = None
    retry_in: float | None = None  # seconds until the next attempt; None: this was the last


def record(run: Run, result: Result, *, failure: Failure | None = None, worker: str, host: str, finished_at: datetime,
           duration: float, trace_id: str = "", span_id: str = "", retry_in: float | None = None) -> RunRecord:  # fmt: skip
    """The record of `run`: its `result`, or, with a `failure`, what the result had come to by then."""
    return RunRecord(
        run_id=run.run_id,
        job_id=run.job_id,
        job_name=run.job_name,
        queue=run.queue,
        number=run.number,
        mode=run.mode,
        release=run.release,
        worker=worker,
        host=host,
        outcome=Outcome.FAILED if failure else result.outcome,
        reason=failure.reason if failure else result.reason,
        counts=result.counts,
        samples=result.samples,
        failure=failure,
        asked_at=run.asked_at,
        started_at=run.started_at,
        finished_at=finished_at,
        duration=duration,
        queue_wait=run.queue_wait,
        trace_id=trace_id,
        span_id=span_id,
        replay_of=run.replay_of,
        retry_in=retry_in,
    )
