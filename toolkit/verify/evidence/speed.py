"""Speed: how much longer jobs take (Hodges-Lehmann), how probably (Newcombe), and whether that is too much. For one look.

Durations in whatever unit they come in.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from toolkit.errors import UsageError
from toolkit.verify.evidence.given import inside, two_sided
from toolkit.verify.evidence.rates import binomial
from toolkit.verify.verdict import Verdict


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
    inside("q", q)
    tail = (1 - inside("confidence", confidence)) / 2
    at_most = list(accumulate(binomial(n, q)))  # of `rank` values at or below the quantile
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


def _shift(before: list[float], after: list[float]) -> float:
    pairs = len(before) * len(after)
    upper = _difference(before, after, pairs // 2 + 1)
    return upper if pairs % 2 else (_difference(before, after, pairs // 2) + upper) / 2


def _shift_interval(before: list[float], after: list[float], confidence: float) -> tuple[float, float]:
    m, n = len(before), len(after)
    z = two_sided(confidence)
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
    z = two_sided(confidence)
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
