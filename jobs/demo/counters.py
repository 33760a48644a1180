"""Counters as /metrics shows them: scraped, and what they grew by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.request import urlopen

_SAMPLE = re.compile(r"^(\w+_total(?:\{.*\})?) (\S+)", re.MULTILINE)


def scrape(url: str) -> dict[str, float]:
    """Every counter at `url`, `name{labels}` → value. Raises OSError when nobody answers within 5 s."""
    with urlopen(url, timeout=5) as answer:  # noqa: S310  an address of our own worker
        text = answer.read().decode()
    return {name: float(value) for name, value in _SAMPLE.findall(text)}


def growth(before: Mapping[str, float], after: Mapping[str, float], *families: str) -> dict[str, int]:
    """What the counters of these families grew by, the ones that stood still left out."""
    grown = {name: round(value - before.get(name, 0.0)) for name, value in after.items()}
    return {
        name: by
        for family in families
        for name, by in grown.items()
        if by and name.partition("{")[0] == family
    }
