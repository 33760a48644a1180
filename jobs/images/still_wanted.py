"""Is an image job still wanted? From live rows, for many jobs at once, in one statement; takes no lock.

It is a forecast for replay's plan: the job itself asks again, and once more under its locks at the write.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.images.payload import ImagePayload
from toolkit.ledger.database import Session, array_of

_GONE = """
SELECT CASE
    WHEN o.id IS NULL THEN 'order_deleted'
    WHEN o."merchantId" <> asked.merchant THEN 'wrong_merchant'
    WHEN EXISTS (SELECT FROM "ProductDraft" d WHERE d."purchaseOrderId" = o.id AND d."merchantId" = asked.merchant) THEN ''
    WHEN EXISTS (SELECT FROM "ProductDraft" d WHERE d."purchaseOrderId" = o.id) THEN 'wrong_merchant'
    ELSE 'no_drafts' END
FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS asked (order_id, merchant, place)
LEFT JOIN "PurchaseOrder" o ON o.id = asked.order_id
ORDER BY asked.place
"""


def still_wanted(session: Session, payloads: Sequence[ImagePayload]) -> list[str]:
    """For each payload, in order: '' while the order has drafts of this merchant, else the SkipReason that a run would end
    in. One round trip."""
    orders = array_of([payload.purchase_order_id for payload in payloads])
    merchants = array_of([payload.merchant_id for payload in payloads])
    return [row[0] for row in session.execute(_GONE, (orders, merchants)).fetchall()]
