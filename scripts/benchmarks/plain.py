"""The image job as one writes it for RQ on a good day: ORM, a commit for each draft, no telemetry. And an empty job.

Sessions and engine are SQLAlchemy's defaults; the drafts' line items come along in the same SELECT. It is what Freshfetch
is measured against, so it does nothing that RQ's users would call wasteful, and nothing clever.
"""

# mypy: disable-error-code="attr-defined"
# (the models take their columns from tables)

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import cache
from uuid import uuid4

from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, joinedload, relationship

from jobs import catalog
from jobs.images.search.protocol import Product
from scripts.benchmarks.memory import search


class Base(DeclarativeBase):
    metadata = catalog.metadata


class Order(Base):
    __table__ = catalog.purchase_order


class LineItem(Base):
    __table__ = catalog.po_line_item


class Draft(Base):
    __table__ = catalog.product_draft
    line_item: Mapped[LineItem] = relationship()


class Image(Base):
    __table__ = catalog.product_image


class ReviewSession(Base):
    __table__ = catalog.image_review_session


class ReviewItem(Base):
    __table__ = catalog.image_review_item
    image: Mapped[Image] = relationship()


@cache
def engine() -> Engine:
    """One a process."""
    return create_engine(os.environ["BENCH_DATABASE"])


def nothing() -> None:
    """The empty job: what is left is RQ."""


def process_images(order_id: str, merchant_id: str, wait: float) -> dict[str, object]:
    """Find and attach images for the order's drafts, one draft after another; `wait`: seconds that a search waits."""
    with Session(engine()) as session:
        order = session.get(Order, order_id)
        if order is None or order.merchantId != merchant_id:
            return {"success": True, "skipped": True}
        drafts = session.scalars(
            select(Draft).where(Draft.purchaseOrderId == order_id).options(joinedload(Draft.line_item))
        ).all()
        now = datetime.now(UTC).replace(tzinfo=None)
        review_id = str(uuid4())
        session.add(
            ReviewSession(
                id=review_id, purchaseOrderId=order_id, merchantId=merchant_id, status="pending", createdAt=now,
                updatedAt=now,
            )
        )  # fmt: skip
        session.flush()
        for draft in drafts:
            item = draft.line_item
            found = search(Product(draft.id, item.sku, item.productName, item.productUrl), wait=wait)
            for position, one in enumerate(found.candidates):
                image = Image(
                    id=str(uuid4()), productDraftId=draft.id, url=one.url, source=one.source, position=position,
                    width=one.width, height=one.height, createdAt=now,
                )  # fmt: skip
                session.add(ReviewItem(id=str(uuid4()), sessionId=review_id, image=image))
            session.commit()
    return {"success": True, "drafts": len(drafts)}
