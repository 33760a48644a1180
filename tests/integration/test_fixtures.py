"""The tests' own servers."""

from __future__ import annotations

import psycopg
import pytest
import redis


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_a_database_and_a_broker_of_its_own(
    database_url: str, redis_url: str, turn: int
) -> None:
    with psycopg.connect(database_url) as connection, redis.Redis.from_url(redis_url) as broker:
        connection.execute("CREATE TABLE mine ()")  # fails where another test's table is
        assert broker.incr("mine") == 1
