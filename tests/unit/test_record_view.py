"""The record's two views: the span, the log line and the metrics say the same, because they are made from one
thing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from toolkit.run import Failure, Mode, Outcome, RunRecord
from toolkit.telemetry import catalog
from toolkit.telemetry.record_view import log_event, log_fields, span_attributes

NOW = datetime(2025, 10, 11, 17, 5, tzinfo=UTC)
RECORD = RunRecord(
    run_id="r1", job_id="j1", job_name="job", queue="images", number=2, mode=Mode.ASYNC, release="1", worker="w",
    host="h", outcome=Outcome.PROCESSED, counts={"attached": 3}, asked_at=NOW, started_at=NOW, finished_at=NOW,
    duration=0.2, queue_wait=0.1, trace_id="4" * 32, span_id="5" * 16,
)  # fmt: skip
FAILURE = Failure(
    reason="integrity", error_type="ForeignKeyViolation", message="at postgresql://u:hunter2@h", sqlstate="23503",
    constraint="ProductImage_productDraftId_fkey", fingerprint="f00",
)  # fmt: skip


def changed(**changes: Any) -> RunRecord:
    return msgspec.structs.replace(RECORD, **changes)


RECORDS = [
    RECORD,
    changed(outcome=Outcome.SKIPPED, reason="no_drafts", counts={}),
    changed(outcome=Outcome.FAILED, reason="integrity", failure=FAILURE, replay_of="j0"),
    changed(outcome=Outcome.FAILED, reason="transient", failure=FAILURE, retry_in=4.5),
    changed(outcome=Outcome.LOST, reason="killed", failure=Failure(reason="killed", error_type="SIGKILL")),
]


@pytest.mark.parametrize("record", RECORDS)
def test_span_and_log_say_the_same(record: RunRecord) -> None:
    span, log = span_attributes(record), log_fields(record)
    for key, field in {
        catalog.MESSAGING_MESSAGE_ID: "job_id", catalog.MESSAGING_DESTINATION: "queue", catalog.JOB_NAME: "job_name",
        catalog.JOB_OUTCOME: "outcome", catalog.JOB_REASON: "reason", catalog.JOB_MODE: "mode",
        catalog.RUN_ID: "run_id", catalog.RUN_NUMBER: "number", catalog.ATTR_ERROR_TYPE: "error_type",
        catalog.DB_STATUS_CODE: "sqlstate", catalog.JOB_CONSTRAINT: "constraint", catalog.WORKER: "worker",
        catalog.JOB_FINGERPRINT: "fingerprint", catalog.JOB_RETRY_IN: "retry_in", catalog.JOB_REPLAY_OF: "replay_of",
    }.items():  # fmt: skip
        assert span.get(key) == log.get(field), field
    assert {
        key.removeprefix(catalog.JOB_COUNT): n for key, n in span.items() if key.startswith(catalog.JOB_COUNT)
    } == (log.get("counts") or {})


@pytest.mark.parametrize("record", RECORDS)
def test_the_line_of_every_outcome_finds_its_fields(record: RunRecord) -> None:
    log_event(record).line.format_map(log_fields(record))


def test_a_foreign_key_error_is_told_by_its_sqlstate_and_without_credentials() -> None:
    failed = RECORDS[2]
    assert span_attributes(failed)["db.response.status_code"] == "23503"
    assert "hunter2" not in repr(log_fields(failed))


def test_success_has_no_error_type() -> None:
    assert "error.type" not in span_attributes(RECORD)


def test_a_failure_that_will_be_tried_again_is_only_a_warning() -> None:
    assert [log_event(record).level for record in RECORDS] == ["info", "info", "error", "warning", "error"]
