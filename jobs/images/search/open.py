"""Opens the search that the image job uses: the client and the sources in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from opentelemetry import trace

from jobs.images.search.client import WebClient
from jobs.images.search.product_page import ProductPage
from jobs.images.search.protocol import ImageSource, Product, SearchResult, search
from jobs.images.settings import ImageSettings


@contextmanager
def open_search(
    settings: ImageSettings, release: str, *, tracer: trace.Tracer | None = None
) -> Iterator[Callable[[Product], SearchResult]]:
    """`search(product)`, thread-safe, for as long as the context is open; may raise TransientError.

    HTTP requests are CLIENT spans of `tracer` (default: the global provider's), children of the calling thread's span.
    """
    tracer = tracer or trace.get_tracer("freshfetch.images")
    with WebClient(settings, release=release, tracer=tracer) as web:
        sources: Sequence[ImageSource] = (ProductPage(web, settings),)
        yield partial(search, sources=sources)
