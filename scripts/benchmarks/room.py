"""Where benchmarks run: the servers, a fresh database for each race with its orders in it, and what must be true after.

Every measured run gets a database of its own, copied from a template, and an empty broker.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import psycopg
import redis

from jobs import catalog
from jobs.images.spec import SPEC
from scripts.benchmarks.memory import IMAGES
from toolkit.embedded import servers as embedded
from toolkit.jobspec import Registry
from toolkit.ledger.database import Database
from toolkit.ledger.migrate import migrate

TEMPLATE = "bench_template"
MERCHANT = "cmgmrnwbw0000l804macxc3mm"

_ORDERS = f"""
INSERT INTO "Merchant" (id, name) VALUES ('{MERCHANT}', 'Bench');
INSERT INTO "PurchaseOrder" (id, "merchantId", number, status, "updatedAt")
SELECT 'c' || left(md5('order' || n), 24), '{MERCHANT}', n, 'imported', now() FROM generate_series(1, {{orders}}) n;
INSERT INTO "POLineItem" (id, "purchaseOrderId", sku, "productName", quantity, "unitCost", "productUrl")
SELECT 'c' || left(md5('item' || o.number || '/' || d), 24), o.id, 'SKU-' || o.number || '-' || d, 'Product ' || d, 1, 9.99,
       'https://shop.example/p/' || d FROM "PurchaseOrder" o, generate_series(1, {{drafts}}) d;
INSERT INTO "ProductDraft" (id, "purchaseOrderId", "lineItemId", "merchantId", title, status, "updatedAt")
SELECT 'c' || left(md5('draft' || i.id), 24), i."purchaseOrderId", i.id, '{MERCHANT}', i."productName", 'draft', now()
FROM "POLineItem" i;
"""  # noqa: S608  every part is written here

_EFFECTS = """
SELECT (SELECT count(DISTINCT o.id) FROM "PurchaseOrder" o JOIN "ImageReviewSession" s ON s."purchaseOrderId" = o.id),
       (SELECT count(*) FROM "ProductImage"),
       (SELECT count(*) FROM "ImageReviewItem"),
       (SELECT count(*) FROM (SELECT FROM "ProductImage" GROUP BY "productDraftId" HAVING count(*) = %s) whole)
"""


class WrongEffects(AssertionError):
    """A contender did not do the work it was timed for."""


@dataclass(frozen=True, slots=True)
class Room:
    """The servers and a folder for logs."""

    servers: embedded.Servers
    folder: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def prepare(self) -> None:
        """Make the template database: catalog tables and schema toolkit."""
        with psycopg.connect(self.servers.postgres.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
        database = Database(self._url(TEMPLATE))
        with database.begin() as connection:
            catalog.create(connection)
        migrate(database, Registry.of([SPEC]))
        database.close()

    def _url(self, name: str) -> str:
        return urlsplit(self.servers.postgres.url)._replace(path=f"/{name}").geturl()

    @contextmanager
    def database(self, *, orders: int, drafts: int) -> Iterator[str]:
        """The URL of a fresh database with `orders` orders of `drafts` drafts each; and an empty broker."""
        name = f"bench_{next(self._numbers)}"
        with redis.Redis.from_url(self.servers.valkey.url) as broker:
            broker.flushdb()
        with psycopg.connect(self.servers.postgres.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
            with psycopg.connect(self._url(name), autocommit=True) as inside:
                inside.execute(_ORDERS.format(orders=orders, drafts=drafts))
                inside.execute('ANALYZE "PurchaseOrder", "POLineItem", "ProductDraft"')
                inside.execute("CHECKPOINT")
            try:
                yield self._url(name)
            finally:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def broker(self) -> redis.Redis:
        """A client of the broker."""
        return redis.Redis.from_url(self.servers.valkey.url)


@contextmanager
def own_room() -> Iterator[Room]:
    """Servers of this benchmark alone, gone when it is over."""
    with TemporaryDirectory(prefix="freshfetch-bench-") as folder:
        home = Path(folder) / "home"
        try:
            room = Room(embedded.up(home), Path(folder))
            room.prepare()
            yield room
        finally:
            embedded.destroy(home)


def order_ids(url: str) -> list[str]:
    """The orders of a database, in the order of their numbers."""
    with psycopg.connect(url) as connection:
        rows = connection.execute('SELECT id FROM "PurchaseOrder" ORDER BY number::int').fetchall()
    return [row[0] for row in rows]


def check_effects(url: str, *, orders: int, drafts: int) -> None:
    """Raise WrongEffects unless every draft of every order has its images, each with an item of a review session."""
    with psycopg.connect(url) as connection:
        found = connection.execute(_EFFECTS, (IMAGES,)).fetchone()
    images = orders * drafts * IMAGES
    wanted = (orders, images, images, orders * drafts)
    if found != wanted:
        raise WrongEffects(
            f"orders with a review, images, review items, whole drafts: {found}, wanted {wanted}"
        )
