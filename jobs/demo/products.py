"""The demo shop's catalogue: six products, and every shape of page that a search meets in real life."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

Shape = Literal["json_ld", "graph", "open_graph", "no_image", "missing"]
"""How a page names its images; `missing`: the page is gone (404)."""


@dataclass(frozen=True, slots=True)
class ShopProduct:
    """A product; `images` pictures in files that end in `ending`."""

    sku: str
    name: str
    unit_cost: str
    quantity: int = 12
    shape: Shape = "json_ld"
    images: int = 3
    ending: Literal["jpg", "png", "webp"] = "jpg"

    def image_paths(self) -> list[str]:
        """Where the shop serves the pictures."""
        return [f"/images/{quote(self.sku)}-{number}.{self.ending}" for number in range(1, self.images + 1)]


CATALOGUE = (
    ShopProduct("MUG-01", "Stoneware Mug, Moss", "6.40", 48),
    ShopProduct("LAMP-02", "Brass Reading Lamp", "38.00", 10, shape="graph", ending="webp"),
    ShopProduct("THROW-03", "Merino Throw, Oat", "52.50", 16, shape="open_graph", images=2, ending="png"),
    ShopProduct("BOARD-04", "Walnut Serving Board", "21.75", 24),
    ShopProduct("CANDLE-05", "Beeswax Candle, Tall", "4.10", 96, shape="no_image", images=0),
    ShopProduct("VASE-06", "Recycled Glass Vase", "14.20", 20, shape="missing", images=0),
)
