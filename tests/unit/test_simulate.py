"""The rules of verify-deploy are wrong no oftener than they claim, and the simulation plays the very rules."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import chain, repeat

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from toolkit.errors import UsageError
from toolkit.verify.evidence import Sprt, binomial_at_most
from toolkit.verify.simulate import (
    Fixed,
    Row,
    failures,
    fixed,
    one_look,
    peeked,
    peeked_limits,
    sequential,
    simulate,
    zero_failures,
)
from toolkit.verify.verdict import Verdict

USUAL = Sprt()
RUNS = 10_000
positions = st.sets(st.integers(1, 160), max_size=12)


def rows(true_rate: float, seed: int = 6) -> tuple[Row, ...]:
    return simulate(true_rate, RUNS, random.Random(seed)).rows


def stream(failed_at: set[int]) -> Iterator[float]:
    return chain(sorted(failed_at), repeat(math.inf))


@given(positions)
def test_leaping_to_the_next_failure_ends_where_asking_after_every_job_ends(failed_at: set[int]) -> None:
    """A test of the SPRT by its own `decide`, one job after the other."""
    seen, n, said = 0, 0, "continue"
    while said == "continue":
        n += 1
        seen += n in failed_at
        said = USUAL.decide(seen, n)
    ended = sequential(stream(failed_at), USUAL, USUAL.least_to_accept, cap=10_000)
    assert ended == (Verdict.PROVEN if said == "accept" else Verdict.REGRESSION, n)


@given(positions)
def test_peeking_by_limits_ends_where_a_test_after_every_job_ends(failed_at: set[int]) -> None:
    plan = fixed(USUAL)
    seen, n, significant = 0, 0, False
    while n < plan.n and not significant:
        n += 1
        seen += n in failed_at
        significant = 1 - binomial_at_most(seen - 1, n, USUAL.p0) <= USUAL.alpha
    ended = peeked(stream(failed_at), plan, peeked_limits(USUAL, plan))
    assert ended == (Verdict.REGRESSION if significant else Verdict.PROVEN, n)


@given(positions)
@example({59})
@example({60})
@example({1, 2, 124})
@example({1, 2, 125})
def test_the_other_rules_count(failed_at: set[int]) -> None:
    clean = not any(at <= 59 for at in failed_at)
    assert (zero_failures(stream(failed_at), 59).verdict is Verdict.PROVEN) == clean
    few = sum(at <= 124 for at in failed_at) <= 2
    assert (one_look(stream(failed_at), Fixed(124, 2)).verdict is Verdict.PROVEN) == few


def test_the_fixed_test_is_the_smallest_with_its_errors() -> None:
    plan = fixed(USUAL)
    assert binomial_at_most(plan.most, plan.n, 0.05) <= 0.05
    assert 1 - binomial_at_most(plan.most, plan.n, 0.005) <= 0.05
    assert binomial_at_most(plan.most, plan.n - 1, 0.05) > 0.05  # one job less misses more
    assert plan == Fixed(124, 2)


def test_failures_come_at_their_rate() -> None:
    rng, p, n = random.Random(1), 0.03, 20_000
    made = failures(p, rng)
    gaps_end = [next(made) for _ in range(n)][-1]
    assert gaps_end / n == pytest.approx(1 / p, rel=4 * math.sqrt((1 - p) / n))
    assert next(failures(0, rng)) == math.inf
    assert next(failures(1, rng)) == 1
    assert next(failures(1e-320, rng)) == math.inf


@pytest.mark.parametrize("true_rate", [0.0, 0.001, 0.005])
def test_a_fine_release_is_called_a_regression_no_oftener_than_claimed(true_rate: float) -> None:
    zero, sprt, once, _ = rows(true_rate)
    assert zero.claim is None  # any failure ends it: it promises nothing about false alarms
    for row in (sprt, once):
        assert row.claim is not None
        assert row.claim.error == "false alarm"
        assert row.claim.seen == row.regression
        assert row.claim.holds


@pytest.mark.parametrize("true_rate", [0.05, 0.08, 1.0])
def test_a_bad_release_is_called_proven_no_oftener_than_claimed(true_rate: float) -> None:
    for row in rows(true_rate):
        assert row.claim is not None
        assert row.claim.error == "miss"
        assert row.claim.seen == row.proven
        assert row.claim.holds


def test_peeking_breaks_the_claim_and_is_shown_to() -> None:
    _, _, once, peeking = rows(0.005)
    assert peeking.claim is not None
    assert not peeking.claim.holds
    assert peeking.regression > 3 * once.regression


def test_the_shares_are_those_that_can_be_calculated() -> None:
    zero, sprt, once, _ = rows(0.005)
    assert zero.regression == pytest.approx(1 - 0.995**59, abs=0.02)
    assert zero.mean_jobs == pytest.approx((1 - 0.995**59) / 0.005, rel=0.02)
    assert sprt.regression == pytest.approx(0.023, abs=0.006)  # exact: tests/unit/test_evidence.py
    assert sprt.mean_jobs == pytest.approx(81.5, rel=0.02)
    assert sprt.median_jobs == 64
    assert once.regression == pytest.approx(1 - binomial_at_most(2, 124, 0.005), abs=0.007)


def test_between_the_rates_nothing_is_promised() -> None:
    assert [row.claim for row in rows(0.02)] == [None] * 4


def test_what_the_cap_cuts_off_is_undecided() -> None:
    cut = simulate(0.005, 500, random.Random(2), cap=50).rows
    for row in cut:
        assert row.proven == 0
        assert row.undecided > 0.5
        assert row.proven + row.regression + row.undecided == pytest.approx(1)
        assert row.mean_jobs <= 50


def test_the_same_seed_plays_the_same_runs() -> None:
    assert rows(0.005, seed=3) == rows(0.005, seed=3)
    assert rows(0.005, seed=3) != rows(0.005, seed=4)


@pytest.mark.parametrize(
    ("true_rate", "runs", "cap"), [(1.1, 10, 10), (-0.1, 10, 10), (0.1, 0, 10), (0.1, 10, 0)]
)
def test_what_cannot_be_played_is_refused_with_a_remedy(true_rate: float, runs: int, cap: int) -> None:
    with pytest.raises(UsageError) as caught:
        simulate(true_rate, runs, random.Random(1), cap=cap)
    assert caught.value.remedy


def test_rates_too_close_for_a_fixed_test_are_refused() -> None:
    with pytest.raises(UsageError, match="too close"):
        fixed(Sprt(0.02, 0.021))
