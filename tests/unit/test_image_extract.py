"""A museum of product pages: which images each names, in which order."""

from __future__ import annotations

import html
import json
from typing import Any

import pytest

from jobs.images.search.extract import Page, decoded, image_urls

URL = "https://shop.example/products/mug"


def ld(document: Any) -> str:
    text = document if isinstance(document, str) else json.dumps(document)
    return f'<script type="application/ld+json">{text}</script>'


def og(*pairs: tuple[str, str]) -> str:
    return "".join(f'<meta property="{name}" content="{content}">' for name, content in pairs)


def found(page: str, **options: Any) -> list[str]:
    """Image URLs of a page, those of the shop itself without its root."""
    urls = image_urls(Page(page.encode(), URL), **options)
    return [url.removeprefix("https://shop.example") for url in urls]


PRODUCT = {"@context": "https://schema.org", "@type": "Product", "name": "Mug"}

JSON_LD = {
    "one URL": (PRODUCT | {"image": "/1.jpg"}, ["/1.jpg"]),
    "a list": (PRODUCT | {"image": ["/1.jpg", "/2.jpg"]}, ["/1.jpg", "/2.jpg"]),
    "an ImageObject with url": (PRODUCT | {"image": {"@type": "ImageObject", "url": "/1.jpg"}}, ["/1.jpg"]),
    "contentUrl before url, which may be a page": (
        PRODUCT | {"image": {"@type": "ImageObject", "url": "/view/1", "contentUrl": "/1.jpg"}},
        ["/1.jpg"],
    ),
    "ImageObjects and texts mixed": (
        PRODUCT | {"image": [{"url": ["/1.jpg", "/2.jpg"]}, "/3.jpg", None]}, ["/1.jpg", "/2.jpg", "/3.jpg"]),
    "a list of documents": ([{"@type": "BreadcrumbList"}, PRODUCT | {"image": "/1.jpg"}], ["/1.jpg"]),
    "@graph": ({"@graph": [{"@type": "WebSite", "image": "/logo.png"}, PRODUCT | {"image": "/1.jpg"}]}, ["/1.jpg"]),
    "@graph with a reference, as Yoast writes it": (
        {"@graph": [PRODUCT | {"image": {"@id": "#main"}}, {"@type": "ImageObject", "@id": "#main", "url": "/1.jpg"}]},
        ["/1.jpg"],
    ),
    "references in a circle": (
        {"@graph": [PRODUCT | {"image": {"@id": "#a"}}, {"@id": "#a", "url": {"@id": "#a"}}]},
        [],
    ),
    "ItemPage.mainEntity": ({"@type": "ItemPage", "mainEntity": PRODUCT | {"image": "/1.jpg"}}, ["/1.jpg"]),
    "ProductGroup with variants": (
        {"@type": "ProductGroup", "image": "/group.jpg",
         "hasVariant": [PRODUCT | {"image": "/red.jpg"}, PRODUCT | {"image": "/blue.jpg"}]},
        ["/group.jpg", "/red.jpg", "/blue.jpg"],
    ),
    "a list of types": ({"@type": ["Product", "Book"], "image": "/1.jpg"}, ["/1.jpg"]),
    "a full type name": ({"@type": "http://schema.org/Product", "image": "/1.jpg"}, ["/1.jpg"]),
    "related products are others": (
        PRODUCT | {"image": "/1.jpg", "isRelatedTo": [PRODUCT | {"image": "/other.jpg"}],
         "review": {"itemReviewed": PRODUCT | {"image": "/o2.jpg"}}},
        ["/1.jpg"],
    ),
    "no product": ({"@type": "Article", "image": "/1.jpg"}, []),
    "escaped ampersands inside": (PRODUCT | {"image": "/i?w=9&amp;h=8"}, ["/i?w=9&h=8"]),
    "protocol-relative": (PRODUCT | {"image": "//cdn.example/1.jpg"}, ["https://cdn.example/1.jpg"]),
    "data: and other schemes are dropped": (
        PRODUCT | {"image": ["data:image/png;base64,AA", "blob:x", "cid:1", "", "/1.jpg"]}, ["/1.jpg"]),
    "one image in many spellings": (
        PRODUCT | {"image": ["/1.jpg", "HTTPS://SHOP.example:443/1.jpg#x", "./../1.jpg"]}, ["/1.jpg"]),
}  # fmt: skip


@pytest.mark.parametrize(("document", "wanted"), JSON_LD.values(), ids=JSON_LD)
def test_json_ld_product_images_are_found(document: Any, wanted: list[str]) -> None:
    assert found(ld(document)) == wanted


GOOD = json.dumps(PRODUCT | {"image": "/1.jpg"})
WRAPPED = {
    "an HTML comment": f"<!-- {GOOD} -->",
    "CDATA": f"<![CDATA[{GOOD}]]>",
    "CDATA in line comments": f"//<![CDATA[\n{GOOD}\n//]]>",
    "CDATA in block comments": f"/*<![CDATA[*/{GOOD}/*]]>*/",
    "a semicolon at the end": f"\n {GOOD} ;\n",
    "HTML escapes": html.escape(GOOD),
    "raw line breaks inside a text": GOOD.replace("Mug", "Mu\n\tg"),
}


@pytest.mark.parametrize("text", WRAPPED.values(), ids=WRAPPED)
def test_wrapped_json_ld_is_unwrapped(text: str) -> None:
    assert found(ld(text)) == ["/1.jpg"]


@pytest.mark.parametrize(
    "broken",
    ["{", '{"@type": "Product", "image": ["/0.jpg",]}', "[" * 100_000, "", "1" * 9999, '"x"', "null"],
)
def test_broken_json_ld_is_skipped_and_the_rest_is_read(broken: str) -> None:
    assert found(ld(broken) + ld(GOOD) + og(("og:image", "/2.jpg"))) == ["/1.jpg", "/2.jpg"]


def test_our_sku_comes_first_among_several_products() -> None:
    variants = [PRODUCT | {"sku": sku, "image": f"/{sku}.jpg"} for sku in ("RED", "BLUE")]
    page = ld({"@type": "ProductGroup", "image": "/group.jpg", "hasVariant": variants})
    assert found(page, sku="BLUE") == ["/BLUE.jpg", "/group.jpg", "/RED.jpg"]
    assert found(page, sku="GREEN") == ["/group.jpg", "/RED.jpg", "/BLUE.jpg"]


OPEN_GRAPH = {
    "several": ((("og:image", "/1.jpg"), ("og:image", "/2.jpg")), ["/1.jpg", "/2.jpg"]),
    "url": ((("og:image:url", "/1.jpg"),), ["/1.jpg"]),
    "the secure one of a group": (
        (("og:image", "http://shop.example/1.jpg"), ("og:image:secure_url", "/1.jpg"), ("og:image", "/2.jpg")),
        ["/1.jpg", "/2.jpg"],
    ),
    "escaped ampersand": ((("og:image", "/i?a=1&amp;b=2"),), ["/i?a=1&b=2"]),
    "capitals": ((("OG:Image", "/1.jpg"),), ["/1.jpg"]),
    "two properties in one": ((("twitter:image og:image", "/1.jpg"),), ["/1.jpg"]),
    "empty": ((("og:image", ""), ("og:title", "Mug")), []),
}  # fmt: skip


@pytest.mark.parametrize(("pairs", "wanted"), OPEN_GRAPH.values(), ids=OPEN_GRAPH)
def test_open_graph_images_are_found(pairs: tuple[tuple[str, str], ...], wanted: list[str]) -> None:
    assert found(og(*pairs)) == wanted


def test_open_graph_written_with_name_is_read_as_well() -> None:
    assert found("<META NAME=og:image CONTENT=/1.jpg>") == ["/1.jpg"]


def test_json_ld_comes_before_open_graph_wherever_it_stands() -> None:
    assert found(og(("og:image", "/og.jpg")) + ld(GOOD)) == ["/1.jpg", "/og.jpg"]


def test_relative_urls_follow_the_first_base_tag() -> None:
    assert found('<base href="/media/"><base href="/no/">' + og(("og:image", "1.jpg"))) == ["/media/1.jpg"]
    assert found('<base target="_blank">' + og(("og:image", "1.jpg"))) == ["/products/1.jpg"]
    assert found('<base href="javascript:x">' + og(("og:image", "1.jpg"))) == ["/products/1.jpg"]


def test_what_is_commented_out_or_inside_a_script_is_not_read() -> None:
    inside = og(("og:image", "/no.jpg"))
    assert found(f"<!-- {inside} {ld(GOOD)} --><script>var x = '{inside}'</script>") == []
    assert found(f"<!-->{inside}") == ["/no.jpg"]


def test_a_tag_with_greater_than_inside_its_quotes_is_whole() -> None:
    assert found(
        '<meta name="d" content="a > b"><meta data-x=\'>\' property="og:image" content="/1.jpg">'
    ) == ["/1.jpg"]


def test_at_most_limit_candidates_are_named() -> None:
    assert len(found(ld(PRODUCT | {"image": [f"/{n}.jpg" for n in range(50)]}), limit=8)) == 8


TEXT = '<meta property="og:image" content="/café.jpg">'
CHARSETS = [
    (TEXT.encode(), ""),
    (TEXT.encode("utf-8-sig"), "text/html; charset=iso-8859-1"),
    (TEXT.encode("utf-16"), "text/html"),
    (TEXT.encode("cp1252"), "text/html; charset=ISO-8859-1"),
    (TEXT.encode("cp1252"), ""),
    (b"<meta charset=windows-1252>" + TEXT.encode("cp1252"), "text/html"),
    (b"<meta http-equiv=Content-Type content='text/html; charset=cp850'>" + TEXT.encode("cp850"), ""),
    (b"<meta charset=utf-7>" + TEXT.encode(), "text/html; charset=unicode_escape"),
    (b"<meta charset=nonsense>" + TEXT.encode(), "text/html; charset=bogus"),
]


@pytest.mark.parametrize(("content", "content_type"), CHARSETS)
def test_the_page_is_read_in_its_own_charset(content: bytes, content_type: str) -> None:
    page = Page(content, URL, content_type)
    assert "café" in decoded(page)
    assert image_urls(page) == ["https://shop.example/caf%C3%A9.jpg"]


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff" * 999, b"<meta property=og:image", b"<script type=application/ld+json>{"]
)
def test_rubbish_names_no_images(content: bytes) -> None:
    assert image_urls(Page(content, URL)) == []


HOSTILE = {
    "nested tags": "<div>" * 400_000,
    "comments never closed": "<!--" * 400_000,
    "scripts never closed": "<script " * 200_000,
    "quotes never closed": '<meta "' * 250_001,
    "a tag of attributes": "<meta " + " ".join(f"a{n}=1" for n in range(200_000)) + ">",
    "a script of spaces": ld(" " * 2_000_000 + "x"),
    "a script of brackets": ld('{"a":' * 400_000),
}


@pytest.mark.parametrize("page", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_page_is_read_in_linear_time(page: str) -> None:
    """Quadratic work on 2 MB takes minutes: a regression hangs here, and no clock is asked."""
    assert found(page) == []
