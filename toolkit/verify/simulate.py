"""Plays verify-deploy's decision rules against made-up jobs, to see how often they are wrong. Pure; randomness comes in.

Each rule is the very one that the checks use. It is asked after every job; the stream jumps from failure to failure (the gaps
are geometric), because between two failures only the number of clean jobs grows. 10,000 runs take well under a second.

Beside them stands what many would do instead: a test of fixed size, looked at once at its end, and the same test peeked at
after each job, stopped as soon as it says 5 %. The difference between these two rows is what peeking costs.

Defaults: a failure rate of 5 % excluded at 95 % (59 clean jobs), the SPRT of 0.5 % against 5 %, undecided after 5,000 jobs.
Known weakness: the jobs made up here are independent; real failures come in bursts.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from toolkit.errors import UsageError
from toolkit.verify.evidence import Sprt, binomial_at_most, needed_clean, wilson
from toolkit.verify.verdict import Verdict

USUAL = Sprt()
CERTAINTY = 0.99
"""Confidence of the interval around a simulated share: its Monte-Carlo error."""


class Ended(NamedTuple):
    """How one run of a rule ended, and after how many jobs. Pending: undecided at the cap."""

    verdict: Verdict
    jobs: float


@dataclass(frozen=True, slots=True)
class Claim:
    """What a rule promises at this true rate, and what was seen: the `error` (false alarm, miss) happens in a share of
    `at_most`; it did in `seen`, known within `low` and `high`."""

    error: str
    at_most: float
    seen: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """What was seen is within the claim, or above it by no more than Monte-Carlo error."""
        return self.low <= self.at_most


@dataclass(frozen=True, slots=True)
class Row:
    """One rule: the shares of runs by their end, jobs until the end, and its claim (None: it promises nothing here)."""

    rule: str
    proven: float
    regression: float
    undecided: float
    mean_jobs: float
    median_jobs: float
    claim: Claim | None


@dataclass(frozen=True, slots=True)
class Simulation:
    """What the rules made of `runs` releases with this true failure rate."""

    true_rate: float
    runs: int
    cap: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Fixed:
    """A test of fixed size: after `n` jobs, more than `most` failures are a regression."""

    n: int
    most: int


@dataclass(frozen=True, slots=True)
class _Rule:
    """`false_alarms`: the share promised at rates up to `fine`; `misses`: at rates from `bad`. None: not promised."""

    name: str
    play: Callable[[Iterator[float]], Ended]
    false_alarms: float | None
    fine: float
    misses: float
    bad: float


def simulate(
    true_rate: float,
    runs: int,
    rng: random.Random,
    *,
    sprt: Sprt = USUAL,
    rate: float = 0.05,
    confidence: float = 0.95,
    cap: int = 5_000,
) -> Simulation:
    """`runs` releases with this true failure rate, judged by each rule: zero failures (excludes `rate` at `confidence`), the
    SPRT, and a fixed test with the SPRT's errors, not peeked at and peeked at. Undecided after `cap` jobs. Each rule has its
    own jobs. A rule that any failure ends promises nothing about false alarms: there are none by its definition.
    """
    if not 0 <= true_rate <= 1 or runs < 1 or cap < 1:
        raise UsageError(
            f"{runs} runs of at most {cap} jobs at a rate of {true_rate:g} cannot be played",
            remedy="a rate from 0 to 1, at least one run, at least one job",
        )
    n, plan = needed_clean(rate, confidence), fixed(sprt)
    accepts = functools.cache(sprt.least_to_accept)
    limits = peeked_limits(sprt, plan)
    known = (sprt.p0, sprt.beta, sprt.p1)
    rules = (
        _Rule(f"zero failures in {n}", lambda at: zero_failures(at, n), None, 0.0, 1 - confidence, rate),
        _Rule(
            "SPRT, watched at every job",
            lambda at: sequential(at, sprt, accepts, cap),
            sprt.false_alarm_at_most,
            sprt.p0,
            sprt.miss_at_most,
            sprt.p1,
        ),
        _Rule(f"fixed test of {plan.n}, one look", lambda at: one_look(at, plan), sprt.alpha, *known),
        _Rule(f"fixed test of {plan.n}, peeked at", lambda at: peeked(at, plan, limits), sprt.alpha, *known),
    )
    return Simulation(true_rate, runs, cap, tuple(_row(rule, true_rate, runs, rng, cap) for rule in rules))


def failures(true_rate: float, rng: random.Random) -> Iterator[float]:
    """The numbers, from 1, of the jobs that fail, without end; math.inf: never again."""
    at = 0.0
    while True:
        if true_rate <= 0:
            at = math.inf
        elif true_rate >= 1:
            at += 1
        else:  # a geometric gap, by inversion (Devroye, Non-Uniform Random Variate Generation, 1986, X.2)
            at += 1 + math.log1p(-rng.random()) // math.log1p(-true_rate)
        yield at


def zero_failures(failed_at: Iterator[float], n: int) -> Ended:
    """Proven by `n` clean jobs, a regression at the first failure."""
    first = next(failed_at)
    return Ended(Verdict.PROVEN, n) if first > n else Ended(Verdict.REGRESSION, first)


def sequential(failed_at: Iterator[float], sprt: Sprt, accepts: Callable[[int], int], cap: int) -> Ended:
    """The SPRT, asked after every job. `accepts` is its `least_to_accept`, remembered."""
    for before, at in enumerate(failed_at):
        if at > accepts(before):
            return Ended(Verdict.PROVEN, accepts(before))
        if at > cap:
            break
        if sprt.decide(before + 1, int(at)) == "reject":
            return Ended(Verdict.REGRESSION, at)
    return Ended(Verdict.PENDING, cap)


def one_look(failed_at: Iterator[float], plan: Fixed) -> Ended:
    """The fixed test, looked at when all its jobs are in."""
    for seen, at in enumerate(failed_at):
        if at > plan.n:
            break
        if seen == plan.most:
            return Ended(Verdict.REGRESSION, plan.n)
    return Ended(Verdict.PROVEN, plan.n)


def peeked(failed_at: Iterator[float], plan: Fixed, limits: list[int]) -> Ended:
    """The fixed test, looked at after every job and stopped when it first says that p0 is too low (`peeked_limits`)."""
    for limit, at in zip(limits, failed_at, strict=False):
        if at > plan.n:
            return Ended(Verdict.PROVEN, plan.n)
        if at <= limit:
            return Ended(Verdict.REGRESSION, at)
    raise AssertionError("the last limit is the whole test")


def fixed(sprt: Sprt) -> Fixed:
    """The smallest binomial test that tells p0 from p1 with the SPRT's errors (Guenther, J. Quality Technology 1, 1969)."""
    for most in range(200):
        n = _size(most, sprt)
        if 1 - binomial_at_most(most, n, sprt.p0) <= sprt.alpha:
            return Fixed(n, most)
    raise UsageError(
        f"rates of {sprt.p0:g} and {sprt.p1:g} are too close to be told apart", remedy="move p0 and p1 apart"
    )


def peeked_limits(sprt: Sprt, plan: Fixed) -> list[int]:
    """For the first failure, the second and so on: the last job at which so many failures are significant at alpha under p0.
    Ends with the failure that is significant at any job of the test."""
    limits: list[int] = []
    while not limits or limits[-1] < plan.n:
        limits.append(_last_significant(len(limits) + 1, sprt, plan))
    return limits


def _size(most: int, sprt: Sprt) -> int:
    """The least number of jobs of which, at p1, `most` or fewer fail in a share of at most beta."""
    sizes = range(most + 1, 10**9)
    return sizes[bisect_left(sizes, -sprt.beta, key=lambda n: -binomial_at_most(most, n, sprt.p1))]


def _last_significant(failed: int, sprt: Sprt, plan: Fixed) -> int:
    """The last job of the test at which `failed` failures are significant; 0: at none."""
    return bisect_right(
        range(1, plan.n + 1), sprt.alpha, key=lambda n: 1 - binomial_at_most(failed - 1, n, sprt.p0)
    )


def _row(rule: _Rule, true_rate: float, runs: int, rng: random.Random, cap: int) -> Row:
    ends = [_by(cap, rule.play(failures(true_rate, rng))) for _ in range(runs)]
    jobs = [end.jobs for end in ends]
    counts = {verdict: sum(end.verdict is verdict for end in ends) for verdict in Verdict}
    return Row(
        rule.name,
        proven=counts[Verdict.PROVEN] / runs,
        regression=counts[Verdict.REGRESSION] / runs,
        undecided=counts[Verdict.PENDING] / runs,
        mean_jobs=statistics.fmean(jobs),
        median_jobs=statistics.median(jobs),
        claim=_claim(rule, true_rate, counts, runs),
    )


def _by(cap: int, ended: Ended) -> Ended:
    return ended if ended.jobs <= cap else Ended(Verdict.PENDING, cap)


def _claim(rule: _Rule, true_rate: float, counts: dict[Verdict, int], runs: int) -> Claim | None:
    if rule.false_alarms is not None and true_rate <= rule.fine:
        error, at_most, wrong = "false alarm", rule.false_alarms, counts[Verdict.REGRESSION]
    elif true_rate >= rule.bad:
        error, at_most, wrong = "miss", rule.misses, counts[Verdict.PROVEN]
    else:
        return None
    return Claim(error, at_most, wrong / runs, *wilson(wrong, runs, CERTAINTY))
