"""Since when evidence counts: a deployment is one, however often it was marked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from toolkit.ledger.verifications import Deployment
from toolkit.verify.window import ONE, events, restarted, window

NOW = datetime(2025, 10, 11, 18, 0, tzinfo=UTC)
ALL = frozenset({"deployment", "rollback", "flip"})


def marks(*given: tuple[str, int]) -> list[Deployment]:
    """Marks of releases, each so many minutes ago; newest first, as the ledger gives them."""
    found = [Deployment(release, NOW - timedelta(minutes=ago), "ci", "") for release, ago in given]
    return sorted(found, key=lambda one: one.at, reverse=True)


def told(*given: tuple[str, int]) -> tuple[int, list[tuple[str, int]], int]:
    """Of r2, in minutes ago: since when it counts, what is told of its window, and since when for a check that all confounds."""
    deployments = marks(*given)
    since = window("r2", deployments, None, NOW).since
    found = events("r2", since, deployments, ())
    return _ago(since), [(one.kind, _ago(one.at)) for one in found], _ago(restarted(since, found, ALL))


def _ago(moment: datetime) -> int:
    return round((NOW - moment) / timedelta(minutes=1))


def test_a_deployment_that_is_marked_again_counts_from_its_first_mark_for_every_check() -> None:
    assert told(("r1", 900), ("r2", 50), ("r2", 30), ("r2", 1)) == (50, [], 50)


def test_hosts_that_follow_one_another_within_the_time_are_one_deployment_however_many_they_are() -> None:
    assert told(("r2", 150), ("r2", 100), ("r2", 50)) == (150, [], 150)


@pytest.mark.parametrize("kind_of", ["deployment", "rollback"])
def test_another_release_in_between_restarts_the_clock_once(kind_of: str) -> None:
    before = [("r3", 900)] if kind_of == "rollback" else []
    assert told(*before, ("r2", 50), ("r3", 40), ("r3", 30)) == (50, [(kind_of, 40)], 40)


def test_a_release_that_comes_back_after_another_is_a_deployment_of_its_own() -> None:
    assert told(("r2", 50), ("r1", 40), ("r2", 30)) == (30, [], 30)
    found = events("r2", NOW - timedelta(minutes=50), marks(("r2", 50), ("r1", 40), ("r2", 30)), ())
    assert [(one.kind, one.what) for one in found] == [
        ("deployment", "release r1"),
        ("deployment", "release r2"),
    ]


def test_marked_again_after_more_than_the_time_is_a_deployment_of_its_own() -> None:
    again = NOW + ONE + timedelta(seconds=1)
    first = Deployment("r2", NOW, "ci", "")
    assert [one.at for one in events("r2", NOW, [Deployment("r2", again, "ci", ""), first], ())] == [again]
    assert events("r2", NOW, [Deployment("r2", NOW + ONE, "ci", ""), first], ()) == ()
