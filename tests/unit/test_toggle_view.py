"""What is shown of a hold, a receipt and a ledger that is away. Pure: no servers."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from toolkit.cli import toggle_view as view
from toolkit.ledger.toggles import SeenBy, Toggle
from toolkit.toggle.decide import Known
from toolkit.toggle.look import Standing, conflicts
from toolkit.toggle.receipt import receipt

NOW = datetime(2025, 10, 11, 3, 37, tzinfo=UTC)
OFF = Toggle(
    name="T", version=2, enabled=False, percent=100, pins={}, jobs=("j",), held_until=None, lease_until=None,
    who="ann", reason="23503", at=NOW,
)  # fmt: skip


def process(name: str, version: int | None, **changes: Any) -> SeenBy:
    return dataclasses.replace(
        SeenBy(process=name, kind="importer", host="vm", pid=7, release="r1", version=version, variant="sync", layer="ledger",
               started_at=NOW, acked_at=NOW, silent=0.1, connected=True), **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("until", "words"),
    [
        (datetime(9999, 12, 31, tzinfo=UTC), "until the next flip (toolkit toggle on T)"),
        (datetime(2025, 10, 11, 3, 41, tzinfo=UTC), "while they are reclaimed, until 03:41 UTC"),
    ],
)
def test_a_hold_says_what_ends_it(until: datetime, words: str) -> None:
    assert words in view.held(dataclasses.replace(OFF, held_until=until))


def test_a_laggard_stands_last_with_a_command_that_ends_a_stopped_process(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gone = [process(f"gone-{number}", 1, connected=False) for number in range(8)]
    seen = receipt(2, [process("a", 2), process("stopped-one", 1), *gone])
    view.receipt(OFF, seen, 10.0)
    good, left, laggard = capsys.readouterr().out.splitlines()
    assert "✔ importer   a            sync" in good
    assert "8 processes gone" in left
    assert laggard.endswith("kill -KILL 7 on vm")


@pytest.mark.parametrize(
    ("count", "words"), [(1, "1 process goes by version 2"), (2, "2 processes go by version 2")]
)
def test_one_is_not_many(capsys: pytest.CaptureFixture[str], count: int, words: str) -> None:
    view.receipt(OFF, receipt(2, [process(f"p{number}", 2) for number in range(count)]), 0.1)
    assert words in capsys.readouterr().out


def test_a_laggards_last_order_keeps_its_mode_and_no_other_does() -> None:
    standing = Standing(
        "T", Known(reached=True, toggle=OFF), switched_off=False, processes=(process("p", 1),), in_flight=None
    )
    (told,) = conflicts(standing)
    assert "An order that was in the making keeps its mode" in told
