"""What a purchase order file holds, and what reading one yields. Pure.

A reader yields, in the file's order: an OrderLine for each good line, a Fact for what the file says of the
order itself, and a Problem for whatever cannot be taken. Lines and columns count from 1. A column is the
number of the field in CSV, and of the character in JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, Protocol

FactName = Literal["merchant", "merchant_name", "order_number"]


@dataclass(frozen=True, slots=True)
class OrderHeader:
    """Whose order it is, and its number, which is unique for the merchant."""

    merchant_id: str
    merchant_name: str | None
    number: str


@dataclass(frozen=True, slots=True)
class OrderLine:
    """One line of an order. `unit_cost` has at most 4 decimals; `line` is where it begins in the file."""

    sku: str
    product_name: str
    quantity: int
    unit_cost: Decimal
    product_url: str | None
    line: int


class Order(Protocol):
    """What can be imported: a header, and the lines, as often as they are asked for."""

    @property
    def header(self) -> OrderHeader:
        """Whose order it is."""

    def lines(self) -> Iterator[OrderLine]:
        """The lines, in order."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What the file says of the order itself, and where."""

    name: FactName
    value: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at a place, and what to do about it."""

    line: int
    column: int
    what: str
    remedy: str


Item = OrderLine | Fact | Problem

Seen = Callable[[str, int], int | None]
"""Remembers a sku and its line; returns the line that had the sku before, if one had."""
