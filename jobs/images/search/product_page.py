"""The first image source: the product's own page, read once, and the images that it names, each looked at.

Bounds are in ImageSettings. Known weakness: a shop that answers for a vanished product with its front page (200) has its
logo taken for a product image, if that is large enough.
"""

from __future__ import annotations

from jobs.images.search.client import WebClient, body
from jobs.images.search.extract import Page, image_urls
from jobs.images.search.probe import probe
from jobs.images.search.protocol import Candidate, Product, SearchOutcome, SearchResult, Unusable
from jobs.images.settings import ImageSettings
from toolkit.errors import TransientError

_HTML = {"text/html", "application/xhtml+xml"}
_HEADERS = {"Accept": "text/html,application/xhtml+xml", "Accept-Encoding": "gzip"}


class ProductPage:
    """An ImageSource. Thread-safe; the client is the caller's to close."""

    name = "product_page"

    def __init__(self, web: WebClient, settings: ImageSettings) -> None:
        self._web = web
        self._settings = settings

    def find(self, product: Product) -> SearchResult:
        """Images of the page, best first, at most `images_per_draft`, within `search_deadline`. Raises TransientError."""
        if not product.product_url:
            return SearchResult((), SearchOutcome.NO_URL, self.name)
        with self._web.within(self._settings.search_deadline):
            try:
                page = self._read(product.product_url)
            except Unusable as error:
                return SearchResult((), error.outcome, self.name)
            found = self._look_at(image_urls(page, sku=product.sku, limit=self._settings.max_candidates))
        outcome = SearchOutcome.FOUND if found else SearchOutcome.NOTHING_FOUND
        return SearchResult(tuple(found), outcome, self.name)

    def _read(self, url: str) -> Page:
        limit = self._settings.max_html_bytes
        with self._web.get(url, _HEADERS) as response:
            content_type = response.headers.get("Content-Type", "")
            kind = content_type.partition(";")[0].strip().lower()
            if kind and kind not in _HTML:
                raise Unusable(f"{url} is {kind[:80]}", SearchOutcome.NOT_HTML)
            content = bytearray()
            for piece in body(response):
                content += piece
                if len(content) > limit:
                    raise Unusable(f"{url} has more than {limit:,} bytes", SearchOutcome.TOO_LARGE)
            if not kind and not content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
                raise Unusable(f"{url} does not look like HTML", SearchOutcome.NOT_HTML)
            return Page(bytes(content), str(response.url), content_type)

    def _look_at(self, urls: list[str]) -> list[Candidate]:
        """The first images that can be used. One that fails in passing matters only if there is no other."""
        found: list[Candidate] = []
        failed: TransientError | None = None
        for url in urls:
            if len(found) == self._settings.images_per_draft or (failed and self._web.time_left <= 0):
                break
            try:
                candidate = probe(self._web, url, self.name, self._settings)
            except TransientError as error:
                failed = failed or error
            else:
                found += [candidate] if candidate else []
        if failed and not found:
            raise failed
        return found
