"""Skips: only for reasons that the job knows, and no more than occasionally.

A skip is no error: the order or its drafts went before the job ran. But a job that skips all it gets fails silently. The share is
of the release's runs; deliveries that were not needed (already_done, already_running) say nothing of orders and are left out
of it, as in the alert SkipRatioHigh. So are test orders and replays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from toolkit.ledger import evidence as ledger
from toolkit.ledger.evidence import Ended
from toolkit.ledger.reading import reading
from toolkit.run import Outcome
from toolkit.verify import looks
from toolkit.verify.check import Check, Phase, Scene
from toolkit.verify.evidence import wilson
from toolkit.verify.rules import Rules
from toolkit.verify.verdict import Judgement, Verdict


@dataclass(frozen=True, slots=True)
class Skipped:
    """Of `runs` that ended, those skipped, by reason; and deliveries that were not needed, by reason."""

    runs: int
    reasons: Mapping[str, int]
    redundant: Mapping[str, int]

    @property
    def total(self) -> int:
        """Skipped runs."""
        return sum(self.reasons.values())

    @property
    def shown(self) -> str:
        """`12 of 400 runs skipped (no_drafts 9, order_deleted 3)`."""
        told = ", ".join(
            f"{reason or 'no reason'} {runs}" for reason, runs in Counter(self.reasons).most_common()
        )
        return f"{self.total:,} of {self.runs:,} runs skipped{f' ({told})' if told else ''}"


@dataclass(frozen=True, slots=True)
class Facts:
    """The release's window, that of the last proven one (None: there is none), and the reasons that the job knows."""

    now: Skipped
    before: Skipped | None
    previous: str
    known: frozenset[str]


def look(scene: Scene) -> Facts:
    """The ledger."""
    target, name = scene.target, scene.spec.name
    with reading(scene.database) as session:
        now = ledger.ended_runs(session, ledger.Window(target.release, target.since, target.now), name)
        before = None
        if target.before is not None:
            before = ledger.ended_runs(session, ledger.Window(target.previous, *target.before), name)
    known = frozenset(str(reason) for reason in scene.spec.all_skip_reasons)
    return Facts(_skipped(now), None if before is None else _skipped(before), target.previous, known)


def _skipped(ended: Iterable[Ended]) -> Skipped:
    runs, reasons, redundant = 0, Counter[str](), Counter[str]()
    for one in ended:
        if one.redundant:
            redundant[one.reason] += one.runs
            continue
        runs += one.runs
        if one.outcome == Outcome.SKIPPED:
            reasons[one.reason] += one.runs
    return Skipped(runs, dict(reasons), dict(redundant))


def judge(facts: Facts, rules: Rules) -> Judgement:
    """Pure. An unknown reason is a regression at once."""
    now, before = facts.now, facts.before
    low, high = wilson(now.total, now.runs, 1 - looks.spent(1 - rules.confidence, now.runs))
    unknown = sorted(reason for reason in now.reasons if reason not in facts.known)
    figures = {
        "runs": now.runs, "skipped": now.total, "share_low": low, "share_high": high, "most": rules.skips,
        "reasons": dict(now.reasons), "redundant": dict(now.redundant), "unknown": unknown,
        "before": {"runs": before.runs, "skipped": before.total, "reasons": dict(before.reasons)} if before else None,
    }  # fmt: skip
    beside = f"; release {facts.previous}: {before.shown}" if before and before.runs else ""
    if unknown:
        named = ", ".join(map(repr, unknown))
        said = f"{now.shown}, also for reasons that the job does not know: {named}{beside}"
        return _judgement(Verdict.REGRESSION, said, figures)
    if not now.runs:
        return _judgement(Verdict.PENDING, f"no run has ended: nothing is known yet{beside}", figures)
    if low > rules.skips:
        return _judgement(Verdict.REGRESSION, f"{now.shown}, at least {low:.1%} of all{beside}", figures)
    if high >= rules.skips:
        said = (
            f"{now.shown}, between {low:.0%} and {high:.0%} of all, below {rules.skips:.0%} is wanted{beside}"
        )
        return _judgement(Verdict.PENDING, said, figures)
    return _judgement(Verdict.PROVEN, f"{now.shown}, at most {high:.1%} of all{beside}", figures)


def _judgement(verdict: Verdict, said: str, figures: dict[str, object]) -> Judgement:
    steps = ("toolkit jobs list --state skipped",) if verdict is Verdict.REGRESSION else ()
    return Judgement(verdict=verdict, said=said, evidence=figures, next=steps)


CHECK = Check(
    name="skips",
    phase=Phase.LONG_TERM,
    symptom="⚠️ No product drafts found - skipping background image processing: OK if occasional",
    rule="runs are skipped for known reasons only, and fewer than half of them",
    runbook="SkipRatioHigh",
    look=look,
    judge=judge,
    confounded=frozenset(),  # each run is charged to the release that did it
)
