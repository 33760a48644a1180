"""No new kinds of error: none that this release has and no other had, but for those that turn up with no change at all.

Errors are charged to the release whose run emitted them. How many kinds unseen before are to be expected with no change is told
by the kinds that the runs before had only once (Good-Toulmin; toolkit/verify/evidence.py). An integrity error, SQLSTATE class
23, is never one of those. Test orders count: an error is one, whoever asked. The planted error is left out with its job.

Whether a kind is new is asked of the whole ledger; what to expect, of the newest HISTORY runs before the window.
Known weakness: with no run of an earlier release in the ledger, nobody can say which kinds are new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from toolkit.ledger import evidence as ledger
from toolkit.ledger.evidence import ErrorKind, History
from toolkit.ledger.reading import reading
from toolkit.verify import looks
from toolkit.verify.check import Check, Phase, Scene
from toolkit.verify.evidence import LEAST, NewKinds, Pace, new_kinds, pace
from toolkit.verify.rules import Rules
from toolkit.verify.verdict import Judgement, Verdict

HISTORY: Final = 100_000
"""Runs before the window that expectation is taken from."""
NAMED: Final = 5
"""Kinds that are named; the others are counted."""


@dataclass(frozen=True, slots=True)
class Facts:
    """`jobs` that the release brought to an end, in `seconds`; all its kinds of error, known ones too; what was before."""

    jobs: int
    seconds: float
    kinds: Sequence[ErrorKind]
    history: History

    @property
    def new(self) -> list[ErrorKind]:
        """Kinds that nobody had before."""
        return [one for one in self.kinds if not one.known]

    @property
    def integrity(self) -> list[ErrorKind]:
        """SQLSTATE class 23, new or not."""
        return [one for one in self.kinds if one.sqlstate.startswith("23")]


def look(scene: Scene) -> Facts:
    """The ledger. Every registered job counts; the toolkit's own are nobody's error."""
    target, names = scene.target, tuple(scene.registry.specs)
    window = ledger.Window(target.release, target.since, target.now)
    with reading(scene.database) as session:
        return Facts(
            jobs=ledger.jobs_ended(session, window, names),
            seconds=(target.now - target.since).total_seconds(),
            kinds=ledger.error_kinds(session, window, names),
            history=ledger.history(session, target.since, names, limit=HISTORY),
        )


def judge(facts: Facts, rules: Rules) -> Judgement:
    """Pure. One integrity error is enough; the number of other new kinds is tested."""
    hit = Counter[str]()
    for one in facts.new:
        hit[one.kind] += one.jobs
    found = new_kinds(
        facts.history.kinds,
        hit,
        jobs_before=facts.history.jobs,
        jobs_after=max(facts.jobs, *hit.values(), 0),  # one that waits for its retry has not ended
        alpha=looks.spent(1 - rules.confidence, facts.jobs),
    )
    left = pace(facts.jobs, LEAST, facts.seconds)
    verdict, said, about = _told(facts, found, left)
    wrong = about if verdict is not Verdict.PROVEN else ()
    return Judgement(
        verdict=verdict,
        said=said,
        evidence={
            "have": facts.jobs, "need": LEAST, "unit": "jobs", "per_minute": left.per_minute, "seconds_left": left.seconds_left,
            "new": len(hit), "kinds": len({one.kind for one in facts.kinds}), "expected": found.expected,
            "p_value": found.p_value, "jobs_before": facts.history.jobs,
            "errors": {one.label: one.runs for one in (*about, *facts.kinds)[:20]},
        },
        notes=tuple(_note(one) for one in about[:NAMED]),
        jobs=tuple(one.job_id for one in wrong[:NAMED]),
        traces=tuple(one.trace_id for one in wrong[:NAMED] if one.trace_id),
        next=(f"toolkit jobs show {wrong[0].job_id}", "toolkit jobs failed") if wrong else (),
    )  # fmt: skip


def _told(facts: Facts, found: NewKinds, left: Pace) -> tuple[Verdict, str, Sequence[ErrorKind]]:
    """The verdict, in words, and the kinds that it is about."""
    new, jobs = facts.new, f"{facts.jobs:,} jobs"
    if facts.integrity:
        return Verdict.REGRESSION, f"integrity error: {_named(facts.integrity)}", facts.integrity
    if found.verdict is Verdict.REGRESSION:
        said = f"new kinds of error: {_named(new)}; {found.expected:.1f} would be expected with no change"
        return Verdict.REGRESSION, said, new
    if facts.jobs < LEAST:
        so_far = f"new so far: {_named(new)}" if new else "nothing new so far"
        return Verdict.PENDING, f"{facts.jobs}/{LEAST} jobs, {so_far}{looks.left(left)}", new
    if not new:
        return Verdict.PROVEN, f"no {'new ' if facts.kinds else ''}kind of error in {jobs}", new
    if not facts.history.jobs:
        said = f"{jobs} had {_named(new)}: new or not, the ledger has no run of before to tell"
        return Verdict.INCONCLUSIVE, said, new
    return found.verdict, f"{jobs} had {_named(new)}: {found.why}", new


def _note(one: ErrorKind) -> str:
    said = one.message.partition("\n")[0][:120]
    return f"{one.label}, {one.runs}×, e.g. job {one.job_id}{f': {said}' if said else ''}"


def _named(kinds: Sequence[ErrorKind]) -> str:
    more = f" and {len(kinds) - NAMED} more" if len(kinds) > NAMED else ""
    return ", ".join(f"{one.label} {one.runs}×" for one in kinds[:NAMED]) + more


CHECK = Check(
    name="no-new-errors",
    phase=Phase.IMMEDIATE,
    symptom="❌ [RETRY] Create product image for draft … failed with non-retryable error, never seen before the deployment",
    rule="no more kinds of error unseen before than with no change, and no integrity error, in 59 jobs or more",
    runbook="ErrorBudgetBurnFast",
    look=look,
    judge=judge,
    confounded=frozenset(),  # errors are charged to the release that made them, whatever happened in between
)
