"""Settings of the image job, `TOOLKIT_IMAGES_<NAME>`; each has its unit and default in ImageSettings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from jobs.images.search.urls import normalise_url
from toolkit.settings import Settings, count, flag, positive_seconds

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """How images are searched. The defaults suit strangers' shops on the open internet."""

    search_concurrency: int = 8
    """SEARCH_CONCURRENCY: searches side by side in one worker process."""
    images_per_draft: int = 3
    """PER_DRAFT: images kept for a draft."""
    max_candidates: int = 8
    """MAX_CANDIDATES: images of one page that are looked at."""
    search_deadline: float = 20.0
    """DEADLINE: seconds for one product, page and images together."""
    image_deadline: float = 5.0
    """IMAGE_DEADLINE: seconds for one image, so that one slow image host does not cost the others their time."""
    connect_timeout: float = 5.0
    """CONNECT_TIMEOUT: seconds to resolve, and again to connect."""
    read_timeout: float = 5.0
    """READ_TIMEOUT: seconds of silence in mid-answer."""
    max_html_bytes: int = 2 * 1024 * 1024
    """MAX_HTML_BYTES: of a product page, decompressed."""
    max_redirects: int = 5
    """MAX_REDIRECTS: followed for one page or image."""
    probe_bytes: int = 64 * 1024
    """PROBE_BYTES: read of an image, at most, to know its type and size."""
    min_side: int = 200
    """MIN_SIDE: pixels; smaller images are icons."""
    max_pixels: int = 50_000_000
    """MAX_PIXELS: width × height; larger ones are bombs, or print data that no shop page shows."""
    allow_private: bool = False
    """ALLOW_PRIVATE: also connect to loopback, private and link-local addresses. For the demo and tests: product URLs
    come from outside, and in production this would let them reach into the network."""
    test_page: str = ""
    """TEST_PAGE: a product page of the shop's own, which verify-deploy's test orders are searched on for real; unset: they
    are answered in the house."""

    @classmethod
    def from_settings(cls, settings: Settings) -> ImageSettings:
        """What the environment says. Raises SettingError naming the variable."""

        def of(variable: str, parse: Callable[[str], T], default: T) -> T:
            return settings.section("IMAGES", variable, parse, default)

        usual = cls()
        return cls(
            search_concurrency=of("SEARCH_CONCURRENCY", count, usual.search_concurrency),
            images_per_draft=of("PER_DRAFT", count, usual.images_per_draft),
            max_candidates=of("MAX_CANDIDATES", count, usual.max_candidates),
            search_deadline=of("DEADLINE", positive_seconds, usual.search_deadline),
            image_deadline=of("IMAGE_DEADLINE", positive_seconds, usual.image_deadline),
            connect_timeout=of("CONNECT_TIMEOUT", positive_seconds, usual.connect_timeout),
            read_timeout=of("READ_TIMEOUT", positive_seconds, usual.read_timeout),
            max_html_bytes=of("MAX_HTML_BYTES", count, usual.max_html_bytes),
            max_redirects=of("MAX_REDIRECTS", count, usual.max_redirects),
            probe_bytes=of("PROBE_BYTES", count, usual.probe_bytes),
            min_side=of("MIN_SIDE", count, usual.min_side),
            max_pixels=of("MAX_PIXELS", count, usual.max_pixels),
            allow_private=of("ALLOW_PRIVATE", flag, usual.allow_private),
            test_page=of("TEST_PAGE", normalise_url, usual.test_page),
        )
