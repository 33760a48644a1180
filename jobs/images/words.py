"""The image job's closed lists: reasons, what became of each draft, its metrics and its log lines."""

from __future__ import annotations

from enum import StrEnum

from jobs.images.search.protocol import SearchOutcome
from toolkit.jobspec import LogEvent, MetricSpec

QUEUE = "images"
NAME = "background-image-processing"
TOGGLE = "ASYNC_IMAGE_PROCESSING"


class SkipReason(StrEnum):
    """Why a run of this job had nothing to do. None of them is an error."""

    ORDER_DELETED = "order_deleted"
    WRONG_MERCHANT = "wrong_merchant"  # the order belongs to another merchant; nothing of it was read
    NO_DRAFTS = "no_drafts"
    ALREADY_HAS_IMAGES = "already_has_images"
    DRAFT_DELETED = "draft_deleted"  # there were drafts at the start, and none at the write


class DraftOutcome(StrEnum):
    """What became of one draft."""

    ATTACHED = "attached"
    NO_IMAGES_FOUND = "no_images_found"
    DRAFT_DELETED = "draft_deleted"
    ALREADY_HAS_IMAGES = "already_has_images"
    WRONG_MERCHANT = "wrong_merchant"


SOURCES = ("product_page", "sample", "memory")
"""Image sources, as metric labels; `sample` is verify-deploy's, `memory` the benchmark's."""

TRANSIENT = "transient"
SEARCH_OUTCOMES = (*SearchOutcome, TRANSIENT)

DRAFTS = MetricSpec(
    name="image_drafts_total",
    kind="counter",
    help="Product drafts that the image job looked at, by what became of them.",
    values={"outcome": tuple(DraftOutcome)},
    from_counts={outcome.value: (outcome.value,) for outcome in DraftOutcome},
)
ATTACHED = MetricSpec(
    name="images_attached_total",
    kind="counter",
    help="Images attached to product drafts, by source.",
    values={"source": SOURCES},
    from_counts={f"images_{source}": (source,) for source in SOURCES},
)
SEARCH_DURATION = MetricSpec(
    name="image_search_duration_seconds",
    kind="histogram",
    help="How long the image search for one product took.",
    values={"source": SOURCES, "outcome": SEARCH_OUTCOMES},
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60),
)
METRICS = (DRAFTS, ATTACHED, SEARCH_DURATION)

STARTED = LogEvent("images.started", "🖼️🔄 {job_name} - Starting {mode} image processing...")
FETCHING = LogEvent("images.fetching", "📥 Fetching product drafts from database...")
PROCESSING = LogEvent("images.processing", "🖼️🔄 Processing {drafts} product drafts for images...")
NO_DRAFTS = LogEvent(
    "images.no_drafts",
    "⚠️ No product drafts found ({reason}) - skipping background image processing",
    "warning",
)
FOUND = LogEvent("images.found", "   ✅ [{number}/{drafts}] {product}: found {images} images via {source}")
NOTHING_FOUND = LogEvent("images.nothing_found", "   🔍 [{number}/{drafts}] {product}: no images ({outcome})")
SEARCH_FAILED = LogEvent(
    "images.search_failed",
    "   ⚠️ [{number}/{drafts}] {product}: search failed ({error_type}), to be tried again",
    "warning",
)
SAVED = LogEvent("images.saved", "   💾 Saved {images} images to database (drafts: {attached})")
DELETED = LogEvent("images.draft_deleted", "   ⚠️ Drafts deleted meanwhile: {deleted} - skipped", "warning")
COMPLETED = LogEvent(
    "images.completed",
    "🖼️🔄 Background image processing completed: processed {seen}/{drafts} drafts, images found for {attached} products",
)
SESSION = LogEvent("images.review_session", "✅ Created image review session: {session_id}")
LOG_EVENTS = (
    STARTED,
    FETCHING,
    PROCESSING,
    NO_DRAFTS,
    FOUND,
    NOTHING_FOUND,
    SEARCH_FAILED,
    SAVED,
    DELETED,
    COMPLETED,
    SESSION,
)
