"""No foreign key errors: enough clean jobs, and detectors that are known to see one.

Zero errors in zero jobs is not a pass: n clean, distinct jobs exclude a rate p with confidence c from n = ln(1-c) / ln(1-p) on
(toolkit/verify/evidence/rates.py). One error is a regression at once. Both phases have this check, with different rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.ledger import liveness
from toolkit.ledger.reading import reading
from toolkit.telemetry import catalog
from toolkit.verify import evidence
from toolkit.verify.check import Check, Phase, Scene
from toolkit.verify.detect import Sight, Sighting
from toolkit.verify.rules import Rules
from toolkit.verify.verdict import Judgement, Verdict


@dataclass(frozen=True, slots=True)
class Facts:
    """`clean`: distinct jobs of the release that reached the write, counted up to `most`; `sightings`: one a detector;
    `seconds` since the window began, and `planted` since a violation was (None: it was not); `constraints`: the job's own."""

    clean: int
    most: int
    seconds: float
    planted: float | None
    sightings: Sequence[Sighting]
    constraints: frozenset[str] = frozenset()


def look(scene: Scene) -> Facts:
    """The ledger, and what the detectors said."""
    target, rules = scene.target, scene.rules
    most = 2 * max(
        evidence.needed_clean(rules.rate, rules.confidence),
        evidence.needed_clean(rules.rate_short, rules.confidence),
    )
    wrote = scene.spec.verify.wrote if scene.spec.verify else ()
    with reading(scene.database) as session:
        clean = liveness.clean_jobs(session, target.release, target.since, scene.spec.name, wrote, limit=most)
    planted = (target.now - scene.planted_at).total_seconds() if scene.planted_at else None
    seconds = (target.now - target.since).total_seconds()
    return Facts(clean, most, seconds, planted, scene.sightings, scene.spec.constraints)


def _judge(facts: Facts, rate: float, rules: Rules) -> Judgement:
    """Pure."""
    needed = evidence.needed_clean(rate, rules.confidence)
    below = evidence.rate_excluded(facts.clean, rules.confidence)
    pace = evidence.pace(facts.clean, needed, facts.seconds)
    figures: dict[str, Any] = {
        "have": facts.clean,
        "need": needed,
        "unit": "jobs",
        "rate_below": below,
        "per_minute": pace.per_minute,
        "seconds_left": pace.seconds_left,
        "detectors": {one.source: one.sight.value for one in facts.sightings},
        "errors": {one.source: one.total for one in facts.sightings},
    }
    fresh = facts.planted is not None and facts.planted <= rules.lag
    broken = [one for one in facts.sightings if one.total]
    if broken:
        return _regression(broken, facts, figures, fresh=fresh)
    shown = f"{facts.clean}{'+' if facts.clean >= facts.most else ''}/{needed} jobs"
    said = f"{shown}, rate below {below:.1%}" if facts.clean else f"{shown}: nothing is known yet"
    said += pace.words if facts.clean < needed else ""
    troubled = [one for one in facts.sightings if one.sight in {Sight.BLIND, Sight.AWAY}]
    waiting = [one.source for one in facts.sightings if one.sight is Sight.NOT_YET]
    seen = [one.source for one in facts.sightings if one.sight is Sight.SEEN]
    verdict = Verdict.PROVEN
    if troubled:
        verdict = Verdict.INCONCLUSIVE
        told = "; ".join(
            f"{one.source} {'is blind' if one.sight is Sight.BLIND else one.sight}: {one.detail}"
            for one in troubled
        )
        said = f"{told} ({said})"
    elif waiting or not seen:
        verdict = Verdict.PENDING
        said = f"the planted error is not seen yet by {', '.join(waiting) or 'any detector'} ({said})"
    elif facts.clean < needed:
        verdict = Verdict.PENDING
    more = () if facts.clean >= needed else ("toolkit verify-deploy --top-up",)
    return Judgement(
        verdict=verdict,
        said=said,
        soon=bool(waiting) and fresh and not troubled,
        evidence=figures,
        blind=tuple(one.source for one in troubled if one.sight is Sight.BLIND),
        unreachable=tuple(one.source for one in troubled if one.sight is Sight.AWAY),
        notes=(f"a planted error was seen by {', '.join(seen)}",) if seen else (),
        next=("toolkit doctor", "toolkit status") if troubled else more,
    )


def _regression(
    broken: Sequence[Sighting], facts: Facts, figures: dict[str, Any], *, fresh: bool
) -> Judgement:
    """`fresh`: a source that tells of none, and has not seen the planted one yet, may see it soon: then they disagree."""
    told = _counted(broken, facts.constraints)
    counts = ", ".join(f"{name} {number}×" for name, number in sorted(told.items()))
    jobs = tuple(dict.fromkeys(job for one in broken for job in one.jobs))[:5]
    traces = tuple(dict.fromkeys(trace for one in broken for trace in one.traces))[:5]
    mute = [one for one in facts.sightings if not one.total and one.sight is Sight.SEEN]
    silent = [one.source for one in mute if one.unclaimed < sum(told.values())]
    waiting = [one.source for one in facts.sightings if not one.total and one.sight is Sight.NOT_YET]
    notes = [f"{', '.join(one.source for one in broken)} told of it"]
    if silent:
        notes.append(f"sources disagree: {', '.join(silent)} did not")
    notes += [
        f"{one.source} has {one.unclaimed} on other constraints, and does not say of which release"
        for one in mute
        if one.unclaimed
    ]
    return Judgement(
        verdict=Verdict.REGRESSION,
        said=f"foreign key errors: {counts}",
        soon=bool(waiting) and fresh,
        evidence=figures,
        notes=tuple(notes),
        jobs=jobs,
        traces=traces,
        next=(
            *(f"toolkit jobs show {job}" for job in jobs[:1]),
            *(f"toolkit trace {trace}" for trace in traces[:1]),
        ),
    )


def _counted(broken: Sequence[Sighting], own: frozenset[str]) -> dict[str, int]:
    """Errors by constraint, of each source's the highest number. Counters call every constraint but the job's own `other`:
    of those, one source's are told, and rather by their names."""
    told: dict[str, int] = {}
    for one in broken:
        for name in own & one.errors.keys():
            told[name] = max(one.errors[name], told.get(name, 0))
    others = [{name: one.errors[name] for name in one.errors.keys() - own} for one in broken]
    return told | max(others, key=lambda errors: (sum(errors.values()), catalog.OTHER not in errors))


def judge(facts: Facts, rules: Rules) -> Judgement:
    """Immediate: exclude Rules.rate."""
    return _judge(facts, rules.rate, rules)


def judge_more(facts: Facts, rules: Rules) -> Judgement:
    """Short-Term: exclude Rules.rate_short, over more jobs."""
    return _judge(facts, rules.rate_short, rules)


_SYMPTOM = "Foreign key constraint violated on the constraint: `ProductImage_productDraftId_fkey`"

CHECK = Check(
    name="no-foreign-key-errors",
    phase=Phase.IMMEDIATE,
    symptom=_SYMPTOM,
    rule="no foreign key error, in jobs enough to exclude a rate of 5 %, by detectors that have seen a planted one",
    runbook="ForeignKeyErrors",
    look=look,
    judge=judge,
    fed=True,
    planted=True,
    confounded=frozenset(),  # errors are charged to the release that made them, whatever happened in between
)
CHECK_MORE = Check(
    name="no-foreign-key-errors-hour",
    phase=Phase.SHORT_TERM,
    symptom=_SYMPTOM,
    rule="the same over more jobs: enough to exclude a rate of 1 %",
    runbook="ForeignKeyErrors",
    look=look,
    judge=judge_more,
    fed=True,
    planted=True,
    confounded=frozenset(),
)
