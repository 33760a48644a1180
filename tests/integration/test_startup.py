"""Commands import what they need, and no more: a library that slips into everybody's way is named here; and a command that asks
once is connected as all others are."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from toolkit.errors import DependencyUnreachable, SettingError
from toolkit.ledger.database import Brief, Database

HEAVY = {
    "alembic",
    "httpx",
    "openfeature",
    "opentelemetry",
    "psycopg",
    "pydantic",
    "redis",
    "rich",
    "rq",
    "sqlalchemy",
    "structlog",
}
"""Each costs 20 to 200 ms."""
BOTH_SERVERS = {"psycopg", "redis", "opentelemetry"}
JOB = "3e1f0000-0000-4000-8000-000000000000"

_RUN = """
import sys
from toolkit.cli import main
try:
    main()
except SystemExit as ended:
    code = ended.code
print("imported", *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
sys.exit(code)
"""


def imported(*arguments: str, **environ: str) -> set[str]:
    """The heavy ones that this command loaded; it must have ended well."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments], env=os.environ | environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    last = done.stderr.splitlines()[-1].split()
    assert last[0] == "imported"
    return HEAVY & set(last)


def test_the_list_of_commands_needs_none_of_them() -> None:
    assert imported("--help") == set()


@pytest.mark.parametrize("command", ["toggle", "verify-deploy", "status", "replay", "worker"])
def test_help_needs_none_of_them(command: str) -> None:
    assert imported(command, "--help") == set()


def test_a_look_at_the_toggle_needs_the_way_to_postgresql_only(database_url: str) -> None:
    """And `psycopg`, which is that way, is seen: the net holds."""
    assert imported("toggle", "status", DATABASE_URL=database_url) == {"psycopg"}


@pytest.mark.parametrize(
    ("command", "needs"),
    [
        (("jobs", "list"), {"psycopg"}),
        (("replay", "--job", JOB, "--plan"), {"psycopg"}),
        (("replay", "--failed", "--plan"), BOTH_SERVERS),
        (("jobs", "failed"), BOTH_SERVERS),
        (("status",), BOTH_SERVERS),
        (("doctor",), BOTH_SERVERS),
        (("toggle", "off", "--reason", "test"), {"psycopg", "opentelemetry", "structlog", "rich"}),
    ],
)
def test_what_is_typed_in_an_incident_loads_the_way_to_the_servers_it_asks(
    connection: psycopg.Connection,
    database_url: str,
    redis_url: str,
    command: tuple[str, ...],
    needs: set[str],
) -> None:
    """No SQLAlchemy, which only transactions of the shop's rows are worth. redis-py loads OpenTelemetry's SDK where it is
    installed, and structlog rich."""
    connection.execute(
        "INSERT INTO toolkit.intent (job_id, job_name, queue, payload, done_at, outcome)"
        " VALUES (%s, 'test', 'test', '{}', now(), 'failed')",
        (JOB,),
    )
    assert imported(*command, DATABASE_URL=database_url, REDIS_URL=redis_url) == needs


def settled(database: Database) -> list[tuple[Any, ...]]:
    """What the way to PostgreSQL asks of every connection."""
    names = ["TimeZone", "default_transaction_isolation", "tcp_user_timeout", "application_name"]
    with database.session() as session:
        return [session.execute("SELECT current_setting(%s)", (name,)).fetchone() or () for name in names]


def test_a_command_that_asks_once_is_connected_as_the_pool_is(database: Database) -> None:
    brief = Brief(database.url)
    assert settled(brief) == settled(database)
    with brief.begin() as connection:
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar_one() == "read committed"


@pytest.mark.parametrize("url", ["postgresql://x@127.0.0.1:1/x", ""])
def test_a_way_that_is_closed_is_told_with_a_remedy_by_both(database_url: str, url: str) -> None:
    """Nobody listens, or there is no such database."""
    closed = url or urlsplit(database_url)._replace(path="/no-such-database").geturl()
    with closing(Database(closed)) as pooled:
        for way in (pooled, Brief(closed)):
            with pytest.raises(DependencyUnreachable, match=urlsplit(closed).path) as told, way.session():
                pass
            assert "DATABASE_URL" in told.value.remedy


def test_a_url_that_only_another_library_reads_is_refused_before_it_is_used() -> None:
    with pytest.raises(SettingError, match="schema"):
        Brief("postgresql://x@127.0.0.1/x?schema=public")
