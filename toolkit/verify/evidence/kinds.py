"""New kinds of error: how many to expect with no change (Good-Turing, Good-Toulmin), and whether there are more. For one look."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from toolkit.errors import UsageError
from toolkit.verify.evidence.given import counted, inside
from toolkit.verify.evidence.rates import LEAST, binomial_at_most
from toolkit.verify.verdict import Verdict


@dataclass(frozen=True, slots=True)
class NewKinds:
    """Kinds of error unseen before: their names; how many were `expected` with no change; the probability of as many with no
    change; the verdict and its reason."""

    kinds: tuple[str, ...]
    expected: float
    p_value: float
    verdict: Verdict
    why: str


def good_turing_unseen(singletons: int, n: int) -> float:
    """The probability that the next error is of an unseen kind: the share of the `n` errors whose kind was seen once.

    Good, Biometrika 40 (1953), after Turing. Nothing seen yet: 1.0.
    """
    counted(singletons, n)
    return singletons / n if n else 1.0


def good_turing_at_most(singletons: int, n: int, confidence: float = 0.95) -> float:
    """The upper bound of `good_turing_unseen`: + (1+√2)·√(ln(2/δ)/n), whatever the kinds' probabilities are.

    The bound of McAllester & Schapire (COLT 2000) with the sharper constant for the unseen mass of McAllester & Ortiz (JMLR 4,
    2003). Certain, and wide: 0.15 more at 1,000 errors. Good's variance is narrower, but it is 0 when nothing was seen once.
    """
    room = math.log(2 / (1 - inside("confidence", confidence)))
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
    inside("alpha", alpha)
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


def _smoothing(n: int, t: float) -> tuple[int, float]:
    """The binomial of Orlitsky, Suresh & Wu's table 1: ½·log₃(n·t²/(t-1)) trials, at least one, of chance 2/(t+2)."""
    if t <= 1:
        return 0, 0.0
    return max(1, math.floor(math.log(n * t * t / (t - 1), 3) / 2)), 2 / (t + 2)
