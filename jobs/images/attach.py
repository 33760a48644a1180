"""The guarded write: lock the drafts that survive, attach their images, open the review session. One statement.

Rules (design, section 2): the merchant, the order and then the drafts in id order are locked FOR KEY SHARE, parents first,
so that no delete can come between the lock and the insert and two jobs cannot deadlock; ids are derived, so a second
write is a no-op; a draft that is gone, or another merchant's by now, gets nothing and is told by its absence.

NOWAIT: the job never waits for the shop while it holds what the shop may want, so no deadlock has the job in it. A lock
time-out would not do: it counts for each lock, and a job that waits for two deletes in turn can outwait a third one's
deadlock_timeout. A lock that is held makes the guarded write begin again (toolkit/perform.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from jobs.catalog import derived_id, utc_ms
from jobs.images.search.protocol import Candidate
from toolkit.ledger.database import Session


@dataclass(frozen=True, slots=True)
class Attached:
    """What a guarded write did: images inserted by this write, by draft and by source, for every draft that survived."""

    by_draft: Mapping[str, int]
    by_source: Mapping[str, int]


_ATTACH = """
WITH found AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(found)s::jsonb)
        AS c (id text, draft text, url text, source text, position int, width int, height int, item text)
), tenant AS MATERIALIZED (
    SELECT m.id FROM "Merchant" m WHERE m.id = %(merchant)s FOR KEY SHARE NOWAIT
), wanted_order AS MATERIALIZED (
    SELECT o.id FROM "PurchaseOrder" o JOIN tenant ON o."merchantId" = tenant.id WHERE o.id = %(order)s
    FOR KEY SHARE OF o NOWAIT
), alive AS MATERIALIZED (
    SELECT d.id FROM "ProductDraft" d JOIN wanted_order ON d."purchaseOrderId" = wanted_order.id
    WHERE d.id = ANY(%(drafts)s) AND d."merchantId" = %(merchant)s
    ORDER BY d.id FOR KEY SHARE OF d NOWAIT
), attached AS (
    INSERT INTO "ProductImage" (id, "productDraftId", url, source, position, width, height, "createdAt")
    SELECT c.id, c.draft, c.url, c.source, c.position, c.width, c.height, %(now)s
    FROM found c
    JOIN alive ON alive.id = c.draft
    ON CONFLICT (id) DO NOTHING
    RETURNING id, "productDraftId", source
), review AS (
    INSERT INTO "ImageReviewSession" (id, "purchaseOrderId", "merchantId", status, "createdAt", "updatedAt")
    SELECT %(session)s, wanted_order.id, %(merchant)s, 'pending', %(now)s, %(now)s FROM wanted_order
    WHERE EXISTS (SELECT FROM attached)
    ON CONFLICT (id) DO NOTHING
), items AS (
    INSERT INTO "ImageReviewItem" (id, "sessionId", "imageId")
    SELECT c.item, %(session)s, attached.id FROM attached JOIN found c ON c.id = attached.id
    ON CONFLICT (id) DO NOTHING
)
SELECT alive.id, attached.source, count(attached.id)
FROM alive LEFT JOIN attached ON attached."productDraftId" = alive.id
GROUP BY alive.id, attached.source
"""


def review_session_id(job_id: str) -> str:
    """The review session of a job: derived, so that ten deliveries open one."""
    return derived_id("review-session", job_id)


def attach(
    session: Session,
    *,
    job_id: str,
    order_id: str,
    merchant_id: str,
    found: Mapping[str, Sequence[Candidate]],
    now: datetime,
) -> Attached:
    """Attach the candidates in `found` (by draft id; none for a draft is allowed) to the drafts that still exist.

    The caller's transaction holds the run. Never raises 23503: the parents are locked before the insert.
    """
    review = review_session_id(job_id)
    rows = []
    for draft, candidates in found.items():
        for position, candidate in enumerate(candidates):
            image = derived_id("image", draft, candidate.url)  # a candidate's URL is normalised
            row = {
                "id": image,
                "draft": draft,
                "url": candidate.url,
                "source": candidate.source,
                "position": position,
                "width": candidate.width,
                "height": candidate.height,
                "item": derived_id("review-item", review, image),
            }
            rows.append(row)
    values = {
        "merchant": merchant_id,
        "order": order_id,
        "session": review,
        "now": utc_ms(now),
        "drafts": sorted(found),
        "found": msgspec.json.encode(rows).decode(),
    }
    by_draft: dict[str, int] = {}
    by_source: dict[str, int] = {}
    for draft, source, images in session.execute(_ATTACH, values).fetchall():
        by_draft[draft] = by_draft.get(draft, 0) + images
        if source is not None:
            by_source[source] = by_source.get(source, 0) + images
    return Attached(by_draft=by_draft, by_source=by_source)
