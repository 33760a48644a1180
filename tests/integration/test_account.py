"""Ledger and counters: what the supervisor's own account finds when they disagree, and the backlog of failed jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.ledger_rows import FK_FAILURE, JOB, PASSING_FAILURE, ask, begin, finish, found_gone, ran, skipped
from toolkit.broker.account import COUNTERS, LEDGER, Account, lacking
from toolkit.jobspec import Registry
from toolkit.ledger import runs
from toolkit.ledger.database import Database, Session
from toolkit.run import RunRecord
from toolkit.telemetry.metrics import Metrics
from toolkit.verify import control


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with database.session() as session:
        yield session


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(Registry.installed(), release="r1")


@pytest.fixture
def account(database: Database, metrics: Metrics) -> Account:
    return Account(database, metrics, "host.1.", 600.0)


@pytest.fixture
def run_job(session: Session) -> Callable[..., RunRecord]:
    """A run that ended `ago` seconds ago, as its worker would tell of it."""

    def run_job(*, ago: float = 30.0, worker: str = "host.1.0", **how: object) -> RunRecord:
        run = begin(session, ask(session), worker=worker).run
        ended = finish(session, run, **how)  # type: ignore[arg-type]
        session.execute(
            "UPDATE toolkit.run SET finished_at = finished_at - %s * interval '1 second' WHERE run_id = %s",
            (ago, run.run_id),
        )
        return ended

    return run_job


def count(metrics: Metrics, side: str) -> float | None:
    return metrics.value("job_runs_unaccounted_total", missing_in=side)


def test_a_run_that_is_told_and_in_the_ledger_is_no_disagreement(
    account: Account, metrics: Metrics, run_job: Callable[..., RunRecord]
) -> None:
    for ago in (0.0, 30.0, 90.0):
        account.told(run_job(ago=ago))
    assert [account.run_once() for _ in range(3)] == [{}, {}, {}]
    assert (count(metrics, COUNTERS), count(metrics, LEDGER)) == (0, 0)


def test_a_run_that_nobody_told_is_counted_once_at_the_second_look(
    account: Account, metrics: Metrics, run_job: Callable[..., RunRecord]
) -> None:
    run_job()
    assert [account.run_once() for _ in range(4)] == [{}, {COUNTERS: 1}, {}, {}]
    assert (count(metrics, COUNTERS), count(metrics, LEDGER)) == (1, 0)


def test_a_run_that_the_ledger_lost_is_counted(
    account: Account, session: Session, run_job: Callable[..., RunRecord]
) -> None:
    ended = run_job()
    account.told(ended)
    account.run_once()
    session.execute("DELETE FROM toolkit.intent WHERE job_id = %s", (ended.job_id,))
    assert [account.run_once() for _ in range(3)] == [{}, {LEDGER: 1}, {}]


def test_a_late_word_is_no_disagreement(account: Account, run_job: Callable[..., RunRecord]) -> None:
    """The supervisor was busy for a while: at the second look it has read what its workers said."""
    ended = run_job()
    account.run_once()
    account.told(ended)
    assert [account.run_once() for _ in range(3)] == [{}, {}, {}]


def test_what_ended_just_now_need_not_be_told_yet(
    account: Account, run_job: Callable[..., RunRecord]
) -> None:
    run_job(ago=0.0)
    assert [account.run_once() for _ in range(2)] == [{}, {}]


def test_runs_of_other_workers_and_unneeded_deliveries_are_left_out(
    account: Account, session: Session, run_job: Callable[..., RunRecord]
) -> None:
    run_job(worker="host.12.0")
    run_job(result=skipped("already_done"))
    lost = begin(session, ask(session)).run
    runs.lose(session, "host.1.0", "SIGKILL")
    session.execute(
        "UPDATE toolkit.run SET finished_at = finished_at - interval '30 s' WHERE run_id = %s", (lost.run_id,)
    )
    assert [account.run_once() for _ in range(2)] == [{}, {}]


@pytest.mark.parametrize(
    ("due", "ended", "sides"),
    [(5, 5, (0, 0)), (6, 6, (1, 0)), (3, 4, (0, 1)), (5, 9, (0, 0))],
)
def test_each_side_is_held_to_what_the_other_must_have(due: int, ended: int, sides: tuple[int, int]) -> None:
    found = lacking(told_before=5, told_after=5, due=due, ended=ended)
    assert (found[COUNTERS], found[LEDGER]) == sides


def test_a_planted_violation_is_accounted_for_like_any_run(
    account: Account, session: Session, metrics: Metrics
) -> None:
    """Counters leave it out of the runs; the account counts what workers told, and that is all of them."""

    def planted() -> RunRecord:
        run = begin(session, control.plant(session, "images", "r1")).run
        ended = finish(session, run, failure=FK_FAILURE)
        metrics.observe(ended)
        session.execute(
            "UPDATE toolkit.run SET finished_at = finished_at - interval '30 s' WHERE run_id = %s",
            (run.run_id,),
        )
        return ended

    account.told(planted())
    assert [account.run_once() for _ in range(2)] == [{}, {}]
    assert runs.unresolved(session) == {}
    planted()  # nobody told of this one
    assert [account.run_once() for _ in range(2)] == [{}, {COUNTERS: 1}]


def test_the_backlog_is_what_was_given_up_and_not_resolved(session: Session) -> None:
    ran(session, ask(session), failure=FK_FAILURE)
    ran(session, ask(session), failure=PASSING_FAILURE, retry_in=5.0)  # will be tried again
    ran(session, ask(session))
    old = ran(session, ask(session), failure=FK_FAILURE)
    session.execute(
        "UPDATE toolkit.intent SET done_at = done_at - interval '8 days' WHERE job_id = %s", (old.job_id,)
    )
    gone = ran(session, ask(session), failure=FK_FAILURE)
    found_gone(session, gone.job_id)
    assert runs.unresolved(session) == {JOB: 1}


def test_the_backlog_of_a_job_that_is_not_registered_is_other(metrics: Metrics) -> None:
    metrics.set_failed_backlog({JOB: 2, "of-another-release": 3, "older-still": 1})
    assert metrics.value("job_failed_backlog", job_name=JOB) == 2
    assert metrics.value("job_failed_backlog", job_name="other") == 4
    metrics.set_failed_backlog({})
    assert metrics.value("job_failed_backlog", job_name=JOB) == 0
