"""What commands print in a pipe, and numbers in words."""

from __future__ import annotations

import pytest

from toolkit.cli import render
from toolkit.cli.replay_call import Call
from toolkit.cli.replay_ending import next_steps
from toolkit.ledger.replay_views import Landed
from toolkit.replay.execute import Ended


def test_a_row_in_a_pipe_is_one_line_whatever_is_in_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(("who", "why"), [("ann", "two\nlines\tand a tab")])
    assert capsys.readouterr().out.splitlines() == ["who\twhy", "ann\ttwo lines and a tab"]


@pytest.mark.parametrize(("count", "told"), [(0, "0 jobs"), (1, "1 job"), (1200, "1,200 jobs")])
def test_one_is_one(count: int, told: str) -> None:
    assert render.many(count, "job") == told


@pytest.mark.parametrize(("failed", "told"), [(3, False), (4, True), (13, True)])
def test_a_limit_of_failures_that_was_reached_in_the_air_is_told(
    failed: int, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    call = Call({"canary": None, "max_failures": 4, "rate": None})
    next_steps(call, None, Ended("done"), Landed(outcomes={"failed": failed}, in_air=0))  # type: ignore[arg-type]
    assert ("--max-failures 4 was reached" in capsys.readouterr().err) is told
