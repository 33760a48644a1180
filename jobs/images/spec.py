"""How the image job joins Freshfetch: its JobSpec. What it needs to run is imported when it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jobs.images import words
from jobs.images.payload import ImagePayload
from jobs.images.upcast import upcast
from toolkit.jobspec import CaseHooks, JobSpec, RetryPolicy, VerifyHooks
from toolkit.later import later

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from jobs.images.job import ImageResources
    from jobs.images.settings import ImageSettings
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


def own_settings(settings: Settings) -> ImageSettings:
    """TOOLKIT_IMAGES_… Raises SettingError."""
    from jobs.images.settings import ImageSettings

    return ImageSettings.from_settings(settings)


@contextmanager
def resources(settings: Settings, tracer: Tracer) -> Iterator[ImageResources]:
    """The search and its threads, for the life of a process."""
    from concurrent.futures import ThreadPoolExecutor

    from jobs.images.job import ImageResources
    from jobs.images.search.client import WebClient
    from jobs.images.search.product_page import ProductPage
    from jobs.images.search.sample import Sampled

    chosen = own_settings(settings)
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
    body=later("jobs.images.job:process_images"),
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
    in_app=("jobs.",),
    toggle=words.TOGGLE,
    create_schema=later("jobs.catalog:create"),
    still_wanted=later("jobs.images.still_wanted:still_wanted"),
    upcast=upcast,
    case=CaseHooks(
        snapshot=later("jobs.images.case:snapshot"),
        answers=later("jobs.images.case:answers"),
        answer_fields={"draft": "id", "urls": "url"},
        resources=later("jobs.images.case:resources"),
        bodies={
            "stale": later("jobs.images.museum:stale"),
            "first-fix": later("jobs.images.museum:first_fix"),
        },
    ),
    verify=VerifyHooks(
        place=later("jobs.images.verify:place"),
        seen=later("jobs.images.verify:seen"),
        clean=later("jobs.images.verify:clean"),
        left=later("jobs.images.verify:left"),
        approved=later("jobs.images.verify:approved"),
        # An insert under the locks. A run that found no image, or no draft, has shown nothing of foreign keys.
        wrote=("attached",),
        # The report: images after 2-3 minutes, the workflow in about 30 seconds.
        promised=180.0,
        workflow=30.0,
        # Three rounds of searches that use up their deadline (20 s, 8 products at a time), which leaves the queue the other two
        # thirds of what was promised. The timeout, 180 s, would promise it all to the run.
        budget=60.0,
    ),
    settings=own_settings,
    grants=GRANTS,
)
