"""Failure rates: how many clean jobs exclude one (Hanley & Lippman-Hand), Wilson's interval, Wald's SPRT; and the pace of it.

Known weakness: jobs are taken to be independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from toolkit.errors import UsageError
from toolkit.verify.evidence.given import counted, inside, two_sided

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
            inside(name, getattr(self, name))
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
        counted(failures, n)
        return failures * self.step(failed=True) + (n - failures) * self.step(failed=False)

    def decide(self, failures: int, n: int) -> Literal["accept", "reject", "continue"]:
        """What `failures` in `n` jobs say."""
        ratio = self.log_likelihood(failures, n)
        if ratio >= self.upper:
            return "reject"
        return "accept" if ratio <= self.lower else "continue"

    def least_to_accept(self, failures: int) -> int:
        """The number of jobs, all told, at which it would accept if no more failed."""
        clean = self.step(failed=False)
        n = failures + max(0, math.ceil((self.lower - failures * self.step(failed=True)) / clean) - 1)
        while self.decide(failures, n) != "accept":  # rounding: the formula may be one job short
            n += 1
        return n


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
    exact = math.log1p(-inside("confidence", confidence)) / math.log1p(-inside("rate", rate))
    return max(1, math.ceil(exact - 1e-9))  # a whole number stays one, in spite of rounding


def rate_excluded(clean: int, confidence: float) -> float:
    """The failure rate that `clean` jobs without a failure exclude: 1 - (1-confidence)^(1/clean); 1.0 for none.

    Hanley & Lippman-Hand, JAMA 249 (1983). 31 at 95 %: 0.0921.
    """
    counted(0, clean)
    inside("confidence", confidence)
    return -math.expm1(math.log1p(-confidence) / clean) if clean else 1.0


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a share. Nothing counted: 0 to 1.

    Wilson, JASA 22 (1927); method 3 in Newcombe, Statistics in Medicine 17 (1998). Its coverage is the confidence on
    average over all rates, not at each.
    """
    counted(successes, n)
    if n == 0:
        return 0.0, 1.0
    z = two_sided(confidence)
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
    return min(1.0, math.fsum(islice(binomial(n, p), k + 1)))


def pace(n: int, needed: int, seconds: float) -> Pace:
    """The pace of `n` in `seconds`, and how long the rest takes at it; None while they are FEW, for they may be the
    verification's own, sent at once."""
    per_minute = n * 60 / seconds if seconds > 0 else 0.0
    if n >= needed:
        return Pace(per_minute, 0.0)
    return Pace(per_minute, (needed - n) * 60 / per_minute if per_minute > 0 and n > FEW else None)


def binomial(n: int, p: float) -> Iterator[float]:
    """The probabilities of 0, 1, … n successes; 0 < p < 1."""
    whole, success, failure = math.lgamma(n + 1), math.log(p), math.log1p(-p)
    for i in range(n + 1):
        ways = whole - math.lgamma(i + 1) - math.lgamma(n - i + 1)
        yield math.exp(ways + i * success + (n - i) * failure)
