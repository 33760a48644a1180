"""How much the evidence says: failure rates, new kinds of error, speed. Pure statistics: no clock, no I/O, no randomness.

Each function names its source. Shares are from 0 to 1, confidences too (usual: 0.95), durations in whatever unit they come in.
The standard library is enough: of all that scipy has, only `NormalDist` and `lgamma` are needed. An argument that makes no
sense raises UsageError, because most of them come from `--set`.

What may be watched while it collects: the zero-failure count (it waits for a number fixed beforehand, and one failure ends
it) and the SPRT. All else here is for one look, at the end of a phase: who looks k times divides alpha by k.

Known weakness: jobs are taken to be independent. Failures that come in bursts make every interval here too narrow.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Literal

from toolkit.errors import UsageError
from toolkit.verify.verdict import Verdict

LEAST = 59
"""Jobs below which nothing new proves nothing: `needed_clean(0.05, 0.95)`."""
FEW = 2
"""Jobs that tell no pace: a probe and a test order."""


@dataclass(frozen=True, slots=True)
class Sprt:
    """Wald's sequential probability ratio test of a failure rate: fine at `p0`, not at `p1`.

    Wald, "Sequential Tests of Statistical Hypotheses", Ann. Math. Stat. 16 (1945). It may be asked after every job, or after
    any of them: jobs not looked at make it slower, never less careful. Its first accept or reject stands.

    Wald's boundaries hold alpha and beta up to what the last job overshoots; what is certain is `false_alarm_at_most` and
    `miss_at_most`. With the defaults (exact, by summing all paths): 2.3 % of fine releases rejected, 5.04 % of bad ones
    accepted.
    """

    p0: float = 0.005
    p1: float = 0.05
    alpha: float = 0.05
    beta: float = 0.05

    def __post_init__(self) -> None:
        for name in ("p0", "p1", "alpha", "beta"):
            _inside(name, getattr(self, name))
        if self.p0 >= self.p1 or self.alpha + self.beta >= 1:
            raise UsageError(
                f"no test tells a rate of {self.p0:g} from {self.p1:g} with errors of {self.alpha:g} and {self.beta:g}",
                remedy="p0 must be below p1, and alpha + beta below 1",
            )

    @property
    def upper(self) -> float:
        """Log A: at or above it, reject."""
        return math.log((1 - self.beta) / self.alpha)

    @property
    def lower(self) -> float:
        """Log B: at or below it, accept."""
        return math.log(self.beta / (1 - self.alpha))

    @property
    def false_alarm_at_most(self) -> float:
        """Share of releases at `p0` or better that it can reject at most (Wald's inequality: 1/A)."""
        return self.alpha / (1 - self.beta)

    @property
    def miss_at_most(self) -> float:
        """Share of releases at `p1` or worse that it can accept at most (Wald's inequality: B)."""
        return self.beta / (1 - self.alpha)

    def step(self, *, failed: bool) -> float:
        """What one job adds to the log-likelihood ratio."""
        return math.log(self.p1 / self.p0) if failed else math.log((1 - self.p1) / (1 - self.p0))

    def log_likelihood(self, failures: int, n: int) -> float:
        """The log-likelihood ratio of p1 to p0 after `failures` in `n` jobs."""
        _counted(failures, n)
        return failures * self.step(failed=True) + (n - failures) * self.step(failed=False)

    def decide(self, failures: int, n: int) -> Literal["accept", "reject", "continue"]:
        """What `failures` in `n` jobs say."""
        ratio = self.log_likelihood(failures, n)
        if ratio >= self.upper:
            return "reject"
        return "accept" if ratio <= self.lower else "continue"

    def accept_line(self, n: float) -> float:
        """The number of failures at or below which it accepts after `n` jobs: the plot's lower line (below 0: not yet)."""
        return self._line(self.lower, n)

    def reject_line(self, n: float) -> float:
        """The number of failures at or above which it rejects after `n` jobs: the plot's upper line."""
        return self._line(self.upper, n)

    def least_to_accept(self, failures: int) -> int:
        """The number of jobs, all told, at which it would accept if no more failed."""
        clean = self.step(failed=False)
        n = failures + max(0, math.ceil((self.lower - failures * self.step(failed=True)) / clean) - 1)
        while self.decide(failures, n) != "accept":  # rounding: the formula may be one job short
            n += 1
        return n

    def accepts(self, p: float) -> float:
        """The probability that it accepts at a true failure rate `p` (Wald's operating characteristic, no overshoot)."""
        h = self._h(p)
        if math.isinf(h):
            return float(h > 0)
        if abs(h) < 1e-9:
            return self.upper / (self.upper - self.lower)
        above, below = math.expm1(h * self.upper), math.expm1(h * self.lower)
        return above / (above - below)

    def asn(self, p: float) -> float:
        """Jobs until it decides, on average, at a true failure rate `p` (Wald's approximation).

        It leaves out the overshoot and so is low: by the defaults 77 for 81 at p0, 37 for 49 at p1.
        """
        failed, clean = self.step(failed=True), self.step(failed=False)
        drift = p * failed + (1 - p) * clean
        if abs(drift) < 1e-9:
            return -self.upper * self.lower / (p * failed**2 + (1 - p) * clean**2)
        share = self.accepts(p)
        return (share * self.lower + (1 - share) * self.upper) / drift

    def _line(self, boundary: float, n: float) -> float:
        clean = self.step(failed=False)
        return (boundary - n * clean) / (self.step(failed=True) - clean)

    def _h(self, p: float) -> float:
        """Wald's h: where p·(p1/p0)^h + (1-p)·((1-p1)/(1-p0))^h = 1. It is 1 at p0, -1 at p1, and falls as p grows."""
        if not 0 <= p <= 1:
            raise UsageError(f"a rate of {p:g} is none", remedy="a share from 0 to 1")
        failed, clean = self.step(failed=True), self.step(failed=False)
        edge = 700 / max(failed, -clean, self.upper, -self.lower)  # e^700 is still a float
        if p in (0, 1):
            return math.inf if p == 0 else -math.inf
        low, high = -edge, edge
        for _ in range(100):
            h = (low + high) / 2
            at = (
                -clean / (failed - clean)
                if h == 0
                else -math.expm1(h * clean) / (math.exp(h * failed) - math.exp(h * clean))
            )
            low, high = (h, high) if at > p else (low, h)
        return (low + high) / 2


@dataclass(frozen=True, slots=True)
class NewKinds:
    """Kinds of error unseen before: their names; how many were `expected` with no change; the probability of as many with no
    change; the verdict and its reason."""

    kinds: tuple[str, ...]
    expected: float
    p_value: float
    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True)
class Slower:
    """The probability that a job of the new release takes longer than one of the old, with its interval; 0.5: alike."""

    probability: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Is it as fast as before? `shift`: how much longer a job takes now (negative: shorter), within `low` and `high`, each
    of them certain with the confidence by itself; `allowed`: the shift that still counts as kept. Medians of both windows.
    Without data the medians, the shift and what is allowed are None."""

    verdict: Verdict
    shift: float | None
    low: float
    high: float
    allowed: float | None
    before: float | None
    after: float | None
    slower: Slower


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast evidence comes in. `seconds_left`: None when nothing came, 0 when it is enough."""

    per_minute: float
    seconds_left: float | None

    @property
    def words(self) -> str:
        """`, about 14 min left at 2.1/min`, to go on with; nothing when nobody can say, or nothing is left."""
        if not self.seconds_left:
            return ""
        left = (
            f"{self.seconds_left / 60:.0f} min" if self.seconds_left >= 90 else f"{self.seconds_left:.0f} s"
        )
        if self.seconds_left >= 7200:
            left = f"{self.seconds_left / 3600:.0f} h"
        return f", about {left} left at {self.per_minute:.1f}/min"


def needed_clean(rate: float, confidence: float) -> int:
    """The least number of clean jobs that excludes a failure rate of `rate`: n = ln(1-confidence) / ln(1-rate), rounded up.

    Hanley & Lippman-Hand, "If Nothing Goes Wrong, Is Everything All Right?", JAMA 249 (1983). 5 % at 95 %: 59.
    """
    exact = math.log1p(-_inside("confidence", confidence)) / math.log1p(-_inside("rate", rate))
    return max(1, math.ceil(exact - 1e-9))  # a whole number stays one, in spite of rounding


def rate_excluded(clean: int, confidence: float) -> float:
    """The failure rate that `clean` jobs without a failure exclude: 1 - (1-confidence)^(1/clean); 1.0 for none.

    Hanley & Lippman-Hand, JAMA 249 (1983). 31 at 95 %: 0.0921.
    """
    _counted(0, clean)
    _inside("confidence", confidence)
    return -math.expm1(math.log1p(-confidence) / clean) if clean else 1.0


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a share. Nothing counted: 0 to 1.

    Wilson, JASA 22 (1927); method 3 in Newcombe, Statistics in Medicine 17 (1998). Its coverage is the confidence on
    average over all rates, not at each.
    """
    _counted(successes, n)
    if n == 0:
        return 0.0, 1.0
    z = _z(confidence)
    share = successes / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    whole = 1 + z * z / n
    return (
        0.0 if successes == 0 else (middle - half) / whole,
        1.0 if successes == n else (middle + half) / whole,
    )


def binomial_at_most(k: int, n: int, p: float) -> float:
    """The probability of at most `k` successes in `n`, each with probability `p`. Time grows with k."""
    if k < 0 or k >= n or p in (0, 1):
        return float(k >= n or (k >= 0 and p == 0))
    return min(1.0, math.fsum(islice(_binomial(n, p), k + 1)))


def good_turing_unseen(singletons: int, n: int) -> float:
    """The probability that the next error is of an unseen kind: the share of the `n` errors whose kind was seen once.

    Good, Biometrika 40 (1953), after Turing. Nothing seen yet: 1.0.
    """
    _counted(singletons, n)
    return singletons / n if n else 1.0


def good_turing_at_most(singletons: int, n: int, confidence: float = 0.95) -> float:
    """The upper bound of `good_turing_unseen`: + (1+√2)·√(ln(2/δ)/n), whatever the kinds' probabilities are.

    The bound of McAllester & Schapire (COLT 2000) with the sharper constant for the unseen mass of McAllester & Ortiz (JMLR 4,
    2003). Certain, and wide: 0.15 more at 1,000 errors. Good's variance is narrower, but it is 0 when nothing was seen once.
    """
    room = math.log(2 / (1 - _inside("confidence", confidence)))
    return min(1.0, good_turing_unseen(singletons, n) + (1 + math.sqrt(2)) * math.sqrt(room / max(n, 1)))


def good_toulmin(frequencies: Mapping[int, int], t: float) -> float:
    """How many new kinds to expect in a further sample `t` times as large. `frequencies`: how many kinds were seen once,
    twice, and so on.

    Good & Toulmin, Biometrika 43 (1956): -Σ(-t)^i·Φ_i. Its terms explode above t = 1; there they are weighed with the tail of
    a binomial (Orlitsky, Suresh & Wu, PNAS 113, 2016, after Efron & Thisted 1976). The result is kept between 0 and t·Φ_1,
    where its mean always is.
    """
    if t < 0:
        raise UsageError(f"a sample {t:g} times as large is none", remedy="t is 0 or more")
    seen = {i: kinds for i, kinds in frequencies.items() if i > 0 and kinds > 0}
    if not seen:
        return 0.0
    trials, chance = _smoothing(sum(i * kinds for i, kinds in seen.items()), t)
    terms = []
    for i, kinds in seen.items():
        weight = 1.0 if t <= 1 else 1 - binomial_at_most(i - 1, trials, chance)
        if weight > 0:  # else (-t)^i may be beyond a float
            terms.append(-((-t) ** i) * weight * kinds)
    return min(max(math.fsum(terms), 0.0), t * seen.get(1, 0))


def new_kinds(
    before: Mapping[str, int],
    after: Mapping[str, int],
    *,
    jobs_before: int,
    jobs_after: int,
    alpha: float = 0.05,
    least: int = LEAST,
) -> NewKinds:
    """Are there more kinds of error unseen before than there would be with no change? For one look.

    `before`, `after`: kind → distinct jobs it hit; `jobs_before`, `jobs_after`: jobs looked at, t is their ratio. With no
    change, a kind that was seen once before or is new now is new with probability at most t/(1+t): so the number of new ones
    is tested against a binomial over both (Przyborowski & Wilenski, Biometrika 31, 1940). It says what a Poisson tail with the
    Good-Toulmin mean says, but keeps alpha: with few kinds seen once that mean is itself a guess, and the Poisson tail called
    one unchanged release in four a regression at alpha = 5 % (tests/unit/test_evidence.py has the case).

    Inconclusive: no baseline; fewer than `least` jobs; or new kinds beside a baseline of fewer jobs than the window.
    """
    _inside("alpha", alpha)
    kinds = tuple(sorted(kind for kind, count in after.items() if count > 0 and before.get(kind, 0) <= 0))
    if jobs_before <= 0:
        return NewKinds(kinds, 0.0, 1.0, Verdict.INCONCLUSIVE, "no baseline: no jobs of an earlier release")
    t = max(jobs_after, 0) / jobs_before
    frequencies = Counter(count for count in before.values() if count > 0)
    expected, share = good_toulmin(frequencies, t), t / (1 + t)
    p_value = 1 - binomial_at_most(len(kinds) - 1, frequencies[1] + len(kinds), share)
    verdict, why = Verdict.PROVEN, f"{len(kinds)} new, {expected:.1f} expected with no change"
    if kinds and p_value <= alpha:
        verdict = Verdict.REGRESSION
    elif jobs_after < least:
        verdict, why = Verdict.INCONCLUSIVE, f"{jobs_after} jobs are too few: {least} are needed"
    elif kinds and t > 1:
        verdict = Verdict.INCONCLUSIVE
        why = f"{why}, but the baseline ({jobs_before} jobs) is shorter than the window"
    return NewKinds(kinds, expected, p_value, verdict, why)


def hodges_lehmann(before: Sequence[float], after: Sequence[float]) -> float:
    """How much longer `after` takes: the median of all differences after - before (negative: faster).

    Hodges & Lehmann, Ann. Math. Stat. 34 (1963). The differences are never written down: each pass is linear in the sizes,
    with a few dozen passes, so 2,000 by 2,000 is quick. Raises UsageError when a sample is empty or not finite.
    """
    first, second = _sorted(before), _sorted(after)
    if not first or not second:
        raise UsageError(
            "there is no shift between samples of which one is empty", remedy="wait for data on both sides"
        )
    return _shift(first, second)


def hodges_lehmann_interval(
    before: Sequence[float], after: Sequence[float], confidence: float = 0.95
) -> tuple[float, float]:
    """The distribution-free interval of `hodges_lehmann`; infinite on both sides where the samples are too small.

    Mann-Whitney inverted, by the normal approximation with the variance corrected for ties: Hollander & Wolfe, Nonparametric
    Statistical Methods (2nd ed. 1999), 4.1 and 4.3. The rank is rounded outwards, which keeps small samples honest.
    """
    return _shift_interval(_sorted(before), _sorted(after), confidence)


def probability_slower(before: Sequence[float], after: Sequence[float], confidence: float = 0.95) -> Slower:
    """The probability that a job of `after` takes longer than one of `before`, ties by half. An empty side: 0 to 1.

    Newcombe, Statistics in Medicine 25 (2006), 559-573, method 5: a score interval with the variance of Hanley & McNeil
    (1982), which still works when all are slower.
    """
    return _slower(_sorted(before), _sorted(after), confidence)


def quantile_interval(sample: Sequence[float], q: float, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of the quantile `q` between two order statistics, -inf or inf where the sample is too small to say.

    Exact, by the binomial distribution: Conover, Practical Nonparametric Statistics (3rd ed. 1999), 3.2. The p95's upper end
    needs 72 values at 95 %.
    """
    ordered, n = _sorted(sample), len(sample)
    _inside("q", q)
    tail = (1 - _inside("confidence", confidence)) / 2
    at_most = list(accumulate(_binomial(n, q)))  # of `rank` values at or below the quantile
    below, above = bisect_right(at_most, tail), bisect_left(at_most, 1 - tail)
    return (
        ordered[below - 1] if below else -math.inf,
        ordered[above] if above < n else math.inf,
    )


def not_slower(
    before: Sequence[float], after: Sequence[float], margin: float, confidence: float = 0.95
) -> Speed:
    """Non-inferiority: proven when the shift's upper bound is below `margin` (a share) of the median before, a regression when
    its lower bound is above. Both bounds are one-sided; the interval of `slower` is two-sided. For one look.
    """
    if margin <= 0 or not 0.5 < confidence < 1:
        raise UsageError(
            f"no margin of {margin:g} can be shown with a confidence of {confidence:g}",
            remedy="a margin above 0 (0.1: a tenth slower), a confidence above 0.5 and below 1",
        )
    first, second = _sorted(before), _sorted(after)
    slower = _slower(first, second, confidence)
    if not first or not second:
        return Speed(
            Verdict.INCONCLUSIVE, None, -math.inf, math.inf, None, _median(first), _median(second), slower
        )
    low, high = _shift_interval(first, second, 2 * confidence - 1)
    median = statistics.median(first)
    allowed = margin * median
    verdict = Verdict.PROVEN if high < allowed else Verdict.INCONCLUSIVE
    if low > allowed:
        verdict = Verdict.REGRESSION
    shift = _shift(first, second)
    return Speed(verdict, shift, low, high, allowed, median, statistics.median(second), slower)


def pace(n: int, needed: int, seconds: float) -> Pace:
    """The pace of `n` in `seconds`, and how long the rest takes at it; None while they are FEW, for they may be the verification's
    own, sent at once."""
    per_minute = n * 60 / seconds if seconds > 0 else 0.0
    if n >= needed:
        return Pace(per_minute, 0.0)
    return Pace(per_minute, (needed - n) * 60 / per_minute if per_minute > 0 and n > FEW else None)


def _binomial(n: int, p: float) -> Iterator[float]:
    """The probabilities of 0, 1, … n successes; 0 < p < 1."""
    whole, success, failure = math.lgamma(n + 1), math.log(p), math.log1p(-p)
    for i in range(n + 1):
        ways = whole - math.lgamma(i + 1) - math.lgamma(n - i + 1)
        yield math.exp(ways + i * success + (n - i) * failure)


def _smoothing(n: int, t: float) -> tuple[int, float]:
    """The binomial of Orlitsky, Suresh & Wu's table 1: ½·log₃(n·t²/(t-1)) trials, at least one, of chance 2/(t+2)."""
    if t <= 1:
        return 0, 0.0
    return max(1, math.floor(math.log(n * t * t / (t - 1), 3) / 2)), 2 / (t + 2)


def _shift(before: list[float], after: list[float]) -> float:
    pairs = len(before) * len(after)
    upper = _difference(before, after, pairs // 2 + 1)
    return upper if pairs % 2 else (_difference(before, after, pairs // 2) + upper) / 2


def _shift_interval(before: list[float], after: list[float], confidence: float) -> tuple[float, float]:
    m, n = len(before), len(after)
    z = _z(confidence)
    if not m or not n:
        return -math.inf, math.inf
    total = m + n
    splits = math.lgamma(total + 1) - math.lgamma(m + 1) - math.lgamma(n + 1)
    # Of all splits of the pooled values only two lie outside the outermost differences, however many values are tied.
    if splits < math.log(2 / (1 - confidence)):
        return -math.inf, math.inf
    ties = sum(count**3 - count for count in Counter(before + after).values())
    variance = m * n / 12 * (total + 1 - ties / (total * (total - 1)))
    rank = math.floor(m * n / 2 - z * math.sqrt(variance))
    if rank < 1:
        return -math.inf, math.inf
    return _difference(before, after, rank), _difference(before, after, m * n + 1 - rank)


def _difference(before: list[float], after: list[float], rank: int) -> float:
    """The difference after - before of this rank, from 1, of two sorted samples. Bisects between differences that exist, so
    that it ends at one exactly, however many are tied."""
    low, high = after[0] - before[-1], after[-1] - before[0]
    while low < high:
        middle = low + (high - low) / 2
        if middle >= high:  # neighbours among the floats
            middle = low
        counted, below, above = _split(before, after, middle, low, high)
        low, high = (low, below) if counted >= rank else (above, high)
    return low


def _split(
    before: list[float], after: list[float], middle: float, below: float, above: float
) -> tuple[int, float, float]:
    """How many differences are at most `middle`, the greatest of them, and the least of the others."""
    counted, at, end = 0, 0, len(after)
    for value in before:
        while at < end and after[at] - value <= middle:
            at += 1
        counted += at
        if at and after[at - 1] - value > below:
            below = after[at - 1] - value
        if at < end and after[at] - value < above:
            above = after[at] - value
    return counted, below, above


def _slower(before: list[float], after: list[float], confidence: float) -> Slower:
    m, n = len(before), len(after)
    z = _z(confidence)
    if not m or not n:
        return Slower(0.5, 0.0, 1.0)
    wins = sum(bisect_left(before, value) + bisect_right(before, value) for value in after) / 2
    share = wins / (m * n)
    return Slower(share, _score_low(share, m, n, z), 1 - _score_low(1 - share, m, n, z))


def _score_low(share: float, m: int, n: int, z: float) -> float:
    """The lower end of Newcombe's method 5; the upper one is its mirror image."""
    half = (m + n) / 2 - 1
    low, high = 0.0, share
    for _ in range(60):
        at = (low + high) / 2
        variance = at * (1 - at) / (m * n) * (1 + half * ((1 - at) / (2 - at) + at / (1 + at)))
        low, high = (at, high) if share - at > z * math.sqrt(variance) else (low, at)
    return low


def _median(ordered: list[float]) -> float | None:
    return statistics.median(ordered) if ordered else None


def _sorted(sample: Sequence[float]) -> list[float]:
    if not all(map(math.isfinite, sample)):
        raise UsageError(
            "a sample has a value that is not finite", remedy="leave out runs that have not ended"
        )
    return sorted(sample)


def _z(confidence: float) -> float:
    return statistics.NormalDist().inv_cdf((1 + _inside("confidence", confidence)) / 2)


def _inside(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise UsageError(f"{name} is {value:g}", remedy="a share above 0 and below 1: 0.05 for 5 %")
    return value


def _counted(part: int, n: int) -> None:
    if not 0 <= part <= n:
        raise UsageError(
            f"{part} of {n} cannot be", remedy="counts are 0 or more, and a part is no more than the whole"
        )
