"""Purchase orders for the tests, straight into the catalog, and what the image job made of them."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Order:
    """An order in the catalog: its drafts' ids in ascending order."""

    id: str
    merchant: str
    drafts: tuple[str, ...]

    @property
    def payload(self) -> dict[str, str]:
        """What the image job is told of it."""
        return {"purchaseOrderId": self.id, "merchantId": self.merchant}


def new_order(
    connection: psycopg.Connection, names: int | Sequence[str] = 3, *, merchant: str = "m-own"
) -> Order:
    """An order with a draft for each name (or so many), each with a line item; committed if the connection commits."""
    titles = [f"Mug {n}" for n in range(names)] if isinstance(names, int) else list(names)
    stem = f"{next(_numbers):06}{uuid.uuid4().hex[:8]}"
    order = f"po{stem}"
    drafts = tuple(f"d{stem}x{n:05}" for n in range(len(titles)))
    new_merchant(connection, merchant)
    connection.execute(
        'INSERT INTO "PurchaseOrder" (id, "merchantId", number, status, "updatedAt") VALUES (%s, %s, %s, \'imported\', now())',
        (order, merchant, stem),
    )
    connection.execute(
        'INSERT INTO "POLineItem" (id, "purchaseOrderId", sku, "productName", quantity, "unitCost")'
        " SELECT 'l' || id, %s, 'sku-' || id, title, 1, 1 FROM unnest(%s::text[], %s::text[]) AS c (id, title)",
        (order, list(drafts), titles),
    )
    connection.execute(
        'INSERT INTO "ProductDraft" (id, "purchaseOrderId", "lineItemId", "merchantId", title, status, "updatedAt")'
        " SELECT id, %s, 'l' || id, %s, title, 'draft', now() FROM unnest(%s::text[], %s::text[]) AS c (id, title)",
        (order, merchant, list(drafts), titles),
    )
    return Order(order, merchant, drafts)


def new_merchant(connection: psycopg.Connection, merchant: str) -> None:
    """A merchant, unless there is one of that id."""
    connection.execute(
        'INSERT INTO "Merchant" (id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING', (merchant, merchant)
    )


def ask(connection: psycopg.Connection, order: Order) -> str:
    """Ask for the order's images, as a program in any language does; returns the job's id."""
    row = connection.execute(
        "SELECT toolkit.enqueue('background-image-processing', %s::jsonb)",
        (psycopg.types.json.Jsonb(order.payload),),
    ).fetchone()
    assert row is not None
    return str(row[0])


def images(connection: psycopg.Connection, order: Order) -> dict[str, int]:
    """How many images each of the order's surviving drafts has."""
    return dict(
        connection.execute(
            'SELECT d.id, count(i.id) FROM "ProductDraft" d LEFT JOIN "ProductImage" i ON i."productDraftId" = d.id'
            ' WHERE d."purchaseOrderId" = %s GROUP BY d.id',
            (order.id,),
        ).fetchall()
    )


def sessions(connection: psycopg.Connection, order: Order) -> int:
    """How many review sessions the order has."""
    return scalar(
        connection, 'SELECT count(*) FROM "ImageReviewSession" WHERE "purchaseOrderId" = %s', order.id
    )


def ended_runs(connection: psycopg.Connection, job_id: str) -> list[tuple[str, str]]:
    """(outcome, reason) of the job's runs that ended, in order."""
    return [
        (row[0], row[1])
        for row in connection.execute(
            "SELECT outcome, reason FROM toolkit.run WHERE job_id = %s AND outcome IS NOT NULL ORDER BY number",
            (job_id,),
        ).fetchall()
    ]


def scalar(connection: psycopg.Connection, query: str, *values: object) -> int:
    """The one number that a query gives."""
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return int(row[0])
