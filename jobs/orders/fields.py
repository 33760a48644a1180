"""The rules for each field of an order, the same for CSV and JSON. Pure: text in, value out, or Refused.

Limits, in characters: sku 128, product name 500, product URL 2,048, merchant 64 (it travels in a job's
payload), order number 128. Quantity 1 to 2,147,483,647; unit cost 0 to 99,999,999.9999 with at most 4
decimals. Text is stripped at both ends and otherwise kept as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from jobs.orders.model import FactName, OrderLine, Seen

LINE_FIELDS = ("sku", "product_name", "quantity", "unit_cost", "product_url")
OPTIONAL = frozenset({"product_url"})
FACTS: tuple[FactName, ...] = ("merchant", "merchant_name", "order_number")

_ALIASES = {"merchantid": "merchant", "number": "order_number"}
_BY_KEY = {name.replace("_", ""): name for name in (*LINE_FIELDS, *FACTS)} | _ALIASES

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WHOLE = re.compile(r"[0-9]{1,19}")
_DECIMAL = re.compile(r"([0-9]{1,19})(?:\.([0-9]{0,30}))?")
_COMMA = re.compile(r"[0-9.]*,[0-9]+(\.[0-9]+)?")
_MERCHANT = re.compile(r"[A-Za-z0-9_.:-]+")


class Refused(Exception):
    """A field's text that cannot be taken: what is wrong, and what to do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


def canonical(name: str) -> str | None:
    """The field that a column or key means, whatever its case, spaces and underscores; None if none."""
    return _BY_KEY.get(re.sub(r"[\s_-]+", "", name).lower())


def text(name: str, value: str, longest: int) -> str:
    """A text on one line that is not empty and not longer than `longest`."""
    value = value.strip()
    if not value:
        raise Refused(f"{name} is empty", f"give the {name}")
    if len(value) > longest:
        raise Refused(f"{name} has {len(value):,} characters", f"at most {longest:,} are taken")
    if bad := _UNPRINTABLE.search(value):
        what = "a NUL byte" if bad.group() == "\0" else f"an unprintable character, {bad.group()!r}"
        raise Refused(f"{name} contains {what} at character {bad.start() + 1}", "remove it")
    return value


def quantity(value: str) -> int:
    """A whole number that PostgreSQL's integer holds, from 1."""
    value = value.strip()
    if not value:
        raise Refused("quantity is empty", "give a whole number from 1")
    if not _WHOLE.fullmatch(value) or not 1 <= int(value) < 2**31:
        raise Refused(
            f"quantity {_shown(value)} is not a whole number from 1 to 2,147,483,647",
            "write it in digits alone, like 12",
        )
    return int(value)


def unit_cost(value: str) -> Decimal:
    """A decimal from 0 that numeric(12,4) holds exactly."""
    value = value.strip()
    if not value:
        raise Refused("unit_cost is empty", "give a decimal number from 0, like 4.50")
    found = _DECIMAL.fullmatch(value)
    if found is None:
        if _COMMA.fullmatch(value):
            raise Refused(
                f"unit_cost {_shown(value)} has a comma",
                "use a point for decimals and nothing between thousands: 1,50 is written 1.50",
            )
        raise Refused(
            f"unit_cost {_shown(value)} is not a decimal number from 0",
            "write digits and a point alone, without currency or sign, like 4.50",
        )
    if len((found.group(2) or "").rstrip("0")) > 4:
        raise Refused(f"unit_cost {_shown(value)} has more than 4 decimals", "round it to 4 decimals")
    if len(found.group(1).lstrip("0")) > 8:
        raise Refused(f"unit_cost {_shown(value)} is above 99,999,999.9999", "correct the amount")
    return Decimal(value)


def product_url(value: str) -> str | None:
    """An absolute http or https URL, or None when it is left empty."""
    if not value.strip():
        return None
    value = text("product_url", value, 2048)
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a broken IPv6 address or port
        usable = False
    if not usable or any(map(str.isspace, value)):
        raise Refused(
            f"product_url {_shown(value)} is not a web address", "give a whole http:// or https:// address"
        )
    return value


def fact(name: FactName, value: str) -> str:
    """A fact about the order itself, checked."""
    if name != "merchant":
        return text(name, value, 128)
    value = text(name, value, 64)
    if not _MERCHANT.fullmatch(value):
        raise Refused(
            f"merchant {_shown(value)} is not an id", "give the merchant's id: letters, digits and . _ : -"
        )
    return value


_RULES: dict[str, Callable[[str], Any]] = {
    "sku": lambda value: text("sku", value, 128),
    "product_name": lambda value: text("product_name", value, 500),
    "quantity": quantity,
    "unit_cost": unit_cost,
    "product_url": product_url,
}


def order_line(cells: Mapping[str, str], line: int, seen: Seen) -> OrderLine | list[tuple[str, Refused]]:
    """The line that these cells (by field name) make, or every field that stands against it.

    A field that is not there counts as empty.
    """
    values: dict[str, Any] = {}
    refused: list[tuple[str, Refused]] = []
    for name, rule in _RULES.items():
        try:
            values[name] = rule(cells.get(name, ""))
        except Refused as refusal:
            refused.append((name, refusal))
    if "sku" in values and (first := seen(values["sku"], line)) is not None:
        what = f"sku {_shown(values['sku'])} is on line {first} already"
        refused.append(("sku", Refused(what, "keep one of the two lines, with the quantities added")))
    return refused or OrderLine(**values, line=line)


def _shown(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:37] + "…")
