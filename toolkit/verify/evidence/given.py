"""What the statistics take: shares and counts that make sense, or UsageError, because most of them come from `--set`."""

from __future__ import annotations

import statistics

from toolkit.errors import UsageError


def inside(name: str, value: float) -> float:
    """The value, if it is above 0 and below 1. Raises UsageError naming it."""
    if not 0 < value < 1:
        raise UsageError(f"{name} is {value:g}", remedy="a share above 0 and below 1: 0.05 for 5 %")
    return value


def counted(part: int, n: int) -> None:
    """Raises UsageError for a part that is no part of `n`."""
    if not 0 <= part <= n:
        raise UsageError(
            f"{part} of {n} cannot be", remedy="counts are 0 or more, and a part is no more than the whole"
        )


def two_sided(confidence: float) -> float:
    """The quantile of the normal distribution that leaves out half of the rest at each end."""
    return statistics.NormalDist().inv_cdf((1 + inside("confidence", confidence)) / 2)
