"""Images for test orders: for the test merchant's drafts alone, and of no server."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from jobs.images import words
from jobs.images.search.protocol import Product, SearchOutcome, SearchResult
from jobs.images.search.sample import MERCHANT, Sample, Sampled
from jobs.images.search.urls import normalise_url


def product(url: str | None, merchant: str = MERCHANT) -> Product:
    return Product("d", "s", "n", url, merchant)


@dataclass
class Page:
    """A source that remembers what it was asked for."""

    name: str = "product_page"
    asked: list[str | None] = field(default_factory=list)

    def find(self, product: Product) -> SearchResult:
        self.asked.append(product.product_url)
        return SearchResult((), SearchOutcome.NOTHING_FOUND, self.name)


def test_a_sample_has_as_many_images_as_it_says_always_the_same() -> None:
    result = Sample().find(product("freshfetch-sample:3"))
    assert (result.outcome, result.source) == (SearchOutcome.FOUND, "sample")
    assert [found.url for found in result.candidates] == [
        f"https://sample.freshfetch.invalid/{number}.png" for number in range(3)
    ]
    assert Sample().find(product("freshfetch-sample:3")) == result
    assert Sample().find(product("freshfetch-sample:0")) == SearchResult(
        (), SearchOutcome.NOTHING_FOUND, "sample"
    )


def test_what_a_sample_gives_is_what_the_job_takes() -> None:
    assert Sample.name in words.SOURCES
    for found in Sample().find(product("freshfetch-sample:9")).candidates:
        assert normalise_url(found.url) == found.url
        assert found.source == Sample.name


@pytest.mark.parametrize(
    "url", ["freshfetch-sample:", "freshfetch-sample:x", "freshfetch-sample:10", "freshfetch-sample:3\n"]
)
def test_a_sample_that_says_no_number_has_no_images(url: str) -> None:
    assert Sample().find(product(url)) == SearchResult((), SearchOutcome.BAD_URL, "sample")


@pytest.mark.parametrize(
    "url",
    [None, "", "https://shop.example/freshfetch-sample:3", "Freshfetch-sample:3", " freshfetch-sample:3"],
)
def test_no_other_url_is_answered(url: str | None) -> None:
    assert Sample().find(product(url)) == SearchResult((), SearchOutcome.NO_URL, "sample")


@pytest.mark.parametrize("merchant", ["", "m-own", f"{MERCHANT} ", f"{MERCHANT}-2"])
def test_a_shops_product_with_such_a_url_has_no_images_and_is_not_searched(merchant: str) -> None:
    for test_page in ("", "https://shop.example/p/1"):
        page = Page()
        result = Sampled([page], test_page)(product("freshfetch-sample:3", merchant))
        assert (result.candidates, result.outcome, page.asked) == ((), SearchOutcome.BAD_URL, [])


def test_other_products_go_to_the_other_sources_whoever_sells_them() -> None:
    page = Page()
    search = Sampled([page], "https://shop.example/p/1")
    for merchant in (MERCHANT, "m-own"):
        assert search(product("https://shop.example/p/7", merchant)).source == "product_page"
    assert page.asked == ["https://shop.example/p/7"] * 2


def test_other_sources_are_never_asked_for_a_sample() -> None:
    page = Page()
    search = Sampled([page])
    assert len(search(product("freshfetch-sample:2")).candidates) == 2
    assert not search(product("freshfetch-sample:0")).candidates
    assert page.asked == []


def test_with_a_page_of_the_shop_test_products_are_searched_there() -> None:
    page = Page()
    result = Sampled([page], "https://shop.example/p/1")(product("freshfetch-sample:3"))
    assert (result.source, page.asked) == ("product_page", ["https://shop.example/p/1"])
