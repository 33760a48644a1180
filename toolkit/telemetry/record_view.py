"""The two views of a RunRecord: its root span's attributes and its log line. One source, so that they agree.
Pure.
"""

from __future__ import annotations

from typing import Any

from toolkit import redact
from toolkit.jobspec import LogEvent
from toolkit.run import Outcome, RunRecord
from toolkit.telemetry import catalog


def span_attributes(record: RunRecord) -> dict[str, Any]:
    """Attributes of the root span, known when the run has ended. `error.type` and its kin are absent on
    success.
    """
    attributes: dict[str, Any] = {
        **catalog.messaging_attributes(catalog.OPERATION_PROCESS, record.queue, record.job_id),
        catalog.JOB_NAME: record.job_name,
        catalog.JOB_MODE: record.mode.value,
        catalog.JOB_OUTCOME: record.outcome.value,
        catalog.JOB_QUEUE_WAIT: record.queue_wait,
        catalog.RUN_ID: record.run_id,
        catalog.RUN_NUMBER: record.number,
        catalog.WORKER: record.worker,
    }
    for name, count in record.counts.items():
        attributes[catalog.JOB_COUNT + name] = count
    if record.reason:
        attributes[catalog.JOB_REASON] = record.reason
    if record.replay_of is not None:
        attributes[catalog.JOB_REPLAY_OF] = record.replay_of
    if record.retry_in is not None:
        attributes[catalog.JOB_RETRY_IN] = record.retry_in
    if record.failure is not None:
        attributes |= _failure_attributes(record)
    return attributes


def _failure_attributes(record: RunRecord) -> dict[str, Any]:
    failure = record.failure
    assert failure is not None  # noqa: S101  the caller has looked
    found = {
        catalog.ATTR_ERROR_TYPE: failure.error_type,
        catalog.DB_STATUS_CODE: failure.sqlstate,
        catalog.JOB_CONSTRAINT: failure.constraint,
        catalog.JOB_FINGERPRINT: failure.fingerprint,
    }
    return {key: text for key, text in found.items() if text}


def log_fields(record: RunRecord) -> dict[str, Any]:
    """Fields of the line at the end of a run; the trace's ids too, for the span is no longer current by
    then.
    """
    fields: dict[str, Any] = {
        "job_id": record.job_id,
        "job_name": record.job_name,
        "queue": record.queue,
        "run_id": record.run_id,
        "number": record.number,
        "mode": record.mode.value,
        "outcome": record.outcome.value,
        "worker": record.worker,
        "duration": round(record.duration, 6),
        "queue_wait": round(record.queue_wait, 6),
    }
    if record.trace_id:
        fields["trace_id"] = record.trace_id
        fields["span_id"] = record.span_id
    if record.reason:
        fields["reason"] = record.reason
    if record.counts:
        fields["counts"] = record.counts
    if record.replay_of is not None:
        fields["replay_of"] = record.replay_of
    if record.retry_in is not None:
        fields["retry_in"] = record.retry_in
    if (failure := record.failure) is not None:
        fields["error_type"] = failure.error_type
        fields["error_message"] = redact.text(failure.message)
        if failure.sqlstate:
            fields["sqlstate"] = failure.sqlstate
        if failure.constraint:
            fields["constraint"] = failure.constraint
        if failure.fingerprint:
            fields["fingerprint"] = failure.fingerprint
    return fields


_EVENTS = {
    Outcome.PROCESSED: catalog.RUN_PROCESSED,
    Outcome.SKIPPED: catalog.RUN_SKIPPED,
    Outcome.FAILED: catalog.RUN_FAILED,
    Outcome.LOST: catalog.RUN_LOST,
}


def log_event(record: RunRecord) -> LogEvent:
    """The event that tells of this record: a failure that will be tried again is only a warning."""
    if record.outcome is Outcome.FAILED and record.retry_in is not None:
        return catalog.RUN_RETRY
    return _EVENTS[record.outcome]
