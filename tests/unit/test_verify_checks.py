"""What the Short-Term and Long-Term checks, and that for new errors, make of their facts: each can prove, wait and fail."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from toolkit.jobspec import OrderSeen
from toolkit.ledger.evidence import Attempt, ErrorKind, History
from toolkit.ledger.liveness import Account
from toolkit.ledger.verifications import Attestation, PlacedOrder
from toolkit.telemetry import catalog
from toolkit.telemetry.otlp import SpanRow
from toolkit.verify import looks
from toolkit.verify.check import Check
from toolkit.verify.checks import (
    end_to_end,
    new_errors,
    performance,
    queue_processing,
    satisfaction,
    skips,
    success_rate,
)
from toolkit.verify.evidence import Pace
from toolkit.verify.rules import Rules
from toolkit.verify.verdict import Judgement, Verdict

RULES = Rules()
NOW = datetime(2025, 10, 11, 18, 0, tzinfo=UTC)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CHECKS = tuple(
    module.CHECK for module in (new_errors, end_to_end, success_rate, skips, satisfaction, performance)
)


def kind(fingerprint: str = "f00dfeed0001", *, jobs: int = 1, known: bool = False, sqlstate: str = "",
         error_type: str = "KeyError", outcome: str = "failed", constraint: str = "") -> ErrorKind:  # fmt: skip
    return ErrorKind(
        fingerprint=fingerprint, job_name="j", outcome=outcome, reason="error", error_type=error_type, message="boom\nDETAIL",
        sqlstate=sqlstate, constraint=constraint, runs=jobs, jobs=jobs, given_up=jobs, known=known, job_id=f"job-{fingerprint}",
        trace_id=TRACE,
    )  # fmt: skip


# All of them


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_says_what_it_guards_and_names_a_runbook_that_there_is(check: Check) -> None:
    assert check.symptom
    assert check.rule
    assert (Path(__file__).parents[2] / "runbooks" / f"{check.runbook}.md").is_file()


# New kinds of error

OLD = History(jobs=10_000, kinds={"aaaa": 40, "bbbb": 9, "cccc": 3})


def errors(*kinds: ErrorKind, jobs: int = 100, history: History = OLD) -> Judgement:
    return new_errors.judge(new_errors.Facts(jobs, 300.0, kinds, history), RULES)


def test_no_error_in_enough_jobs_is_proven_whether_or_not_anything_ran_before() -> None:
    assert errors().verdict is Verdict.PROVEN
    assert errors(history=History(0, {})).verdict is Verdict.PROVEN
    assert errors(kind("aaaa", known=True, jobs=2)).said == "no new kind of error in 100 jobs"


def test_no_error_in_no_job_and_in_too_few_is_pending() -> None:
    assert errors(jobs=0).verdict is Verdict.PENDING
    few = errors(jobs=10)
    assert (few.verdict, few.said) == (
        Verdict.PENDING,
        "10/59 jobs, nothing new so far, about 24 min left at 2.0/min",
    )
    assert few.next == ("toolkit verify-deploy --top-up",)


def test_only_what_test_orders_feed_can_be_topped_up() -> None:
    """toolkit/verify/topup.py goes by the names `have` and `need`."""
    assert errors(jobs=10).evidence.keys() >= {"have", "need"}
    assert not rate(10, 0).evidence.keys() & {"have", "need"}


def test_a_new_kind_where_all_kinds_are_old_acquaintances_is_a_regression_with_job_and_trace() -> None:
    judgement = errors(kind("dddd", jobs=3))
    assert judgement.verdict is Verdict.REGRESSION
    assert "KeyError (dddd) 3×" in judgement.said
    assert (judgement.jobs, judgement.traces) == (("job-dddd",), (TRACE,))
    assert judgement.next[0] == "toolkit jobs show job-dddd"
    assert errors(kind("dddd"), jobs=1).verdict is Verdict.REGRESSION, "also before there are 59 jobs"


def test_one_new_kind_that_keeps_coming_is_a_regression_however_many_others_come_once() -> None:
    often = History(jobs=1_000, kinds={f"once{n}": 1 for n in range(300)} | OLD.kinds)
    alone, keeps = (
        errors(kind("dddd"), history=often),
        errors(kind("dddd", jobs=6), kind("eeee"), history=often),
    )
    assert (alone.verdict, keeps.verdict) == (Verdict.PROVEN, Verdict.REGRESSION)
    assert keeps.said == "new kinds of error: KeyError (dddd) 6×, none of them in the 1,000 jobs before"
    assert keeps.jobs == ("job-dddd",)


def test_a_kind_that_comes_and_goes_is_seldom_called_recurring() -> None:
    """Kinds with rates of all sizes, cut into two windows at random, a thousand times."""
    random = Random(6)
    alarms = 0
    for _ in range(1000):
        before, after = Counter[str](), Counter[str]()
        for kind_of in range(60):
            for _ in range(int(random.paretovariate(0.7)) % 50):
                (after if random.random() < 0.3 else before)[str(kind_of)] += 1
        new = {name: hits for name, hits in after.items() if not before[name]}
        alarms += bool(new_errors.recurring(before, new, 0.3, 0.05))
    assert 0 < alarms <= 50 + 3 * 7, "5 %, and what chance adds to a thousand"


def test_a_new_kind_where_every_hundredth_job_has_one_is_named_and_no_regression() -> None:
    often = History(jobs=10_000, kinds={f"once{n}": 1 for n in range(300)})
    judgement = errors(kind("dddd"), history=often)
    assert judgement.verdict is Verdict.PROVEN
    assert "KeyError (dddd) 1×" in judgement.said
    assert any("job-dddd" in note for note in judgement.notes)
    many = errors(*(kind(f"n{n}") for n in range(15)), history=often)
    assert many.verdict is Verdict.REGRESSION, "3 would be expected, not 15"
    assert errors(*(kind(f"n{n}") for n in range(15)), history=often, jobs=20).verdict is Verdict.REGRESSION


def test_an_integrity_error_is_a_regression_even_if_the_releases_before_had_it_too() -> None:
    known = kind(
        known=True,
        sqlstate="23503",
        error_type="ForeignKeyViolation",
        constraint="ProductImage_productDraftId_fkey",
    )
    judgement = errors(known, jobs=5000)  # fmt: skip
    assert judgement.verdict is Verdict.REGRESSION
    assert "ForeignKeyViolation ProductImage_productDraftId_fkey" in judgement.said


def test_errors_without_a_run_of_before_are_inconclusive_and_named() -> None:
    judgement = errors(kind("dddd"), history=History(0, {}))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "KeyError (dddd)" in judgement.said
    assert judgement.next


def test_a_job_that_waits_for_its_retry_counts_among_the_jobs_that_its_error_hit() -> None:
    assert errors(kind("dddd", jobs=2), jobs=0).evidence["p_value"] > 0


def test_what_killed_a_worker_is_a_kind_of_error() -> None:
    lost = kind("", error_type="SIGSEGV", outcome="lost", jobs=2)
    judgement = errors(lost)
    assert judgement.verdict is Verdict.REGRESSION
    assert "SIGSEGV (lost)" in judgement.said


# End to end

ASKED = timedelta(seconds=20)
ORDER = PlacedOrder(
    number=2, purpose="end-to-end", job_id="job-1", subject="po-1", placed_at=NOW - ASKED, cleaned_at=None, mode="async",
    outcome="processed", reason="", done_at=NOW - timedelta(seconds=8), started_at=NOW - timedelta(seconds=10), release="r2",
    trace_id=TRACE, asked_trace_id=TRACE,
)  # fmt: skip
SEEN = OrderSeen(subject="po-1", asked=3, served=3, strays=0, reviews=1, workflow=0.5)
FIRST = Attempt(number=1, outcome="processed", reason="", release="r2", trace_id=TRACE)


def span(name: str, span_id: str, parent_id: str = "", job: str = "job-1") -> SpanRow:
    return SpanRow(
        trace_id=TRACE, span_id=span_id, parent_id=parent_id, name=name, kind="internal", start_ns=0, end_ns=1, status="unset",
        status_message="", attributes={catalog.MESSAGING_MESSAGE_ID: job} if job else {}, events=(), links=(), resource={},
    )  # fmt: skip


WAY = (span("test order", "1", job=""), span("enqueue images", "2", "1"), span("perform images", "3", "2"))


def went(
    *, order: dict[str, Any] | None = None, seen: dict[str, Any] | None = None, **facts: Any
) -> Judgement:
    known: dict[str, Any] = {
        "now": NOW, "release": "r2", "queue": "images", "promised": 180.0, "workflow": 30.0,
        "order": dataclasses.replace(ORDER, **order or {}), "seen": dataclasses.replace(SEEN, **seen or {}),
        "attempts": [FIRST], "spans": WAY,
    }  # fmt: skip
    return end_to_end.judge(end_to_end.Facts(**known | facts), RULES)


OPEN = {"outcome": None, "done_at": None, "release": "", "trace_id": ""}


def test_an_order_that_went_all_the_way_in_one_trace_is_proven() -> None:
    judgement = went()
    assert judgement.verdict is Verdict.PROVEN
    assert judgement.said == (
        "a test order went through in 12.00 s: workflow 500 ms, 3 of 3 served, one review session, one trace of 3 spans"
    )


def test_a_quick_probe_and_a_quick_order_take_no_zero_seconds() -> None:
    quick: dict[str, Any] = {"placed_at": NOW - timedelta(milliseconds=36), "done_at": NOW}
    assert "went through in 36 ms: workflow 5.0 ms" in went(order=quick, seen={"workflow": 0.005}).said
    facts = queue_processing.Facts(
        now=NOW, marked=NOW, release="r2", account=Account(1, 1, 0, 0, 0, 0, 0, 0), nowhere=(), oldest=0.0,
        probe=dataclasses.replace(ORDER, **quick), moved=1, workers=1,
    )  # fmt: skip
    assert queue_processing.judge(facts, RULES).said.startswith("a probe went through in 36 ms;")


def test_an_order_done_inline_proves_it_too_and_that_is_said() -> None:
    judgement = went(order={"mode": "sync", "release": "the command's"})
    assert judgement.verdict is Verdict.PROVEN
    assert judgement.notes == ("done inline: asynchronous processing is off",)


def test_no_order_and_one_on_its_way_are_pending() -> None:
    nothing = end_to_end.judge(end_to_end.Facts(now=NOW, release="r2", queue="images"), RULES)
    assert (nothing.verdict, nothing.said) == (Verdict.PENDING, "no test order was placed yet")
    on_its_way = went(order=OPEN, seen={"served": 0, "reviews": 0}, attempts=[])
    assert (on_its_way.verdict, on_its_way.soon) == (Verdict.PENDING, True)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"order": OPEN | {"placed_at": NOW - timedelta(seconds=181)}, "attempts": []}, "on its way for 181 s, promised within"),
        ({"order": {"placed_at": NOW - timedelta(seconds=300)}}, "took 292 s, promised within 180 s"),
        ({"seen": {"workflow": 31.0}}, "its workflow took 31 s"),
        ({"order": OPEN | {"placed_at": NOW - timedelta(seconds=31)}, "seen": {"workflow": None}}, "its workflow runs for 31 s"),
        ({"order": {"outcome": "failed", "reason": "integrity"}}, "ended failed (integrity)"),
        ({"order": {"outcome": "skipped", "reason": "no_drafts"}}, "ended skipped (no_drafts)"),
        ({"order": {"outcome": "lost"}}, "ended lost"),
        ({"seen": {"served": 2}}, "2 of 3 were served"),
        ({"seen": {"reviews": 0}}, "0 review sessions"),
        ({"seen": {"reviews": 2}}, "2 review sessions"),
        ({"seen": {"strays": 1}}, "1 of its results are on what is not there"),
        ({"order": {"release": "r1"}}, "it was done by release r1"),
        ({"attempts": [dataclasses.replace(FIRST, trace_id="f" * 32)]}, f"and run in {'f' * 32}"),
    ],
)  # fmt: skip
def test_an_order_that_breaks_a_promise_is_a_regression_with_job_trace_and_commands(
    broken: dict[str, Any], said: str
) -> None:
    judgement = went(**broken)
    assert judgement.verdict is Verdict.REGRESSION
    assert said in judgement.said
    assert (judgement.jobs, judgement.traces) == (("job-1",), (TRACE,))
    assert judgement.next == ("toolkit jobs show job-1", "toolkit trace job-1")


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ({"spans": ()}, "no workflow, no enqueue images, no perform images"),
        ({"spans": WAY[1:]}, "keeps 2 spans, and no workflow"),
        ({"spans": WAY[:2]}, "no perform images"),
        ({"spans": (*WAY[:2], span("perform images", "3", "9"))}, "no perform images"),
        ({"spans": (*WAY[:2], span("perform images", "3", "2", job="another"))}, "no perform images"),
        ({"torn": "12 bytes are not OTLP spans"}, "not OTLP"),
        ({"order": {"asked_trace_id": ""}}, "nobody traced"),
        ({"attempts": [dataclasses.replace(FIRST, outcome="failed"), FIRST]}, "2 attempts"),
        ({"seen": {"asked": 0, "served": 0}}, "nothing in it"),
        ({"seen": {"workflow": None}}, "its workflow has not ended"),
    ],
)
def test_what_nobody_saw_is_waited_for_and_then_inconclusive(missing: dict[str, Any], said: str) -> None:
    soon = went(**missing)
    assert (soon.verdict, soon.soon) == (Verdict.PENDING, True)
    later = went(**missing, now=NOW + timedelta(seconds=8 if "seen" in missing else 38))
    assert said in later.said
    if "seen" not in missing:
        assert (later.verdict, later.soon) == (Verdict.INCONCLUSIVE, False)


def test_an_order_cleaned_away_before_the_look_proves_nothing() -> None:
    facts = end_to_end.Facts(
        now=NOW, release="r2", queue="images", promised=180.0, workflow=30.0, order=dataclasses.replace(ORDER, cleaned_at=NOW),
        attempts=[FIRST], spans=WAY,
    )  # fmt: skip
    judgement = end_to_end.judge(facts, RULES)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "cleaned away" in judgement.said


def test_a_job_without_test_orders_is_inconclusive() -> None:
    facts = end_to_end.Facts(now=NOW, release="r2", queue="images", untried="the job has no test orders")
    assert end_to_end.judge(facts, RULES).verdict is Verdict.INCONCLUSIVE


# Success rate


def rate(good: int, bad: int, *kinds: ErrorKind) -> Judgement:
    return success_rate.judge(success_rate.Facts(good, bad, 600.0, kinds), RULES)


def test_enough_good_jobs_prove_the_rate() -> None:
    judgement = rate(200, 0)
    assert judgement.verdict is Verdict.PROVEN
    assert judgement.said.startswith("200 of 200 jobs ended well (100.0%, between 98.1%")


def test_no_job_and_too_few_are_pending_and_say_how_many_are_left() -> None:
    assert rate(0, 0).verdict is Verdict.PENDING
    few = rate(20, 0)
    assert few.verdict is Verdict.PENDING
    assert f"20/{few.evidence['needed']} jobs if no more fail, about " in few.said
    assert rate(few.evidence["needed"], 0).verdict is Verdict.PROVEN
    assert rate(few.evidence["needed"] - 1, 0).verdict is Verdict.PENDING


def test_jobs_failing_repeatedly_are_a_regression_that_names_the_errors() -> None:
    fk = kind(
        sqlstate="23503",
        error_type="ForeignKeyViolation",
        constraint="ProductImage_productDraftId_fkey",
        jobs=4,
    )
    judgement = rate(16, 4, fk)
    assert judgement.verdict is Verdict.REGRESSION
    assert "ForeignKeyViolation ProductImage_productDraftId_fkey (f00dfeed0001) 4×" in judgement.said
    assert judgement.jobs == ("job-f00dfeed0001",)
    assert judgement.traces == (TRACE,)
    healed = dataclasses.replace(fk, given_up=0)
    assert rate(16, 4, healed).jobs == (), "all of its jobs came to a good end"


# Skips

KNOWN = frozenset({"no_drafts", "order_deleted", "already_done"})


def skipping(runs: int, before: skips.Skipped | None = None, **reasons: int) -> Judgement:
    return skips.judge(skips.Facts(skips.Skipped(runs, reasons, {}), before, "r1", KNOWN), RULES)


def test_occasional_skips_for_known_reasons_are_proven_beside_those_of_the_last_release() -> None:
    judgement = skipping(400, skips.Skipped(1000, {"no_drafts": 10}, {}), no_drafts=9, order_deleted=3)
    assert judgement.verdict is Verdict.PROVEN
    assert judgement.said == (
        "12 of 400 runs skipped (no_drafts 9, order_deleted 3), at most 7.1% of all;"
        " release r1: 10 of 1,000 runs skipped (no_drafts 10)"
    )


def test_no_run_is_pending_and_so_are_too_few() -> None:
    assert skipping(0).verdict is Verdict.PENDING
    assert skipping(2).verdict is Verdict.PENDING
    assert skipping(100, no_drafts=45).verdict is Verdict.PENDING, "nobody knows on which side of a half"


def test_a_job_that_skips_nearly_all_it_gets_fails_silently_which_is_a_regression() -> None:
    judgement = skipping(100, no_drafts=90)
    assert judgement.verdict is Verdict.REGRESSION
    assert judgement.next == ("toolkit jobs list --state skipped",)


def test_a_reason_that_the_job_does_not_know_is_a_regression_at_once() -> None:
    judgement = skipping(1000, no_drafts=3, felt_like_it=1)
    assert judgement.verdict is Verdict.REGRESSION
    assert "'felt_like_it'" in judgement.said
    assert (
        skips.judge(skips.Facts(skips.Skipped(1000, {"": 1}, {}), None, "", KNOWN), RULES).verdict
        is Verdict.REGRESSION
    )


# User satisfaction

WORD = Attestation("user-satisfaction", "r2", "https://survey.example/7", "ada", NOW, NOW + timedelta(days=7))


def users(
    now: tuple[int, int], before: tuple[int, int] | None = None, word: Attestation | None = None
) -> Judgement:
    facts = satisfaction.Facts(
        satisfaction.Decisions(*now), satisfaction.Decisions(*before) if before else None, "r1", word
    )
    return satisfaction.judge(facts, RULES)


def test_as_many_approvals_as_before_are_proven() -> None:
    judgement = users((900, 1000), (910, 1000))
    assert judgement.verdict is Verdict.PROVEN
    assert judgement.said == "900 of 1,000 approved (90%); release r1: 910 of 1,000 approved (91%)"


def test_clearly_fewer_approvals_are_a_regression_whoever_vouches() -> None:
    judgement = users((300, 500), (450, 500), WORD)
    assert judgement.verdict is Verdict.REGRESSION
    assert judgement.said.startswith("users approve less, by 22% at least: 300 of 500")


@pytest.mark.parametrize(
    ("now", "before"),
    [((0, 0), None), ((0, 0), (90, 100)), ((9, 10), (90, 100)), ((90, 100), None), ((9, 10), (0, 0))],
)
def test_too_few_decisions_or_nothing_to_compare_with_is_pending_unless_somebody_vouches(
    now: tuple[int, int], before: tuple[int, int] | None
) -> None:
    judgement = users(now, before)
    assert judgement.verdict is Verdict.PENDING
    assert judgement.said.startswith("nothing was decided on; ") == (not now[1])
    assert judgement.next == ("toolkit attest user-satisfaction --evidence URL --by NAME --valid 7d",)
    vouched = users(now, before, WORD)
    assert vouched.verdict is Verdict.PROVEN
    assert vouched.said == "ada vouches for it until 2025-10-18 18:00 UTC: https://survey.example/7"


@pytest.mark.parametrize(
    ("now", "before", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
    ],
)
def test_the_interval_of_a_difference_is_the_published_one(
    now: tuple[int, int], before: tuple[int, int], low: float, high: float
) -> None:
    """Newcombe 1998, table II, method 10."""
    found = satisfaction.newcombe(satisfaction.Decisions(*now), satisfaction.Decisions(*before), 0.95)
    assert found == pytest.approx((low, high), abs=5e-5)


# Performance

STEADY = [2.0 + n % 10 / 100 for n in range(300)]


def speed(
    runs: list[float], waits: list[float], before: performance.Sample | None, budget: float | None = 60.0
) -> Judgement:
    return performance.judge(performance.Facts(performance.Sample(runs, waits), before, "r1", budget), RULES)


BEFORE = performance.Sample(STEADY, STEADY)


def test_the_same_speed_within_budget_is_proven() -> None:
    judgement = speed(STEADY, STEADY, BEFORE)
    assert judgement.verdict is Verdict.PROVEN
    assert "95 % of the runs take at most 2.09 s, the budget is 1 min 00 s" in judgement.said
    assert "compared with release r1, 300 runs" in judgement.notes


def test_no_run_and_too_few_are_pending() -> None:
    assert speed([], [], BEFORE).verdict is Verdict.PENDING
    assert speed(STEADY[:5], STEADY[:5], BEFORE).verdict is Verdict.PENDING
    assert speed(STEADY[:50], STEADY[:50], None).verdict is Verdict.PENDING, "a p95 needs more"


def test_slower_runs_slower_queues_and_a_broken_budget_are_regressions() -> None:
    slower, later = [one * 1.5 for one in STEADY], [one + 60 for one in STEADY]
    runs, queue, budget = (
        speed(slower, STEADY, BEFORE),
        speed(STEADY, later, BEFORE),
        speed(later, STEADY, None),
    )
    assert {one.verdict for one in (runs, queue, budget)} == {Verdict.REGRESSION}
    assert runs.said.startswith("runs are slower by 1")
    assert queue.said.startswith("queue waits are slower by 59.9")
    assert budget.said == "95 % of the runs take up to 1 min 02 s at least, the budget is 1 min 00 s"


def test_a_difference_that_nobody_notices_is_no_slowdown() -> None:
    quick = [0.004 + n % 10 / 10_000 for n in range(300)]
    twice = [2 * one for one in quick]
    assert speed(twice, [0.0] * 300, performance.Sample(quick, [0.0] * 300)).verdict is Verdict.PROVEN


def test_without_a_proven_release_the_budget_alone_decides_and_it_is_said() -> None:
    judgement = speed(STEADY, STEADY, None)
    assert judgement.verdict is Verdict.PROVEN
    assert judgement.notes == ("no proven release to compare with: judged by the budget alone",)
    assert speed(STEADY, STEADY, None, budget=None).verdict is Verdict.INCONCLUSIVE


def test_where_all_was_done_inline_there_are_no_waits_to_compare() -> None:
    judgement = speed(STEADY, [], BEFORE)
    assert judgement.verdict is Verdict.PROVEN
    assert any("inline" in note for note in judgement.notes)


# Looking again and again


def test_all_looks_together_spend_less_than_alpha() -> None:
    doublings = [looks.spent(0.05, 59 * 2**n) for n in range(40)]
    assert sum(doublings) < 0.05
    assert doublings == sorted(doublings, reverse=True)
    assert looks.spent(0.05, 0) == looks.spent(0.05, 117) == doublings[0]


def test_what_is_left_is_told_in_minutes_and_not_when_nothing_is_known() -> None:
    assert Pace(2.1, 840.0).words == ", about 14 min left at 2.1/min"
    assert Pace(60.0, 12.0).words == ", about 12 s left at 60.0/min"
    assert Pace(0.0, None).words == Pace(5.0, 0.0).words == ""


@pytest.mark.parametrize(
    "judgement",
    [errors(kind()), went(), rate(3, 1, kind()), skipping(3, no_drafts=1), users((1, 2), (3, 4)), speed([1.0], [1.0], BEFORE)],
    ids=[check.name for check in CHECKS],
)  # fmt: skip
def test_evidence_is_plain_enough_for_json(judgement: Judgement) -> None:
    assert json.loads(json.dumps(judgement.evidence, allow_nan=False)) == judgement.evidence
