"""A failed image job as a case: the rows it read, what its searches came to, and a search that answers so again.

Known weakness: the bytes that the shop's hosts sent are kept nowhere. A search is known by its span (how it ended, how many
candidates) and by the images that it attached; where their addresses are not known, made-up ones stand for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

from psycopg import sql

from jobs.images.job import ImageResources
from jobs.images.payload import ImagePayload
from jobs.images.search.protocol import Candidate, Product, SearchOutcome, SearchResult
from toolkit.errors import TransientError
from toolkit.jobspec import Holds, Rows
from toolkit.ledger.database import Session
from toolkit.telemetry.otlp import SpanRow

_TABLES: Final[Mapping[str, tuple[Mapping[str, Holds], str]]] = {
    "Merchant": ({"id": "id", "name": "text"}, "id = %(merchant)s"),
    "PurchaseOrder": (
        {"id": "id", "merchantId": "id", "number": "text", "status": "plain", "createdAt": "plain", "updatedAt": "plain"},
        'id = %(order)s AND "merchantId" = %(merchant)s',
    ),
    "POLineItem": (
        {"id": "id", "purchaseOrderId": "id", "sku": "text", "productName": "text", "quantity": "number",
         "unitCost": "number", "productUrl": "url"},
        '"purchaseOrderId" IN (SELECT o.id FROM "PurchaseOrder" o WHERE o.id = %(order)s AND o."merchantId" = %(merchant)s)',
    ),
    "ProductDraft": (
        {"id": "id", "purchaseOrderId": "id", "lineItemId": "id", "merchantId": "id", "title": "text", "status": "plain",
         "createdAt": "plain", "updatedAt": "plain"},
        '"purchaseOrderId" = %(order)s AND "merchantId" = %(merchant)s',
    ),
    "ProductImage": (
        {"id": "id", "productDraftId": "id", "url": "url", "source": "plain", "position": "plain", "width": "plain",
         "height": "plain", "createdAt": "plain"},
        '"productDraftId" IN (SELECT id FROM "ProductDraft" WHERE "purchaseOrderId" = %(order)s AND "merchantId" = %(merchant)s)',
    ),
    "ImageReviewSession": ({"id": "id"}, "false"),
    "ImageReviewItem": ({"id": "id"}, "false"),
}  # fmt: skip
"""Columns and condition. Of another merchant's rows nothing is read. The last two are written only: their indexes matter."""


def snapshot(session: Session, payload: ImagePayload) -> list[Rows]:
    """The order, its merchant, its drafts and what hangs on them, in id order."""
    values = {"order": payload.purchase_order_id, "merchant": payload.merchant_id}
    found = []
    for table, (columns, condition) in _TABLES.items():
        query = sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY id").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table), sql.SQL(condition)
        )
        found.append(Rows(table, columns, session.execute(query, values).fetchall()))
    return found


def answers(spans: Sequence[SpanRow], rows: Sequence[Rows]) -> list[dict[str, Any]]:
    """What each search came to, by its draft; a search whose product cannot be told apart from another's is left out."""
    by_table = {one.table: [dict(zip(one.columns, row, strict=True)) for row in one.rows] for one in rows}
    items = {item["id"]: item for item in by_table["POLineItem"]}
    drafts: dict[str, list[str]] = {}
    for draft in by_table["ProductDraft"]:
        drafts.setdefault(items.get(draft["lineItemId"], {}).get("sku") or "", []).append(draft["id"])
    told: list[dict[str, Any]] = []
    for span in spans:
        owners = drafts.get(str(span.attributes.get("product.sku", "")), [])
        if span.name == "images.search" and len(owners) == 1:
            images = [image for image in by_table["ProductImage"] if image["productDraftId"] == owners[0]]
            told.append(_answer(span.attributes, owners[0], [image["url"] for image in images]))
    return told


def _answer(attributes: Mapping[str, Any], draft: str, urls: Sequence[str]) -> dict[str, Any]:
    if error := attributes.get("error.type"):
        return {"draft": draft, "error": str(error)}
    count = int(attributes.get("images.candidates") or 0)
    return {
        "draft": draft,
        "outcome": str(attributes.get("images.outcome", "")),
        "source": str(attributes.get("images.source", "")),
        "candidates": count,
        "urls": list(urls[:count]),
    }


@contextmanager
def resources(told: Sequence[Mapping[str, Any]]) -> Iterator[ImageResources]:
    """A search that answers as told, and finds nothing where nothing is told."""
    by_draft = {one["draft"]: one for one in told}

    def search(product: Product) -> SearchResult:
        one = by_draft.get(product.draft_id, {})
        if "error" in one:
            raise TransientError("as recorded", kind=one["error"])
        urls = list(one.get("urls", ()))
        count = int(one.get("candidates", 0))
        urls += [f"https://images.example/{product.draft_id}/{n}.png" for n in range(len(urls), count)]
        source = one.get("source") or "product_page"
        found = tuple(Candidate(url, source, 640, 480, "image/png") for url in urls)
        usual = SearchOutcome.FOUND if found else SearchOutcome.NOTHING_FOUND
        return SearchResult(found, SearchOutcome(one.get("outcome") or usual), source)

    with ThreadPoolExecutor(1, thread_name_prefix="search") as pool:
        yield ImageResources(search=search, pool=pool)
