"""verify-deploy in the ledger: deployments, verifications and who runs them, test orders, attestations.

A verification is looked at by one runner at a time: `take` makes this process the runner, for LEASE seconds from each
`keep`. Times in UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import class_row

from toolkit.ledger.database import Session

if TYPE_CHECKING:
    import sqlalchemy as sa

LEASE: Final = 15.0
"""Seconds without a sign of life after which a runner counts as gone."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment as it was marked."""

    release: str
    at: datetime
    who: str
    note: str


@dataclass(frozen=True, slots=True)
class Verification:
    """A verification. `asked` and `receipt` are JSON (toolkit.verify.asked, toolkit.verify.verdict); `runner` is who looks
    right now, '' for nobody."""

    verification_id: int
    release: str
    since: datetime
    asked: str
    who: str
    started_at: datetime
    finished_at: datetime | None
    verdict: str
    receipt: str | None
    runner: str
    rescued_at: datetime | None
    annotation: str | None


@dataclass(frozen=True, slots=True)
class PlacedOrder:
    """A test order and its job. `outcome` is None while the job is open; `done_at`, `started_at` (of its last run) and
    `trace_id` are None or '' before."""

    number: int
    purpose: str
    job_id: str
    subject: str
    placed_at: datetime
    cleaned_at: datetime | None
    mode: str
    outcome: str | None
    reason: str
    done_at: datetime | None
    started_at: datetime | None
    release: str
    trace_id: str
    asked_trace_id: str


def mark(session: Session, release: str, *, who: str, note: str, at: datetime | None = None) -> Deployment:
    """Record a deployment, now or at `at`."""
    with session.cursor(row_factory=class_row(Deployment)) as cursor:
        row = cursor.execute(
            "INSERT INTO toolkit.deployment (release, at, who, note) VALUES (%s, coalesce(%s, clock_timestamp()), %s, %s)"
            " RETURNING release, at, who, note",
            (release, at, who, note),
        ).fetchone()
    assert row is not None  # noqa: S101  INSERT … RETURNING
    return row


def deployments(session: Session, *, limit: int = 50) -> list[Deployment]:
    """The newest deployments, newest first."""
    with session.cursor(row_factory=class_row(Deployment)) as cursor:
        return cursor.execute(
            "SELECT release, at, who, note FROM toolkit.deployment ORDER BY at DESC, deployment_id DESC LIMIT %s",
            (limit,),
        ).fetchall()


def first_run(session: Session, release: str) -> datetime | None:
    """When the release's first run began; None when it had none."""
    row: Any = session.execute(
        "SELECT started_at FROM toolkit.run WHERE release = %s ORDER BY started_at LIMIT 1", (release,)
    ).fetchone()
    return row[0] if row else None


def ran_before(session: Session, release: str, since: datetime) -> str:
    """The other release that ran last before `since`; '' for none."""
    row: Any = session.execute(
        "SELECT release FROM toolkit.run WHERE started_at < %s AND release NOT IN ('', %s) ORDER BY started_at DESC LIMIT 1",
        (since, release),
    ).fetchone()
    return row[0] if row else ""


# Verifications

_VERIFICATION = (
    "verification_id, release, since, asked::text AS asked, who, started_at, finished_at, verdict, receipt::text AS receipt,"
    " CASE WHEN runner_until > clock_timestamp() THEN coalesce(runner, '') ELSE '' END AS runner, rescued_at, annotation"
)


def begin(session: Session, release: str, since: datetime, asked: str, *, who: str) -> Verification:
    """A new verification, looked at by nobody yet."""
    with session.cursor(row_factory=class_row(Verification)) as cursor:
        row = cursor.execute(
            "INSERT INTO toolkit.verification (release, since, asked, who) VALUES (%s, %s, %s::jsonb, %s)"
            f" RETURNING {_VERIFICATION}",
            (release, since, asked, who),
        ).fetchone()
    assert row is not None  # noqa: S101  INSERT … RETURNING
    return row


def find(session: Session, verification_id: int) -> Verification | None:
    """That verification."""
    with session.cursor(row_factory=class_row(Verification)) as cursor:
        return cursor.execute(
            f"SELECT {_VERIFICATION} FROM toolkit.verification WHERE verification_id = %s", (verification_id,)
        ).fetchone()


def listed(session: Session, *, limit: int = 20, release: str | None = None) -> list[Verification]:
    """The newest verifications (of that release), newest first."""
    with session.cursor(row_factory=class_row(Verification)) as cursor:
        return cursor.execute(
            f"SELECT {_VERIFICATION} FROM toolkit.verification WHERE %(release)s::text IS NULL OR release = %(release)s"
            " ORDER BY verification_id DESC LIMIT %(limit)s",
            {"release": release, "limit": limit},
        ).fetchall()


_WHOLE = "finished_at IS NOT NULL AND coalesce(asked -> 'checks', '[]') = '[]'"
"""It has ended, and was of whole phases, not of single checks."""


def last_whole(session: Session, release: str) -> Verification | None:
    """The newest verification of this release that has ended, of whole phases and not of single checks."""
    with session.cursor(row_factory=class_row(Verification)) as cursor:
        return cursor.execute(
            f"SELECT {_VERIFICATION} FROM toolkit.verification WHERE {_WHOLE} AND release = %s"
            " ORDER BY verification_id DESC LIMIT 1",
            (release,),
        ).fetchone()


def last_proven(session: Session, *, other_than: str) -> Verification | None:
    """The newest verification of another release that ended proven, of whole phases and not of single checks, with no regression
    of that release after it: what this release is compared with."""
    with session.cursor(row_factory=class_row(Verification)) as cursor:
        return cursor.execute(
            f"SELECT {_VERIFICATION} FROM toolkit.verification v WHERE {_WHOLE} AND verdict = 'proven' AND release <> %s"
            " AND NOT EXISTS (SELECT FROM toolkit.verification w WHERE w.release = v.release AND w.verdict = 'regression'"
            "  AND w.finished_at > v.finished_at) ORDER BY finished_at DESC LIMIT 1",
            (other_than,),
        ).fetchone()


def take(session: Session, verification_id: int, runner: str, *, gone: str = "") -> str:
    """Become its runner, also in place of `gone`, who is known to be dead; '' when that is done, else who has it."""
    row: Any = session.execute(
        "UPDATE toolkit.verification SET runner = %(runner)s, runner_until = clock_timestamp() + %(lease)s * interval '1 second'"
        " WHERE verification_id = %(id)s AND (runner IS NULL OR runner IN (%(runner)s, %(gone)s)"
        " OR runner_until <= clock_timestamp()) RETURNING ''",
        {"runner": runner, "gone": gone, "lease": LEASE, "id": verification_id},
    ).fetchone()
    if row is not None:
        return ""
    found = find(session, verification_id)
    return found.runner if found and found.runner else "nobody any more: try again"


def keep(
    session: Session, verification_id: int, runner: str, *, verdict: str, receipt: str, finished: bool
) -> bool:
    """Save what was found, and stay the runner (unless `finished`); False when somebody else has taken it over."""
    return (
        session.execute(
            "UPDATE toolkit.verification SET verdict = %(verdict)s, receipt = %(receipt)s::jsonb,"
            " finished_at = CASE WHEN %(finished)s THEN clock_timestamp() END,"
            " runner = CASE WHEN NOT %(finished)s THEN runner END,"
            " runner_until = CASE WHEN NOT %(finished)s THEN clock_timestamp() + %(lease)s * interval '1 second' END"
            " WHERE verification_id = %(id)s AND runner = %(runner)s",
            {
                "verdict": verdict, "receipt": receipt, "finished": finished, "lease": LEASE, "id": verification_id,
                "runner": runner,
            },
        ).rowcount
        > 0
    )  # fmt: skip


def leave(session: Session, verification_id: int, runner: str) -> None:
    """Stop looking, without an end."""
    session.execute(
        "UPDATE toolkit.verification SET runner = NULL, runner_until = NULL WHERE verification_id = %s AND runner = %s",
        (verification_id, runner),
    )


def rescue_once(session: Session, verification_id: int) -> bool:
    """True for the one caller who may act on a regression."""
    return (
        session.execute(
            "UPDATE toolkit.verification SET rescued_at = clock_timestamp() WHERE verification_id = %s AND rescued_at IS NULL",
            (verification_id,),
        ).rowcount
        > 0
    )


def annotate(session: Session, verification_id: int, annotation: str) -> None:
    """Remember its annotation in Grafana."""
    session.execute(
        "UPDATE toolkit.verification SET annotation = %s WHERE verification_id = %s",
        (annotation, verification_id),
    )


# Test orders


def next_number(connection: sa.Connection, verification_id: int) -> int:
    """The number of its next test order. Whoever else places one waits for this transaction to end."""
    key = (verification_id,)
    connection.exec_driver_sql(
        "SELECT FROM toolkit.verification WHERE verification_id = %s FOR NO KEY UPDATE", key
    )
    query = "SELECT coalesce(max(number), 0) + 1 FROM toolkit.test_order WHERE verification_id = %s"
    return int(connection.exec_driver_sql(query, key).scalar_one())


def note_test_order(
    connection: sa.Connection, verification_id: int, *, number: int, purpose: str, job_id: str, subject: str
) -> None:
    """A test order, in the transaction that places it; a second one of that number is refused (IntegrityError)."""
    connection.exec_driver_sql(
        "INSERT INTO toolkit.test_order (verification_id, number, purpose, job_id, subject) VALUES (%s, %s, %s, %s, %s)",
        (verification_id, number, purpose, job_id, subject),
    )


_PLACED = """
SELECT t.number, t.purpose, t.job_id, t.subject, t.placed_at, t.cleaned_at, i.mode,
    CASE WHEN i.done_at IS NOT NULL THEN coalesce(i.outcome, 'processed') END AS outcome, coalesce(r.reason, '') AS reason,
    i.done_at, r.started_at, coalesce(r.release, '') AS release, coalesce(r.trace_id, '') AS trace_id,
    coalesce(split_part(i.traceparent, '-', 2), '') AS asked_trace_id
FROM toolkit.test_order t JOIN toolkit.intent i USING (job_id)
LEFT JOIN LATERAL (SELECT * FROM toolkit.run r WHERE r.job_id = t.job_id AND r.reason NOT IN ('already_done', 'already_running')
                   ORDER BY r.number DESC LIMIT 1) r ON true
WHERE t.verification_id = %s ORDER BY t.number"""


def placed_orders(session: Session, verification_id: int) -> list[PlacedOrder]:
    """The verification's test orders, in order."""
    with session.cursor(row_factory=class_row(PlacedOrder)) as cursor:
        return cursor.execute(_PLACED, (verification_id,)).fetchall()


def to_clean(session: Session, verification_id: int | None = None) -> list[str]:
    """Subjects of test orders that are in the catalog still: of this verification, or (None) of those that are over, or that
    nobody has run for an hour."""
    rows = session.execute(
        "SELECT t.subject FROM toolkit.test_order t JOIN toolkit.verification v USING (verification_id)"
        " WHERE t.cleaned_at IS NULL AND (t.verification_id = %(id)s OR %(id)s::bigint IS NULL AND (v.finished_at IS NOT NULL"
        " OR greatest(v.runner_until, t.placed_at) < clock_timestamp() - interval '1 hour'))",
        {"id": verification_id},
    ).fetchall()
    return [row[0] for row in rows]


def any_placed(session: Session) -> bool:
    """True while a test order of any verification is in the catalog."""
    row: Any = session.execute(
        "SELECT EXISTS (SELECT FROM toolkit.test_order WHERE cleaned_at IS NULL)"
    ).fetchone()
    return bool(row[0])


def cleaned(session: Session, subjects: Sequence[str]) -> None:
    """These test orders are gone from the catalog."""
    session.execute(
        "UPDATE toolkit.test_order SET cleaned_at = clock_timestamp() WHERE subject = ANY(%s) AND cleaned_at IS NULL",
        (list(subjects),),
    )


# Attestations


@dataclass(frozen=True, slots=True)
class Attestation:
    """What somebody vouched for."""

    what: str
    release: str
    evidence: str
    who: str
    at: datetime
    valid_until: datetime


def attest(
    session: Session, what: str, release: str, *, evidence: str, who: str, valid: float
) -> Attestation:
    """Vouch for something, for `valid` seconds."""
    with session.cursor(row_factory=class_row(Attestation)) as cursor:
        row = cursor.execute(
            "INSERT INTO toolkit.attestation (what, release, evidence, who, valid_until)"
            " VALUES (%s, %s, %s, %s, clock_timestamp() + %s * interval '1 second')"
            " RETURNING what, release, evidence, who, at, valid_until",
            (what, release, evidence, who, valid),
        ).fetchone()
    assert row is not None  # noqa: S101  INSERT … RETURNING
    return row


def attested(session: Session, what: str, release: str) -> Attestation | None:
    """The newest attestation of this that is still valid."""
    with session.cursor(row_factory=class_row(Attestation)) as cursor:
        return cursor.execute(
            "SELECT what, release, evidence, who, at, valid_until FROM toolkit.attestation"
            " WHERE what = %s AND release = %s AND valid_until > clock_timestamp() ORDER BY attestation_id DESC LIMIT 1",
            (what, release),
        ).fetchone()
