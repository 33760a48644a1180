"""Real servers for the tests: one PostgreSQL and one Valkey a session, a database for each test that asks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from tests.template import prepare_template
from toolkit.embedded import servers as embedded
from toolkit.ledger.database import Database

TEMPLATE = "template_fresh"
_numbers = itertools.count(1)


def with_database(url: str, name: str) -> str:
    """The same server, another database."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Servers]:
    """Both servers, in a home of this session; its data die with it, so PostgreSQL need not sync them."""
    home = tmp_path_factory.mktemp("servers")
    try:
        yield embedded.up(home, extra_options={"fsync": "off"})
    finally:
        embedded.destroy(home)


@pytest.fixture(scope="session")
def template_url(servers: embedded.Servers) -> str:
    """The template database, filled."""
    with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    url = with_database(servers.postgres.url, TEMPLATE)
    prepare_template(url)
    return url


@pytest.fixture
def database_url(servers: embedded.Servers, template_url: str) -> Iterator[str]:
    """A fresh copy of the template, dropped after the test whoever is still connected."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        yield with_database(servers.postgres.url, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def redis_url(servers: embedded.Servers) -> str:
    """An empty logical database of the broker, 1 to 15 in turn."""
    url = urlsplit(servers.valkey.url)._replace(path=f"/{next(_numbers) % 15 + 1}").geturl()
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    """The test's own way into its database: each statement commits by itself."""
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The toolkit's way into the test's database."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def broker(redis_url: str) -> Iterator[redis.Redis]:
    """The test's own way to its broker."""
    with redis.Redis.from_url(redis_url) as opened:
        yield opened
