"""The benchmark's contenders all do the same work: a figure for work that was not done would be worth nothing.

Times are never asserted.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from scripts.benchmarks import image_job
from scripts.benchmarks.room import TEMPLATE, Room, WrongEffects, check_effects
from toolkit.embedded import servers as embedded


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
