"""What the catalog holds of a demo order, and the stranger who deletes drafts from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from toolkit.ledger.database import Database


@dataclass(frozen=True, slots=True)
class DraftRow:
    """A draft that exists, and how many images it has."""

    id: str
    sku: str
    title: str
    product_url: str
    images: int


@dataclass(frozen=True, slots=True)
class Review:
    """A review session and how many images it asks about."""

    id: str
    items: int


def drafts(database: Database, order_id: str) -> dict[str, DraftRow]:
    """The order's drafts by sku, in the order of the file."""
    with database.session() as session:
        rows = session.execute(
            'SELECT d.id, l.sku, d.title, l."productUrl",'
            ' (SELECT count(*) FROM "ProductImage" i WHERE i."productDraftId" = d.id)'
            ' FROM "ProductDraft" d JOIN "POLineItem" l ON l.id = d."lineItemId" WHERE d."purchaseOrderId" = %s ORDER BY d.id',
            (order_id,),
        ).fetchall()
    return {row[1]: DraftRow(*row) for row in rows}


def images_of(database: Database, draft_ids: Iterable[str]) -> int:
    """Images of these drafts, existing or not: what a table without a foreign key would show."""
    with database.session() as session:
        row = session.execute(
            'SELECT count(*) FROM "ProductImage" WHERE "productDraftId" = ANY(%s)', (list(draft_ids),)
        ).fetchone()
    return int(row[0]) if row else 0


def reviews(database: Database, order_id: str) -> list[Review]:
    """The order's review sessions."""
    with database.session() as session:
        rows = session.execute(
            'SELECT s.id, (SELECT count(*) FROM "ImageReviewItem" i WHERE i."sessionId" = s.id)'
            ' FROM "ImageReviewSession" s WHERE s."purchaseOrderId" = %s ORDER BY s.id',
            (order_id,),
        ).fetchall()
    return [Review(*row) for row in rows]


def delete_drafts(database: Database, draft_ids: Iterable[str]) -> int:
    """Delete drafts as a merchant's clean-up does: another connection, committed on return. Returns how many went."""
    with database.session() as session:
        return session.execute('DELETE FROM "ProductDraft" WHERE id = ANY(%s)', (list(draft_ids),)).rowcount


def delete_orders(database: Database, order_ids: Iterable[str]) -> None:
    """Delete whole orders, so that jobs which still wait for them skip."""
    with database.session() as session:
        session.execute('DELETE FROM "PurchaseOrder" WHERE id = ANY(%s)', (list(order_ids),))
