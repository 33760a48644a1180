"""The ways back: what was measured comes first, the fastest first, and what was not says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from toolkit.ledger.rollbacks import Rollback
from toolkit.ledger.toggles import SeenBy, Toggle
from toolkit.toggle.receipt import receipt, took
from toolkit.verify.rescue import Facts, ranked

NOW = datetime(2025, 10, 11, 17, 30, tzinfo=UTC)
NAME = "ASYNC_IMAGE_PROCESSING"


def toggle(*, enabled: bool = True, pins: dict[str, bool] | None = None) -> Toggle:
    """Version 3, now."""
    return Toggle(NAME, 3, enabled, 100, pins or {}, (), None, None, "ann@desk", "why", NOW)


def facts(**more: Any) -> Facts:
    """Of release 4811ec9, after 3f1c02b."""
    usual = {
        "verification_id": 7,
        "release": "4811ec9",
        "previous": "3f1c02b",
        "toggle": NAME,
        "standing": toggle(),
    }
    return Facts(**usual | more)


def back(seconds: float) -> Rollback:
    return Rollback("3f1c02b", NOW, NOW + timedelta(seconds=seconds))


def test_the_fastest_way_comes_first_by_its_slowest_time() -> None:
    quick, slow = ranked(facts(flips=(0.1, 0.17), rollbacks=(back(12), back(90))))
    assert (quick.name, quick.seconds, quick.measured) == (
        "switch off", 0.17, "from the flip until every process goes by it; the slowest of 2 flips",
    )  # fmt: skip
    assert (slow.seconds, slow.measured) == (90, "from the mark to the first run; the slowest of 2 rollbacks")
    assert [one.seconds for one in ranked(facts(flips=(100.0,), rollbacks=(back(9),)))] == [9, 100]


def test_what_was_never_measured_comes_last_and_has_no_time() -> None:
    first, last = ranked(facts(rollbacks=(back(9),)))
    assert (first.seconds, last.seconds, last.name) == (9, None, "switch off")
    assert [one.name[:8] for one in ranked(facts())] == ["switch o", "roll bac"]


def test_the_commands_can_be_typed_as_they_stand() -> None:
    switch, rollback = ranked(facts(release="a'b; rm", previous="v 1"))
    assert switch.command == (
        "toolkit toggle off ASYNC_IMAGE_PROCESSING --reason 'verify-deploy 7: regression of a'\"'\"'b; rm'"
    )
    assert rollback.command == "toolkit verify-deploy mark --release 'v 1'"
    assert "runbooks/rollback.md" in rollback.name


def test_a_job_without_a_toggle_or_with_one_that_is_off_can_only_be_rolled_back() -> None:
    for given in ({"toggle": ""}, {"standing": toggle(enabled=False)}):
        (one,) = ranked(facts(**given))
        assert one.name.startswith("roll back")
    pinned = ranked(facts(standing=toggle(enabled=False, pins={"m1": True})))
    assert len(pinned) == len(ranked(facts(standing=None))) == 2


def test_with_vercel_its_own_rollback_is_named() -> None:
    assert (
        ranked(facts(vercel=True))[1].command
        == "vercel rollback && toolkit verify-deploy mark --release 3f1c02b"
    )


# What a receipt says of a flip


def seen(acked: float | None, *, version: int = 3, started: float = -60.0, connected: bool = True) -> SeenBy:
    """A process that went by its version so many seconds after the flip."""
    at = None if acked is None else NOW + timedelta(seconds=acked)
    return SeenBy(
        "p",
        "worker",
        "h",
        1,
        "r1",
        version,
        "async",
        "ledger",
        NOW + timedelta(seconds=started),
        at,
        0.1,
        connected,
    )


def test_a_flip_took_until_the_last_process_went_by_it() -> None:
    assert took(toggle(), receipt(3, [seen(0.1), seen(0.4), seen(5.0, started=1.0)])) == 0.4


def test_a_flip_that_somebody_does_not_go_by_or_that_nobody_saw_has_no_time() -> None:
    assert took(toggle(), receipt(3, [seen(0.1), seen(-9.0, version=2)])) is None
    assert took(toggle(), receipt(3, [])) is None
    assert took(toggle(), receipt(3, [seen(0.2), seen(-9.0, version=2, connected=False)])) == 0.2
