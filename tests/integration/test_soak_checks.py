"""Each check of scripts/soak turns red when what it watches over is broken, and is green when it is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from scripts.soaking import checks
from tests.eventually import eventually
from tests.orders import Order, ask, new_merchant, new_order
from tests.performing import performing
from toolkit.embedded.servers import Servers
from toolkit.run import Mode

Connection = psycopg.Connection


@pytest.fixture
def order(database_url: str, connection: Connection) -> Order:
    """An order that a job has done: two drafts with two images each."""
    order = new_order(connection, ["Mug 2", "Cup 2"])
    job = ask(connection, order)
    with performing(database_url) as performer:
        performer.perform(job, mode=Mode.ASYNC)
    return order


def without_keys(connection: Connection, statement: str) -> None:
    """What foreign keys would forbid."""
    with connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(statement)


ONE_IMAGE_MORE = """
INSERT INTO "ProductImage" (id, "productDraftId", url, source, position)
SELECT 'more', min(id), 'u', 's', 9 FROM "ProductDraft"
"""
ONE_SESSION_MORE = """
INSERT INTO "ImageReviewSession" (id, "purchaseOrderId", "merchantId", status, "updatedAt")
SELECT 'more', id, "merchantId", 'pending', now() FROM "PurchaseOrder"
"""
ONE_ITEM_MORE = """
INSERT INTO "ImageReviewItem" (id, "sessionId", "imageId") SELECT 'more', "sessionId", "imageId" FROM "ImageReviewItem" LIMIT 1
"""
ONE_IMAGE_LESS = 'DELETE FROM "ProductImage" WHERE id = (SELECT min(id) FROM "ProductImage")'
ONE_ITEM_LESS = 'DELETE FROM "ImageReviewItem" WHERE id = (SELECT min(id) FROM "ImageReviewItem")'
FOREIGN_KEY_ERROR = "UPDATE toolkit.run SET sqlstate = '23503', constraint_name = 'c'"

BROKEN: dict[str, tuple[str, str]] = {
    "an image without a draft": (checks.ORPHANS, 'DELETE FROM "ProductDraft"'),
    "an image missing": (checks.MISSING, ONE_IMAGE_LESS),
    "all images missing": (checks.MISSING, 'DELETE FROM "ProductImage"'),
    "an image too many": (checks.MISSING, ONE_IMAGE_MORE),
    "a second review session": (checks.REVIEWS, ONE_SESSION_MORE),
    "no review session": (checks.REVIEWS, 'DELETE FROM "ImageReviewSession"'),
    "an image in no review": (checks.ITEMS, ONE_ITEM_LESS),
    "an image in two reviews": (checks.ITEMS, ONE_ITEM_MORE),
    "a foreign key error": (checks.FOREIGN_KEY_ERRORS, FOREIGN_KEY_ERROR),
    "a failed run": (checks.FAILED, "UPDATE toolkit.run SET outcome = 'failed', reason = 'error'"),
    "a job that is not done": (checks.OPEN, "UPDATE toolkit.intent SET done_at = NULL"),
}


@pytest.mark.parametrize(("query", "sabotage"), BROKEN.values(), ids=BROKEN.keys())
def test_a_check_of_the_catalog_or_the_ledger_turns_red(
    query: str, sabotage: str, order: Order, connection: Connection
) -> None:
    assert checks.offenders(connection, query) == []
    without_keys(connection, sabotage)
    assert checks.offenders(connection, query)


def test_a_draft_that_was_sold_may_have_no_images_but_not_some(order: Order, connection: Connection) -> None:
    new_merchant(connection, "m-other")
    connection.execute(
        'UPDATE "ProductDraft" SET "merchantId" = \'m-other\' WHERE id = %s', (order.drafts[0],)
    )
    assert checks.offenders(connection, checks.MISSING) == []
    connection.execute(
        'DELETE FROM "ProductImage" WHERE position = 0 AND "productDraftId" = %s', (order.drafts[0],)
    )
    assert checks.offenders(connection, checks.MISSING)
    connection.execute('DELETE FROM "ProductImage" WHERE "productDraftId" = %s', (order.drafts[0],))
    assert checks.offenders(connection, checks.MISSING) == []


EXPOSITION = """\
# TYPE job_runs_total counter
job_runs_total{job_name="a",queue="images",mode="async",outcome="processed"} 3.0
job_runs_total{job_name="a",queue="images",mode="sync",outcome="processed"} 1.0
job_runs_total{job_name="a",queue="images",mode="async",outcome="lost"} 0.0
job_runs_total_more{outcome="processed"} 9.0
"""


@pytest.mark.parametrize(
    ("ledger", "apart"),
    [({"processed": 4}, []), ({"processed": 5}, ["processed: 5 and 4"]), ({}, ["processed: 0 and 4"])],
)
def test_counts_that_differ_are_told(ledger: dict[str, int], apart: list[str]) -> None:
    assert checks.differences(ledger, checks.scraped(EXPOSITION, "job_runs_total", "outcome")) == apart


def test_the_ledgers_counts_are_those_of_its_runs(order: Order, connection: Connection) -> None:
    read: Callable[[str], Counter[str]] = lambda query: checks.counted(connection, query)  # noqa: E731
    assert read(checks.DONE) == {"done": 1}
    assert read(checks.LEDGER_RUNS) == {"processed": 1}
    assert read(checks.LEDGER_SKIPS) == {}
    assert read(checks.LEDGER_DRAFTS) == {"attached": 2}
    assert read(checks.LEDGER_IMAGES) == {"memory": 4}
    connection.execute("UPDATE toolkit.run SET outcome = 'skipped', reason = 'no_drafts', counts = '{}'")
    assert read(checks.LEDGER_RUNS) == {"skipped": 1}
    assert read(checks.LEDGER_SKIPS) == {"no_drafts": 1}
    assert read(checks.LEDGER_DRAFTS) == read(checks.LEDGER_IMAGES) == {}


@pytest.mark.parametrize(
    ("roots", "killed", "well"),
    [
        ({"a": 1, "b": 1}, 0, True),
        ({"a": 1}, 0, False),
        ({"a": 1}, 1, True),
        ({}, 1, False),
        ({"a": 2, "b": 1}, 5, False),
        ({"a": 1, "b": 1, "c": 1}, 5, False),
    ],
)
def test_each_run_has_one_root_span_but_for_what_died_with_a_worker(
    roots: dict[str, int], killed: int, well: bool
) -> None:
    assert (checks.spans_apart(["a", "b"], Counter(roots), killed) == []) is well


def test_a_foreign_key_error_is_found_in_postgresqls_log(
    servers: Servers, database_url: str, connection: Connection
) -> None:
    log: Path = servers.postgres.log
    before = len(checks.logged(log, "23503"))
    with (
        psycopg.connect(database_url, application_name="some-job") as job,
        pytest.raises(psycopg.errors.ForeignKeyViolation),
    ):
        job.execute(
            "INSERT INTO \"ProductImage\" (id, \"productDraftId\", url, source, position) VALUES ('i', '-', 'u', 's', 0)"
        )
    eventually(lambda: len(checks.logged(log, "23503")) == before + 1)
    assert len(checks.logged(log, "23503", without="some-job")) == before
