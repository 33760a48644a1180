"""Deletes, deliveries and lost workers against a job in mid-work: never a foreign key error, never a second effect, and
it is the job that gives way, never the shop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psycopg
import pytest

from tests.eventually import eventually
from tests.orders import ask, ended_runs, images, new_merchant, new_order, scalar, sessions
from tests.performing import CountingDatabase, Heard, Once, Scripted, performing
from toolkit.ledger import runs
from toolkit.ledger.database import Database, Pinned
from toolkit.perform import Performed
from toolkit.run import Mode, RunRecord

Connection = psycopg.Connection


@dataclass
class Running:
    """A job in mid-work."""

    end: Future[Performed]
    database: CountingDatabase

    def tries(self) -> int:
        """How often it tried to write; the sessions for its begin and its fetch do not count."""
        return self.database.opened - 2


@contextmanager
def running(url: str, job_id: str, search: Scripted, sink: Heard | None = None) -> Iterator[Running]:
    """The job, performed in a thread of its own."""
    with performing(url, search, sink=sink, limited=False) as performer, ThreadPoolExecutor(1) as thread:
        assert isinstance(performer.database, CountingDatabase)
        yield Running(thread.submit(performer.perform, job_id, mode=Mode.ASYNC), performer.database)


def record_of(job: Running) -> RunRecord:
    record = job.end.result(30).record
    assert record is not None
    return record


def waiting_writes(connection: Connection) -> set[object]:
    """The transactions of the job that wait for a lock right now, by when they began."""
    rows = connection.execute(
        "SELECT xact_start FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND application_name = 'freshfetch'"
    ).fetchall()
    return {row[0] for row in rows}


def delete_drafts(connection: Connection, drafts: tuple[str, ...]) -> None:
    connection.execute('DELETE FROM "ProductDraft" WHERE id = ANY(%s)', (list(drafts),))


def test_drafts_deleted_while_their_images_are_searched_are_skipped_and_the_others_are_not(
    database_url: str, connection: Connection
) -> None:
    order = new_order(connection, ["kept", "deleted"])
    search = Scripted({"deleted": lambda product: delete_drafts(connection, (product.draft_id,))})
    with running(database_url, ask(connection, order), search) as job:
        record = record_of(job)
    assert (record.outcome, record.counts) == (
        "processed",
        {"attached": 1, "draft_deleted": 1, "images_memory": 2},
    )
    assert images(connection, order) == {order.drafts[0]: 2}
    assert sessions(connection, order) == 1


def test_a_job_all_of_whose_drafts_went_is_skipped(database_url: str, connection: Connection) -> None:
    order = new_order(connection, ["x", "y"])
    both = Once(lambda: delete_drafts(connection, order.drafts))
    with running(database_url, ask(connection, order), Scripted({"x": both, "y": both})) as job:
        answer = job.end.result(30).answer
    assert answer == {"success": True, "skipped": True, "reason": "draft_deleted", "draft_deleted": 2}
    assert sessions(connection, order) == 0


@pytest.mark.parametrize("commits", [True, False], ids=["committed", "rolled back"])
def test_a_delete_that_is_held_open_is_waited_for_and_its_end_decides(
    commits: bool, database_url: str, connection: Connection
) -> None:
    order = new_order(connection, ["held"])
    with psycopg.connect(database_url) as deleter:
        search = Scripted({"held": lambda product: delete_drafts(deleter, (product.draft_id,))})
        with running(database_url, ask(connection, order), search) as job:
            eventually(lambda: job.tries() > 20)  # for some two seconds
            assert not job.end.done()
            (deleter.commit if commits else deleter.rollback)()
            record = record_of(job)
    assert record.reason == ("draft_deleted" if commits else "")
    assert images(connection, order) == ({} if commits else {order.drafts[0]: 2})
    assert ended_runs(connection, record.job_id) == [(record.outcome, record.reason)], "one run was enough"


def test_an_order_deleted_whole_between_fetch_and_write_is_skipped(
    database_url: str, connection: Connection
) -> None:
    order = new_order(connection, ["x", "y"])

    def delete_order() -> None:
        connection.execute('DELETE FROM "PurchaseOrder" WHERE id = %s', (order.id,))

    once = Once(delete_order)
    with running(database_url, ask(connection, order), Scripted({"x": once, "y": once})) as job:
        assert record_of(job).reason == "draft_deleted"
    assert scalar(connection, 'SELECT count(*) FROM "ProductImage"') == 0
    assert scalar(connection, 'SELECT count(*) FROM "ImageReviewSession"') == 0


@pytest.mark.parametrize("table", ["PurchaseOrder", "ProductDraft"])
def test_what_has_gone_to_another_merchant_by_the_write_gets_nothing(
    table: str, database_url: str, connection: Connection
) -> None:
    order = new_order(connection, ["x"])
    new_merchant(connection, "m-other")

    def sell() -> None:
        connection.execute(f'UPDATE "{table}" SET "merchantId" = \'m-other\'')

    with running(database_url, ask(connection, order), Scripted({"x": Once(sell)})) as job:
        assert record_of(job).outcome == "skipped"
    assert images(connection, order) == {order.drafts[0]: 0}
    assert sessions(connection, order) == 0


def test_a_delete_while_the_write_holds_its_locks_waits_and_takes_the_images_with_it(
    database_url: str, connection: Connection
) -> None:
    order = new_order(connection, ["x", "held"])
    with ExitStack() as stack:
        holder = stack.enter_context(psycopg.connect(database_url))
        deleter = stack.enter_context(psycopg.connect(database_url, autocommit=True))
        # A trigger that waits: the write has its locks and has not inserted yet.
        connection.execute(
            "CREATE FUNCTION public.gate() RETURNS trigger LANGUAGE plpgsql AS $$"
            " BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END $$;"
            'CREATE TRIGGER gate BEFORE INSERT ON "ProductImage" FOR EACH ROW EXECUTE FUNCTION public.gate()'
        )
        holder.execute("SELECT pg_advisory_xact_lock(7)")
        job = stack.enter_context(running(database_url, ask(connection, order), Scripted()))
        thread = stack.enter_context(ThreadPoolExecutor(1))
        eventually(lambda: waiting_writes(connection))
        deleted = thread.submit(delete_drafts, deleter, order.drafts)
        holder.rollback()
        assert record_of(job).outcome in {"processed", "skipped"}
        deleted.result(10)
    assert images(connection, order) == {}
    assert scalar(connection, 'SELECT count(*) FROM "ProductImage"') == 0


def test_a_job_that_is_delivered_twice_at_once_has_one_effect(
    database_url: str, connection: Connection
) -> None:
    order = new_order(connection, ["x"])
    job = ask(connection, order)
    inside, release = threading.Event(), threading.Event()

    def wait(_product: object) -> None:
        inside.set()
        release.wait(10)

    with running(database_url, job, Scripted({"x": wait})) as first:
        assert inside.wait(10)
        with running(database_url, job, Scripted()) as second:
            answer = second.end.result(10).answer
            yields = second.end.result().yields
        release.set()
        assert record_of(first).outcome == "processed"
    assert answer == {"success": True, "skipped": True, "reason": "already_running"}
    assert yields, "the broker's entry belongs to the run that goes on"
    assert images(connection, order) == {order.drafts[0]: 2}


def test_ten_later_deliveries_have_no_effect(database_url: str, connection: Connection) -> None:
    order = new_order(connection)
    job = ask(connection, order)
    search = Scripted()
    with performing(database_url, search) as performer:
        answers = [performer.perform(job, mode=Mode.ASYNC).answer for _ in range(11)]
    assert answers[1:] == [{"success": True, "skipped": True, "reason": "already_done"}] * 10
    assert len(search.asked) == 3
    assert images(connection, order) == dict.fromkeys(order.drafts, 2)
    assert sessions(connection, order) == 1
    assert ended_runs(connection, job) == [("processed", ""), *[("skipped", "already_done")] * 10]


@pytest.mark.parametrize("another", [False, True], ids=["given up", "given up, and another run has it"])
def test_a_run_that_was_given_up_in_mid_search_writes_nothing_when_it_goes_on(
    another: bool, database_url: str, connection: Connection, database: Database
) -> None:
    order = new_order(connection, ["x"])
    job = ask(connection, order)

    def lose() -> None:
        with database.session() as session:
            assert runs.lose(session, "test-worker", "SIGKILL") == [job]
            if another:
                runs.begin(session, job, worker="w2", host="h", release="r", lease=60, mode=Mode.ASYNC)

    sink = Heard()
    with running(database_url, job, Scripted({"x": Once(lose)}), sink) as first:
        done = first.end.result(10)
    assert done.record is None
    assert done.yields
    assert done.answer["reason"] == "superseded"
    assert sink.records == [], "who gave the run up has told of it"
    assert images(connection, order) == {order.drafts[0]: 0}
    assert ended_runs(connection, job) == [("lost", "killed")]


def test_a_run_that_lost_its_lease_is_superseded_by_the_next_delivery(
    database_url: str, connection: Connection
) -> None:
    order = new_order(connection, ["x"])
    job = ask(connection, order)
    expire = Once(
        lambda: connection.execute("UPDATE toolkit.run SET lease_until = now() - interval '1 second'")
    )
    inside, release = threading.Event(), threading.Event()

    def frozen(product: object) -> None:
        expire(product)  # type: ignore[arg-type]
        inside.set()
        release.wait(10)

    with running(database_url, job, Scripted({"x": frozen})) as first:
        assert inside.wait(10)
        with running(database_url, job, Scripted()) as second:
            assert record_of(second).number == 2
        release.set()
        assert first.end.result(10).record is None
    assert ended_runs(connection, job) == [("lost", "lease_expired"), ("processed", "")]
    assert images(connection, order) == {order.drafts[0]: 2}


@pytest.mark.parametrize("closed_by", ["the keeper", "the next delivery"])
def test_a_job_that_takes_its_host_down_six_times_is_given_up(
    closed_by: str, connection: Connection, database: Database
) -> None:
    job = ask(connection, new_order(connection, ["x"]))

    with database.session() as session:
        for number in range(1, 7):
            begun = runs.begin(session, job, worker="w", host="h", release="r", lease=0.0, mode=Mode.ASYNC)
            assert begun.refusal == "", f"run {number}: fewer than six lost runs are tried again"
            if closed_by == "the keeper" or number < 6:
                assert runs.lose_expired(session) == [job]
        after = runs.begin(session, job, worker="w", host="h", release="r", lease=0.0, mode=Mode.ASYNC)

    assert after.refusal == "already_done"
    assert ended_runs(connection, job) == [("lost", "lease_expired")] * 6 + [("skipped", "already_done")]
    assert (
        scalar(
            connection, "SELECT count(*) FROM toolkit.intent WHERE done_at IS NOT NULL AND outcome = 'lost'"
        )
        == 1
    )


def test_a_run_that_never_reached_its_worker_does_not_count_against_its_job(
    connection: Connection, database: Database
) -> None:
    job = ask(connection, new_order(connection, ["x"]))

    with database.session() as session:
        for _ in range(8):
            runs.begin(session, job, worker="w", host="h", release="r", lease=60.0, mode=Mode.ASYNC)
            assert runs.lose_unanswered(session, job, "w") == 1

    assert scalar(connection, "SELECT count(*) FROM toolkit.intent WHERE done_at IS NULL") == 1


def test_in_a_deadlock_it_is_the_job_that_gives_way(database_url: str, connection: Connection) -> None:
    order = new_order(connection, ["first", "second", "third"])
    with psycopg.connect(database_url) as deleter:
        hold = Once(lambda: delete_drafts(deleter, order.drafts[1:2]))
        search = Scripted({"first": hold, "second": hold, "third": hold})
        with running(database_url, ask(connection, order), search) as job:
            eventually(lambda: job.tries() > 2)
            delete_drafts(deleter, order.drafts[:1])  # 40P01 here would be the shop's
            deleter.commit()
            record = record_of(job)
    assert record.counts == {"attached": 1, "draft_deleted": 2, "images_memory": 2}
    assert images(connection, order) == {order.drafts[2]: 2}


def test_a_job_that_waits_for_one_delete_after_another_still_gives_way_to_a_third(
    database_url: str, connection: Connection
) -> None:
    order = new_order(connection, ["first", "second", "third"])
    with ExitStack() as stack:
        short = stack.enter_context(psycopg.connect(database_url))
        long = stack.enter_context(psycopg.connect(database_url))
        thread = stack.enter_context(ThreadPoolExecutor(1))

        def hold() -> None:
            delete_drafts(short, order.drafts[1:2])
            delete_drafts(long, order.drafts[2:])

        once = Once(hold)
        search = Scripted(dict.fromkeys(("first", "second", "third"), once))
        job = stack.enter_context(running(database_url, ask(connection, order), search))
        eventually(lambda: job.tries() > 2)
        deleted = thread.submit(delete_drafts, long, order.drafts[:1])
        short.execute("SELECT pg_sleep(0.6)")  # a transaction of the shop that takes its time
        short.commit()
        deleted.result(10)  # 40P01 here would be the shop's
        long.commit()
        assert record_of(job).counts == {"draft_deleted": 3}


def test_with_a_key_that_does_not_cascade_the_job_is_as_safe(
    database_url: str, connection: Connection
) -> None:
    connection.execute(
        'ALTER TABLE "ProductImage" DROP CONSTRAINT "ProductImage_productDraftId_fkey",'
        ' ADD CONSTRAINT "ProductImage_productDraftId_fkey" FOREIGN KEY ("productDraftId")'
        ' REFERENCES "ProductDraft" (id) ON DELETE NO ACTION'
    )
    order = new_order(connection, ["kept", "deleted"])
    search = Scripted({"deleted": lambda product: delete_drafts(connection, (product.draft_id,))})
    with running(database_url, ask(connection, order), search) as job:
        assert record_of(job).counts == {"attached": 1, "draft_deleted": 1, "images_memory": 2}
    with pytest.raises(
        psycopg.errors.ForeignKeyViolation
    ):  # now it is the deleter's error, as the shop chose
        delete_drafts(connection, order.drafts[:1])


def sever(connection: Connection) -> None:
    """End every connection of the job, as a restart of PostgreSQL does."""
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'freshfetch'"
    )


def test_a_job_whose_connection_breaks_in_mid_work_is_tried_again(
    database_url: str, connection: Connection
) -> None:
    order = new_order(connection, ["x"])
    job = ask(connection, order)
    with running(database_url, job, Scripted({"x": Once(lambda: sever(connection))})) as first:
        record = record_of(first)
    assert (record.outcome, record.reason) == ("failed", "transient")
    assert record.retry_in is not None
    with running(database_url, job, Scripted()) as second:
        assert record_of(second).outcome == "processed"
    assert images(connection, order) == {order.drafts[0]: 2}


def test_a_last_write_whose_answer_got_lost_counts_as_what_it_was(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is carried out, and the connection is cut before the job hears of it."""
    order = new_order(connection, ["x"])
    job = ask(connection, order)
    cut: list[Callable[[], None]] = [lambda: sever(connection)]
    sink = Heard()
    with performing(database_url, Scripted(), sink=sink) as performer:
        plain = Pinned.session

        @contextmanager
        def session_that_breaks_after_its_commit(pinned: Pinned) -> Iterator[object]:
            with plain(pinned) as session:
                yield session
                if cut and scalar(connection, 'SELECT count(*) FROM "ProductImage"'):
                    cut.pop()()
                    session.execute("SELECT 1")

        monkeypatch.setattr(Pinned, "session", session_that_breaks_after_its_commit)
        record = performer.perform(job, mode=Mode.ASYNC).record
    assert record is not None
    assert (record.outcome, record.counts) == ("processed", {"attached": 1, "images_memory": 2})
    assert sink.records == [record]
    assert ended_runs(connection, job) == [("processed", "")]
