"""A museum piece: the image job as it stood on 11 October 2025, kept so that its failure can be shown again and again.

    stale      commit 4811ec9, 17:00: drafts come from the payload, minutes old; fetched only where it brings none
    first-fix  commit e682860, 17:30: always fetched when the job runs; between that and the INSERT a draft can still go

Never run on live data: `toolkit rehearse diff` and `toolkit rehearse incident` run them in throw-away databases. What they
do wrong is kept with care: no lock, no fence, no merchant, one commit an image. Known weakness: ids were random then, and
are made here as today's job makes them, so that a row diff shows what matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from psycopg.rows import dict_row

from jobs.catalog import derived_id, utc_ms
from jobs.images import words
from jobs.images.attach import review_session_id
from jobs.images.job import ImageResources
from jobs.images.search.protocol import Product
from toolkit.perform import JobContext
from toolkit.run import Result
from toolkit.telemetry.catalog import emit

_FETCH: Final = """SELECT d.id, d.title, l.sku, l."productUrl" FROM "ProductDraft" d
LEFT JOIN "POLineItem" l ON l.id = d."lineItemId" WHERE d."purchaseOrderId" = %s ORDER BY d.id"""
_CREATE_IMAGE: Final = """INSERT INTO "ProductImage" (id, "productDraftId", url, source, position, width, height, "createdAt")
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"""
_CREATE_SESSION: Final = """INSERT INTO "ImageReviewSession"
(id, "purchaseOrderId", "merchantId", status, "createdAt", "updatedAt") VALUES (%s, %s, %s, 'pending', %s, %s)"""
_CREATE_ITEM: Final = 'INSERT INTO "ImageReviewItem" (id, "sessionId", "imageId") VALUES (%s, %s, %s)'


def stale(context: JobContext, payload: Mapping[str, Any]) -> Result:
    """The incident. Raises psycopg.Error (23503 for a draft that is gone) and TransientError, with what was written so far
    committed."""
    emit(context.log, words.STARTED, job_name=context.spec.name, mode=context.run.mode)
    drafts: Sequence[Mapping[str, Any]] = payload.get("productDrafts") or _fetched(context, payload)
    return _attached(context, payload, drafts)


def first_fix(context: JobContext, payload: Mapping[str, Any]) -> Result:
    """The fix as first shipped. Raises as `stale` does, when the draft goes at a worse moment."""
    return stale(context, {name: value for name, value in payload.items() if name != "productDrafts"})


def _fetched(context: JobContext, payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    emit(context.log, words.FETCHING)
    with context.database.session() as session, session.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(_FETCH, (payload["purchaseOrderId"],)).fetchall()


def _attached(context: JobContext, payload: Mapping[str, Any], drafts: Sequence[Mapping[str, Any]]) -> Result:
    emit(context.log, words.PROCESSING, drafts=len(drafts))
    resources: ImageResources = context.resources
    now = utc_ms(context.now())
    images = []
    for draft in drafts:
        product = Product(
            draft["id"], draft.get("sku") or "", draft.get("title") or "", draft.get("productUrl")
        )
        for position, found in enumerate(resources.search(product).candidates):
            images.append(derived_id("image", draft["id"], found.url))
            row = (images[-1], draft["id"], found.url, found.source, position, found.width, found.height, now)
            with context.database.session() as session:
                session.execute(_CREATE_IMAGE, row)
    if images:
        review = review_session_id(context.run.job_id)
        with context.database.session() as session:
            session.execute(
                _CREATE_SESSION, (review, payload["purchaseOrderId"], payload["merchantId"], now, now)
            )
            for image in images:
                session.execute(_CREATE_ITEM, (derived_id("review-item", review, image), review, image))
    return Result(counts={"attached": len(drafts)})
