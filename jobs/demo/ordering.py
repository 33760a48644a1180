"""Orders from the demo's shop: imported as `toolkit import` does, or without asking for a job."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jobs.catalog import id_maker
from jobs.demo import shelf
from jobs.demo.shelf import DraftRow
from jobs.demo.shop import Shop
from jobs.importer import import_file
from jobs.orders.read import read_order
from jobs.workflow import import_order
from toolkit.app import App
from toolkit.errors import Refused
from toolkit.ledger.database import Database
from toolkit.run import Mode

MERCHANT = "demo-merchant"


@dataclass(frozen=True, slots=True)
class Order:
    """An order in the catalog and the drafts that it began with, by sku. `job_id` and `trace_id` are '' without a job."""

    number: str
    id: str
    job_id: str
    trace_id: str
    drafts: Mapping[str, DraftRow]
    merchant: str = MERCHANT


def order_from_shop(app: App, shop: Shop, number: str) -> Order:
    """Write an order of the shop's whole catalogue to a file, and import that: order, drafts and the request for the job.

    Raises Refused where asynchronous processing is switched off on these servers.
    """
    with _file(shop, number) as file:
        imported = import_file(app, file)
    if imported.mode is not Mode.ASYNC:
        raise Refused(
            "ASYNC_IMAGE_PROCESSING is off on these servers, and the demo shows what workers do",
            remedy="toolkit toggle on ASYNC_IMAGE_PROCESSING",
        )
    made = imported.order
    return Order(
        number, made.order_id, made.job_id, imported.trace_id, shelf.drafts(app.database, made.order_id)
    )


def order_without_job(app: App, shop: Shop, number: str) -> Order:
    """The same order and drafts, but nobody is asked to do anything."""
    with _file(shop, number) as file, app.database.begin() as connection:
        made = import_order(
            connection,
            read_order(file),
            ask=lambda _connection, _payload: "",
            now=datetime.now(UTC),
            new_id=id_maker(lambda: datetime.now(UTC), os.urandom),
            create_merchant=True,
        )
    return Order(number, made.order_id, "", "", shelf.drafts(app.database, made.order_id))


@contextmanager
def withdrawn_if_broken_off(database: Database, orders: Sequence[Order]) -> Iterator[None]:
    """When the demo ends in an exception, Ctrl-C too, the orders so far are deleted: a job of theirs that waits will skip."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            shelf.delete_orders(database, [order.id for order in orders])
        raise


@contextmanager
def _file(shop: Shop, number: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="freshfetch-demo-") as folder:
        file = Path(folder) / f"{number}.csv"
        file.write_text(shop.purchase_order(number, MERCHANT), encoding="utf-8")
        yield file
