"""The control: a job of the toolkit's own that meets a foreign key violation, on purpose, so that detectors can be tried.

    job_id = plant(session, queue, release)
    planted(session, job_id)               # how it stands
    settle(session)                        # at the end: nobody is to replay it

A worker of that release takes it from the queue like any other job and violates CONTROL_CONSTRAINT between two temporary tables,
in a transaction that the error itself rolls back: nothing of it is ever committed. Its run goes the whole way of a real one, and
whoever counts failures leaves it out by its name (DECISIONS.md). A worker of another release gives it back.

Defaults: handed on at most TRIES times, 1 to 2 s apart. Known weakness: the worker's login needs TEMPORARY on the database, which
PostgreSQL gives to all unless somebody took it away; without it the control fails otherwise, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from toolkit.errors import NotFound, TransientError
from toolkit.jobspec import CONTROL, CONTROL_CONSTRAINT, JobSpec, Payload, RetryPolicy
from toolkit.run import Outcome, Result
from toolkit.verify.detect import Planted

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from toolkit.ledger.database import Session
    from toolkit.perform import JobContext
    from toolkit.settings import Settings

TRIES: Final = 20
LEFT_OVER: Final = 600.0
"""Seconds after which an open control is one that a killed verification left."""

_PLANT = f"""
CREATE TEMP TABLE freshfetch_control_draft (id integer PRIMARY KEY) ON COMMIT DROP;
CREATE TEMP TABLE freshfetch_control_image (
    draft integer CONSTRAINT {CONTROL_CONSTRAINT} REFERENCES freshfetch_control_draft
) ON COMMIT DROP;
INSERT INTO pg_temp.freshfetch_control_image VALUES (1)"""  # noqa: S608  a constant


class ControlPayload(Payload, frozen=True):
    """The release whose worker is to meet the violation."""

    release: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


def violate(context: JobContext, payload: ControlPayload) -> Result:
    """The body: raises psycopg's ForeignKeyViolation, or TransientError on a worker of another release."""
    if payload.release != context.run.release:
        raise TransientError(
            f"this worker runs release {context.run.release}, the control is for {payload.release}",
            kind="OtherRelease",
        )
    with context.database.session() as session, session.transaction():
        session.execute(_PLANT)
    return Result()


@contextmanager
def _nothing(_settings: Settings, _tracer: Tracer) -> Iterator[None]:
    yield None


SPEC: Final = JobSpec(
    name=CONTROL,
    queue="",  # that of the job that is verified: the intent says it
    payload=ControlPayload,
    body=violate,
    resources=_nothing,
    timeout=30.0,
    retry=RetryPolicy(attempts=TRIES, base=1.0, cap=2.0),
    constraints=frozenset({CONTROL_CONSTRAINT}),
    in_app=(__name__,),
)


def plant(session: Session, queue: str, release: str) -> str:
    """Ask for the control in this queue, for a worker of this release; its job id. The caller may be in a transaction."""
    payload = SPEC.encode(ControlPayload(release=release)).decode()
    row: Any = session.execute(
        # toolkit.enqueue knows the shop's jobs only.
        "WITH asked AS (INSERT INTO toolkit.intent (job_name, queue, payload, release) VALUES (%s, %s, %s::jsonb, %s)"
        " RETURNING job_id) SELECT job_id, pg_notify('toolkit_intent', %s) FROM asked",
        (CONTROL, queue, payload, release, queue),
    ).fetchone()
    return str(row[0])


_STANDS = """
SELECT i.created_at, i.done_at, i.payload ->> 'release', r.finished_at, r.release, r.outcome, r.sqlstate,
    r.constraint_name, coalesce(r.error_message, ''), coalesce(r.trace_id, '')
FROM toolkit.intent i
LEFT JOIN LATERAL (SELECT * FROM toolkit.run r WHERE r.job_id = i.job_id AND NOT (coalesce(r.outcome, '') = 'skipped')
                   ORDER BY r.number DESC LIMIT 1) r ON true
WHERE i.job_id = %s"""


def planted(session: Session, job_id: str) -> Planted:
    """How the control stands; `run_at` is when its run ended. Raises NotFound."""
    row: Any = session.execute(_STANDS, (job_id,)).fetchone()
    if row is None:
        raise NotFound(f"the ledger has no job {job_id}")
    asked_at, done_at, wanted, finished_at, release, outcome, sqlstate, constraint, message, trace_id = row
    met = (sqlstate, constraint, release) == ("23503", CONTROL_CONSTRAINT, wanted)
    trouble = ""
    if done_at is not None and not met:
        said = " ".join(message.split())[:200]
        if outcome is None:
            trouble = "the planted violation's run is not in the ledger"
        elif release != wanted:
            trouble = f"no worker of release {wanted} took the planted violation: {said}"
        elif outcome == Outcome.FAILED:
            trouble = f"the planted violation failed otherwise: {said or 'the ledger does not say how'}"
        else:
            trouble = f"the planted violation was met by no error: the ledger has its run as {outcome}"
    return Planted(job_id, asked_at, finished_at if met else None, trace_id, trouble)


def settle(session: Session) -> int:
    """Have nobody offer to replay controls: those that failed, and those that a killed verification left open; how many."""
    return session.execute(
        "UPDATE toolkit.intent i SET outcome = 'processed', done_at = coalesce(done_at, clock_timestamp())"
        " WHERE job_name = %(control)s AND (outcome IN ('failed', 'lost')"
        "  OR (done_at IS NULL AND pushed_at IS NOT NULL OR pushed_at IS NULL AND done_at IS NULL AND mode = 'async')"
        "   AND created_at < clock_timestamp() - %(age)s * interval '1 second')",
        {"control": CONTROL, "age": LEFT_OVER},
    ).rowcount
