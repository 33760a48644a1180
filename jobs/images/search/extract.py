"""The images that a product page names for itself: schema.org Product in JSON-LD, then Open Graph. Pure.

Only the tags that matter (`script` of JSON-LD, `meta`, `base`) are cut out of the page, in one pass, and given to the HTML
parser: a page of 400,000 nested `<div>` kept the parser's tree builder busy for minutes, and pages come from strangers.
Products that a page merely mentions (related, similar, in a list) are not looked at. Broken JSON-LD is skipped. Known
weakness: microdata and RDFa are not read.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import unescape
from itertools import chain
from typing import Any, TypeAlias

from selectolax.lexbor import LexborHTMLParser

from jobs.images.search.urls import resolved

Node: TypeAlias = dict[str, Any]

MAX_TAG = 8192
"""Characters of one tag: real ones are shorter (data: URLs aside), and parsing attributes is quadratic in their number."""

MAX_DEPTH = 12
"""How deep a Product may be nested."""

_ATTRIBUTES = r"""(?:[^>"']|"[^"]*(?:"|\Z)|'[^']*(?:'|\Z))*+"""
# Each alternative that begins also ends (at the latest with the page), so the whole is linear in the page's length.
_TAGS = re.compile(
    rf"<!--(?:-?>|.*?(?:-->|\Z))|(?P<script><script\b{_ATTRIBUTES})(?:>|\Z)(?P<text>.*?)(?:</script|\Z)"
    rf"|(?P<void><(?:meta|base)\b{_ATTRIBUTES})(?:>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_OPENING = re.compile(r"(?:\s|<!--|//|/\*|<!\[CDATA\[|\*/)*+")
# Matched against the reversed text: searched for from the front, a long run of spaces would be walked once for each space.
_CLOSING = re.compile(r"(?:\s|>--|//|\*/|>\]\]|/\*|;)*+")
_META_CHARSET = re.compile(rb"<meta[^>]{0,500}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# Python knows codecs that are no charsets of pages (utf-7, unicode_escape, idna, …).
_PAGE_CODECS = re.compile(
    r"utf-?8|utf-16|iso8859-\d+|cp\d+|koi8|gb|big5|shift_jis|euc_|mac-roman|tis-620", re.IGNORECASE
)
_PRODUCTS = {
    "Product",
    "ProductGroup",
    "ProductModel",
    "IndividualProduct",
    "SomeProducts",
    "Vehicle",
    "Car",
    "Book",
}
_INSIDE = ("@graph", "mainEntity", "mainEntityOfPage", "isVariantOf", "hasVariant", "model")


@dataclass(frozen=True, slots=True)
class Page:
    """A page as it came: bytes (decompressed), the URL after redirects, the Content-Type header."""

    content: bytes
    url: str
    content_type: str = ""


def image_urls(page: Page, *, sku: str = "", limit: int = 8) -> list[str]:
    """At most `limit` normalised absolute image URLs, best first, each once.

    JSON-LD before Open Graph; of several products on a page, those with our `sku` first.
    """
    scripts, tags = _cut(decoded(page))
    tree = LexborHTMLParser(tags)
    base = page.url
    for node in tree.css("base[href]")[:1]:
        base = resolved(page.url, node.attributes.get("href") or "") or page.url
    named = chain(_json_ld(scripts, sku), _open_graph(node.attributes for node in tree.css("meta")))
    # JSON in a script is not HTML, yet many shops escape the ampersands in it.
    urls = (resolved(base, reference.replace("&amp;", "&")) for reference in named if reference.strip())
    return list(dict.fromkeys(url for url in urls if url))[:limit]


def decoded(page: Page) -> str:
    """The page's text. Byte order mark, then header, then meta tag, then UTF-8 if it fits, else windows-1252."""
    for bom, codec in _BOMS:
        if page.content.startswith(bom):
            return page.content[len(bom) :].decode(codec, "replace")
    header = _CHARSET.search(page.content_type)
    meta = _META_CHARSET.search(page.content[:4096])
    for label in (header and header[1], meta and meta[1].decode("ascii")):
        if label and (name := _codec(label)):
            return page.content.decode(name, "replace")
    try:
        return page.content.decode("utf-8")
    except UnicodeDecodeError:
        return page.content.decode("cp1252", "replace")


def _codec(label: str) -> str | None:
    try:
        name = codecs.lookup(label).name
    except (LookupError, ValueError):
        return None
    if name in {"ascii", "iso8859-1"}:
        return "cp1252"  # what browsers do
    return name if _PAGE_CODECS.match(name) else None


def _cut(html: str) -> tuple[list[str], str]:
    """The texts of the JSON-LD scripts, and the page's `meta` and `base` tags as a flat piece of HTML."""
    scripts: list[str] = []
    tags: list[str] = []
    for match in _TAGS.finditer(html):
        if (tag := match["void"]) and len(tag) <= MAX_TAG:
            tags.append(f"{tag}>")
        elif (tag := match["script"]) and len(tag) <= MAX_TAG and "ld+json" in tag.lower():
            scripts.append(match["text"])
    return scripts, "\n".join(tags)


def _open_graph(metas: Iterable[Any]) -> Iterator[str]:
    """One URL for each og:image group: the secure one if the group has it."""
    group: dict[str, str] = {}
    for meta in metas:
        content = meta.get("content") or ""
        for name in (meta.get("property") or meta.get("name") or "").lower().split():
            if name not in {"og:image", "og:image:url", "og:image:secure_url"}:
                continue
            if name == "og:image" or name in group:
                yield from _best_of(group)
                group = {}
            group[name] = content
    yield from _best_of(group)


def _best_of(group: dict[str, str]) -> Iterator[str]:
    for name in ("og:image:secure_url", "og:image:url", "og:image"):
        if group.get(name):
            yield group[name]
            return


def _json_ld(texts: Iterable[str], sku: str) -> Iterator[str]:
    documents = [document for document in map(_parsed, texts) if document is not None]
    ids = {node["@id"]: node for node in _nodes(documents, MAX_DEPTH) if _is_target(node)}
    ours_first = sorted(
        _products(documents, MAX_DEPTH), key=lambda node: not sku or str(node.get("sku", "")).strip() != sku
    )
    for product in ours_first:
        yield from _images(product.get("image"), ids, MAX_DEPTH)


def _is_target(node: Node) -> bool:
    """Whether an `{"@id": …}` elsewhere can mean this node: it has an id, and is more than a reference itself."""
    return isinstance(node.get("@id"), str) and len(node) > 1


def _parsed(text: str) -> Any:
    """A JSON-LD script's content, out of comments and CDATA, also when it is HTML-escaped; None when it is broken."""
    bare = _bare(text)
    for attempt in (bare, _bare(unescape(bare))):
        try:
            return json.loads(attempt, strict=False)
        except (ValueError, RecursionError):
            continue
    return None


def _bare(text: str) -> str:
    opening, closing = _OPENING.match(text), _CLOSING.match(text[::-1])
    return text[opening.end() if opening else 0 : len(text) - (closing.end() if closing else 0)]


def _products(value: Any, depth: int) -> Iterator[Node]:
    """Product nodes, in the page's order, the group before its variants."""
    if isinstance(value, list):
        for item in value:
            yield from _products(item, depth - 1) if depth else ()
    elif isinstance(value, dict) and depth:
        if _types(value) & _PRODUCTS:
            yield value
        for key in _INSIDE:
            yield from _products(value.get(key), depth - 1)


def _nodes(value: Any, depth: int) -> Iterator[Node]:
    if isinstance(value, list):
        for item in value:
            yield from _nodes(item, depth - 1) if depth else ()
    elif isinstance(value, dict) and depth:
        yield value
        for item in value.values():
            yield from _nodes(item, depth - 1)


def _types(node: Node) -> set[str]:
    """`Product`, `schema:Product` and `https://schema.org/Product` are one."""
    named = node.get("@type")
    listed = named if isinstance(named, list) else [named]
    return {re.split(r"[/:#]", name)[-1] for name in listed if isinstance(name, str)}


def _images(value: Any, ids: dict[str, Node], depth: int) -> Iterator[str]:
    """URLs in an `image`: text, ImageObject, a reference to one, or a list of these."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth:
        for item in value:
            yield from _images(item, ids, depth - 1)
    elif isinstance(value, dict) and depth:
        target = value.get("contentUrl") or value.get("url") or value.get("@value")
        if target:
            yield from _images(target, ids, depth - 1)
        elif isinstance(reference := value.get("@id"), str) and reference in ids:
            # Without the ids from here on: references that go round in a circle end.
            yield from _images(ids[reference], {}, depth - 1)
