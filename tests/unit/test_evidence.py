"""The statistics say what their sources say, and are wrong no oftener than they claim.

Published values first, then properties, then coverage by simulation with fixed seeds. A simulated share may miss its nominal
value by Monte-Carlo error: four standard errors here.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import UsageError
from toolkit.verify.evidence import (
    Sprt,
    binomial_at_most,
    good_toulmin,
    good_turing_at_most,
    good_turing_unseen,
    hodges_lehmann,
    hodges_lehmann_interval,
    needed_clean,
    new_kinds,
    not_slower,
    pace,
    probability_slower,
    quantile_interval,
    rate_excluded,
    wilson,
)
from toolkit.verify.verdict import Verdict

shares = st.floats(0.001, 0.999)
durations = st.lists(st.floats(0, 1e6), min_size=1, max_size=12)


def least_coverage(nominal: float, trials: int) -> float:
    return nominal - 4 * math.sqrt(nominal * (1 - nominal) / trials)


# Zero failures


@pytest.mark.parametrize(
    ("rate", "confidence", "n"),
    [
        # Wilks, "Determination of sample sizes for setting tolerance limits" (1941): one-sided, no failure
        (0.05, 0.95, 59),
        (0.10, 0.95, 29),
        (0.01, 0.95, 299),
        (0.05, 0.99, 90),
        (0.01, 0.99, 459),
        (0.3, 0.51, 2),  # exactly 2, and a bit more in floats
    ],
)
def test_as_many_clean_jobs_are_needed_as_the_tables_say(rate: float, confidence: float, n: int) -> None:
    assert needed_clean(rate, confidence) == n


@pytest.mark.parametrize(("clean", "percent"), [(10, 26), (20, 14), (30, 10), (50, 6), (100, 3), (167, 1.8)])
def test_the_rate_excluded_is_that_of_hanley_and_lippman_hand(clean: int, percent: float) -> None:
    """Their table of exact upper bounds at 95 %, in whole per cent, and their 167 patients."""
    assert 100 * rate_excluded(clean, 0.95) == pytest.approx(percent, abs=0.5 if clean < 167 else 0.05)


def test_nothing_seen_excludes_nothing() -> None:
    assert rate_excluded(0, 0.95) == 1.0
    assert rate_excluded(31, 0.95) == pytest.approx(0.0921, abs=5e-5)


@given(rate=shares, confidence=shares)
def test_the_needed_number_excludes_the_rate_and_one_less_does_not(rate: float, confidence: float) -> None:
    n = needed_clean(rate, confidence)
    assert rate_excluded(n, confidence) <= rate * (1 + 1e-9)
    assert n == 1 or rate_excluded(n - 1, confidence) > rate * (1 - 1e-9)


# The sequential test


def test_the_lines_are_those_of_the_nist_handbook() -> None:
    """NIST/SEMATECH e-Handbook of Statistical Methods, 6.2.6: p0 = .01, p1 = .10, alpha = .05, beta = .10."""
    plan = Sprt(0.01, 0.10, 0.05, 0.10)
    failure = plan.step(failed=True) - plan.step(failed=False)
    assert plan.lower / failure == pytest.approx(-0.939, abs=5e-4)
    assert plan.upper / failure == pytest.approx(1.205, abs=5e-4)
    assert -plan.step(failed=False) / failure == pytest.approx(0.0397, abs=5e-5)
    assert plan.least_to_accept(0) == 24
    assert [plan.decide(2, n) for n in (2, 19, 21)] == ["reject", "reject", "continue"]


def test_the_usual_plan_accepts_64_clean_jobs_and_never_one_failure_early() -> None:
    plan = Sprt()
    assert [plan.decide(0, n) for n in (0, 63, 64)] == ["continue", "continue", "accept"]
    assert plan.decide(1, 1) == "continue"
    assert plan.decide(2, 2) == "reject"


def exact(plan: Sprt, p: float) -> tuple[float, float]:
    """Shares accepted and rejected, by summing over all paths."""
    accepted = rejected = 0.0
    open_paths, n = {0: 1.0}, 0
    while sum(open_paths.values()) > 1e-9:
        n += 1
        after: Counter[int] = Counter()
        for failures, weight in open_paths.items():
            after[failures] += weight * (1 - p)
            after[failures + 1] += weight * p
        open_paths = {}
        for failures, weight in after.items():
            said = plan.decide(failures, n)
            accepted += weight * (said == "accept")
            rejected += weight * (said == "reject")
            if said == "continue":
                open_paths[failures] = weight
    return accepted, rejected


@pytest.mark.parametrize("plan", [Sprt(), Sprt(0.01, 0.1, 0.05, 0.1), Sprt(0.02, 0.2, 0.01, 0.01)])
def test_watched_at_every_job_it_is_wrong_no_oftener_than_it_claims(plan: Sprt) -> None:
    _, false_alarms = exact(plan, plan.p0)
    misses, _ = exact(plan, plan.p1)
    assert false_alarms <= plan.false_alarm_at_most
    assert misses <= plan.miss_at_most
    assert (
        false_alarms + misses <= plan.alpha + plan.beta
    )  # Wald 1945: both bounds are never reached together


def test_the_figures_in_its_docstring_are_so() -> None:
    assert exact(Sprt(), 0.005)[1] == pytest.approx(0.023, abs=5e-4)
    assert exact(Sprt(), 0.05)[0] == pytest.approx(0.0504, abs=5e-5)


@given(p0=st.floats(0.001, 0.3), ratio=st.floats(1.5, 3), failures=st.integers(0, 20))
def test_it_accepts_at_least_to_accept_and_not_one_job_before(p0: float, ratio: float, failures: int) -> None:
    plan = Sprt(p0, p0 * ratio)
    n = plan.least_to_accept(failures)
    assert plan.decide(failures, n) == "accept"
    assert n == failures or plan.decide(failures, n - 1) != "accept"
    assert plan.log_likelihood(failures + 1, n + 1) == pytest.approx(
        plan.log_likelihood(failures, n) + plan.step(failed=True)
    )


def test_a_worse_release_is_accepted_less_often() -> None:
    accepted = [exact(Sprt(), p)[0] for p in (0.0, 0.001, 0.005, 0.02, 0.05, 0.2, 1.0)]
    assert accepted == sorted(accepted, reverse=True)
    assert (accepted[0], accepted[-1]) == (1, 0)


@pytest.mark.parametrize("wrong", [{"p0": 0.1}, {"alpha": 0.0}, {"beta": 1.5}, {"alpha": 0.6, "beta": 0.5}])
def test_a_plan_that_can_tell_nothing_apart_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError) as caught:
        Sprt(**wrong)
    assert caught.value.remedy


# Shares and quantiles


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_wilson_interval_is_that_of_newcombes_table(
    successes: int, n: int, low: float, high: float
) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3."""
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_nothing_counted_is_anything() -> None:
    assert wilson(0, 0) == (0, 1)


@given(n=st.integers(1, 500), data=st.data(), confidence=st.floats(0.5, 0.999))
def test_a_wilson_interval_holds_the_share_and_stays_a_share(
    n: int, data: st.DataObject, confidence: float
) -> None:
    successes = data.draw(st.integers(0, n))
    low, high = wilson(successes, n, confidence)
    assert 0 <= low <= successes / n <= high <= 1
    assert wilson(n - successes, n, confidence) == pytest.approx((1 - high, 1 - low))


def test_a_wilson_interval_covers_as_often_as_it_says() -> None:
    rng, trials = random.Random(1), 8_000
    covered = 0
    for _ in range(trials):
        p = rng.random()
        low, high = wilson(sum(rng.random() < p for _ in range(40)), 40)
        covered += low <= p <= high
    assert least_coverage(0.95, trials) <= covered / trials < 0.97


@given(n=st.integers(0, 60), k=st.integers(-2, 62), p=st.floats(0, 1))
def test_the_binomial_distribution_is_the_sum_of_its_terms(n: int, k: int, p: float) -> None:
    terms = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(min(k, n) + 1))
    assert binomial_at_most(k, n, p) == pytest.approx(terms, abs=1e-9)


@pytest.mark.parametrize(("n", "ranks"), [(10, (2, 9)), (20, (6, 15)), (50, (18, 33)), (100, (40, 61))])
def test_the_medians_interval_has_the_ranks_of_the_tables(n: int, ranks: tuple[int, int]) -> None:
    """Conover, Practical Nonparametric Statistics, 3.2; Hahn & Meeker, Statistical Intervals (1991), table A.15."""
    assert quantile_interval(range(1, n + 1), 0.5) == ranks


def test_a_sample_too_small_for_a_p95_has_no_upper_end() -> None:
    assert quantile_interval(range(71), 0.95)[1] == math.inf
    assert quantile_interval(range(72), 0.95)[1] == 71
    assert quantile_interval([], 0.95) == (-math.inf, math.inf)


@pytest.mark.parametrize(("n", "q"), [(100, 0.5), (200, 0.95), (120, 0.9)])
def test_a_quantiles_interval_covers_at_least_as_often_as_it_says(n: int, q: float) -> None:
    rng, trials = random.Random(2), 1_500
    covered = 0
    for _ in range(trials):
        low, high = quantile_interval([rng.random() for _ in range(n)], q)
        covered += low <= q <= high
    assert covered / trials >= least_coverage(0.95, trials)


# New kinds of error

# Corbet's Malayan butterflies: 118 species seen once, 74 twice, … (Fisher, Corbet & Williams, J. Animal Ecology 12, 1943)
BUTTERFLIES = dict(
    enumerate([118, 74, 44, 24, 29, 22, 20, 19, 20, 15, 12, 14, 6, 12, 6, 9, 9, 6, 10, 10, 11, 5, 3, 3], 1)
)


def test_the_unseen_share_is_that_of_the_prosody_data() -> None:
    """Gale & Sampson, J. Quantitative Linguistics 2 (1995): 120 of 30,902 seen once, 0.003883."""
    assert good_turing_unseen(120, 30_902) == pytest.approx(0.003883, abs=5e-7)
    assert good_turing_unseen(0, 0) == good_turing_at_most(0, 0) == 1.0


def test_new_butterflies_are_expected_as_published() -> None:
    """Efron & Hastie, Computer Age Statistical Inference (2016), table 6.3."""
    expected = [0, 11.10, 20.96, 29.79, 37.79, 45.2, 52.1, 58.9, 65.6, 71.6, 75.0]
    assert [good_toulmin(BUTTERFLIES, t / 10) for t in range(11)] == pytest.approx(expected, abs=0.05)


def test_far_ahead_the_smoothed_estimate_keeps_its_head() -> None:
    bare = -sum((-5) ** i * kinds for i, kinds in BUTTERFLIES.items())
    assert bare < -1e17
    assert 75 < good_toulmin(BUTTERFLIES, 2) < good_toulmin(BUTTERFLIES, 5) < 5 * 118


@pytest.mark.parametrize("t", [0.5, 1, 2, 4])
def test_on_average_as_many_new_kinds_come_as_are_expected(t: float) -> None:
    rng = random.Random(3)
    rates = [20 / kind for kind in range(1, 1_000)]
    come = sum(math.exp(-rate) * -math.expm1(-t * rate) for rate in rates)
    samples = ([poisson(rate, rng) for rate in rates] for _ in range(30))
    expected = statistics.fmean(good_toulmin(Counter(sample), t) for sample in samples)
    assert expected == pytest.approx(come, rel=0.05 if t <= 1 else 0.2)


@given(st.dictionaries(st.integers(0, 500), st.integers(0, 50)), st.floats(0, 100))
def test_what_is_expected_is_never_negative_and_never_above_the_first_term(
    seen: dict[int, int], t: float
) -> None:
    assert 0 <= good_toulmin(seen, t) <= t * seen.get(1, 0)


def test_the_unseen_share_is_below_its_bound() -> None:
    rng, trials, n = random.Random(4), 400, 1_000
    weights = [1 / kind for kind in range(1, 2_000)]
    whole, below = sum(weights), 0
    for _ in range(trials):
        counts = Counter(rng.choices(range(len(weights)), weights, k=n))
        unseen = 1 - sum(weights[kind] for kind in counts) / whole
        below += unseen <= good_turing_at_most(sum(count == 1 for count in counts.values()), n)
    assert below / trials >= 0.95


def test_one_look_at_no_change_is_called_a_regression_at_most_as_often_as_alpha() -> None:
    rng, trials = random.Random(5), 1_500
    for total, t in product((0.5, 1, 3, 10), (0.05, 0.3, 1)):
        alarms = 0
        for _ in range(trials):
            before, after = drawn(total, rng), drawn(total * t, rng)
            found = new_kinds(before, after, jobs_before=10_000, jobs_after=int(10_000 * t))
            alarms += found.verdict is Verdict.REGRESSION
        assert alarms / trials <= 1 - least_coverage(0.95, trials), (total, t)


def test_a_poisson_tail_with_the_good_toulmin_mean_would_call_one_in_four() -> None:
    rng, trials = random.Random(6), 3_000
    alarms = 0
    for _ in range(trials):
        before, new = len(drawn(1, rng)), len(drawn(1, rng))
        mean = good_toulmin({1: before}, 1)
        as_many = 1 - sum(math.exp(-mean) * mean**i / math.factorial(i) for i in range(new))
        alarms += new > 0 and as_many <= 0.05
    assert alarms / trials == pytest.approx(0.25, abs=0.04)


def drawn(mean: float, rng: random.Random) -> dict[str, int]:
    """Kinds so rare that none comes twice: the hardest case."""
    return {f"kind {rng.random()}": 1 for _ in range(poisson(mean, rng))}


def poisson(mean: float, rng: random.Random) -> int:
    count, left = 0, mean
    while (left := left - rng.expovariate(1)) > 0:
        count += 1
    return count


def test_a_kind_never_seen_in_a_long_baseline_is_a_regression_even_in_few_jobs() -> None:
    found = new_kinds({"timeout": 9}, {"timeout": 1, "fk": 1}, jobs_before=10_000, jobs_after=20)
    assert (found.verdict, found.kinds) == (Verdict.REGRESSION, ("fk",))
    assert found.p_value == pytest.approx(20 / 10_020)


def test_a_new_kind_is_expected_where_kinds_keep_coming() -> None:
    before = {f"kind {i}": 1 for i in range(40)}
    after = {"another": 1, "kind 3": 2}
    found = new_kinds(before, after, jobs_before=1_000, jobs_after=100)
    assert (found.verdict, found.kinds, found.expected) == (Verdict.PROVEN, ("another",), 4.0)
    many = {f"other {i}": 1 for i in range(12)}
    assert new_kinds(before, many, jobs_before=1_000, jobs_after=100).verdict is Verdict.REGRESSION


@pytest.mark.parametrize(
    ("after", "jobs_before", "jobs_after", "why"),
    [
        ({}, 0, 500, "no baseline"),
        ({"fk": 3}, 0, 500, "no baseline"),
        ({}, 1_000, 0, "too few"),
        ({}, 1_000, 58, "too few"),
        ({"fk": 3}, 60, 500, "shorter than the window"),
    ],
)
def test_too_little_to_compare_is_never_a_pass(
    after: dict[str, int], jobs_before: int, jobs_after: int, why: str
) -> None:
    found = new_kinds({}, after, jobs_before=jobs_before, jobs_after=jobs_after)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert why in found.why


def test_a_clean_baseline_is_a_baseline() -> None:
    assert new_kinds({}, {}, jobs_before=1_000, jobs_after=59).verdict is Verdict.PROVEN
    assert new_kinds({"gone": 0}, {"gone": 1}, jobs_before=1_000, jobs_after=50).kinds == ("gone",)


# Speed

# Permeability of human chorioamnion at term and at 12 to 26 weeks: Hollander & Wolfe, table 4.1
AT_TERM = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
EARLY = [1.15, 0.88, 0.90, 0.74, 1.21]


def test_the_shift_and_its_interval_are_those_of_hollander_and_wolfe() -> None:
    """Examples 4.3 and 4.4: -0.305, and from the 9th to the 42nd difference -0.76 to 0.15."""
    assert hodges_lehmann(AT_TERM, EARLY) == pytest.approx(-0.305)
    assert hodges_lehmann_interval(AT_TERM, EARLY, 0.94) == pytest.approx((-0.76, 0.15))


def differences(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return sorted(new - old for old in before for new in after)


@given(durations, durations)
def test_the_shift_is_the_median_of_all_differences_exactly(before: list[float], after: list[float]) -> None:
    assert hodges_lehmann(before, after) == statistics.median(differences(before, after))


def test_neighbours_among_the_floats_are_told_apart() -> None:
    one = math.nextafter(1, 2)
    two = math.nextafter(one, 2)
    assert hodges_lehmann([0, 0, 0], [one, one, two]) == one
    assert hodges_lehmann([0, 0, 0], [one, two, two]) == two


def test_ties_narrow_the_interval_by_the_variance_of_all_splits() -> None:
    """The corrected variance is that of the Mann-Whitney statistic over all ways to split the pooled values in two."""
    before, after = [0, 0, 0, 0, 10, 25], [0, 0, 0, 3, 10, 60]
    pooled, wins = before + after, []
    for chosen in combinations(range(12), 6):
        rest = [pooled[i] for i in range(12) if i not in chosen]
        wins.append(36 * probability_slower(rest, [pooled[i] for i in chosen]).probability)
    spread, ordered = statistics.pstdev(wins), differences(before, after)
    for percent in range(50, 99):
        z = statistics.NormalDist().inv_cdf((1 + percent / 100) / 2)
        rank = math.floor(18 - z * spread)
        assert hodges_lehmann_interval(before, after, percent / 100) == (
            ordered[rank - 1],
            ordered[36 - rank],
        )


@given(
    st.lists(st.integers(0, 3), min_size=8, max_size=30), st.lists(st.integers(0, 3), min_size=8, max_size=30)
)
def test_tied_samples_have_ends_that_are_differences(before: list[int], after: list[int]) -> None:
    low, high = hodges_lehmann_interval(before, after)
    assert {low, high} <= {*differences(before, after)}
    assert low <= hodges_lehmann(before, after) <= high


@settings(max_examples=40)
@given(durations, durations, st.floats(0.6, 0.98))
def test_more_confidence_never_narrows_an_interval(
    before: list[float], after: list[float], confidence: float
) -> None:
    low, high = hodges_lehmann_interval(before, after, confidence)
    wider_low, wider_high = hodges_lehmann_interval(before, after, confidence + 0.01)
    assert wider_low <= low <= high <= wider_high
    less, more = (
        probability_slower(before, after, confidence),
        probability_slower(before, after, confidence + 0.01),
    )
    assert 0 <= more.low <= less.low <= less.probability <= less.high <= more.high <= 1


@pytest.mark.parametrize(("m", "n", "digits"), [(5, 5, 9), (12, 30, 9), (40, 40, 9), (30, 40, 0)])
def test_a_shifts_interval_covers_at_least_as_often_as_it_says(m: int, n: int, digits: int) -> None:
    """Skewed durations; `digits` 0: rounded so that most are tied."""
    rng, trials, shift = random.Random(7), 1_000, 2.0
    covered = 0
    for _ in range(trials):
        before = [round(rng.expovariate(0.5), digits) for _ in range(m)]
        after = [round(rng.expovariate(0.5), digits) + shift for _ in range(n)]
        low, high = hodges_lehmann_interval(before, after)
        covered += low <= shift <= high
    assert covered / trials >= least_coverage(0.95, trials)


def test_the_variance_is_that_of_hanley_and_mcneil() -> None:
    """Radiology 143 (1982), table II: an area of 0.893 from 58 and 51 has a standard error of 0.032."""
    before = list(range(58))
    after = [51.5] * 50 + [41]
    narrow = probability_slower(before, after, 0.01)
    z = statistics.NormalDist().inv_cdf(0.505)
    assert narrow.probability == pytest.approx(0.893, abs=1e-4)
    assert (narrow.high - narrow.low) / (2 * z) == pytest.approx(0.032, abs=5e-4)


def test_slower_counts_ties_by_half_and_works_at_the_ends() -> None:
    assert probability_slower([1, 2], [2, 3]).probability == 7 / 8
    all_slower = probability_slower([1, 2, 3], [4, 5, 6])
    assert (all_slower.probability, all_slower.high) == (1, 1)
    assert 0.3 < all_slower.low < 0.7
    assert probability_slower([], [1]).low == 0
    assert probability_slower([], [1]).high == 1


@pytest.mark.parametrize(("slowdown", "m", "n"), [(1, 40, 40), (2, 30, 50), (6, 50, 50)])
def test_the_interval_of_slower_covers_about_as_often_as_it_says(slowdown: float, m: int, n: int) -> None:
    """Exponential durations, `slowdown` times as long: slower with probability slowdown / (1 + slowdown)."""
    rng, trials = random.Random(8), 2_000
    covered = 0
    for _ in range(trials):
        found = probability_slower(
            [rng.expovariate(1) for _ in range(m)], [rng.expovariate(1 / slowdown) for _ in range(n)]
        )
        covered += found.low <= slowdown / (1 + slowdown) <= found.high
    assert covered / trials >= least_coverage(0.94, trials)


def lognormal(n: int, rng: random.Random, factor: float = 1.0) -> list[float]:
    return [factor * rng.lognormvariate(0, 0.3) for _ in range(n)]


@pytest.mark.parametrize(
    ("factor", "n", "verdict"),
    [
        (1.0, 400, Verdict.PROVEN),
        (0.5, 60, Verdict.PROVEN),
        (1.5, 100, Verdict.REGRESSION),
        (1.05, 10, Verdict.INCONCLUSIVE),
        (1.1, 400, Verdict.INCONCLUSIVE),  # just at the margin: it cannot be told
    ],
)
def test_speed_is_kept_only_when_the_bound_of_the_shift_is_below_the_margin(
    factor: float, n: int, verdict: Verdict
) -> None:
    rng = random.Random(9)
    before, after = lognormal(n, rng), lognormal(n, rng, factor)
    speed = not_slower(before, after, 0.1)
    assert speed.verdict is verdict
    assert speed.shift is not None
    assert speed.before is not None
    assert speed.low <= speed.shift <= speed.high
    assert (speed.low, speed.high) == hodges_lehmann_interval(before, after, 0.9)  # 95 % on each side
    assert speed.allowed == pytest.approx(0.1 * speed.before)


def test_a_release_slower_by_the_margin_is_seldom_called_kept() -> None:
    rng, trials = random.Random(10), 600
    wrong = 0
    for _ in range(trials):
        before = [10 + rng.gauss(0, 1) for _ in range(80)]
        after = [11 + rng.gauss(0, 1) for _ in range(80)]
        wrong += not_slower(before, after, 0.1).verdict is Verdict.PROVEN
    assert wrong / trials <= 0.06 + 4 * math.sqrt(
        0.05 * 0.95 / trials
    )  # the median before is an estimate too


@pytest.mark.parametrize(("n", "verdict"), [(2, Verdict.INCONCLUSIVE), (10, Verdict.PROVEN)])
def test_a_few_jobs_that_took_the_same_prove_nothing(n: int, verdict: Verdict) -> None:
    assert not_slower([1.0] * n, [1.0] * n, 0.1).verdict is verdict


def test_no_data_on_one_side_is_inconclusive() -> None:
    for before, after in [([], [1.0] * 100), ([1.0] * 100, []), ([], [])]:
        speed = not_slower(before, after, 0.1)
        assert (speed.verdict, speed.shift, speed.high) == (Verdict.INCONCLUSIVE, None, math.inf)


# Pace, and what makes no sense


def test_the_pace_says_how_long_the_rest_takes() -> None:
    some = pace(31, 59, 31 / 2.1 * 60)
    assert some.per_minute == pytest.approx(2.1)
    assert some.seconds_left == pytest.approx(28 / 2.1 * 60)
    assert pace(0, 59, 300).seconds_left is None
    assert pace(3, 59, 0).seconds_left is None
    assert pace(2, 59, 1).words == ""  # a probe and a test order
    assert pace(59, 59, 300).seconds_left == 0


def test_what_makes_no_sense_is_refused_with_a_remedy() -> None:
    for call in (
        lambda: needed_clean(0, 0.95),
        lambda: needed_clean(0.05, 1),
        lambda: rate_excluded(-1, 0.95),
        lambda: wilson(3, 2),
        lambda: Sprt().decide(-1, 2),
        lambda: good_toulmin({1: 1}, -1),
        lambda: hodges_lehmann([], [1]),
        lambda: hodges_lehmann([math.nan], [1]),
        lambda: quantile_interval([1], 1.0),
        lambda: not_slower([1], [1], 0),
        lambda: not_slower([1], [1], 0.1, 0.4),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.remedy
