"""A release that brings the incident back: the image job with the body of 2025-10-11, as fixed at 17:30.

It fetches the drafts when it runs, searches, and inserts what it found, holding nothing.
TOOLKIT_JOBS=scripts.drilling.incident:SPEC
"""

from __future__ import annotations

import dataclasses

import psycopg

from jobs.demo.incident import fetch_again
from jobs.images.payload import ImagePayload
from jobs.images.spec import SPEC as IMAGES
from toolkit.perform import JobContext
from toolkit.run import Result


def _failed(_draft_id: str, error: psycopg.Error) -> None:
    raise error


def body(context: JobContext, payload: ImagePayload) -> Result:
    """JobSpec.body."""
    with context.database.session() as session:
        fetch_again(
            session, {"purchaseOrderId": payload.purchase_order_id}, context.resources.search, _failed
        )
    return Result()


SPEC = dataclasses.replace(IMAGES, body=body)
