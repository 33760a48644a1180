"""The shop's own tables, in the names that its Prisma schema gave them, and the ids that go into them.

Freshfetch owns none of these tables: it reads and writes rows. `create` makes them for the embedded servers
and the tests only; a shop's database already has them, perhaps with more columns and tables. Statements
therefore always name their columns. Times are `timestamp(3)` without time zone, in UTC. `id` and
`updatedAt` have no database default: the writer supplies them (`id_maker`, `derived_id`, `utcnow_ms`).

Known weakness: ids of one `id_maker` sort in the order they were made; ids of two processes in the same
millisecond do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from sqlalchemy import (
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Numeric,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)


def _id() -> Column[str]:
    return Column("id", Text, primary_key=True)


def _to(
    column: str, table: str, on_delete: str = "CASCADE", *, nullable: bool = False, index: bool = True
) -> Column[str | None]:
    """A foreign key as Prisma makes it, with the index that Prisma's users add to it."""
    key = ForeignKey(f"{table}.id", ondelete=on_delete, onupdate="CASCADE")
    return Column(column, Text, key, nullable=nullable, index=index)


def _text(column: str, *, nullable: bool = False) -> Column[str]:
    return Column(column, Text, nullable=nullable)


def _time(column: str, *, nullable: bool = False, default: bool = False) -> Column[datetime]:
    now = text("CURRENT_TIMESTAMP") if default else None
    return Column(column, TIMESTAMP(precision=3), nullable=nullable, server_default=now)


merchant = Table("Merchant", metadata, _id(), _text("name"))

purchase_order = Table(
    "PurchaseOrder",
    metadata,
    _id(),
    _to("merchantId", "Merchant", "RESTRICT", index=False),  # the unique index below begins with it
    _text("number"),
    _text("status"),
    _time("createdAt", default=True),
    _time("updatedAt"),
    Index("PurchaseOrder_merchantId_number_key", "merchantId", "number", unique=True),
)

po_line_item = Table(
    "POLineItem",
    metadata,
    _id(),
    _to("purchaseOrderId", "PurchaseOrder"),
    _text("sku"),
    _text("productName"),
    Column("quantity", Integer, nullable=False),
    Column("unitCost", Numeric(12, 4), nullable=False),
    _text("productUrl", nullable=True),
)

product_draft = Table(
    "ProductDraft",
    metadata,
    _id(),
    _to("purchaseOrderId", "PurchaseOrder"),
    _to("lineItemId", "POLineItem", "SET NULL", nullable=True),
    _to("merchantId", "Merchant", "RESTRICT"),
    _text("title"),
    _text("status"),
    _time("createdAt", default=True),
    _time("updatedAt"),
)

product_image = Table(
    "ProductImage",
    metadata,
    _id(),
    _to("productDraftId", "ProductDraft"),
    _text("url"),
    _text("source"),
    Column("position", Integer, nullable=False),
    Column("width", Integer),
    Column("height", Integer),
    _time("createdAt", default=True),
)

image_review_session = Table(
    "ImageReviewSession",
    metadata,
    _id(),
    _to("purchaseOrderId", "PurchaseOrder"),
    _to("merchantId", "Merchant", "RESTRICT"),
    _text("status"),
    _time("createdAt", default=True),
    _time("updatedAt"),
)

image_review_item = Table(
    "ImageReviewItem",
    metadata,
    _id(),
    _to("sessionId", "ImageReviewSession"),
    _to("imageId", "ProductImage"),
    _text("decision", nullable=True),
    _time("decidedAt", nullable=True),
)

workflow_execution = Table(
    "WorkflowExecution",
    metadata,
    _id(),
    _to("purchaseOrderId", "PurchaseOrder"),
    _text("status"),
    _text("mode"),
    _time("startedAt", default=True),
    _time("completedAt", nullable=True),
)


def create(connection: Connection) -> None:
    """Create the tables that are missing. Only ever called for the embedded servers and the tests."""
    metadata.create_all(connection)


def utc_ms(moment: datetime) -> datetime:
    """An aware time as the catalog's columns hold it: naive, UTC, cut to the millisecond."""
    if moment.tzinfo is None:
        raise ValueError(f"a time without a zone: {moment!r}")
    naive = moment.astimezone(UTC).replace(tzinfo=None)
    return naive.replace(microsecond=naive.microsecond // 1000 * 1000)


def utcnow_ms(clock: Callable[[], datetime]) -> datetime:
    """The clock's aware time as the catalog's columns hold it."""
    return utc_ms(clock())


_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_PAIRS = tuple(high + low for high in _DIGITS for low in _DIGITS)
_SPAN = 36**4  # ids that one millisecond can number


def _base36(number: int, width: int) -> str:
    """The last `width` (even) base 36 digits of `number`, two at a time: imports make ids by the 100,000."""
    digits = []
    for _ in range(width // 2):
        number, pair = divmod(number, 1296)
        digits.append(_PAIRS[pair])
    return "".join(reversed(digits))


def id_maker(clock: Callable[[], datetime], random_bytes: Callable[[int], bytes]) -> Callable[[], str]:
    """A source of ids that look and sort like Prisma's cuids, e.g. `cmgmrnwbw0007l804macxc3mm`.

    'c', 8 digits of the millisecond, a counter of 4, 12 random ones (62 bits), all base 36. Ids of one maker
    strictly ascend, even when its clock is set back. Not for sharing between threads: make one an import.
    """

    def made() -> Iterator[str]:
        newest, count = -1, 0
        while True:
            moment = int(clock().timestamp() * 1000)
            if moment > newest:
                newest, count = moment, 0
            elif count == _SPAN - 1:
                newest, count = newest + 1, 0
            else:
                count += 1
            prefix = _base36(newest, 8) + _base36(count, 4)
            yield "c" + prefix + _base36(int.from_bytes(random_bytes(8), "big"), 12)

    return made().__next__


def derived_id(*parts: str) -> str:
    """The same id for the same parts, always: 'c' and 24 hexadecimal digits of their SHA-256.

    The length prefixes keep ("ab", "c") and ("a", "bc") apart. 96 bits: one collision in 10¹¹ ids has odds of 1 to 10⁷.
    """
    return "c" + hashlib.sha256("".join([f"{len(part)}:{part}" for part in parts]).encode()).hexdigest()[:24]
