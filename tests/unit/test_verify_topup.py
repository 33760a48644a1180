"""Topping up: as many test orders as the neediest check lacks, and no faster than was asked for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.receipts import finding
from toolkit.ledger.verifications import PlacedOrder
from toolkit.verify.topup import AHEAD, TWICE, paced, wanted
from toolkit.verify.verdict import Finding, Verdict

NOW = datetime(2025, 10, 11, 18, 0, tzinfo=UTC)


def lacks(have: int, need: int, **more: Any) -> Finding:
    evidence = {"have": have, "need": need} | more
    return finding("c", "immediate", Verdict.PENDING, "…", evidence=evidence)


def orders(number: int, *, done: bool, purpose: str = "top-up") -> list[PlacedOrder]:
    one = PlacedOrder(
        1, purpose, "j", "o", NOW, None, "async", None, "", NOW if done else None, None, "", "", ""
    )
    return [one] * number


def test_the_neediest_check_says_how_many_are_wanted() -> None:
    assert wanted([lacks(50, 59), lacks(289, 299), lacks(70, 59)], []) == 10
    assert wanted([finding("c", "immediate", Verdict.PENDING, "no number")], []) == 0
    assert wanted([lacks(60, 59)], []) == 0


def test_what_is_under_way_is_not_placed_again_and_no_more_than_so_many_at_once() -> None:
    assert wanted([lacks(50, 59)], orders(9, done=False)) == 0
    assert wanted([lacks(50, 59)], orders(4, done=False, purpose="probe")) == 5
    assert wanted([lacks(0, 299)], []) == AHEAD
    assert wanted([lacks(0, 299)], orders(AHEAD - 1, done=False)) == 1


def test_orders_that_prove_nothing_are_placed_only_twice_over() -> None:
    assert wanted([lacks(0, 20)], orders(TWICE * 20 - 3, done=True)) == 3
    assert wanted([lacks(0, 20)], orders(TWICE * 20, done=True)) == 0
    assert wanted([lacks(0, 20)], orders(TWICE * 20, done=True, purpose="end-to-end")) == 20


@pytest.mark.parametrize("look", [0.5, 0.7, 3.0])
@pytest.mark.parametrize("rate", [0.1, 0.5, 1, 1.9, 3, 10, 1000])
def test_the_rate_is_kept_whatever_the_time_between_two_looks(rate: float, look: float) -> None:
    placed, owed = 0, 1.0
    looks = round(120 / look)
    for _ in range(looks):
        now, owed = paced(1_000_000, owed + rate * look)
        placed += now
    assert placed == pytest.approx(rate * looks * look, abs=1.001)


def test_a_time_in_which_none_was_wanted_is_not_made_up_for() -> None:
    now, owed = paced(0, 600.0)
    assert now == 0
    assert paced(50, owed + 0.5) == (1, 0.5)
