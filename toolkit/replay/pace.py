"""How fast a replay may go, by what the live system feels. Pure.

Defaults: slow when the queue's oldest job has waited 60 s or 3 sessions wait for locks; hold at 300 s or 20 sessions.
Slow is a quarter of the batch and a pause of 1 s after it; a replay that holds looks again every 2 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BATCH = 500
"""Jobs moved in one transaction: each takes an advisory lock, and PostgreSQL has room for some thousands of them."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the system feels: the age in seconds of the job that waits longest, and sessions that wait for a lock."""

    oldest_age: float = 0.0
    lock_waits: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows: `rate` in jobs a second; `max_failures`: stop when so many failed again; `canary`: so many
    first, and the rest only when they did well. None: no limit. `heed` False: do not look at the load."""

    canary: int | None = None
    rate: float | None = None
    max_failures: int | None = None
    heed: bool = True
    slow: Load = Load(60.0, 3)
    hold: Load = Load(300.0, 20)

    @property
    def in_air(self) -> int | None:
        """With `max_failures`, how many may be in the air at once: what is in the air cannot be stopped any more."""
        return None if self.max_failures is None else max(20, 4 * self.max_failures)


@dataclass(frozen=True, slots=True)
class Pace:
    """The next batch: how many jobs (0: none now), seconds to wait after it, and why it is not more ('' at full speed)."""

    jobs: int
    wait: float
    why: str = ""


def pace(limits: Limits, load: Load) -> Pace:
    """The pace that the limits and the load allow."""
    jobs, wait = BATCH, 0.0
    if limits.rate is not None:
        jobs = max(1, min(BATCH, math.floor(limits.rate / 4)))
        wait = jobs / limits.rate
    if not limits.heed:
        return Pace(jobs, wait)
    if why := _over(load, limits.hold):
        return Pace(0, 2.0, f"holding: {why}")
    if why := _over(load, limits.slow):
        return Pace(max(1, jobs // 4), max(1.0, wait), f"slower: {why}")
    return Pace(jobs, wait)


def room(limits: Limits, in_air: int) -> int | None:
    """How many more jobs may take off; None: any number."""
    return None if limits.in_air is None else max(0, limits.in_air - in_air)


def _over(load: Load, limit: Load) -> str:
    if load.oldest_age >= limit.oldest_age:
        return f"the queue's oldest job waits {load.oldest_age:.0f} s"
    if load.lock_waits >= limit.lock_waits:
        return f"{load.lock_waits} sessions wait for locks"
    return ""
