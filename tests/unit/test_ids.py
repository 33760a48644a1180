"""The ids that Freshfetch gives to the shop's rows."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import catalog
from jobs.catalog import derived_id, id_maker

NOW = datetime(2025, 10, 11, 17, 2, tzinfo=UTC)


def test_ids_ascend_even_when_the_clock_stands_or_goes_back() -> None:
    clock = iter([NOW, NOW, NOW - timedelta(hours=1), NOW + timedelta(milliseconds=1), NOW] * 20)
    new_id = id_maker(lambda: next(clock), lambda size: b"\xff" * size)
    ids = [new_id() for _ in range(100)]
    assert ids == sorted(set(ids))
    assert all(re.fullmatch("c[0-9a-z]{24}", made) for made in ids)


def test_ids_still_ascend_when_a_millisecond_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_SPAN", 3)
    new_id = id_maker(lambda: NOW, bytes)
    ids = [new_id() for _ in range(10)]
    assert ids == sorted(set(ids))
    assert [made[9:13] for made in ids[:4]] == ["0000", "0001", "0002", "0000"]


def test_ids_begin_with_the_time_as_prismas_do() -> None:
    new_id = id_maker(lambda: NOW, bytes)
    assert int(new_id()[1:9], 36) == NOW.timestamp() * 1000
    assert new_id()[9:13] == "0001"


@given(st.lists(st.text()), st.lists(st.text()))
def test_derived_ids_are_equal_only_for_equal_parts(one: list[str], other: list[str]) -> None:
    assert (derived_id(*one) == derived_id(*other)) == (one == other)
    assert re.fullmatch("c[0-9a-z]{24}", derived_id(*one))


def test_a_derived_id_never_changes_between_releases() -> None:
    assert derived_id("image", "d1", "https://x/1.jpg") == "c38b9521975f59a126c11ffba"
    assert derived_id("ab", "c") != derived_id("a", "bc")
