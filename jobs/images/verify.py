"""What verify-deploy needs of the image job: marked test orders, what became of them, and what users approved.

A test order is made by the real workflow, asked for like any other, searched by the job's own search (search/sample.py) and
attached by the guarded write. It belongs to the merchant `freshfetch-verify`, who has no other order; its number is its key.
It appears in whatever counts runs: the ledger, `toolkit jobs`, logs, traces, `job_runs_total`, `image_drafts_total`, and
`images_attached_total{source="sample"}`, so that a shop's images can be told from ours. It appears in nothing that counts a
shop's orders or reviews by merchant, and `approved` leaves it out.

Known weaknesses: an image whose draft is gone is found only by its review item. A shop whose "Merchant" wants columns that we
do not know must add the merchant itself; that row stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from jobs import catalog
from jobs.images.search.sample import MERCHANT, SCHEME
from jobs.orders.model import OrderHeader, OrderLine
from jobs.workflow import import_order
from toolkit.errors import Refused
from toolkit.jobspec import Ask, OrderSeen
from toolkit.ledger.database import Session

MERCHANT_NAME = "Freshfetch test orders"
"""Marks a row of "Merchant" as ours to remove."""

IMAGES_PER_DRAFT = 3
"""What the report's healthy log finds for a product."""


@dataclass(frozen=True, slots=True)
class _Marked:
    """An Order: `size` made-up products, each with its own sku."""

    key: str
    size: int

    @property
    def header(self) -> OrderHeader:
        """Whose order it is: nobody's."""
        return OrderHeader(MERCHANT, MERCHANT_NAME, self.key)

    def lines(self) -> Iterator[OrderLine]:
        """The lines."""
        for line in range(1, self.size + 1):
            yield OrderLine(
                sku=f"{self.key}-{line}",
                product_name=f"Freshfetch test product {line}",
                quantity=1,
                unit_cost=Decimal(1),
                product_url=f"{SCHEME}{IMAGES_PER_DRAFT}",
                line=line,
            )


def place(connection: Connection, ask: Ask, key: str, size: int, now: datetime) -> str:
    """VerifyHooks.place. The subject is the order's id. Its workflow's mode is async: it is the workers that are tried.

    Raises AlreadyImported, and Refused where the shop's "Merchant" does not take ours.
    """
    _hold_merchant(connection)
    new_id = catalog.id_maker(lambda: now, os.urandom)
    return import_order(connection, _Marked(key, size), ask=ask, now=now, new_id=new_id).order_id


def _hold_merchant(connection: Connection) -> None:
    """The merchant, locked until the order is committed: a clean-up that runs meanwhile must not remove it."""
    table = catalog.merchant
    there = select(table.c.id).where(table.c.id == MERCHANT).with_for_update(read=True, key_share=True)
    if connection.scalar(there):
        return
    row = insert(table).values(id=MERCHANT, name=MERCHANT_NAME)
    # Another placing may be first: DO UPDATE waits for it and locks its row, where DO NOTHING would leave it unlocked.
    try:
        connection.execute(
            row.on_conflict_do_update(index_elements=[table.c.id], set_={"name": table.c.name})
        )
    except IntegrityError as error:
        raise Refused(
            f'the shop\'s "Merchant" does not take the merchant of test orders: {error.orig}',
            remedy=f"add a row with id {MERCHANT} to it by hand; verify-deploy will leave it there",
        ) from error


_SEEN = """
SELECT o.id, drafts.asked, drafts.served, review.strays, review.sessions, workflow.seconds
FROM unnest(%(orders)s::text[]) WITH ORDINALITY AS wanted (id, place)
JOIN "PurchaseOrder" o ON o.id = wanted.id AND o."merchantId" = %(merchant)s
CROSS JOIN LATERAL (
    SELECT count(*) AS asked,
           count(*) FILTER (WHERE EXISTS (SELECT FROM "ProductImage" i WHERE i."productDraftId" = d.id)) AS served
    FROM "ProductDraft" d WHERE d."purchaseOrderId" = o.id
) drafts
CROSS JOIN LATERAL ( -- LEFT JOIN: keys forbid strays, and a shop may have dropped its keys
    SELECT count(DISTINCT s.id) AS sessions, count(t.id) FILTER (WHERE d.id IS NULL) AS strays
    FROM "ImageReviewSession" s
    LEFT JOIN "ImageReviewItem" t ON t."sessionId" = s.id
    LEFT JOIN "ProductImage" i ON i.id = t."imageId"
    LEFT JOIN "ProductDraft" d ON d.id = i."productDraftId" AND d."purchaseOrderId" = o.id
    WHERE s."purchaseOrderId" = o.id
) review
CROSS JOIN LATERAL (
    SELECT CASE WHEN bool_and(w."completedAt" IS NOT NULL)
           THEN extract(epoch FROM max(w."completedAt") - o."createdAt")::float8 END AS seconds
    FROM "WorkflowExecution" w WHERE w."purchaseOrderId" = o.id
) workflow
ORDER BY wanted.place
"""


def seen(session: Session, subjects: Sequence[str]) -> list[OrderSeen]:
    """VerifyHooks.seen, in one statement. A subject that is gone, or is no test order, is left out. A stray is a review item
    without an image, or whose image is in no draft of the order."""
    rows = session.execute(_SEEN, _of(subjects)).fetchall()
    return [
        OrderSeen(subject=order, asked=asked, served=served, strays=strays, reviews=reviews, workflow=seconds)
        for order, asked, served, strays, reviews, seconds in rows
    ]


_LOCKS = (
    'SELECT FROM "Merchant" WHERE id = %(merchant)s FOR UPDATE',
    'SELECT FROM "PurchaseOrder" WHERE id = ANY(%(orders)s) AND "merchantId" = %(merchant)s ORDER BY id FOR UPDATE',
    """SELECT FROM "ProductDraft" WHERE "purchaseOrderId" = ANY(%(orders)s) AND "merchantId" = %(merchant)s
ORDER BY id FOR UPDATE""",
)
"""Parents first, as the guarded write: nothing new can hang itself below them while the rows below are removed."""

_FOREIGN = """
SELECT id FROM "PurchaseOrder" WHERE id = ANY(%(orders)s) AND "merchantId" <> %(merchant)s
UNION SELECT "purchaseOrderId" FROM "ProductDraft" WHERE "purchaseOrderId" = ANY(%(orders)s) AND "merchantId" <> %(merchant)s
UNION SELECT "purchaseOrderId" FROM "ImageReviewSession"
    WHERE "purchaseOrderId" = ANY(%(orders)s) AND "merchantId" <> %(merchant)s
ORDER BY 1
"""

_ITEMS = """
DELETE FROM "ImageReviewItem" WHERE id IN ( -- UNION: an OR would read the shop's whole table
    SELECT t.id FROM "ImageReviewItem" t JOIN "ImageReviewSession" s ON s.id = t."sessionId"
    WHERE s."purchaseOrderId" = ANY(%(orders)s)
    UNION
    SELECT t.id FROM "ImageReviewItem" t JOIN "ProductImage" i ON i.id = t."imageId"
    JOIN "ProductDraft" d ON d.id = i."productDraftId" WHERE d."purchaseOrderId" = ANY(%(orders)s)
) RETURNING "imageId"
"""
_REST = (
    """DELETE FROM "ProductImage" WHERE id IN (
    SELECT i.id FROM "ProductImage" i JOIN "ProductDraft" d ON d.id = i."productDraftId"
    WHERE d."purchaseOrderId" = ANY(%(orders)s)
    UNION
    SELECT i.id FROM "ProductImage" i WHERE i.id = ANY(%(images)s)
    AND NOT EXISTS (SELECT FROM "ProductDraft" d WHERE d.id = i."productDraftId")
)""",
    'DELETE FROM "ImageReviewSession" WHERE "purchaseOrderId" = ANY(%(orders)s)',
    'DELETE FROM "ProductDraft" WHERE "purchaseOrderId" = ANY(%(orders)s)',
    'DELETE FROM "POLineItem" WHERE "purchaseOrderId" = ANY(%(orders)s)',
    'DELETE FROM "WorkflowExecution" WHERE "purchaseOrderId" = ANY(%(orders)s)',
    'DELETE FROM "PurchaseOrder" WHERE id = ANY(%(orders)s)',
    """DELETE FROM "Merchant" m WHERE m.id = %(merchant)s AND m.name = %(name)s
AND NOT EXISTS (SELECT FROM "PurchaseOrder" WHERE "merchantId" = m.id)
AND NOT EXISTS (SELECT FROM "ProductDraft" WHERE "merchantId" = m.id)
AND NOT EXISTS (SELECT FROM "ImageReviewSession" WHERE "merchantId" = m.id)""",
)
"""Children first, whatever the shop's ON DELETE actions are."""


def clean(session: Session, subjects: Sequence[str]) -> int:
    """VerifyHooks.clean, in one transaction; the merchant goes with its last order. Subjects that are gone are no matter.

    Raises Refused, and removes nothing, when one of them belongs to another merchant or has something of another's in it;
    psycopg.Error when tables of the shop that we do not know hold on to a row.
    """
    values = _of(subjects)
    with session.transaction():
        for lock in _LOCKS:
            session.execute(lock, values)
        if foreign := [row[0] for row in session.execute(_FOREIGN, values).fetchall()]:
            raise Refused(
                f"not only the merchant of test orders has a part in {', '.join(foreign)}",
                remedy="nothing was removed; look whose rows these are",
            )
        items = session.execute(_ITEMS, values)
        values["images"] = [row[0] for row in items.fetchall()]
        removed: int = items.rowcount
        for statement in _REST:
            removed += session.execute(statement, values).rowcount
        return removed


_LEFT = """
WITH orders AS (SELECT id FROM "PurchaseOrder" WHERE "merchantId" = %(merchant)s),
drafts AS (SELECT id FROM "ProductDraft" WHERE "merchantId" = %(merchant)s),
sessions AS (SELECT id FROM "ImageReviewSession" WHERE "merchantId" = %(merchant)s)
SELECT (SELECT count(*) FROM "Merchant" WHERE id = %(merchant)s AND name = %(name)s)
    + (SELECT count(*) FROM orders) + (SELECT count(*) FROM drafts) + (SELECT count(*) FROM sessions)
    + (SELECT count(*) FROM "POLineItem" JOIN orders ON orders.id = "purchaseOrderId")
    + (SELECT count(*) FROM "WorkflowExecution" JOIN orders ON orders.id = "purchaseOrderId")
    + (SELECT count(*) FROM "ProductImage" JOIN drafts ON drafts.id = "productDraftId")
    + (SELECT count(*) FROM "ImageReviewItem" JOIN sessions ON sessions.id = "sessionId")
"""


def left(session: Session) -> int:
    """VerifyHooks.left: rows of the test merchant in the shop's eight tables, its own row counted where we made it."""
    (rows,) = _row(session, _LEFT, _of(()))
    return int(rows)


_APPROVED = """
SELECT count(*) FILTER (WHERE t.decision = 'approved'), count(t.decision)
FROM "ImageReviewSession" s JOIN "ImageReviewItem" t ON t."sessionId" = s.id
WHERE s."createdAt" >= %(since)s AND s."createdAt" < %(until)s AND s."merchantId" <> %(merchant)s
"""


def approved(session: Session, since: datetime, until: datetime) -> tuple[int, int]:
    """VerifyHooks.approved: review items approved, and decided on, of the sessions opened from `since` to before `until`."""
    values = {"since": catalog.utc_ms(since), "until": catalog.utc_ms(until)}
    good, decided = _row(session, _APPROVED, values | {"merchant": MERCHANT})
    return good, decided


def _of(subjects: Sequence[str]) -> dict[str, Any]:
    return {"orders": list(subjects), "merchant": MERCHANT, "name": MERCHANT_NAME}


def _row(session: Session, query: str, values: dict[str, Any]) -> tuple[Any, ...]:
    row = session.execute(query, values).fetchone()
    assert row is not None  # noqa: S101  a SELECT of aggregates alone has one row
    return row
