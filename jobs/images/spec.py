"""How the image job joins Freshfetch: its JobSpec."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from opentelemetry.trace import Tracer

from jobs import catalog
from jobs.images import words
from jobs.images.case import CASE
from jobs.images.job import ImagePayload, ImageResources, process_images
from jobs.images.search.sample import Sampled
from jobs.images.settings import ImageSettings
from jobs.images.still_wanted import still_wanted
from jobs.images.upcast import upcast
from jobs.images.verify import VERIFY
from toolkit.jobspec import JobSpec, RetryPolicy
from toolkit.settings import Settings

GRANTS = """
GRANT SELECT ON "Merchant", "PurchaseOrder", "POLineItem", "ProductDraft", "ProductImage" TO toolkit_worker, toolkit_operator;
-- FOR KEY SHARE needs UPDATE on some column of the row that it locks; the job never updates these.
GRANT UPDATE (name) ON "Merchant" TO toolkit_worker, toolkit_operator;
GRANT UPDATE (status) ON "PurchaseOrder", "ProductDraft" TO toolkit_worker, toolkit_operator;
GRANT SELECT, INSERT ON "ProductImage", "ImageReviewSession", "ImageReviewItem" TO toolkit_worker, toolkit_operator;
-- verify-deploy places test orders and removes them; no right is narrower than a table.
GRANT INSERT, DELETE ON "Merchant", "PurchaseOrder", "POLineItem", "ProductDraft", "WorkflowExecution" TO toolkit_operator;
GRANT DELETE ON "ProductImage", "ImageReviewSession", "ImageReviewItem" TO toolkit_operator;
GRANT SELECT ON "WorkflowExecution" TO toolkit_operator;
GRANT SELECT ON "Merchant", "PurchaseOrder", "POLineItem", "ProductDraft", "ProductImage", "ImageReviewSession",
    "ImageReviewItem", "WorkflowExecution" TO toolkit_observer;
"""


@contextmanager
def resources(settings: Settings, tracer: Tracer) -> Iterator[ImageResources]:
    """The search and its threads, for the life of a process."""
    from jobs.images.search.client import WebClient  # noqa: PLC0415  httpx loads only where a search runs
    from jobs.images.search.product_page import ProductPage  # noqa: PLC0415

    chosen = ImageSettings.from_settings(settings)
    with WebClient(chosen, release=settings.release, tracer=tracer) as web:
        search = Sampled((ProductPage(web, chosen),), chosen.test_page)
        pool = ThreadPoolExecutor(chosen.search_concurrency, thread_name_prefix="search")
        try:
            yield ImageResources(search=search, pool=pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


SPEC = JobSpec(
    name=words.NAME,
    queue=words.QUEUE,
    payload=ImagePayload,
    body=process_images,
    resources=resources,
    timeout=180.0,
    retry=RetryPolicy(),
    skip_reasons=frozenset(words.SkipReason),
    constraints=frozenset(
        {
            "ProductImage_productDraftId_fkey",
            "ImageReviewSession_purchaseOrderId_fkey",
            "ImageReviewSession_merchantId_fkey",
            "ImageReviewItem_sessionId_fkey",
            "ImageReviewItem_imageId_fkey",
        }
    ),
    metrics=words.METRICS,
    log_events=words.LOG_EVENTS,
    in_app=("jobs.",),
    toggle=words.TOGGLE,
    create_schema=catalog.create,
    still_wanted=still_wanted,
    upcast=upcast,
    case=CASE,
    verify=VERIFY,
    grants=GRANTS,
)
