"""`--since`: what it takes, and what it refuses."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.cli.options import parse_since

NOW = datetime(2025, 10, 11, 17, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("15min", timedelta(minutes=15)),
        ("2h", timedelta(hours=2)),
        (" 1.5H ", timedelta(minutes=90)),
        ("3d", timedelta(days=3)),
        ("1w", timedelta(weeks=1)),
        ("0s", timedelta()),
    ],
)
def test_a_duration_is_counted_back_from_now(text: str, ago: timedelta) -> None:
    assert parse_since(text).moment(NOW) == NOW - ago


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-10-10", datetime(2025, 10, 10, tzinfo=UTC)),
        ("2025-10-10T12:30", datetime(2025, 10, 10, 12, 30, tzinfo=UTC)),
        ("2025-10-10T12:30Z", datetime(2025, 10, 10, 12, 30, tzinfo=UTC)),
        ("2025-10-10 12:30+02:00", datetime(2025, 10, 10, 12, 30, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_a_time_is_utc_unless_it_names_a_zone(text: str, moment: datetime) -> None:
    assert parse_since(text).moment(NOW) == moment


@pytest.mark.parametrize(
    "text", ["", "h", "2", "-2h", "5x", "2h30", "yesterday", "2025-13-01", "999999999w", "nan s"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_since(text)


@given(st.text(max_size=30))
def test_no_text_breaks_the_parser(text: str) -> None:
    with suppress(ValueError):
        parse_since(text).moment(NOW)
