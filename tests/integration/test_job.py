"""The image job, from its begin to its record: every outcome and reason, what is counted, what is tried again."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from jobs.images.job import PAGE
from jobs.images.spec import SPEC
from tests.orders import Order, ask, ended_runs, images, new_merchant, new_order, scalar, sessions
from tests.performing import Heard, Scripted, failing, found, in_memory, performing, spec_with
from toolkit.app import App
from toolkit.errors import NotFound
from toolkit.jobspec import Registry, RetryPolicy
from toolkit.ledger import runs
from toolkit.ledger.database import Database
from toolkit.perform import Performed
from toolkit.run import Mode, Result, RunRecord
from toolkit.settings import Settings
from toolkit.telemetry.metrics import Metrics
from toolkit.telemetry.otlp import read_spans
from toolkit.telemetry.traces import Tracing

Connection = psycopg.Connection


def perform(url: str, job_id: str, search: Scripted | None = None, **options: object) -> Performed:
    with performing(url, search or Scripted(), **options) as performer:  # type: ignore[arg-type]
        return performer.perform(job_id, mode=Mode.ASYNC)


def ended(performed: Performed) -> RunRecord:
    assert performed.record is not None
    return performed.record


def test_a_job_attaches_images_to_every_draft_and_opens_one_review(
    database_url: str, connection: Connection
) -> None:
    order = new_order(connection, ["one", "two", "none"])
    job = ask(connection, order)
    sink = Heard()
    search = Scripted({"none": lambda product: found(product, 0)})
    done = perform(database_url, job, search, sink=sink)
    assert done.answer == {
        "success": True, "skipped": False, "attached": 2, "no_images_found": 1, "images_memory": 4,
    }  # fmt: skip
    assert images(connection, order) == dict(zip(order.drafts, (2, 2, 0), strict=True))
    assert sessions(connection, order) == 1
    assert scalar(connection, 'SELECT count(*) FROM "ImageReviewItem"') == 4
    assert ended_runs(connection, job) == [("processed", "")]
    assert sink.records == [done.record]


def gone(connection: Connection, order: Order) -> None:
    connection.execute('DELETE FROM "PurchaseOrder" WHERE id = %s', (order.id,))


def drafts_gone(connection: Connection, order: Order) -> None:
    connection.execute('DELETE FROM "ProductDraft" WHERE "purchaseOrderId" = %s', (order.id,))


def order_sold(connection: Connection, order: Order) -> None:
    new_merchant(connection, "m-other")
    connection.execute('UPDATE "PurchaseOrder" SET "merchantId" = \'m-other\' WHERE id = %s', (order.id,))


def drafts_sold(connection: Connection, order: Order) -> None:
    new_merchant(connection, "m-other")
    connection.execute(
        'UPDATE "ProductDraft" SET "merchantId" = \'m-other\' WHERE "purchaseOrderId" = %s', (order.id,)
    )


def has_images(connection: Connection, order: Order) -> None:
    connection.execute(
        'INSERT INTO "ProductImage" (id, "productDraftId", url, source, position)'
        " SELECT 'i' || d, d, 'https://by.hand/', 'by hand', 0 FROM unnest(%s::text[]) AS d",
        (list(order.drafts),),
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (gone, "order_deleted"),
        (drafts_gone, "no_drafts"),
        (order_sold, "wrong_merchant"),
        (drafts_sold, "wrong_merchant"),
        (has_images, "already_has_images"),
    ],
)
def test_a_job_that_has_nothing_to_do_is_skipped_with_its_reason(
    change: Callable[[Connection, Order], None], reason: str, database_url: str, connection: Connection
) -> None:
    order = new_order(connection)
    job = ask(connection, order)
    change(connection, order)
    before = scalar(connection, 'SELECT count(*) FROM "ProductImage"')
    search = Scripted()
    done = perform(database_url, job, search)
    assert done.answer.items() >= {"success": True, "skipped": True, "reason": reason}.items()
    assert reason in SPEC.all_skip_reasons
    assert ended_runs(connection, job) == [("skipped", reason)]
    assert search.asked == []
    assert scalar(connection, 'SELECT count(*) FROM "ProductImage"') == before
    assert sessions(connection, order) == 0


def test_another_tenants_drafts_below_the_order_are_neither_searched_nor_written(
    database_url: str, connection: Connection
) -> None:
    order = new_order(connection, 3)
    new_merchant(connection, "m-other")
    foreign = order.drafts[1]
    connection.execute('UPDATE "ProductDraft" SET "merchantId" = \'m-other\' WHERE id = %s', (foreign,))
    search = Scripted()
    done = perform(database_url, ask(connection, order), search)
    assert ended(done).counts == {"attached": 2, "wrong_merchant": 1, "images_memory": 4}
    assert foreign not in search.asked
    assert images(connection, order)[foreign] == 0


def test_a_job_of_one_merchant_touches_no_other_merchants_order(
    database_url: str, connection: Connection
) -> None:
    victim = new_order(connection, merchant="m-victim")
    forged = Order(victim.id, "m-thief", victim.drafts)
    new_merchant(connection, "m-thief")
    search = Scripted()
    done = perform(database_url, ask(connection, forged), search)
    assert done.answer == {"success": True, "skipped": True, "reason": "wrong_merchant"}
    assert search.asked == []
    assert sum(images(connection, victim).values()) == 0


def test_what_the_ledger_does_not_know_is_not_performed(database_url: str) -> None:
    with pytest.raises(NotFound):
        perform(database_url, "no-such-job")


def test_a_search_that_fails_in_passing_is_tried_again_and_what_was_found_is_kept(
    database_url: str, connection: Connection
) -> None:
    order = new_order(connection, ["fine", "flaky"])
    job = ask(connection, order)
    first = ended(perform(database_url, job, Scripted({"flaky": failing("http_5xx")})))
    assert (first.outcome, first.reason, first.counts) == (
        "failed",
        "transient",
        {"attached": 1, "images_memory": 2},
    )
    assert first.failure is not None
    assert first.failure.error_type == "http_5xx"
    assert first.retry_in == SPEC.retry.base
    assert images(connection, order) == dict(zip(order.drafts, (2, 0), strict=True))
    search = Scripted()
    second = ended(perform(database_url, job, search))
    assert (second.outcome, second.number) == ("processed", 2)
    assert search.asked == [order.drafts[1]], "what has its images is not searched again"
    assert images(connection, order) == dict.fromkeys(order.drafts, 2)
    assert sessions(connection, order) == 1


def test_retries_wait_longer_each_time_and_come_to_an_end(database_url: str, connection: Connection) -> None:
    job = ask(connection, new_order(connection, ["flaky"]))
    spec = spec_with(retry=RetryPolicy(attempts=2, base=4.0))
    search = Scripted({"flaky": failing()})
    waits = [ended(perform(database_url, job, search, spec=spec)).retry_in for _ in range(3)]
    assert waits == [4.0, 8.0, None]
    assert perform(database_url, job, search, spec=spec).answer["reason"] == "already_done"
    assert connection.execute("SELECT outcome FROM toolkit.intent").fetchone() == ("failed",)


SABOTAGE = """
CREATE FUNCTION public.break_it() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'violates foreign key constraint'
        USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'ProductImage_productDraftId_fkey';
END $$;
CREATE TRIGGER break_it BEFORE INSERT ON "ProductImage" FOR EACH ROW EXECUTE FUNCTION public.break_it();
"""


def test_a_foreign_key_error_would_be_told_by_name_counted_and_not_tried_again(
    database_url: str, connection: Connection
) -> None:
    order = new_order(connection, ["one"])
    job = ask(connection, order)
    connection.execute(SABOTAGE)
    sink = Heard()
    record = ended(perform(database_url, job, sink=sink))
    assert (record.outcome, record.reason, record.retry_in) == ("failed", "integrity", None)
    row = connection.execute("SELECT sqlstate, constraint_name, reason FROM toolkit.run").fetchone()
    assert row == ("23503", "ProductImage_productDraftId_fkey", "integrity")
    metrics = Metrics(Registry.of([SPEC]), release="test")
    labels = {"job_name": SPEC.name, "queue": "images", "constraint": "ProductImage_productDraftId_fkey"}
    assert metrics.value("job_fk_errors_total", **labels) == 0
    metrics.observe(record)
    assert metrics.value("job_fk_errors_total", **labels) == 1
    root = next(span for span in read_spans(sink.told[0][2]) if span.name == "perform images")
    assert root.attributes["db.response.status_code"] == "23503"
    assert root.status == "error"
    assert perform(database_url, job).answer["reason"] == "already_done"


def test_a_bug_in_the_body_fails_the_run_once_with_a_fingerprint_that_lasts(
    database_url: str, connection: Connection
) -> None:
    def bug(product: object) -> None:
        raise KeyError(f"draft {product}")

    prints = set()
    for _ in range(2):
        job = ask(connection, new_order(connection, ["buggy"]))
        record = ended(perform(database_url, job, Scripted({"buggy": bug})))
        assert (record.outcome, record.reason, record.retry_in) == ("failed", "error", None)
        assert record.failure is not None
        prints.add(record.failure.fingerprint)
    assert len(prints) == 1


def test_a_job_that_overruns_its_time_limit_fails_as_that(database_url: str, connection: Connection) -> None:
    job = ask(connection, new_order(connection, ["fine", "slow"]))
    release = threading.Event()

    def slow(_product: object) -> None:
        release.wait(30)

    spec = spec_with(timeout=1.0)
    with performing(database_url, Scripted({"slow": slow}), spec=spec) as performer:
        record = ended(performer.perform(job, mode=Mode.ASYNC))
        release.set()
    assert (record.outcome, record.reason, record.retry_in) == ("failed", "timeout", None)
    assert record.counts == {"attached": 1, "images_memory": 2}, "what was ready is kept and told"


def test_an_order_of_many_drafts_is_done_page_by_page(database_url: str, connection: Connection) -> None:
    order = new_order(connection, 2 * PAGE + 500)
    search = Scripted()
    record = ended(perform(database_url, ask(connection, order), search))
    assert record.counts == {"attached": 2500, "images_memory": 5000}
    assert sorted(search.asked) == list(order.drafts), "each draft is searched once"
    assert images(connection, order) == dict.fromkeys(order.drafts, 2)
    assert sessions(connection, order) == 1


def test_a_first_page_that_has_its_images_does_not_hide_the_second(
    database_url: str, connection: Connection
) -> None:
    order = new_order(connection, PAGE + 1)
    has_images(connection, Order(order.id, order.merchant, order.drafts[:PAGE]))
    record = ended(perform(database_url, ask(connection, order)))
    assert record.counts == {"already_has_images": PAGE, "attached": 1, "images_memory": 2}


MORE = """
ALTER TABLE "ProductImage" ADD COLUMN "altText" text NOT NULL DEFAULT '', ADD COLUMN "rank" integer NOT NULL DEFAULT 7;
ALTER TABLE "ProductDraft" ADD COLUMN "seo" jsonb NOT NULL DEFAULT '{}', ADD COLUMN url text;
ALTER TABLE "PurchaseOrder" ADD COLUMN "merchant" text;
ALTER TABLE "ImageReviewSession" ADD COLUMN "locale" text NOT NULL DEFAULT 'en';
ALTER TABLE "ImageReviewItem" ADD COLUMN "createdAt" timestamp(3) NOT NULL DEFAULT now();
CREATE TABLE "Session" (id text PRIMARY KEY, "shopId" text NOT NULL);
CREATE TABLE toolkit_like (id text);
"""


def test_a_catalog_with_more_columns_and_tables_is_fine(database_url: str, connection: Connection) -> None:
    connection.execute(MORE)
    order = new_order(connection)
    assert ended(perform(database_url, ask(connection, order))).outcome == "processed"
    assert set(images(connection, order).values()) == {2}


def test_an_inline_run_is_the_same_run_and_waits_to_be_counted_once(
    database_url: str, connection: Connection, database: Database
) -> None:
    order = new_order(connection)
    job = ask(connection, order)
    with App(Settings(database_url=database_url)) as app:
        app.registry = Registry.of([spec_with(resources=in_memory)])
        performer = app.inline_performer(app.inline_sink())
        record = ended(performer.perform(job, mode=Mode.SYNC))
    assert (record.outcome, record.mode) == ("processed", "sync")
    assert set(images(connection, order).values()) == {2}
    with database.session() as session:
        (counted,) = runs.take_uncounted(session)
        assert runs.take_uncounted(session) == []
    assert (counted.run_id, counted.counts, counted.mode) == (record.run_id, record.counts, "sync")
    assert scalar(connection, "SELECT count(*) FROM toolkit.trace WHERE job_id = %s", job) == 1


class Mute(Exception):
    """An exception that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("a\0b"), r"a\0b"),
        (ValueError("half \ud83d of it"), r"half \ud83d of it"),
        (Mute(), "(Mute cannot be told as text)"),
    ],
    ids=["a NUL", "half of a surrogate pair", "no text at all"],
)
def test_an_error_is_not_lost_by_its_own_message(
    error: Exception, told: str, database_url: str, connection: Connection
) -> None:
    def body(_context: object, _payload: object) -> Result:
        raise error

    job = ask(connection, new_order(connection))
    record = ended(perform(database_url, job, spec=spec_with(body=body)))
    assert record.failure is not None
    assert (record.outcome, record.failure.message) == ("failed", told)
    assert ended_runs(connection, job) == [("failed", "error")]


@pytest.mark.parametrize(
    "result",
    [Result(counts={"n": object()}), Result(reason="a\0b")],
    ids=["an object", "a NUL"],  # type: ignore[dict-item]
)
def test_a_result_that_cannot_be_written_is_a_failure(
    result: Result, database_url: str, connection: Connection
) -> None:
    job = ask(connection, new_order(connection))
    record = ended(perform(database_url, job, spec=spec_with(body=lambda *_: result)))
    assert record.outcome == "failed"
    assert ended_runs(connection, job) == [("failed", "error")]


def test_a_run_whose_begin_was_not_answered_does_not_hold_its_job(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = new_order(connection)
    job = ask(connection, order)
    begin, asked = runs.begin, []

    def unanswered(*args: Any, **options: Any) -> runs.Begun:
        begun = begin(*args, **options)
        asked.append(begun)
        if len(asked) == 1:
            raise psycopg.OperationalError(
                "consuming input failed: server closed the connection unexpectedly"
            )
        return begun

    monkeypatch.setattr(runs, "begin", unanswered)
    assert ended(perform(database_url, job)).outcome == "processed"
    assert ended_runs(connection, job) == [("lost", "lease_expired"), ("processed", "")]
    assert set(images(connection, order).values()) == {2}


def test_searches_are_told_even_when_none_of_them_brought_anything(
    database_url: str, connection: Connection
) -> None:
    job = ask(connection, new_order(connection, ["down", "down"]))
    record = ended(perform(database_url, job, Scripted({"down": failing()})))
    assert record.reason == "transient"
    assert [sample.labels for sample in record.samples] == [("product_page", "transient")] * 2


def test_spans_that_found_no_room_are_told_to_the_sink(database_url: str, connection: Connection) -> None:
    order = new_order(connection)
    job = ask(connection, order)
    sink = Heard()
    with performing(database_url, sink=sink) as performer:
        tracing = Tracing("freshfetch", "1", limit=2)
        dataclasses.replace(performer, tracing=tracing).perform(job, mode=Mode.ASYNC)
    (lost,) = sink.lost
    assert lost[:2] == ("spans", "buffer_full")
    assert lost[2] > 0
