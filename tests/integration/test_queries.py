"""The reading of the ledger: what it says of jobs, how it finds them, and that it never writes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.ledger_rows import FK_FAILURE, JOB, PASSING_FAILURE, TRACE, ask, begin, found_gone, ran, skipped
from toolkit.cli.jobs import STATES
from toolkit.errors import DependencyUnreachable, NotFound, NotInitialised, ToolkitError, UsageError
from toolkit.ledger import find, queries, runs
from toolkit.ledger.database import Database, Session
from toolkit.ledger.reading import clock, reading
from toolkit.ledger.views import Filters
from toolkit.run import Mode, Result

DAY = timedelta(days=1)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with database.session() as session:
        yield session


@contextmanager
def looking(database: Database) -> Iterator[Session]:
    with reading(database) as session:
        yield session


def in_each_state(session: Session) -> dict[str, str]:
    """A job in every state; id by state, and `again`: failed, waiting for its retry."""
    made = {state: ask(session, f"order-{state}") for state in (*STATES, "again")}
    begin(session, made["running"])
    ran(session, made["processed"], Result(counts={"attached": 4}))
    ran(session, made["skipped"], skipped("no_drafts"))
    ran(session, made["failed"], failure=FK_FAILURE)
    ran(session, made["again"], failure=PASSING_FAILURE, retry_in=60.0)
    for _ in range(3):
        begin(session, made["lost"], worker="doomed")
        runs.lose(session, "doomed", "SIGSEGV")
    return made


@pytest.mark.parametrize("state", STATES)
def test_every_state_can_be_listed_by_itself(database: Database, session: Session, state: str) -> None:
    made = in_each_state(session)
    with looking(database) as reader:
        found = queries.list_jobs(reader, Filters(state=state))
    wanted = {made["waiting"], made["again"]} if state == "waiting" else {made[state]}
    assert {line.job_id for line in found} == wanted
    assert {line.state for line in found} == {state}


def test_the_list_is_newest_first_and_filtered_by_name_time_payload_and_limit(
    database: Database, session: Session
) -> None:
    first, second, third = ask(session, "order-1"), ask(session, "order-2"), ask(session, "order-1")
    with looking(database) as reader:
        now = clock(reader)
        assert [line.job_id for line in queries.list_jobs(reader, Filters())] == [third, second, first]
        assert [line.job_id for line in queries.list_jobs(reader, Filters(limit=1))] == [third]
        assert [line.job_id for line in queries.list_jobs(reader, Filters(about="order-1"))] == [third, first]
        assert queries.list_jobs(reader, Filters(since=now + timedelta(seconds=1))) == []
        assert len(queries.list_jobs(reader, Filters(since=now - DAY, job_name=JOB))) == 3
        assert queries.list_jobs(reader, Filters(job_name="another")) == []


def test_a_delivery_that_was_not_needed_does_not_tell_how_the_job_fares(
    database: Database, session: Session
) -> None:
    job_id = ask(session)
    ran(session, job_id, skipped("order_deleted"))
    assert begin(session, job_id).refusal == "already_done"
    with looking(database) as reader:
        view = queries.job(reader, job_id)
        (line,) = queries.lines(reader, [job_id])
    assert [run.redundant for run in view.runs] == [False, True]
    assert view.last is not None
    assert view.last.answer() == {"success": True, "skipped": True, "reason": "order_deleted"}
    assert (line.state, line.reason, line.runs) == ("skipped", "order_deleted", 2)


def test_a_job_tells_all_of_its_runs(database: Database, session: Session) -> None:
    job_id = ask(session, traceparent=f"00-{TRACE}-{'2' * 16}-01")
    ran(session, job_id, failure=PASSING_FAILURE, retry_in=5.0)
    ran(session, job_id, Result(counts={"attached": 2}), trace_id="f" * 32)
    with looking(database) as reader:
        view = queries.job(reader, job_id)
    failed, processed = view.runs
    assert (failed.outcome, failed.error_type, failed.fingerprint) == (
        "failed",
        "ConnectTimeout",
        "beefbeef0002",
    )
    assert failed.retry_at is not None
    assert failed.answer() == {"success": False, "reason": "transient", "error": "images.example: timed out"}
    assert processed.answer() == {"success": True, "skipped": False, "attached": 2}
    assert view.trace_ids == [TRACE, "f" * 32]


def test_a_run_that_goes_on_or_was_lost_gave_no_answer(database: Database, session: Session) -> None:
    job_id = ask(session)
    begin(session, job_id, worker="doomed")
    runs.lose(session, "doomed", "SIGKILL")
    begin(session, job_id)
    with looking(database) as reader:
        view = queries.job(reader, job_id)
    assert [(run.outcome, run.answer()) for run in view.runs] == [("lost", None), (None, None)]
    assert view.line.state == "running"


def test_failures_are_grouped_and_say_what_is_still_unresolved(database: Database, session: Session) -> None:
    stuck, again, healed = ask(session), ask(session), ask(session)
    ran(session, stuck, failure=FK_FAILURE)
    ran(session, again, failure=PASSING_FAILURE, retry_in=60.0)
    ran(session, healed, failure=PASSING_FAILURE, retry_in=60.0)
    ran(session, healed)
    with looking(database) as reader:
        now = clock(reader)
        groups = queries.failed_groups(reader, now - DAY)
        assert queries.failed_groups(reader, now + DAY) == []
        counted = queries.count_runs(reader, now - DAY)
    told = [(group.fingerprint, group.runs, group.jobs, group.open, group.given_up) for group in groups]
    assert told == [("beefbeef0002", 2, 2, 1, 0), ("f00dfeed0001", 1, 1, 0, 1)]
    assert (groups[1].sqlstate, groups[1].constraint) == ("23503", "ProductImage_productDraftId_fkey")
    assert (groups[1].example_job_id, groups[1].releases) == (stuck, ["r1"])
    assert counted == {"processed": 1, "skipped": 0, "failed": 3, "lost": 0, "running": 0}


def test_a_job_that_a_replay_found_gone_is_resolved_and_says_so(database: Database, session: Session) -> None:
    job_id = ran(session, ask(session), failure=FK_FAILURE).job_id
    found_gone(session, job_id)
    with looking(database) as reader:
        (group,) = queries.failed_groups(reader, clock(reader) - DAY)
        view = queries.job(reader, job_id)
    assert (group.jobs, group.open, group.given_up) == (1, 0, 0)
    assert view.gone == "order_deleted"


def test_what_is_unresolved_stands_above_what_failed_more_often(database: Database, session: Session) -> None:
    for _ in range(2):
        healed = ask(session)
        ran(session, healed, failure=PASSING_FAILURE, retry_in=0.0)
        ran(session, healed)
    ran(session, ask(session), failure=FK_FAILURE)
    with looking(database) as reader:
        groups = queries.failed_groups(reader, clock(reader) - DAY)
    assert [(group.error_type, group.runs) for group in groups] == [
        ("ForeignKeyViolation", 1),
        ("ConnectTimeout", 2),
    ]


def test_the_same_error_at_two_constraints_is_two_groups(database: Database, session: Session) -> None:
    other = type(FK_FAILURE)(reason="integrity", error_type="ForeignKeyViolation", sqlstate="23503",
                             constraint="ImageReviewItem_imageId_fkey", fingerprint=FK_FAILURE.fingerprint)  # fmt: skip
    ran(session, ask(session), failure=FK_FAILURE)
    ran(session, ask(session), failure=other)
    with looking(database) as reader:
        groups = queries.failed_groups(reader, clock(reader) - DAY)
    assert {group.constraint for group in groups} == {FK_FAILURE.constraint, other.constraint}


def test_the_summary_counts_what_is_open_and_what_ran(database: Database, session: Session) -> None:
    made = in_each_state(session)
    session.execute(
        "UPDATE toolkit.intent SET pushed_at = clock_timestamp() WHERE job_id <> %s", (made["waiting"],)
    )
    session.execute(
        "UPDATE toolkit.run SET lease_until = clock_timestamp() - interval '1 s' WHERE outcome IS NULL"
    )
    inline = ask(session, mode=Mode.SYNC)
    with looking(database) as reader:
        seen = queries.summary(reader, DAY)
    assert seen.runs == {"processed": 1, "skipped": 1, "failed": 2, "lost": 3, "running": 1}
    assert (seen.unpushed, seen.running, seen.silent, seen.retries, seen.unresolved) == (1, 1, 1, 1, 3)
    assert seen.due == 2, f"the one that waits, and {inline}, asked inline and not begun"
    assert seen.unpushed_age > 0
    assert seen.next_retry is not None
    assert seen.next_retry > datetime.now(UTC)


def test_a_failed_job_that_ended_well_or_is_gone_is_resolved(database: Database, session: Session) -> None:
    made = in_each_state(session)
    found_gone(session, made["failed"])
    session.execute(
        "UPDATE toolkit.intent SET due_at = clock_timestamp() WHERE job_id = %s", (made["again"],)
    )
    ran(session, made["again"])
    with looking(database) as reader:
        assert queries.summary(reader, DAY).unresolved == 1, "the lost one is left"


def test_an_empty_ledger_has_a_summary_of_zeros(database: Database) -> None:
    with looking(database) as reader:
        seen = queries.summary(reader, DAY)
        assert queries.newest_asked(reader) is None
    assert set(seen.runs.values()) == {0}
    assert (seen.unpushed, seen.unpushed_age, seen.due, seen.due_age, seen.next_retry) == (
        0,
        0.0,
        0,
        0.0,
        None,
    )


def test_a_job_is_found_by_every_id_that_people_have(database: Database, session: Session) -> None:
    job_id = ask(session, "order-1", traceparent=f"00-{'a' * 32}-{'2' * 16}-01")
    run = ran(session, job_id, trace_id="b" * 32)
    other = ask(session, "order-2")
    with looking(database) as reader:
        for text in (
            job_id, job_id[:8], job_id[:9], f"  {job_id.upper()} ", run.run_id, run.run_id[:8], run.run_id.replace("-", ""),
            "a" * 32, "b" * 32, f"00-{'b' * 32}-{'1' * 16}-01", "order-1",
        ):  # fmt: skip
            assert find.one(reader, text) == job_id, text
        assert find.one(reader, "order-2") == other


@pytest.mark.parametrize(
    "text", ["", " ", "no-such-order", "0" * 32, "\udcff", "%", "_" * 8, "' OR true --", "x" * 9999]
)
def test_what_is_no_id_finds_nothing(database: Database, session: Session, text: str) -> None:
    ask(session)
    with looking(database) as reader, pytest.raises(NotFound) as caught:
        find.one(reader, text)
    assert "toolkit jobs" in caught.value.remedy


def test_a_short_beginning_is_not_an_id(database: Database, session: Session) -> None:
    job_id = ask(session)
    with looking(database) as reader:
        assert find.find(reader, job_id[: find.SHORTEST - 1]) == []
        assert [match.job_id for match in find.find(reader, job_id[: find.SHORTEST])] == [job_id]


def test_an_ambiguous_id_names_the_jobs_that_it_may_mean(database: Database, session: Session) -> None:
    jobs = {ask(session, "order-1"), ask(session, "order-1")}
    ran(session, min(jobs), skipped("no_drafts"))
    with looking(database) as reader, pytest.raises(UsageError, match="payload of 2 jobs") as caught:
        find.one(reader, "order-1")
    assert all(job_id in caught.value.remedy for job_id in jobs)
    assert "skipped" in caught.value.remedy


def test_very_many_matches_are_told_as_such(database: Database, session: Session) -> None:
    for _ in range(find.MOST + 2):
        ask(session, "order-1")
    with looking(database) as reader, pytest.raises(UsageError, match=f"more than {find.MOST} jobs"):
        find.one(reader, "order-1")


def test_a_job_older_than_a_week_is_still_found_by_its_order(database: Database, session: Session) -> None:
    job_id = ask(session, "order-1")
    session.execute("UPDATE toolkit.intent SET created_at = now() - interval '30 days'")
    ask(session, "order-2")
    with looking(database) as reader:
        assert find.one(reader, "order-1") == job_id


def test_reading_cannot_write(database: Database) -> None:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), looking(database) as reader:
        ask(reader)


def test_an_observer_can_read_all_of_it(database: Database, session: Session) -> None:
    made = in_each_state(session)
    session.execute("DROP ROLE IF EXISTS test_observer")
    session.execute("CREATE ROLE test_observer LOGIN PASSWORD 'observer' IN ROLE toolkit_observer")
    observer = Database(as_login(database.url, "test_observer", "observer"))
    try:
        with looking(observer) as reader:
            assert len(queries.list_jobs(reader, Filters())) == len(made)
            assert find.one(reader, "order-failed") == made["failed"]
            assert queries.job(reader, made["lost"]).line.state == "lost"
            assert len(queries.failed_groups(reader, clock(reader) - DAY)) == 3
            assert queries.summary(reader, DAY).running == 1
    finally:
        observer.close()
        session.execute("DROP ROLE test_observer")


def test_a_login_without_the_role_is_told_which_one(database: Database, session: Session) -> None:
    session.execute("DROP ROLE IF EXISTS test_nobody")
    session.execute("CREATE ROLE test_nobody LOGIN PASSWORD 'nobody'")
    nobody = Database(as_login(database.url, "test_nobody", "nobody"))
    try:
        with pytest.raises(ToolkitError, match="may not read") as caught, looking(nobody) as reader:
            queries.list_jobs(reader, Filters())
        assert "GRANT toolkit_observer" in caught.value.remedy
    finally:
        nobody.close()
        session.execute("DROP ROLE test_nobody")


def test_a_database_without_the_schema_says_so(database: Database, session: Session) -> None:
    session.execute("DROP SCHEMA toolkit CASCADE")
    with pytest.raises(NotInitialised) as caught, looking(database) as reader:
        queries.summary(reader, DAY)
    assert caught.value.remedy == "run `toolkit init`"


def test_a_slow_statement_is_stopped_and_told(database: Database) -> None:
    with pytest.raises(ToolkitError, match=r"longer than 0\.05 s"), reading(database, within=0.05) as reader:
        reader.execute("SELECT pg_sleep(10)")


def test_a_server_that_is_away_is_unreachable() -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(DependencyUnreachable), looking(away):
        pass


def as_login(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()
