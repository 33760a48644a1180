"""Fetch the drafts fresh, when the job runs, in one statement: this order, this merchant, nobody else's rows.

Of an order or a draft that belongs to another merchant only that fact is learnt, never a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.ledger.database import Session


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft as the search needs it. `sku` and `product_url` are None where the draft has no line item."""

    id: str
    name: str
    sku: str | None
    product_url: str | None
    has_images: bool


@dataclass(frozen=True, slots=True)
class Page:
    """Up to `limit` drafts in id order. `ours` is None when the order is gone, False when it is another merchant's;
    `foreign` counts drafts below the order that belong to another merchant; only the first page (`after` "") counts them."""

    ours: bool | None
    drafts: tuple[Draft, ...]
    foreign: int
    last: bool


_FETCH = """
WITH asked AS MATERIALIZED ( -- once: beside the drafts it would count an order's drafts for each of its drafts
    SELECT o.id, o."merchantId" = %(merchant)s AS ours,
           CASE WHEN o."merchantId" = %(merchant)s AND %(after)s = '' THEN (
               SELECT count(*) FROM "ProductDraft" f WHERE f."purchaseOrderId" = o.id AND f."merchantId" <> %(merchant)s
           ) ELSE 0 END AS elsewhere
    FROM "PurchaseOrder" o WHERE o.id = %(order)s
)
SELECT asked.ours, asked.elsewhere,
       d.id, coalesce(l."productName", d.title), l.sku, l."productUrl",
       EXISTS (SELECT FROM "ProductImage" i WHERE i."productDraftId" = d.id)
FROM asked
LEFT JOIN "ProductDraft" d
       ON asked.ours AND d."purchaseOrderId" = asked.id AND d."merchantId" = %(merchant)s AND d.id > %(after)s
LEFT JOIN "POLineItem" l ON l.id = d."lineItemId"
ORDER BY d.id LIMIT %(limit)s
"""


def fetch(session: Session, order_id: str, merchant_id: str, *, after: str = "", limit: int = 1000) -> Page:
    """The drafts of the order with an id above `after`. Takes no lock: whether they are still there is asked again at
    the write."""
    values = {"order": order_id, "merchant": merchant_id, "after": after, "limit": limit + 1}
    rows: Sequence[Any] = session.execute(_FETCH, values).fetchall()
    if not rows:
        return Page(ours=None, drafts=(), foreign=0, last=True)
    drafts = tuple(Draft(*row[2:]) for row in rows[:limit] if row[2] is not None)
    return Page(ours=rows[0][0], drafts=drafts, foreign=rows[0][1], last=len(rows) <= limit)
