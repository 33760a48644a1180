"""The numbers that verdicts hang on, in one place. Times in seconds, shares from 0 to 1.

`toolkit verify-deploy --set NAME=VALUE` changes one for a run; the receipt shows which were not the usual ones.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final

from toolkit.errors import UsageError
from toolkit.verify.evidence import Sprt

_SECONDS: Final = frozenset({"oldest", "probe", "lag", "fresh"})
"""Rules that are times; the others are shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Thresholds of the checks."""

    confidence: float = 0.95
    """Of every statement about a rate."""
    rate: float = 0.05
    """Immediate: a foreign key error rate that must be excluded (59 clean jobs at 95 %)."""
    rate_short: float = 0.01
    """Short-Term: the same over more jobs (299)."""
    p0: float = 0.005
    """A failure rate that is fine (Wald's SPRT)."""
    p1: float = 0.05
    """A failure rate that is not."""
    alpha: float = 0.05
    """Share of fine releases that may be called a regression."""
    beta: float = 0.05
    """Share of bad releases that may be called proven."""
    oldest: float = 300.0
    """Age of the oldest waiting job above which the queue counts as stuck."""
    probe: float = 30.0
    """A probe job must be done by then, unless as many jobs as it had before it in the queue still move."""
    lag: float = 45.0
    """A source must have seen the planted violation by then."""
    skips: float = 0.5
    """Share of skipped runs that is still occasional."""
    margin: float = 0.10
    """How much slower, as a share of the last release's median, still counts as performance kept."""
    approved: float = 0.10
    """How far the share of approved images may fall below the last release's."""
    fresh: float = 60.0
    """Data of a source that is older is stale."""

    def but(self, changes: dict[str, str]) -> Rules:
        """With these changed. Raises UsageError for a name that there is not, and a value that no check could judge by."""
        numbers: dict[str, float] = {}
        known = {item.name for item in dataclasses.fields(self)}
        for name, text in changes.items():
            try:
                numbers[name] = float(text)
            except ValueError:
                numbers[name] = 0.0
            if name not in known:
                raise UsageError(
                    f"--set {name}={text}: there is no such rule",
                    remedy=f"rules: {', '.join(sorted(known))}; see toolkit/verify/rules.py for their meaning",
                )
            most = math.inf if name in _SECONDS else 1.0
            if not 0 < numbers[name] < most:
                wanted = (
                    "seconds above 0" if name in _SECONDS else "a share above 0 and below 1: 0.05 for 5 %"
                )
                raise UsageError(f"--set {name}={text}: that is no value for it", remedy=wanted)
        changed = dataclasses.replace(self, **numbers)
        Sprt(changed.p0, changed.p1, changed.alpha, changed.beta)  # refuses rates that it cannot tell apart
        return changed
