"""verify-deploy's test orders: made by the real workflow, served by the real job, told truly, and gone without a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from jobs.demo.shop import Shop
from jobs.images.search.protocol import Product
from jobs.images.search.sample import MERCHANT, Sampled
from jobs.images.spec import SPEC
from jobs.images.verify import MERCHANT_NAME
from tests.eventually import eventually
from tests.hosts import worker_host
from tests.orders import ask, ended_runs, images, new_merchant, new_order, scalar, sessions
from tests.performing import Heard, Once, performing
from toolkit.errors import AlreadyImported, Refused
from toolkit.jobspec import OrderSeen
from toolkit.ledger import intents
from toolkit.ledger.database import Database
from toolkit.run import Mode
from toolkit.settings import Settings
from toolkit.telemetry.traces import Tracing

assert SPEC.verify
VERIFY = SPEC.verify
Connection = psycopg.Connection
SAMPLES = Sampled(())


class Asking:
    """VERIFY's `ask`, which remembers the jobs."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}

    def __call__(self, connection: sa.Connection, payload: Mapping[str, Any]) -> str:
        job = intents.ask(connection, SPEC, payload)
        self.jobs[payload["purchaseOrderId"]] = job
        return job


@pytest.fixture
def asking() -> Asking:
    return Asking()


def place(database: Database, asking: Asking, key: str = "v1-1", size: int = 3) -> str:
    with database.begin() as connection:
        return VERIFY.place(connection, asking, key, size, datetime.now(UTC))


def perform(url: str, job: str, search: Callable[[Product], Any] = SAMPLES) -> tuple[str, str]:
    heard = Heard()
    with performing(url, search, sink=heard) as performer:
        performer.perform(job, mode=Mode.ASYNC)
    (record,) = heard.records
    return record.outcome, record.reason


def seen(database: Database, *subjects: str) -> list[OrderSeen]:
    with database.session() as session:
        return list(VERIFY.seen(session, subjects))


def clean(database: Database, *subjects: str) -> int:
    with database.session() as session:
        return VERIFY.clean(session, subjects)


def left(database: Database) -> int:
    with database.session() as session:
        return VERIFY.left(session)


def waiting(connection: Connection, lock: str = "%") -> int:
    """How many wait for a lock (of this kind) in this database."""
    return scalar(
        connection,
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event LIKE %s",
        lock,
    )


@contextmanager
def beside(action: Callable[[], Any]) -> Iterator[Future[Any]]:
    """The action in a thread of its own, which has ended when the block has."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(action)
        yield future
        future.result(20)


def rekey(connection: Connection, action: str) -> None:
    """Every foreign key of the shop with this ON DELETE action; '' drops them all."""
    keys = connection.execute(
        "SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE contype = 'f' AND connamespace = 'public'::regnamespace"
    ).fetchall()
    assert len(keys) == 11
    for table, name, definition in keys:
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        if action:
            bare = definition.partition(" ON ")[0]
            connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {bare} ON DELETE {action}")


# The whole way


def test_test_orders_go_all_the_way_through_a_worker_and_leave_nothing(
    database_url: str,
    redis_url: str,
    database: Database,
    connection: Connection,
    tmp_path: Path,
) -> None:
    asking = Asking()
    own = new_order(connection)
    with database.begin() as together:
        first = VERIFY.place(together, asking, "v7-1", 3, datetime.now(UTC))
        second = VERIFY.place(together, asking, "v7-2", 1, datetime.now(UTC))
    before = seen(database, second, first)
    assert [(one.subject, one.asked, one.served, one.reviews) for one in before] == [
        (second, 1, 0, 0),
        (first, 3, 0, 0),
    ]
    with worker_host(database_url, redis_url, tmp_path / "host", TOOLKIT_JOBS="jobs.images.spec:SPEC"):
        eventually(lambda: all(one.reviews for one in seen(database, first, second)), within=20)
    for subject, size in ((first, 3), (second, 1)):
        (order,) = seen(database, subject)
        assert (order.asked, order.served, order.strays, order.reviews) == (size, size, 0, 1)
        assert order.workflow is not None
        assert 0 <= order.workflow < VERIFY.workflow
        assert ended_runs(connection, asking.jobs[subject]) == [("processed", "")]
    counts = connection.execute(
        "SELECT counts FROM toolkit.run WHERE job_id = %s", (asking.jobs[first],)
    ).fetchone()
    assert counts == ({"attached": 3, "images_sample": 9},)
    assert set(VERIFY.wrote) <= counts[0].keys()

    rows = 1 + (1 + 1 + 3 + 3 + 9 + 1 + 9) + (1 + 1 + 1 + 1 + 3 + 1 + 3)
    assert left(database) == rows
    assert clean(database, first, second) == rows
    assert left(database) == 0
    assert seen(database, first, second) == []
    assert clean(database, first, second) == 0, "a second time finds nothing"
    assert images(connection, own) == dict.fromkeys(own.drafts, 0)
    assert (
        scalar(connection, "SELECT count(*) FROM toolkit.run WHERE job_id = ANY(%s)", [*asking.jobs.values()])
        == 2
    )


def test_a_test_order_is_marked_as_nobodys(
    database: Database, connection: Connection, asking: Asking
) -> None:
    order = place(database, asking, "v7-1", 2)
    assert connection.execute(
        'SELECT o.number, m.id, m.name FROM "PurchaseOrder" o JOIN "Merchant" m ON m.id = o."merchantId"'
    ).fetchall() == [("v7-1", MERCHANT, MERCHANT_NAME)]
    assert connection.execute(
        'SELECT sku FROM "POLineItem" WHERE "purchaseOrderId" = %s ORDER BY id', (order,)
    ).fetchall() == [("v7-1-1",), ("v7-1-2",)]


def test_a_shops_draft_with_a_samples_url_has_no_images(database_url: str, connection: Connection) -> None:
    order = new_order(connection, 2)
    connection.execute('UPDATE "POLineItem" SET "productUrl" = \'freshfetch-sample:3\'')
    assert perform(database_url, ask(connection, order)) == ("processed", "")
    assert set(images(connection, order).values()) == {0}
    assert sessions(connection, order) == 0


def test_with_a_page_of_the_shop_test_orders_are_searched_for_real(
    database_url: str, database: Database, connection: Connection, asking: Asking
) -> None:
    order = place(database, asking, size=2)
    with Shop() as shop:
        page = shop.product_url("MUG-01")
        environ = {"TOOLKIT_IMAGES_TEST_PAGE": page, "TOOLKIT_IMAGES_ALLOW_PRIVATE": "true"}
        tracer = Tracing("freshfetch", "test", {}).tracer
        with SPEC.resources(Settings.from_env(environ), tracer) as resources:
            assert perform(database_url, asking.jobs[order], resources.search) == ("processed", "")
    assert [(one.asked, one.served, one.reviews) for one in seen(database, order)] == [(2, 2, 1)]
    found = connection.execute('SELECT DISTINCT source, url LIKE %s FROM "ProductImage"', (f"{shop.url}/%",))
    assert found.fetchall() == [("product_page", True)]
    assert clean(database, order) > 0
    assert left(database) == 0


# Placing


def test_the_same_key_is_placed_once(database: Database, asking: Asking) -> None:
    order = place(database, asking)
    with pytest.raises(AlreadyImported, match="v1-1"):
        place(database, asking)
    other = place(database, asking, "v1-2")
    assert {one.subject for one in seen(database, order, other)} == {order, other}
    assert len(asking.jobs) == 2


def test_a_placing_that_is_rolled_back_leaves_nothing(
    database: Database, connection: Connection, asking: Asking
) -> None:
    def broken_off() -> None:
        with database.begin() as opened:
            VERIFY.place(opened, asking, "v1-1", 3, datetime.now(UTC))
            raise LookupError

    with pytest.raises(LookupError):
        broken_off()
    assert left(database) == 0
    assert scalar(connection, "SELECT count(*) FROM toolkit.intent") == 0
    assert place(database, asking)


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_two_keys_are_placed_at_once_whatever_becomes_of_the_first(
    database: Database, connection: Connection, asking: Asking, ending: str
) -> None:
    with database.engine.connect() as slow:
        VERIFY.place(slow, asking, "v1-1", 1, datetime.now(UTC))
        with beside(lambda: place(database, asking, "v1-2", 1)) as other:
            eventually(lambda: waiting(connection))
            getattr(slow, ending)()
        assert [one.subject for one in seen(database, other.result())] == [other.result()]
    assert scalar(connection, 'SELECT count(*) FROM "PurchaseOrder"') == (2 if ending == "commit" else 1)


def test_once_the_merchant_is_there_two_placings_do_not_wait_for_each_other(
    database: Database, asking: Asking
) -> None:
    place(database, asking)
    with database.engine.connect() as slow, database.begin() as other:
        VERIFY.place(slow, asking, "v1-2", 1, datetime.now(UTC))
        other.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
        assert VERIFY.place(other, asking, "v1-3", 1, datetime.now(UTC))
        slow.commit()


@pytest.mark.parametrize("made", ["before", "at the same time"])
def test_a_placing_holds_the_merchant_from_its_first_moment(
    database: Database, connection: Connection, asking: Asking, made: str
) -> None:
    """Held up before its order is written, while the merchant's only other order is cleaned."""
    held = f"hashtextextended('purchase-order:{len(MERCHANT)}:{MERCHANT}:v1-2', 0)"
    connection.execute(f"SELECT pg_advisory_lock({held})")
    with database.engine.connect() as opened:
        first = VERIFY.place(opened, asking, "v1-1", 1, datetime.now(UTC))
        if made == "before":
            opened.commit()
        with beside(lambda: place(database, asking, "v1-2", 1)) as second:
            eventually(lambda: waiting(connection))
            opened.commit()
            eventually(lambda: waiting(connection, "advisory"))
            with beside(lambda: clean(database, first)) as cleaned:
                eventually(lambda: waiting(connection) == 2 or cleaned.done())
                connection.execute(f"SELECT pg_advisory_unlock({held})")
    assert [one.subject for one in seen(database, first, second.result())] == [second.result()]


def test_a_shop_that_wants_more_of_a_merchant_adds_it_and_keeps_it(
    database: Database, connection: Connection, asking: Asking
) -> None:
    connection.execute('ALTER TABLE "Merchant" ADD COLUMN email text NOT NULL')
    with pytest.raises(Refused, match="email"):
        place(database, asking)
    connection.execute(
        "INSERT INTO \"Merchant\" (id, name, email) VALUES (%s, 'Tests', 'a@b.example')", (MERCHANT,)
    )
    clean(database, place(database, asking))
    assert scalar(connection, 'SELECT count(*) FROM "Merchant"') == 1
    assert left(database) == 0


# What is seen


def test_what_is_seen_is_what_is_there(
    database_url: str, database: Database, connection: Connection, asking: Asking
) -> None:
    order = place(database, asking, size=3)
    own = new_order(connection)
    perform(database_url, asking.jobs[order])
    assert [one.subject for one in seen(database, own.id, "gone", order)] == [order], "no shop's order"

    draft = connection.execute('SELECT min("productDraftId") FROM "ProductImage"').fetchone()
    connection.execute('DELETE FROM "ProductImage" WHERE "productDraftId" = %s', draft)
    (served,) = seen(database, order)
    assert (served.asked, served.served, served.strays) == (3, 2, 0)

    connection.execute(
        'INSERT INTO "ImageReviewSession" (id, "purchaseOrderId", "merchantId", status, "updatedAt")'
        " VALUES ('again', %s, %s, 'pending', now())",
        (order, MERCHANT),
    )
    assert seen(database, order)[0].reviews == 2


def test_the_workflows_time_is_told_and_none_while_it_runs(
    database: Database, connection: Connection, asking: Asking
) -> None:
    order = place(database, asking)
    connection.execute(
        'UPDATE "WorkflowExecution" SET "completedAt" = o."createdAt" + interval \'42.5 s\' FROM "PurchaseOrder" o'
    )
    assert seen(database, order)[0].workflow == 42.5
    connection.execute(
        "INSERT INTO \"WorkflowExecution\" (id, \"purchaseOrderId\", status, mode) VALUES ('w', %s, 'running', 'async')",
        (order,),
    )
    assert seen(database, order)[0].workflow is None
    connection.execute('DELETE FROM "WorkflowExecution"')
    assert seen(database, order)[0].workflow is None


def test_results_on_what_is_not_there_are_strays_where_a_shop_has_no_keys(
    database_url: str, database: Database, connection: Connection, asking: Asking
) -> None:
    order = place(database, asking, size=2)
    perform(database_url, asking.jobs[order])
    rekey(connection, "")
    connection.execute('DELETE FROM "ProductDraft" WHERE id = (SELECT min(id) FROM "ProductDraft")')
    (orphaned,) = seen(database, order)
    assert (orphaned.asked, orphaned.served, orphaned.strays) == (1, 1, 3)
    connection.execute(
        'DELETE FROM "ProductImage" WHERE id = (SELECT min(i.id) FROM "ProductImage" i'
        ' JOIN "ProductDraft" d ON d.id = i."productDraftId")'
    )
    assert seen(database, order)[0].strays == 4
    clean(database, order)
    assert left(database) == 0
    for table in ("ProductImage", "ImageReviewItem"):
        assert scalar(connection, f'SELECT count(*) FROM "{table}"') == 0


# Cleaning


@pytest.mark.parametrize("action", ["NO ACTION", "RESTRICT", "CASCADE", ""])
def test_all_is_removed_whatever_the_shops_keys_do(
    database_url: str, database: Database, connection: Connection, asking: Asking, action: str
) -> None:
    rekey(connection, action)
    own = new_order(connection)
    assert perform(database_url, ask(connection, own), lambda product: SAMPLES(_ours(product))) == (
        "processed",
        "",
    )
    order = place(database, asking, size=2)
    perform(database_url, asking.jobs[order])
    rows = left(database)
    assert rows == 1 + 1 + 1 + 2 + 2 + 6 + 1 + 6
    assert clean(database, order) == rows
    assert left(database) == 0
    assert images(connection, own) == dict.fromkeys(own.drafts, 3), "a shop's images stay"
    assert sessions(connection, own) == 1


def _ours(product: Product) -> Product:
    return Product(product.draft_id, product.sku, product.name, "freshfetch-sample:3", MERCHANT)


def test_the_merchant_goes_with_its_last_order(
    database: Database, connection: Connection, asking: Asking
) -> None:
    first, second = place(database, asking), place(database, asking, "v1-2")
    connection.execute('DELETE FROM "ProductDraft" WHERE "purchaseOrderId" = %s', (second,))
    clean(database, first)
    assert left(database) == 1 + 1 + 1 + 3, "an order without drafts is one"
    clean(database, second)
    assert left(database) == 0


@pytest.mark.parametrize("table", ["PurchaseOrder", "ProductDraft", "ImageReviewSession"])
def test_what_has_a_part_of_another_merchants_is_not_touched(
    database_url: str, database: Database, connection: Connection, asking: Asking, table: str
) -> None:
    mixed, pure = place(database, asking), place(database, asking, "v1-2")
    perform(database_url, asking.jobs[mixed])
    new_merchant(connection, "m-own")
    key = "id" if table == "PurchaseOrder" else '"purchaseOrderId"'
    connection.execute(f'UPDATE "{table}" SET "merchantId" = \'m-own\' WHERE {key} = %s', (mixed,))
    tables = ("PurchaseOrder", "POLineItem", "ProductDraft", "ProductImage", "ImageReviewItem", "Merchant")
    before = [scalar(connection, f'SELECT count(*) FROM "{name}"') for name in tables]
    with pytest.raises(Refused, match=mixed):
        clean(database, pure, mixed)
    assert [scalar(connection, f'SELECT count(*) FROM "{name}"') for name in tables] == before


def test_a_shop_that_holds_on_to_an_order_loses_no_part_of_it(
    database_url: str, database: Database, connection: Connection, asking: Asking
) -> None:
    order = place(database, asking)
    perform(database_url, asking.jobs[order])
    rows = left(database)
    connection.execute('CREATE TABLE "Invoice" ("orderId" text NOT NULL REFERENCES "PurchaseOrder")')
    connection.execute('INSERT INTO "Invoice" VALUES (%s)', (order,))
    with pytest.raises(psycopg.errors.ForeignKeyViolation, match="Invoice"):
        clean(database, order)
    assert left(database) == rows


def test_an_order_that_is_placed_while_the_last_one_goes_keeps_its_merchant(
    database: Database, connection: Connection, asking: Asking
) -> None:
    last = place(database, asking)
    with database.engine.connect() as slow:
        new = VERIFY.place(slow, asking, "v1-2", 1, datetime.now(UTC))
        with beside(lambda: clean(database, last)):
            eventually(lambda: waiting(connection))
            slow.commit()
    assert [one.subject for one in seen(database, last, new)] == [new]


def test_a_job_whose_test_order_is_cleaned_under_it_skips(
    database_url: str, database: Database, asking: Asking
) -> None:
    order = place(database, asking, size=2)
    cleaning = Once(lambda: clean(database, order))

    def search(product: Product) -> Any:
        cleaning(product)
        return SAMPLES(product)

    assert perform(database_url, asking.jobs[order], search) == ("skipped", "draft_deleted")
    assert left(database) == 0


def test_no_image_comes_in_while_an_unlocked_job_is_cleaned_up_after(
    database_url: str, database: Database, connection: Connection, asking: Asking
) -> None:
    """A broken release's insert, open when the clean-up begins, on keys that do not cascade."""
    rekey(connection, "NO ACTION")
    order = place(database, asking, size=1)
    with psycopg.connect(database_url) as broken:
        broken.execute(
            'INSERT INTO "ProductImage" (id, "productDraftId", url, source, position)'
            " SELECT 'late', id, 'https://x.example/1.png', 'sample', 0 FROM \"ProductDraft\""
        )
        with beside(lambda: clean(database, order)) as cleaned:
            eventually(lambda: waiting(connection))
            broken.commit()
    assert cleaned.result() == 1 + 1 + 1 + 1 + 1 + 1
    assert left(database) == 0


# What users approved


def test_what_users_approved_is_told_by_when_it_was_made_and_without_test_orders(
    database_url: str, database: Database, connection: Connection, asking: Asking
) -> None:
    test, own = place(database, asking), new_order(connection, 4)
    perform(database_url, asking.jobs[test])
    perform(database_url, ask(connection, own), lambda product: SAMPLES(_ours(product)))
    connection.execute('UPDATE "ImageReviewSession" SET "createdAt" = \'2025-10-11 17:00:00\'')

    def told(since: str, until: str) -> tuple[int, int]:
        with database.session() as session:
            return VERIFY.approved(session, datetime.fromisoformat(since), datetime.fromisoformat(until))

    day = ("2025-10-11T00:00:00+00:00", "2025-10-12T00:00:00+00:00")
    assert told(*day) == (0, 0)
    connection.execute('UPDATE "ImageReviewItem" SET decision = \'approved\', "decidedAt" = now()')
    assert told(*day) == (12, 12)
    connection.execute(
        "UPDATE \"ImageReviewItem\" SET decision = 'rejected'"
        ' WHERE "imageId" IN (SELECT id FROM "ProductImage" WHERE position = 0)'
    )
    connection.execute(
        'UPDATE "ImageReviewItem" SET decision = NULL WHERE "imageId" IN (SELECT id FROM "ProductImage" WHERE position = 1)'
    )
    assert told(*day) == (4, 8)
    assert told("2025-10-11T19:00:00+02:00", "2025-10-11T19:00:01+02:00") == (4, 8), "from the first moment"
    assert told("2025-10-11T16:00:00+00:00", "2025-10-11T17:00:00+00:00") == (0, 0), "to before the last"


# A broken release


def test_the_kept_broken_release_meets_a_real_foreign_key_error(
    database_url: str,
    redis_url: str,
    database: Database,
    connection: Connection,
    tmp_path: Path,
) -> None:
    asking = Asking()
    with worker_host(
        database_url, redis_url, tmp_path / "host", TOOLKIT_JOBS="tests.broken_release:SPEC"
    ) as host:
        healthy = place(database, asking)
        eventually(lambda: [one.reviews for one in seen(database, healthy)] == [1], within=20)
        order = new_order(connection, ["wait:deleted", "Mug"])
        job = ask(connection, order)
        host.reached("deleted")
        connection.execute('DELETE FROM "ProductDraft" WHERE id = %s', (order.drafts[0],))
        host.open("deleted")
        eventually(lambda: ended_runs(connection, job), within=20)
    assert connection.execute(
        "SELECT outcome, sqlstate, constraint_name FROM toolkit.run WHERE job_id = %s", (job,)
    ).fetchall() == [("failed", "23503", "ProductImage_productDraftId_fkey")]
