"""The workflow of a purchase order: everything of it in one transaction, once, in bounded memory."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from jobs import catalog, workflow
from jobs.orders.read import OrderFile, read_order
from jobs.workflow import ImportedOrder, import_order
from tests.eventually import eventually
from toolkit.errors import AlreadyImported, InputFileError, NotFound
from toolkit.run import Mode

NOW = datetime(2025, 10, 11, 19, 2, 0, 123_456, tzinfo=timezone(timedelta(hours=2)))
STORED = datetime(2025, 10, 11, 17, 2, 0, 123_000)  # noqa: DTZ001  as the catalog holds it
HEAD = "sku,product_name,quantity,unit_cost,product_url\n"
WRITTEN = [
    catalog.purchase_order,
    catalog.po_line_item,
    catalog.product_draft,
    catalog.workflow_execution,
]


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    url = sa.make_url(database_url).set(drivername="postgresql+psycopg")
    made = sa.create_engine(url, isolation_level="READ COMMITTED")
    with made.begin() as connection:
        connection.execute(catalog.merchant.insert().values(id="m", name="The Shop"))
    yield made
    made.dispose()


def order_of(folder: Path, lines: int, number: str = "PO-1") -> OrderFile:
    path = folder / f"{number}-{lines}.csv"
    rows = (f"S-{n},Mug {n},{n + 1},{n % 90}.25,{'http://x/' * (n % 2)}\n" for n in range(lines))
    path.write_text(HEAD + "".join(rows))
    return read_order(path, "m", number)


def no_job(_connection: sa.Connection, _payload: Mapping[str, str]) -> str:
    return "job"


def run(
    connection: sa.Connection,
    order: OrderFile,
    *,
    ask: Callable[[sa.Connection, Mapping[str, str]], str] = no_job,
    progress: Callable[[int], None] | None = None,
    create_merchant: bool = False,
    mode: Mode = Mode.ASYNC,
) -> ImportedOrder:
    return import_order(
        connection,
        order,
        ask=ask,
        now=NOW,
        new_id=catalog.id_maker(lambda: NOW, os.urandom),
        progress=progress,
        create_merchant=create_merchant,
        mode=mode,
    )


def counts(engine: sa.Engine) -> list[int | None]:
    with engine.connect() as connection:
        return [connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in WRITTEN]


def test_an_import_writes_the_order_its_lines_and_drafts_and_asks_once(
    engine: sa.Engine, tmp_path: Path
) -> None:
    asked: list[Mapping[str, str]] = []

    def ask(connection: sa.Connection, payload: Mapping[str, str]) -> str:
        assert connection.scalar(sa.select(catalog.workflow_execution.c.id)) == payload["workflowId"]
        asked.append(payload)
        return "job-7"

    with engine.begin() as connection:
        done = run(connection, order_of(tmp_path, 3), ask=ask, mode=Mode.SYNC)
    assert (done.lines, done.drafts, done.job_id) == (3, 3, "job-7")
    assert asked == [{"purchaseOrderId": done.order_id, "merchantId": "m", "workflowId": done.workflow_id}]
    with engine.connect() as connection:
        order = connection.execute(sa.select(catalog.purchase_order)).one()
        assert tuple(order) == (done.order_id, "m", "PO-1", "imported", STORED, STORED)
        execution = connection.execute(sa.select(catalog.workflow_execution)).one()
        assert tuple(execution)[:5] == (done.workflow_id, done.order_id, "completed", "sync", STORED)
        assert STORED <= execution.completedAt < STORED + timedelta(minutes=1)
        items = connection.execute(sa.select(catalog.po_line_item).order_by("id")).all()
        assert [tuple(item)[1:] for item in items] == [
            (done.order_id, "S-0", "Mug 0", 1, Decimal("0.2500"), None),
            (done.order_id, "S-1", "Mug 1", 2, Decimal("1.2500"), "http://x/"),
            (done.order_id, "S-2", "Mug 2", 3, Decimal("2.2500"), None),
        ]
        drafts = connection.execute(sa.select(catalog.product_draft).order_by("id")).all()
        assert [tuple(draft)[1:] for draft in drafts] == [
            (done.order_id, item.id, "m", item.productName, "draft", STORED, STORED) for item in items
        ]


def test_the_workflow_says_how_long_it_took(engine: sa.Engine, tmp_path: Path) -> None:
    def slow(_lines: int) -> None:
        began = time.monotonic()
        eventually(lambda: time.monotonic() - began > 0.05)

    with engine.begin() as connection:
        run(connection, order_of(tmp_path, 2), progress=slow)
        execution = connection.execute(sa.select(catalog.workflow_execution)).one()
    assert execution.completedAt - execution.startedAt >= timedelta(milliseconds=50)


def test_the_same_order_again_is_refused_before_any_write(engine: sa.Engine, tmp_path: Path) -> None:
    order = order_of(tmp_path, 2)
    with engine.begin() as connection:
        first = run(connection, order)
    with (
        engine.connect() as connection,
        pytest.raises(AlreadyImported, match=f"merchant m .* PO-1 already: {first.order_id}") as caught,
    ):
        run(connection, order)
    assert caught.value.exit_code == 5
    assert caught.value.remedy
    with engine.begin() as connection:
        run(connection, order_of(tmp_path, 2, "PO-2"))
    assert counts(engine) == [2, 4, 4, 2]


@pytest.mark.parametrize("indexed", [True, False], ids=["unique index", "no unique index"])
def test_of_two_imports_at_once_one_wins(engine: sa.Engine, tmp_path: Path, indexed: bool) -> None:
    order = order_of(tmp_path, 2)
    if not indexed:
        with engine.begin() as connection:
            connection.execute(sa.text('DROP INDEX "PurchaseOrder_merchantId_number_key"'))
    refused: list[AlreadyImported] = []

    def second() -> None:
        with engine.connect() as connection:
            try:
                run(connection, order)
                connection.commit()
            except AlreadyImported as error:
                refused.append(error)

    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with engine.begin() as connection:
        done = run(connection, order)
        thread = threading.Thread(target=second)
        thread.start()
        with engine.connect() as watcher:
            eventually(lambda: watcher.scalar(waiting) == 1)
    thread.join()
    assert [done.order_id in str(error) for error in refused] == [True]
    assert counts(engine) == [1, 2, 2, 1]


def test_a_program_that_takes_no_lock_is_found_by_the_unique_index(engine: sa.Engine, tmp_path: Path) -> None:
    refused: list[AlreadyImported] = []

    def second() -> None:
        with engine.connect() as connection:
            try:
                run(connection, order_of(tmp_path, 1))
            except AlreadyImported as error:
                refused.append(error)

    # Held by a transaction's end, not by the advisory lock: the other one waits for the unique index.
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted")
    with engine.begin() as connection:
        connection.execute(
            catalog.purchase_order.insert().values(
                id="theirs", merchantId="m", number="PO-1", status="x", updatedAt=STORED
            )
        )
        thread = threading.Thread(target=second)
        thread.start()
        with engine.connect() as watcher:
            eventually(lambda: watcher.scalar(waiting) == 1)
    thread.join()
    assert [str(error).endswith("already: theirs") for error in refused] == [True]
    assert counts(engine) == [1, 0, 0, 0]


def test_a_failure_in_the_middle_leaves_no_row(engine: sa.Engine, tmp_path: Path) -> None:
    order = order_of(tmp_path, 5_001)
    written: list[int] = []

    def fail(lines: int) -> None:
        written.append(lines)
        with order.path.open("a") as file:  # the file changes while it is being read
            file.write("S-0,Mug,none,1,\n")

    with pytest.raises(InputFileError), engine.begin() as connection:
        run(connection, order, progress=fail)
    assert written[0] == 5_000
    assert counts(engine) == [0, 0, 0, 0]


def test_a_job_that_cannot_be_asked_for_leaves_no_row(engine: sa.Engine, tmp_path: Path) -> None:
    def refuse(connection: sa.Connection, _payload: Mapping[str, str]) -> str:
        assert connection.scalar(sa.select(sa.func.count()).select_from(catalog.product_draft)) == 2
        raise LookupError

    with pytest.raises(LookupError), engine.begin() as connection:
        run(connection, order_of(tmp_path, 2), ask=refuse)
    assert counts(engine) == [0, 0, 0, 0]


def test_a_merchant_is_only_made_where_that_is_wanted(engine: sa.Engine, tmp_path: Path) -> None:
    path = tmp_path / "order.csv"
    path.write_text(f"merchant_name,{HEAD}New Shop,A,Mug,1,1,\n")
    order = read_order(path, "new", "1")
    with engine.begin() as connection, pytest.raises(NotFound, match="no merchant new"):
        run(connection, order)
    assert counts(engine) == [0, 0, 0, 0]
    with engine.begin() as connection:
        run(connection, order, create_merchant=True)
    with engine.connect() as connection:
        merchants = connection.execute(sa.select(catalog.merchant).order_by("id")).all()
    assert [tuple(row) for row in merchants] == [("m", "The Shop"), ("new", "New Shop")]


def test_a_catalog_with_more_columns_and_tables_is_not_minded(engine: sa.Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        for table in ("PurchaseOrder", "POLineItem", "ProductDraft", "WorkflowExecution"):
            connection.execute(
                sa.text(f"""ALTER TABLE "{table}" ADD COLUMN "extra" text NOT NULL DEFAULT 'x'""")
            )
        connection.execute(sa.text('CREATE TABLE "Session" (id text PRIMARY KEY)'))
    with engine.begin() as connection:
        run(connection, order_of(tmp_path, 2))
    assert counts(engine) == [1, 2, 2, 1]


def test_memory_does_not_grow_with_the_order(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak(lines: int) -> int:
        """Bytes that checking and importing took at most, above what was in use before."""
        path = tmp_path / f"{lines}.csv"
        with path.open("w") as file:
            file.write(HEAD)
            file.writelines(f"S-{n},Mug {n},1,1.25,http://x/{n}\n" for n in range(lines))
        tracemalloc.start()
        try:
            with engine.connect() as connection:
                order = read_order(path, "m", "1")
                seen: list[int] = []
                assert run(connection, order, progress=seen.append).drafts == lines
                assert len(seen) == lines // 500
                connection.rollback()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    monkeypatch.setattr(workflow, "BATCH", 500)  # the rule is the same for any, and small ones are faster
    small, large = peak(2_000), peak(16_000)
    assert large < small * 1.2, f"{small:,} and {large:,} bytes"


def test_deletes_go_where_the_shop_lets_them_go(engine: sa.Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        run(connection, order_of(tmp_path, 2))
    with engine.connect() as connection, pytest.raises(IntegrityError):
        connection.execute(catalog.merchant.delete())
    with engine.begin() as connection:
        connection.execute(catalog.po_line_item.delete())
        assert set(connection.scalars(sa.select(catalog.product_draft.c.lineItemId))) == {None}
        connection.execute(catalog.purchase_order.delete())
    assert counts(engine) == [0, 0, 0, 0]


def test_the_tables_are_those_that_prisma_makes(engine: sa.Engine) -> None:
    keys = sa.text(
        "SELECT conname, confdeltype::text, confupdtype::text FROM pg_constraint"
        " WHERE contype = 'f' AND connamespace = 'public'::regnamespace ORDER BY 1"
    )
    defaults = sa.text(
        "SELECT table_name || '.' || column_name FROM information_schema.columns"
        " WHERE column_default IS NOT NULL AND table_schema = 'public' ORDER BY 1"
    )
    with engine.connect() as connection:
        cascade, restrict, set_null = "c", "r", "n"
        assert [tuple(row) for row in connection.execute(keys)] == [
            ("ImageReviewItem_imageId_fkey", cascade, "c"),
            ("ImageReviewItem_sessionId_fkey", cascade, "c"),
            ("ImageReviewSession_merchantId_fkey", restrict, "c"),
            ("ImageReviewSession_purchaseOrderId_fkey", cascade, "c"),
            ("POLineItem_purchaseOrderId_fkey", cascade, "c"),
            ("ProductDraft_lineItemId_fkey", set_null, "c"),
            ("ProductDraft_merchantId_fkey", restrict, "c"),
            ("ProductDraft_purchaseOrderId_fkey", cascade, "c"),
            ("ProductImage_productDraftId_fkey", cascade, "c"),
            ("PurchaseOrder_merchantId_fkey", restrict, "c"),
            ("WorkflowExecution_purchaseOrderId_fkey", cascade, "c"),
        ]
        assert {name.split(".")[1] for name in connection.scalars(defaults)} == {"createdAt", "startedAt"}
        inspector = sa.inspect(connection)
        indexes = {row["name"]: row["unique"] for row in inspector.get_indexes("PurchaseOrder")}
        assert indexes == {"PurchaseOrder_merchantId_number_key": True}
        assert "ProductDraft_purchaseOrderId_idx" in {
            row["name"] for row in inspector.get_indexes("ProductDraft")
        }
        catalog.create(connection)  # a second time changes nothing


def test_times_without_a_zone_are_refused() -> None:
    assert catalog.utc_ms(NOW) == STORED
    assert catalog.utcnow_ms(lambda: NOW.astimezone(UTC)) == STORED
    with pytest.raises(ValueError, match="without a zone"):
        catalog.utc_ms(STORED)
