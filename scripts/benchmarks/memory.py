"""The image job with a search in memory: three candidates a product, after a wait if wanted.

Settings: TOOLKIT_BENCH_WAIT, seconds that each search waits (default 0).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import structlog
from opentelemetry.trace import Tracer

from jobs.images import spec
from jobs.images.job import ImageResources, process_images
from jobs.images.payload import ImagePayload
from jobs.images.search.protocol import Candidate, Product, SearchOutcome, SearchResult
from jobs.images.settings import ImageSettings
from toolkit.perform import JobContext
from toolkit.run import Result
from toolkit.settings import Settings

IMAGES = 3
"""Images found for each product."""


def search(product: Product, *, wait: float) -> SearchResult:
    """Three images, made of the draft's id."""
    if wait:
        # the wait is what is benchmarked: a search over the network
        time.sleep(wait)
    found = tuple(
        Candidate(f"https://shop.example/{product.draft_id}/{n}.jpg", "memory", 800, 600, "image/jpeg")
        for n in range(IMAGES)
    )
    return SearchResult(found, SearchOutcome.FOUND, "memory")


@contextmanager
def resources(settings: Settings, _: Tracer) -> Iterator[ImageResources]:
    """As the image job's own, with another search."""
    wait = settings.section("BENCH", "WAIT", float, 0.0)
    with ThreadPoolExecutor(ImageSettings.from_settings(settings).search_concurrency) as pool:
        yield ImageResources(search=partial(search, wait=wait), pool=pool)


def _silent(context: JobContext, payload: ImagePayload) -> Result:
    context.log = structlog.wrap_logger(
        structlog.ReturnLogger(),
        processors=[],
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
    )
    return process_images(context, payload)


SPEC = dataclasses.replace(spec.SPEC, resources=resources)
"""The job as it ships, telemetry and all."""

SILENT = dataclasses.replace(SPEC, body=_silent)
"""The job without its log lines. Its spans are left out by asking for it with a trace that is not sampled."""
