"""The search for test orders: the same job, threads and write, with images that nobody's server is asked for.

A product URL `freshfetch-sample:N` (N from 0 to 9) is answered here with N addresses under the reserved name
`sample.freshfetch.invalid`, and never reaches another source. Only drafts of the test merchant have images there: a shop's own
product with such a URL gets none. With TOOLKIT_IMAGES_TEST_PAGE the test merchant's are searched on that page, for real.

Known weakness: without that page nothing is known of the way to the open internet.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.images.search.protocol import (
    Candidate,
    ImageSource,
    Product,
    SearchOutcome,
    SearchResult,
    search,
)

MERCHANT = "freshfetch-verify"
"""The merchant that test orders belong to. It has no other order."""

SCHEME = "freshfetch-sample:"

_HOST = "https://sample.freshfetch.invalid"  # RFC 6761: a name that is never found


class Sample:
    """An ImageSource. Thread-safe."""

    name = "sample"

    def find(self, product: Product) -> SearchResult:
        """As many candidates as the URL says; always the same. NO_URL where it is none of ours, BAD_URL where it says no
        number or the product is a shop's."""
        if not meant(product):
            return SearchResult((), SearchOutcome.NO_URL, self.name)
        asked = re.fullmatch(f"{SCHEME}([0-9])", product.product_url or "")
        if asked is None or product.merchant_id != MERCHANT:
            return SearchResult((), SearchOutcome.BAD_URL, self.name)
        found = tuple(
            Candidate(f"{_HOST}/{number}.png", self.name, 640, 480, "image/png")
            for number in range(int(asked[1]))
        )
        return SearchResult(found, SearchOutcome.FOUND if found else SearchOutcome.NOTHING_FOUND, self.name)


def meant(product: Product) -> bool:
    """True for a product URL of our scheme, whoever's it is."""
    return (product.product_url or "").startswith(SCHEME)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A Search: the sources for every product but those of our scheme. `test_page`: where the test merchant's are searched
    instead; '' for Sample."""

    sources: Sequence[ImageSource]
    test_page: str = ""

    def __call__(self, product: Product) -> SearchResult:
        """As `search`."""
        if not meant(product):
            return search(product, self.sources)
        if self.test_page and product.merchant_id == MERCHANT:
            return search(dataclasses.replace(product, product_url=self.test_page), self.sources)
        return Sample().find(product)
