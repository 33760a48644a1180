"""Jobs and runs in the ledger of a test, written by the ledger's own functions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from psycopg.types.json import Jsonb

from toolkit.ledger import runs
from toolkit.ledger.database import Session
from toolkit.run import Failure, Mode, Outcome, Result, Run, RunRecord, record

JOB = "background-image-processing"
DONE = Result()
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def ask(session: Session, order: str = "cmgmrnwbw0007l804macxc3mm", *, traceparent: str | None = None,
        mode: Mode = Mode.ASYNC, merchant: str = "cmgmerchant0000000000000") -> str:  # fmt: skip
    """Ask for a job; its id."""
    row: Any = session.execute(
        "SELECT toolkit.enqueue(%s, %s, %s, NULL, %s, 'r1')",
        (JOB, Jsonb({"purchaseOrderId": order, "merchantId": merchant}), traceparent, mode.value),
    ).fetchone()
    return str(row[0])


def begin(session: Session, job_id: str, *, worker: str = "host.1.0", lease: float = 30.0) -> runs.Begun:
    """Begin a run."""
    return runs.begin(session, job_id, worker=worker, host="host", release="r1", lease=lease, mode=Mode.ASYNC)


def finish(session: Session, run: Run, result: Result = DONE, *, failure: Failure | None = None,
           trace_id: str = TRACE, retry_in: float | None = None) -> RunRecord:  # fmt: skip
    """Finish a run so."""
    ended = record(run, result, failure=failure, worker="host.1.0", host="host", finished_at=datetime.now(UTC),
                   duration=1.5, trace_id=trace_id, span_id="1" * 16, retry_in=retry_in)  # fmt: skip
    runs.finish(session, run, ended)
    return ended


def ran(session: Session, job_id: str, result: Result = DONE, **how: Any) -> Run:
    """A run from begin to end."""
    run = begin(session, job_id).run
    finish(session, run, result, **how)
    return run


def found_gone(session: Session, job_id: str, detail: str = "order_deleted") -> None:
    """A replay's plan found that what the job was about is gone."""
    session.execute(
        "WITH plan AS (INSERT INTO toolkit.replay (hash, planned_by, release, selection) VALUES ('', 'me', 'r1', '{}')"
        "              RETURNING replay_id)"
        " INSERT INTO toolkit.replay_item (replay_id, job_id, verdict, detail)"
        " SELECT replay_id, %s, 'SKIP-GONE', %s FROM plan",
        (job_id, detail),
    )


def skipped(reason: str) -> Result:
    """Nothing to do."""
    return Result(outcome=Outcome.SKIPPED, reason=reason)


FK_FAILURE = Failure(
    reason="integrity", error_type="ForeignKeyViolation", sqlstate="23503", constraint="ProductImage_productDraftId_fkey",
    message='insert on table "ProductImage" violates foreign key constraint "ProductImage_productDraftId_fkey"\nDETAIL: …',
    fingerprint="f00dfeed0001", traceback="Traceback (most recent call last):\n  in attach\nForeignKeyViolation: …",
)  # fmt: skip
PASSING_FAILURE = Failure(reason="transient", error_type="ConnectTimeout", message="images.example: timed out",
                          fingerprint="beefbeef0002", retryable=True)  # fmt: skip
