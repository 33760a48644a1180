"""Flipping while orders come in and workers are killed: images exactly once, nothing lost, no 23503.

The whole run (1,000 orders) is `scripts/toggle-soak`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from scripts.toggling.storm import Storm, account, storm, wrong
from tests.eventually import eventually
from tests.importers import importer
from tests.orders import ask, new_order
from tests.template import prepare_template
from toolkit.embedded import postgres
from toolkit.embedded import servers as embedded
from toolkit.embedded.servers import Servers


def test_a_hundred_flips_lose_and_double_nothing(
    servers: Servers, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    before = servers.postgres.log.stat().st_size
    came = storm((database_url, redis_url), tmp_path, orders=300, flips=100, kills=6)
    found = account(database_url)
    assert wrong(came, found, 100) == []
    assert min(found["sync"], found["async"]) > 30, "both ways were gone"
    assert (came.kills, came.taken_back > 0) == (6, True)
    with servers.postgres.log.open("rb") as log:
        log.seek(before)
        said = log.read().decode(errors="replace")
    assert "violates foreign key" not in said


def test_the_account_can_turn_red(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """An image too many, a job left over: each is told."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        order = new_order(connection, 1)
        ask(connection, order)
        connection.execute(
            'INSERT INTO "ProductImage" (id, "productDraftId", url, source, position)'
            " SELECT 'i' || n, %s, 'u' || n, 'x', n FROM generate_series(1, 4) n",
            (order.drafts[0],),
        )
    told = " ".join(wrong(Storm(orders=1), account(database_url), 0))
    assert "wrong_drafts: 1" in told
    assert "open: 1" in told


@pytest.fixture
def own_servers(tmp_path: Path) -> Iterator[tuple[Path, Servers]]:
    """Servers that this test may stop."""
    home = tmp_path / "home"
    servers = embedded.up(home)
    prepare_template(servers.postgres.url)
    yield home, servers
    embedded.destroy(home)


def test_while_postgresql_is_down_those_who_run_keep_their_value_and_those_who_start_are_sync(
    own_servers: tuple[Path, Servers], tmp_path: Path
) -> None:
    home, servers = own_servers
    urls = (servers.postgres.url, servers.valkey.url)
    with importer(urls, tmp_path, "before") as before:
        eventually(before.ready)
        assert postgres.stop(home)
        eventually(lambda: "the store is away" in before.said("value")[-1]["why"])
        assert before.said("value")[-1]["async"], "the last known value"
        with importer(urls, tmp_path, "restarted") as restarted:
            eventually(restarted.ready)
            assert restarted.said("ready")[0]["mode"] == "sync"
            assert "never reached" in restarted.said("ready")[0]["why"]
            shown = subprocess.run(
                [sys.executable, "-m", "toolkit.cli", "toggle", "status"],
                capture_output=True, text=True, check=False, timeout=60, env=os.environ | {"DATABASE_URL": urls[0]},
            )  # fmt: skip
            assert shown.returncode == 4
            assert "sync for a process that starts now" in shown.stdout
            assert "away: " in shown.stdout
            embedded.up(home)
            eventually(lambda: restarted.said("value")[-1:] and restarted.said("value")[-1]["async"])
            eventually(lambda: before.said("value")[-1]["why"] == "never flipped")
