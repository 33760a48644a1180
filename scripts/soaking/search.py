"""The image job with a search in memory that takes 0 to 40 ms and finds as many images as the product's name ends in."""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from jobs.images.job import ImageResources
from jobs.images.search.protocol import Candidate, Product, SearchOutcome, SearchResult
from jobs.images.spec import SPEC as IMAGES


def search(product: Product) -> SearchResult:
    """`Mug 3` has three images. Different drafts take different times, the same draft always the same."""
    # a search takes its time, another one for each draft
    time.sleep(zlib.crc32(product.draft_id.encode()) % 41 / 1000)
    images = int(product.name.rpartition(" ")[2])
    found = tuple(
        Candidate(f"https://images.example/{product.draft_id}/{n}.png", "memory", 640, 480, "image/png")
        for n in range(images)
    )
    return SearchResult(found, SearchOutcome.FOUND if found else SearchOutcome.NOTHING_FOUND, "memory")


@contextmanager
def resources(_settings: object, _tracer: object) -> Iterator[ImageResources]:
    """JobSpec.resources."""
    with ThreadPoolExecutor(8, thread_name_prefix="search") as pool:
        yield ImageResources(search=search, pool=pool)


SPEC = dataclasses.replace(IMAGES, resources=resources)
