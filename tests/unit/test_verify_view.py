"""verify-deploy on a terminal and in a pipe: verdict first, data apart from talk, one line a change."""

from __future__ import annotations

import io
import random

import pytest
from rich.console import Console

from tests import receipts
from tests.receipts import HOSTILE, RUNBOOKS, START, but, finding
from toolkit.cli import verify_view
from toolkit.verify.simulate import simulate
from toolkit.verify.verdict import Event, Receipt, Verdict


@pytest.mark.parametrize("verdict", Verdict)
def test_the_first_line_is_the_verdict(verdict: Verdict, capsys: pytest.CaptureFixture[str]) -> None:
    verify_view.show(receipts.every()[verdict], RUNBOOKS)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(str(verdict))
    assert receipts.every()[verdict].release in first


def test_a_regression_shows_example_runbook_and_ways_back_and_talks_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    verify_view.show(receipts.regression(), RUNBOOKS)
    told = capsys.readouterr()
    for word in (
        "immediate\tno-foreign-key-errors\tregression\t4 foreign key errors",
        "jobs: cmgmrnwbw0007l804macxc3mm, cmgm",
        "traces: 4bf92f3577b34da6a3ce929d0e0e4736",
        "runbook: runbooks/ForeignKeyErrors.md",
        "1. switch off: safe after 171 ms",
        "2. roll back: never measured here",
        "deployment 2025-10-11 17:12:20 UTC: e682860 (ci)",
    ):
        assert word in told.out
    assert "next: toolkit jobs show" in told.err
    assert "next:" not in told.out


def test_a_blind_source_and_one_that_does_not_answer_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    verify_view.show(receipts.inconclusive(), RUNBOOKS)
    out = capsys.readouterr().out
    assert "cannot be believed: log: the-log-of-a-service" in out
    assert "does not answer: prometheus" in out


def test_a_proven_release_says_what_is_still_to_come(capsys: pytest.CaptureFixture[str]) -> None:
    verify_view.show(receipts.proven(), RUNBOOKS)
    told = capsys.readouterr()
    assert told.out.startswith("proven so far")
    assert "long-term: not before 2025-10-12 17:00:00 UTC" in told.err


def test_rows_that_were_left_behind_are_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    verify_view.show(but(receipts.proven(), left=3))
    assert "warning: 3 rows of test orders" in capsys.readouterr().err


def test_no_password_and_no_escape_sequence_reaches_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    one = receipts.receipt(
        Verdict.REGRESSION, (finding(HOSTILE, "immediate", Verdict.REGRESSION, HOSTILE, notes=(HOSTILE,)),)
    )
    verify_view.show(one)
    told = capsys.readouterr()
    for text in (told.out, told.err, "\n".join(verify_view.changes(None, one)), drawn(one)):
        assert "hunter2" not in text
        assert "\x1b[31m" not in text


# Changes


def at(have: int, verdict: Verdict = Verdict.PENDING, **more: object) -> Receipt:
    """A look at a check that collects."""
    evidence = {"have": have, "need": 60, "unit": "jobs"}
    return receipts.receipt(
        verdict, (finding("fk", "immediate", verdict, f"{have}/60 jobs", evidence=evidence),), **more
    )  # fmt: skip


def test_the_first_look_tells_every_check_and_source() -> None:
    assert verify_view.changes(None, at(0)) == [
        "17:30:00 immediate fk: pending: 0/60 jobs",
        "17:30:00 source ledger: seen in 0.4 s",
        "17:30:00 source log: seen in 1.2 s",
    ]


def test_a_look_without_news_is_silent_and_every_tenth_of_the_evidence_is_news() -> None:
    assert verify_view.changes(at(6), at(6)) == []
    assert verify_view.changes(at(6), at(11)) == []
    assert verify_view.changes(at(11), at(12)) == ["17:30:00 immediate fk: pending: 12/60 jobs"]


def test_a_verdict_a_blind_source_and_an_event_are_news() -> None:
    assert verify_view.changes(at(59), at(60, Verdict.PROVEN)) == [
        "17:30:00 immediate fk: pending → proven: 60/60 jobs",
        "17:30:00 verdict: pending → proven",
    ]
    blind = at(6, sources={"ledger": "seen in 0.4 s", "log": "blind: no such file"})
    assert verify_view.changes(at(6), blind) == ["17:30:00 source log: blind: no such file"]
    flipped = at(6, events=(Event(kind="flip", at=START, what="X off", who="ann@desk"),))
    assert verify_view.changes(at(6), flipped) == ["17:30:00 flip 2025-10-11 17:00:00 UTC: X off (ann@desk)"]
    assert verify_view.changes(flipped, flipped) == []


def test_a_pipe_gets_lines_while_it_is_watched_and_none_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    for watch, quiet, lines in ((True, False, 3), (False, False, 0), (True, True, 0)):
        with verify_view.Screen(watch=watch, quiet=quiet) as screen:
            screen.told(at(0))
            screen.told(at(1))
        assert len(capsys.readouterr().out.splitlines()) == lines


def test_trouble_is_talk(capsys: pytest.CaptureFixture[str]) -> None:
    with verify_view.Screen(watch=True, quiet=False) as screen:
        screen.trouble("PostgreSQL does not answer")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "waiting: PostgreSQL does not answer\n")


# The live table


def drawn(one: Receipt) -> str:
    """The table as a terminal of 140 columns shows it."""
    out = io.StringIO()
    Console(file=out, width=140, color_system=None).print(verify_view.live(one))
    return out.getvalue()


@pytest.mark.parametrize("verdict", Verdict)
def test_the_live_table_has_verdict_every_check_and_the_way_on(verdict: Verdict) -> None:
    one = receipts.every()[verdict]
    text = drawn(one)
    assert text.startswith(str(verdict))
    for found in one.findings:
        assert found.check in text
    assert "--resume 7" in text


def test_a_bar_grows_with_the_evidence() -> None:
    bars = [drawn(at(have)).count("━") for have in (0, 30, 60)]
    assert bars == [0, 6, 12]


def test_the_simulation_tells_whether_each_claim_holds(capsys: pytest.CaptureFixture[str]) -> None:
    verify_view.simulation(simulate(0.005, 200, random.Random(1)))
    out = capsys.readouterr().out
    assert "true failure rate of 0.500%" in out
    assert "holds: " in out
