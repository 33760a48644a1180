"""The benchmarks' contenders all do the same work: a figure for work that was not done would be worth nothing.

Times are never asserted.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from scripts.benchmarks import full_ledger, image_job, startup, verify
from scripts.benchmarks.room import TEMPLATE, Room, WrongEffects, check_effects
from toolkit.embedded import servers as embedded
from toolkit.ledger.database import Database


@pytest.fixture
def room(servers: embedded.Servers, tmp_path: Path) -> Room:
    with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)")
    made = Room(servers, tmp_path)
    made.prepare()
    return made


def test_every_contender_attaches_fifteen_images_an_order(room: Room) -> None:
    """`race` and `floor` raise WrongEffects otherwise."""
    tiny = image_job.Plan(rounds=1, scale=0.0, counted=("b",))
    rounds, counted = image_job.run(room, tiny)
    raced = rounds[0].raced
    assert set(raced) == {one.key for one in image_job.CONTENDERS}
    assert all(one.jobs == 4 and one.rate > 0 for one in raced.values())
    assert raced["a"].spans == 9
    assert raced["a'"].spans == 0
    few, many = counted["b"].few, counted["b"].many
    assert many is not None
    assert many.postgres_trips > few.postgres_trips + 45  # a commit a draft: the proxies do count
    assert len(image_job.ratios(rounds)) == 8


def test_work_that_was_not_done_is_refused(room: Room) -> None:
    with (
        room.database(orders=2, drafts=5) as url,
        pytest.raises(WrongEffects, match=r"\(0, 0, 0, 0\), wanted \(2, 30, 30, 10\)"),
    ):
        check_effects(url, orders=2, drafts=5)


def test_verify_deploy_is_asked_of_a_ledger_with_everything_in_it(room: Room) -> None:
    """Runs of every outcome, an incident in the past, a kind of loss that is new; every look asks of it."""
    with room.database(orders=0, drafts=0) as url:
        runs = full_ledger.fill(url, 10_000)
        with psycopg.connect(url) as connection:
            rows = connection.execute(
                "SELECT release, coalesce(sqlstate, error_type, outcome), count(*) FROM toolkit.run GROUP BY 1, 2"
            ).fetchall()
            later = connection.execute(
                "SELECT count(*) FROM toolkit.run WHERE finished_at > now() OR outcome IS NULL"
            )
            assert later.fetchone() == (0,)
        kinds = {(release, kind): count for release, kind, count in rows}
        assert sum(kinds.values()) == runs > 10_000
        assert kinds["r2", "23503"] > 0
        assert {release for release, kind in kinds if kind == "processed"} == {f"r{n}" for n in range(1, 7)}
        assert {kind for release, kind in kinds if release == full_ledger.BUSY} == {
            "processed", "skipped", "connect_timeout", "ValueError", "LeaseExpired",
        }  # fmt: skip
        environ = startup.environ(url, room.servers.valkey.url)
        looked = [*verify.measure(environ, "a day", 1), *verify.measure(environ, "", 1)]
        assert len(looked) == 7
        assert all(one.statements and one.first > 0 for one in looked)
        assert [one.what for one in looked if one.scanned] == []
        assert verify.verify_deploy(environ) > 0
        started = startup.race(environ, 1)
        assert [one.command for one in started] == list(startup.COMMANDS)


def test_a_table_that_is_read_whole_is_named(room: Room) -> None:
    with room.database(orders=0, drafts=0) as url:
        database = Database(url)
        whole = verify.read_whole(database, "SELECT count(*) FROM toolkit.run WHERE worker = 'w'")
        assert list(whole) == ["toolkit.run"]
        assert list(verify.read_whole(database, "SELECT 1")) == []
        database.close()
