"""What verify-deploy's checks find in the real ledger and catalog: what counts, what is left out, and by index."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import redis

from jobs.images.spec import SPEC
from tests.ledger_rows import JOB, TRACE
from tests.orders import Order, new_order, scalar
from tests.performing import Heard, Scripted, failing, found, performing
from toolkit.jobspec import CONTROL, Registry
from toolkit.ledger import evidence, traces, verifications
from toolkit.ledger.database import Database, Session
from toolkit.ledger.evidence import Ended, Window
from toolkit.run import Mode
from toolkit.telemetry.traces import Tracing
from toolkit.verify import dry
from toolkit.verify.check import Check, Scene, Target
from toolkit.verify.checks import end_to_end, new_errors, performance, satisfaction, skips, success_rate
from toolkit.verify.orders import OrderDesk
from toolkit.verify.rules import Rules
from toolkit.verify.verdict import Judgement, Verdict

RULES = Rules()
SINCE = datetime(2025, 10, 11, 17, 30, tzinfo=UTC)
NOW = SINCE + timedelta(hours=1)
WINDOW = Window("r2", SINCE, NOW)
CHECKS = tuple(
    module.CHECK for module in (new_errors, end_to_end, success_rate, skips, satisfaction, performance)
)
_numbers = itertools.count(1)


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with database.session() as session:
        yield session


def ran(session: Session, outcome: str | None = "processed", *, release: str = "r2", after: float = 60.0, job: str = "",
        name: str = JOB, done: str | None = "", **run: Any) -> str:  # fmt: skip
    """A run that began `after` seconds after SINCE, of a job of its own unless one is named; the job's id. `done`: the job's
    outcome, '' for the run's."""
    began = SINCE + timedelta(seconds=after)
    number = 1
    if job:
        number = scalar(session, "SELECT count(*) + 1 FROM toolkit.run WHERE job_id = %s", job)
    else:
        job = f"job-{next(_numbers)}"
        session.execute(
            "INSERT INTO toolkit.intent (job_id, job_name, queue, payload, created_at) VALUES (%s, %s, 'images', '{}', %s)",
            (job, name, began),
        )
    columns: dict[str, Any] = {
        "job_id": job, "job_name": name, "queue": "images", "number": number, "mode": "async", "worker": "w", "host": "h",
        "release": release, "queue_wait": 1.0, "started_at": began, "finished_at": began if outcome else None,
        "duration": 2.0 if outcome else None, "outcome": outcome, "trace_id": TRACE,
    }  # fmt: skip
    columns |= run
    session.execute(
        f"INSERT INTO toolkit.run ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})",
        tuple(columns.values()),
    )
    ended = outcome if done == "" else done
    session.execute(
        "UPDATE toolkit.intent SET outcome = %s, done_at = CASE WHEN %s::text IS NOT NULL THEN %s::timestamptz END"
        " WHERE job_id = %s",
        (ended, ended, began, job),
    )
    return job


def failed(session: Session, fingerprint: str = "f00d", *, retried: bool = False, **how: Any) -> str:
    """A run that failed, for good or to be tried again."""
    again = {"retry_at": NOW, "done": None} if retried else {}
    return ran(
        session,
        "failed",
        **{"reason": "error", "error_type": "KeyError", "fingerprint": fingerprint} | again | how,
    )


def for_test(session: Session, job: str, *, purpose: str = "top-up", verification: int | None = None) -> None:
    """Mark a job as that of a test order."""
    if verification is None:
        verification = verifications.begin(session, "r2", SINCE, "{}", who="test").verification_id
    session.execute(
        "INSERT INTO toolkit.test_order (verification_id, number, purpose, job_id, subject) VALUES (%s, %s, %s, %s, 'po')",
        (verification, next(_numbers), purpose, job),
    )


def not_counted(session: Session) -> None:
    """A run of everything that is no evidence of r2's window."""
    ran(session, release="r1")
    ran(session, after=-1)
    ran(session, after=3600)
    ran(session, None)
    ran(session, name="another-job")
    ran(session, replay_of="00000000-0000-0000-0000-000000000000")
    for_test(session, ran(session))


# Queries


def test_only_the_releases_own_runs_in_the_window_count(session: Session) -> None:
    not_counted(session)
    assert evidence.ended_runs(session, WINDOW, JOB) == []
    assert evidence.timings(session, WINDOW, JOB, limit=10) == []
    ran(session)
    ran(session)
    ran(session, "skipped", reason="no_drafts")
    ran(session, "skipped", reason="already_done")
    failed(session)
    failed(session, retried=True)
    counted = evidence.ended_runs(session, WINDOW, JOB)
    assert counted == [
        Ended("failed", "error", last=False, runs=1),
        Ended("failed", "error", last=True, runs=1),
        Ended("processed", "", last=True, runs=2),
        Ended("skipped", "already_done", last=True, runs=1),
        Ended("skipped", "no_drafts", last=True, runs=1),
    ]
    assert [one.redundant for one in counted] == [False, False, False, True, False]


def test_a_job_that_killed_its_workers_is_lost_once_also_when_it_was_replayed_since(session: Session) -> None:
    given_up = ran(session, "lost", reason="killed")
    ran(session, "lost", job=given_up, reason="killed")
    ran(session, "lost", reason="killed", done=None)
    assert evidence.lost_jobs(session, WINDOW, JOB) == 1
    session.execute(
        "UPDATE toolkit.intent SET outcome = NULL, done_at = NULL, reopened_after = 2 WHERE job_id = %s",
        (given_up,),
    )
    assert evidence.lost_jobs(session, WINDOW, JOB) == 1


def test_timings_are_the_newest_and_of_processed_runs_only(session: Session) -> None:
    for second in range(5):
        ran(session, after=second, duration=float(second), queue_wait=second / 10)
    ran(session, "skipped", after=60, reason="no_drafts", duration=99.0)
    newest = evidence.timings(session, WINDOW, JOB, limit=3)
    assert [(one.duration, one.queue_wait, one.mode) for one in newest] == [
        (4.0, 0.4, "async"),
        (3.0, 0.3, "async"),
        (2.0, 0.2, "async"),
    ]


def test_a_kind_of_error_is_known_when_it_was_before_or_another_release_has_it(session: Session) -> None:
    failed(session, "before", release="r1", after=-3600)
    failed(session, "elsewhere", release="r1")
    for fingerprint in ("before", "elsewhere", "new"):
        failed(session, fingerprint)
    ran(session, "lost", error_type="SIGSEGV", reason="killed")
    ran(session, "lost", error_type="LeaseExpired", reason="lease_expired")
    ran(session, "lost", error_type="LeaseExpired", reason="lease_expired", release="r1", after=-60)
    kinds = {one.kind: one.known for one in evidence.error_kinds(session, WINDOW, [JOB])}
    assert kinds == {"before": True, "elsewhere": True, "new": False, "SIGSEGV": False, "LeaseExpired": True}


def test_a_kind_is_counted_by_runs_and_jobs_and_shown_by_a_job_that_was_given_up(session: Session) -> None:
    given_up = failed(session, retried=True, after=1)
    failed(session, job=given_up, after=2, error_message="boom")
    failed(session, retried=True, after=3)
    (kind,) = evidence.error_kinds(session, WINDOW, [JOB])
    assert (kind.runs, kind.jobs, kind.given_up, kind.job_id, kind.message) == (3, 2, 1, given_up, "boom")
    assert kind.label == "KeyError (f00d)"


def test_jobs_that_ended_are_counted_once_and_test_orders_with_them(session: Session) -> None:
    retried = failed(session, retried=True)
    ran(session, job=retried)
    ran(session, "skipped", job=retried, reason="already_done")
    failed(session)
    failed(session, retried=True)
    for_test(session, ran(session))
    ran(session, name=CONTROL)
    assert evidence.jobs_ended(session, WINDOW, [JOB]) == 3


def test_the_history_is_the_newest_before_the_window_of_whatever_release(session: Session) -> None:
    for minute in range(1, 7):
        failed(session, "old" if minute > 3 else "often", release=f"r{minute % 2}", after=-60.0 * minute)
    twice = failed(session, "often", retried=True, after=-30)
    ran(session, job=twice, after=-20)
    ran(session, after=-10)
    ran(session)
    short, whole = (evidence.history(session, SINCE, [JOB], limit=limit) for limit in (6, 100))
    assert (short.jobs, short.kinds) == (5, {"often": 4})
    assert (whole.jobs, whole.kinds) == (8, {"often": 4, "old": 3})
    nothing = evidence.history(session, SINCE - timedelta(days=1), [JOB], limit=100)
    assert (nothing.jobs, nothing.kinds) == (0, {})


def test_a_release_is_compared_with_the_last_proven_one_that_did_not_regress_afterwards(
    session: Session,
) -> None:
    def verified(release: str, verdict: str, asked: str = "{}") -> None:
        session.execute(
            "INSERT INTO toolkit.verification (release, since, asked, who, verdict, finished_at)"
            " VALUES (%s, now(), %s, 'ann', %s, clock_timestamp())",
            (release, asked, verdict),
        )

    def compared() -> str:
        last = verifications.last_proven(session, other_than="r3")
        return last.release if last else ""

    verified("r1", "proven")
    verified("r2", "regression")
    verified("r2", "proven")
    assert compared() == "r2"
    verified("r2", "inconclusive")
    assert compared() == "r2", "nothing new is known of it"
    verified("r2", "regression", '{"checks": ["no-foreign-key-errors"]}')
    assert compared() == "r1"
    verified("r2", "proven")
    assert compared() == "r2"


def test_each_question_is_answered_by_index(database: Database, session: Session) -> None:
    failed(session)
    ran(session, "lost", error_type="SIGSEGV")

    def scanned() -> int:
        session.execute("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
        return scalar(
            session,
            "SELECT seq_scan FROM pg_stat_user_tables WHERE schemaname = 'toolkit' AND relname = 'run'",
        )

    before = scanned()
    with session.transaction():
        session.execute("SET LOCAL enable_seqscan = off")
        evidence.ended_runs(session, WINDOW, JOB)
        evidence.lost_jobs(session, WINDOW, JOB)
        evidence.timings(session, WINDOW, JOB, limit=10)
        evidence.error_kinds(session, WINDOW, [JOB])
        evidence.jobs_ended(session, WINDOW, [JOB])
        evidence.history(session, SINCE, [JOB], limit=10)
        evidence.attempts(session, "job")
    assert scanned() == before
    with session.transaction():
        session.execute("SET LOCAL enable_indexscan = off")
        session.execute("SET LOCAL enable_bitmapscan = off")
        evidence.attempts(session, "job")
    assert scanned() > before, "this test can tell"


# Looks


def scene(database: Database, broker: redis.Redis, **changes: Any) -> Scene:
    """What a check sees of r2, an hour after its deployment."""
    known: dict[str, Any] = {
        "target": Target(verification_id=1, release="r2", since=SINCE, now=NOW),
        "rules": RULES, "registry": Registry.of([SPEC]), "spec": SPEC, "database": database, "broker": broker,
    }  # fmt: skip
    return Scene(**known | changes)


def said(check: Check, what: Scene) -> Judgement:
    judgement: Judgement = check.judge(check.look(what), what.rules)
    return judgement


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_an_empty_ledger_proves_nothing(database: Database, broker: redis.Redis, check: Check) -> None:
    assert said(check, scene(database, broker)).verdict is Verdict.PENDING


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_what_is_no_evidence_of_the_release_changes_nothing(
    database: Database, session: Session, broker: redis.Redis, check: Check
) -> None:
    not_counted(session)
    for _ in range(100):
        ran(
            session,
            "failed",
            name=CONTROL,
            error_type="ForeignKeyViolation",
            sqlstate="23503",
            fingerprint="control",
        )
    assert said(check, scene(database, broker)).verdict is Verdict.PENDING


def test_a_healthy_release_is_proven_as_far_as_the_ledger_goes(
    database: Database, session: Session, broker: redis.Redis
) -> None:
    for second in range(150):
        ran(session, release="r1", after=second - 600.0)
        ran(session, after=float(second))
    earlier = Target(1, "r2", SINCE, NOW, previous="r1", before=(SINCE - timedelta(hours=1), SINCE))
    seen = scene(database, broker, target=earlier)
    verdicts = {
        check.name: said(check, seen).verdict
        for check in CHECKS
        if check.name not in {"end-to-end", "user-satisfaction"}
    }
    assert set(verdicts.values()) == {Verdict.PROVEN}, verdicts


def test_jobs_retried_to_success_are_successes_and_a_replay_does_not_undo_a_failure(
    database: Database, session: Session, broker: redis.Redis
) -> None:
    for _ in range(10):
        ran(session, job=failed(session, retried=True))
    assert "10 of 10 jobs" in said(success_rate.CHECK, scene(database, broker)).said
    given_up = failed(session)
    row = session.execute("SELECT run_id FROM toolkit.run WHERE job_id = %s", (given_up,)).fetchone()
    assert row
    ran(session, job=given_up, replay_of=row[0])
    assert "10 of 11 jobs" in said(success_rate.CHECK, scene(database, broker)).said


def test_the_incidents_release_is_a_regression_in_each_check_that_its_runs_can_tell(
    database: Database, session: Session, broker: redis.Redis
) -> None:
    for second in range(100):
        ran(session, release="r1", after=second - 600.0)
    for second in range(20):
        failed(session, "fk", after=float(second), reason="integrity", sqlstate="23503", error_type="ForeignKeyViolation",
               constraint_name="ProductImage_productDraftId_fkey")  # fmt: skip
        ran(session, after=float(second), duration=5.0, queue_wait=170.0)
    earlier = Target(1, "r2", SINCE, NOW, previous="r1", before=(SINCE - timedelta(hours=1), SINCE))
    seen = scene(database, broker, target=earlier)
    judged = {
        check.name: said(check, seen) for check in (new_errors.CHECK, success_rate.CHECK, performance.CHECK)
    }
    assert {one.verdict for one in judged.values()} == {Verdict.REGRESSION}
    assert "ForeignKeyViolation ProductImage_productDraftId_fkey (fk) 20×" in judged["success-rate"].said


def test_satisfaction_is_read_from_review_sessions_or_from_who_vouches(
    database: Database, session: Session, connection: psycopg.Connection, broker: redis.Redis
) -> None:
    order = new_order(connection, 1)
    connection.execute(
        "INSERT INTO \"ProductImage\" (id, \"productDraftId\", url, source, position) VALUES ('i', %s, 'u', 'memory', 0)",
        order.drafts,
    )
    for opened in (SINCE - timedelta(minutes=5), SINCE + timedelta(minutes=5)):
        reviewed(connection, order, opened, approved=285, rejected=15)
    earlier = Target(1, "r2", SINCE, NOW, previous="r1", before=(SINCE - timedelta(hours=1), SINCE))
    judgement = said(satisfaction.CHECK, scene(database, broker, target=earlier))
    assert judgement.verdict is Verdict.PROVEN
    assert judgement.evidence["decided"] == 300
    assert said(satisfaction.CHECK, scene(database, broker)).verdict is Verdict.PENDING, "beside what?"
    verifications.attest(
        session, "user-satisfaction", "r2", evidence="https://s.example", who="ada", valid=60.0
    )
    assert "ada vouches" in said(satisfaction.CHECK, scene(database, broker)).said


def reviewed(
    connection: psycopg.Connection, order: Order, at: datetime, *, approved: int, rejected: int
) -> None:
    """A review session with so many decisions."""
    session = f"s{next(_numbers)}"
    connection.execute(
        'INSERT INTO "ImageReviewSession" (id, "purchaseOrderId", "merchantId", status, "createdAt", "updatedAt")'
        " VALUES (%s, %s, %s, 'done', %s, now())",
        (session, order.id, order.merchant, at.replace(tzinfo=None)),
    )
    connection.execute(
        'INSERT INTO "ImageReviewItem" (id, "sessionId", "imageId", decision)'
        " SELECT %(s)s || n, %(s)s, 'i', CASE WHEN n <= %(good)s THEN 'approved' ELSE 'rejected' END"
        " FROM generate_series(1, %(all)s) n",
        {"s": session, "good": approved, "all": approved + rejected},
    )


# A real order


@pytest.fixture
def desk(database: Database, session: Session) -> OrderDesk:
    verification = verifications.begin(session, "test", SINCE, "{}", who="test")

    def keep(trace_id: str, job_id: str, data: bytes, _count: int) -> None:
        traces.store(session, [traces.TraceChunk(trace_id, job_id, data)])

    return OrderDesk(
        database=database, spec=SPEC, verification_id=verification.verification_id, release="test",
        tracing=Tracing("freshfetch", "test", {}), now=lambda: datetime.now(UTC), inline=lambda _job: None, spans=keep,
    )  # fmt: skip


def order_seen(database: Database, broker: redis.Redis, desk: OrderDesk) -> Scene:
    """What the check sees of the desk's orders, now."""
    now = datetime.now(UTC)
    return scene(
        database, broker, orders=desk.orders(),
        target=Target(desk.verification_id, "test", now - timedelta(minutes=1), now),
    )  # fmt: skip


def perform(url: str, desk: OrderDesk, search: Any = found) -> None:
    """Do the newest order's job as a worker does, and keep its spans as a supervisor does."""
    heard = Heard()
    with performing(url, search, sink=heard) as performer:
        performer.perform(desk.orders()[-1].job_id, mode=Mode.ASYNC)
    for trace_id, job_id, data, count in heard.told:
        desk.spans(trace_id, job_id, data, count)


def test_a_test_order_is_followed_from_workflow_to_images(
    database: Database, database_url: str, broker: redis.Redis, desk: OrderDesk
) -> None:
    desk.place("end-to-end", size=3)
    waiting = said(end_to_end.CHECK, order_seen(database, broker, desk))
    assert (waiting.verdict, waiting.soon) == (Verdict.PENDING, True)
    perform(database_url, desk)
    judgement = said(end_to_end.CHECK, order_seen(database, broker, desk))
    assert judgement.verdict is Verdict.PROVEN, judgement.said
    assert "3 of 3 served, one review session, one trace" in judgement.said
    desk.clean()
    gone = said(end_to_end.CHECK, order_seen(database, broker, desk))
    assert gone.verdict is Verdict.INCONCLUSIVE, "what is cleaned away cannot be looked at again"


def test_an_order_whose_draft_was_deleted_after_it_was_served_is_not_served_in_full(
    database: Database,
    database_url: str,
    broker: redis.Redis,
    desk: OrderDesk,
    connection: psycopg.Connection,
) -> None:
    desk.place("end-to-end", size=2)
    perform(database_url, desk, lambda product: found(product, images=0 if product.name.endswith("1") else 2))
    judgement = said(end_to_end.CHECK, order_seen(database, broker, desk))
    assert judgement.verdict is Verdict.REGRESSION
    assert "1 of 2 were served" in judgement.said


def test_an_order_that_came_through_at_its_second_attempt_is_not_one_trace(
    database: Database, database_url: str, broker: redis.Redis, desk: OrderDesk
) -> None:
    desk.place("end-to-end", size=1)
    perform(database_url, desk, Scripted({"Freshfetch test product 1": failing()}))
    perform(database_url, desk)
    seen = order_seen(database, broker, desk)
    judgement = said(end_to_end.CHECK, seen)
    assert "2 attempts, each a trace of its own" in judgement.said
    assert judgement.verdict is Verdict.PENDING


def test_an_order_that_another_releases_worker_took_is_a_regression(
    database: Database, database_url: str, broker: redis.Redis, desk: OrderDesk
) -> None:
    desk.place("end-to-end", size=1)
    perform(database_url, desk)
    seen = order_seen(database, broker, desk)
    target = Target(desk.verification_id, "newer", seen.target.since, seen.target.now)
    judgement = said(end_to_end.CHECK, scene(database, broker, orders=desk.orders(), target=target))
    assert judgement.verdict is Verdict.REGRESSION
    assert "it was done by release test" in judgement.said


def test_spans_that_are_torn_are_missing_spans(
    database: Database, database_url: str, broker: redis.Redis, desk: OrderDesk, session: Session
) -> None:
    desk.place("end-to-end", size=1)
    perform(database_url, desk)
    (order,) = desk.orders()
    traces.store(session, [traces.TraceChunk(order.asked_trace_id, order.job_id, b"\x0a\xff")])
    judgement = said(end_to_end.CHECK, order_seen(database, broker, desk))
    assert judgement.verdict is Verdict.PENDING
    assert "not OTLP" in judgement.said


# A dry run


def test_what_a_dry_run_overhears_is_another_databases_and_stays_open(database: Database) -> None:
    heard: list[str] = []
    hearing = dry.Heard(database, heard)
    with hearing.session() as session:
        session.execute("SELECT %s", (1,))
    hearing.close()
    with database.session() as session:
        session.execute("SELECT 2")
    assert heard == ["SELECT 1"]
