"""What the image job is told."""

from __future__ import annotations

from toolkit.jobspec import Id, Payload


class ImagePayload(Payload, frozen=True):
    """Which order, whose, and by which workflow."""

    purchase_order_id: Id
    merchant_id: Id
    workflow_id: Id | None = None
