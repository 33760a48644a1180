"""Performance kept: runs and queue waits take no longer than under the last proven release, and 95 % stay in the job's budget.

Compared are processed runs of both windows, the newest MOST of each (test orders and replays left out): proven when the shift of
Hodges and Lehmann is surely below Rules.margin of the median before (toolkit/verify/evidence/speed.py: not_slower). What nobody
notices is no slowdown: before the margin is taken, UNNOTICED seconds are added to both sides. Inline runs wait in no queue.

Known weakness: waits grow with the load, too, and jobs with the size of their orders; what differs there is not the release.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from toolkit.ledger import evidence as ledger
from toolkit.ledger.evidence import Timing
from toolkit.ledger.reading import reading
from toolkit.run import Mode
from toolkit.telemetry.draw import duration
from toolkit.verify import looks
from toolkit.verify.check import Check, Phase, Scene
from toolkit.verify.evidence import Speed, not_slower, quantile_interval
from toolkit.verify.rules import Rules
from toolkit.verify.verdict import Judgement, Verdict

MOST: Final = 2_000
"""Runs of each window that are compared, the newest."""
UNNOTICED: Final = {"runs": 0.5, "queue waits": 10.0}
"""Seconds that the margin is taken of, beside the median: at 10 %, 0.05 s more a run and 1 s more in a queue are nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds that processed runs took, and that the jobs of those not done inline had waited."""

    runs: Sequence[float]
    waits: Sequence[float]


@dataclass(frozen=True, slots=True)
class Facts:
    """This release's window, the frozen one of the last proven release (None: there is none), and the job's budget in seconds
    (None: it has none)."""

    now: Sample
    before: Sample | None
    previous: str
    budget: float | None


def look(scene: Scene) -> Facts:
    """The ledger."""
    target, name = scene.target, scene.spec.name
    with reading(scene.database) as session:
        window = ledger.Window(target.release, target.since, target.now)
        now = ledger.timings(session, window, name, limit=MOST)
        before = None
        if target.before is not None:
            window = ledger.Window(target.previous, *target.before)
            before = ledger.timings(session, window, name, limit=MOST)
    budget = scene.spec.verify.budget if scene.spec.verify else None
    return Facts(_sample(now), None if before is None else _sample(before), target.previous, budget)


def _sample(timings: Sequence[Timing]) -> Sample:
    return Sample(
        [one.duration for one in timings], [one.queue_wait for one in timings if one.mode != Mode.SYNC]
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """What one of the parts says: its verdict, in words, in figures."""

    verdict: Verdict
    said: str
    figures: dict[str, Any]


def judge(facts: Facts, rules: Rules) -> Judgement:
    """Pure. Without a proven release the budget alone decides, and it is said so."""
    alpha = looks.spent(1 - rules.confidence, len(facts.now.runs))
    if not facts.now.runs:
        return Judgement(
            verdict=Verdict.PENDING, said="no run was processed: nothing is known yet", evidence={"runs": 0}
        )
    parts = []
    if facts.budget is not None:
        parts.append(_budget(facts.now.runs, facts.budget, alpha))
    notes = []
    if facts.before is None or not facts.before.runs:
        notes.append("no proven release to compare with: judged by the budget alone")
    else:
        parts.append(_beside("runs", facts.before.runs, facts.now.runs, rules.margin, alpha))
        if facts.before.waits and facts.now.waits:
            parts.append(_beside("queue waits", facts.before.waits, facts.now.waits, rules.margin, alpha))
        else:
            notes.append("queue waits are not compared: in one of the windows all was done inline")
        notes.append(f"compared with release {facts.previous}, {len(facts.before.runs):,} runs")
    found = {part.verdict for part in parts}
    if not parts:
        said = "nothing to go by: no proven release, and the job has no budget"
        return Judgement(verdict=Verdict.INCONCLUSIVE, said=said, evidence={"runs": len(facts.now.runs)})
    verdict = next(one for one in (Verdict.REGRESSION, Verdict.PENDING, Verdict.PROVEN) if one in found)
    told = [part.said for part in parts if part.verdict is verdict]
    slow = verdict is Verdict.REGRESSION
    figures: dict[str, Any] = {"runs": len(facts.now.runs), "margin": rules.margin}
    for part in parts:
        figures |= part.figures
    return Judgement(
        verdict=verdict, said="; ".join(told), evidence=figures, notes=tuple(notes),
        next=("toolkit status", "toolkit jobs list --limit 5") if slow else (),
    )  # fmt: skip


def _budget(runs: Sequence[float], budget: float, alpha: float) -> _Part:
    low, high = quantile_interval(runs, 0.95, 1 - 2 * alpha)
    figures = {"p95_low": _finite(low), "p95_high": _finite(high), "budget": budget}
    if low > budget:
        said = f"95 % of the runs take up to {duration(low)} at least, the budget is {duration(budget)}"
        return _Part(Verdict.REGRESSION, said, figures)
    if high > budget:
        said = f"{len(runs)} runs are too few to say that 95 % take at most {duration(budget)}"
        return _Part(Verdict.PENDING, said, figures)
    said = f"95 % of the runs take at most {duration(high)}, the budget is {duration(budget)}"
    return _Part(Verdict.PROVEN, said, figures)


def _beside(what: str, before: Sequence[float], after: Sequence[float], margin: float, alpha: float) -> _Part:
    more = UNNOTICED[what]
    speed = not_slower([one + more for one in before], [one + more for one in after], margin, 1 - alpha)
    medians = f"median {duration(statistics.median(after))}, before {duration(statistics.median(before))}"
    figures = _figures(what.replace("queue ", ""), speed, statistics.median(before), statistics.median(after))
    if speed.verdict is Verdict.REGRESSION:
        said = f"{what} are slower by {duration(speed.low)} at least ({medians})"
        return _Part(Verdict.REGRESSION, said, figures)
    if speed.verdict is Verdict.PROVEN:
        return _Part(Verdict.PROVEN, f"{what} are not slower ({medians})", figures)
    said = f"{what}: {len(after)} beside {len(before)} are too few to tell {margin:.0%} ({medians})"
    return _Part(Verdict.PENDING, said, figures)


def _figures(what: str, speed: Speed, before: float, after: float) -> dict[str, Any]:
    return {
        f"{what}_median": after,
        f"{what}_before": before,
        f"{what}_shift": speed.shift,
        f"{what}_shift_low": _finite(speed.low),
        f"{what}_shift_high": _finite(speed.high),
        f"{what}_allowed": speed.allowed,
        f"{what}_slower": speed.slower.probability,
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


CHECK = Check(
    name="performance-kept",
    phase=Phase.LONG_TERM,
    symptom="Confirm performance improvement maintained: background job delayed in queue (2-3 min)",
    rule="runs and queue waits are not a tenth slower than the last proven release's, and 95 % of the runs are within budget",
    runbook="QueueWaitHigh",
    look=look,
    judge=judge,
)
