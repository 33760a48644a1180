"""Many texts go to PostgreSQL as one parameter, and come out as they went in."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolkit.ledger.database import array_of


@pytest.mark.parametrize(
    "texts",
    [[], [""], ["", ""], ["a"], ["a", "b c", "NULL", "{x}", ","], ['"'], ['a"', '"b'], ['","'], ["\\"], ["\n\t", "🖼"]],
)  # fmt: skip
def test_texts_come_out_as_they_went_in(connection: psycopg.Connection, texts: list[str]) -> None:
    assert connection.execute("SELECT %s::text[]", (array_of(texts),)).fetchone() == (texts,)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.sampled_from('a",\\{} ')), max_size=4))
def test_whatever_they_are(connection: psycopg.Connection, texts: list[str]) -> None:
    assert connection.execute("SELECT %s::text[]", (array_of(texts),)).fetchone() == (texts,)
