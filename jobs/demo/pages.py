"""The demo shop's HTML. Pure."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from jobs.demo.products import ShopProduct

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem;color:#222}
figure{display:flex;gap:1rem;margin:1rem 0;overflow:auto}img{width:14rem;height:auto;border-radius:.5rem}
.price{font-weight:600}small{color:#666}
"""


def product_page(product: ShopProduct, root: str) -> str:
    """The page of a product that is there."""
    name = escape(product.name)
    pictures = "".join(
        f'<img src="{path}" alt="{name}, view {number}" width="640" height="480">'
        for number, path in enumerate(product.image_paths(), start=1)
    )
    return _document(
        product.name,
        _meta(product, root),
        f'<h1>{name}</h1><figure>{pictures}</figure><p class="price">€ {product.unit_cost}</p>'
        f"<p>Made in small batches, packed without plastic.</p><small>Article {escape(product.sku)}</small>",
    )


def not_found_page() -> str:
    """What a shop says when a product is gone."""
    return _document("Not found", "", "<h1>Not found</h1><p>This product is no longer ours to sell.</p>")


def _document(title: str, head: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)} · Fern &amp; Field</title>'
        f"<style>{_STYLE}</style>{head}</head><body>{body}</body></html>"
    )


def _meta(product: ShopProduct, root: str) -> str:
    paths = product.image_paths()
    graph = "".join(f'<meta property="og:image" content="{root}{path}">' for path in paths)
    title = f'<meta property="og:type" content="product"><meta property="og:title" content="{escape(product.name)}">'
    if product.shape == "open_graph":
        return title + graph
    described: dict[str, Any] = {
        "@type": "Product",
        "name": product.name,
        "sku": product.sku,
        "offers": {"@type": "Offer", "price": product.unit_cost, "priceCurrency": "EUR"},
    }
    if product.shape == "graph":
        # As WordPress plugins write it: nodes that refer to each other, and a picture object.
        described["image"] = [{"@type": "ImageObject", "url": path} for path in paths]
        document: dict[str, Any] = {
            "@context": "https://schema.org",
            "@graph": [{"@type": "WebSite", "name": "Fern & Field"}, described],
        }
    else:
        if paths:
            described["image"] = [f"{root}{path}" for path in paths]
        document = {"@context": "https://schema.org"} | described
    # A "</script>" inside a name would end the script.
    text = json.dumps(document, ensure_ascii=False).replace("</", "<\\/")
    return f'{title}{graph}<script type="application/ld+json">{text}</script>'
