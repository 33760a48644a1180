"""No new kinds of error: none that this release has and no other had, but for those that turn up with no change at all.

Errors are charged to the release whose run emitted them. How many kinds unseen before are to be expected with no change is told
by the kinds that the runs before had only once (Good-Toulmin; toolkit/verify/evidence/kinds.py). That counts kinds; one new kind
that keeps coming is told by `recurring`. An integrity error, SQLSTATE class 23, is a regression however often it was there
before. Test orders count: an error is one, whoever asked. The planted error is left out with its job.

Whether a kind is new is asked of the whole ledger; what to expect, of the newest HISTORY runs before the window.
Known weaknesses: with no run of an earlier release in the ledger, nobody can say which kinds are new; with a --since later than
the deployment, the release's own early errors are known ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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


def recurring(before: Mapping[str, int], new: Mapping[str, int], share: float, alpha: float) -> set[str]:
    """Kinds that would not all have kept away until now: each of a kind's k hits falls into the window with the probability
    `share` = jobs after / jobs in all, so with no change at most N·share^k of the N kinds with k hits or more are new.

    The conditional binomial of `new_kinds` (Przyborowski & Wilenski, Biometrika 31, 1940), a kind at a time.
    """
    counts = [*before.values(), *new.values()]
    return {kind for kind, hits in new.items() if sum(one >= hits for one in counts) * share**hits <= alpha}


def judge(facts: Facts, rules: Rules) -> Judgement:
    """Pure. One integrity error is enough; other new kinds are tested by their number, and each by its hits."""
    before, hit = facts.history, Counter[str]()
    for one in facts.new:
        hit[one.kind] += one.jobs
    after = max(facts.jobs, *hit.values(), 0)  # a job that waits for its retry has not ended
    alpha = looks.spent(1 - rules.confidence, facts.jobs) / 2  # for two tests
    found = new_kinds(before.kinds, hit, jobs_before=before.jobs, jobs_after=after, alpha=alpha)
    often = recurring(before.kinds, hit, after / (after + before.jobs), alpha) if before.jobs else set[str]()
    left = pace(facts.jobs, LEAST, facts.seconds)
    verdict, said, about = _told(facts, found, often, left)
    wrong = about if verdict is not Verdict.PROVEN else ()
    steps = ("toolkit verify-deploy --top-up",) if verdict is Verdict.PENDING else ()
    return Judgement(
        verdict=verdict,
        said=said,
        evidence={
            "have": facts.jobs, "need": LEAST, "unit": "jobs", "per_minute": left.per_minute, "seconds_left": left.seconds_left,
            "new": len(hit), "kinds": len({one.kind for one in facts.kinds}), "expected": found.expected,
            "p_value": found.p_value, "recurring": sorted(often), "jobs_before": before.jobs,
            "errors": {one.label: one.runs for one in (*about, *facts.kinds)[:20]},
        },
        notes=tuple(_note(one) for one in about[:NAMED]),
        jobs=tuple(one.job_id for one in wrong[:NAMED]),
        traces=tuple(one.trace_id for one in wrong[:NAMED] if one.trace_id),
        next=(f"toolkit jobs show {wrong[0].job_id}", "toolkit jobs failed") if wrong else steps,
    )  # fmt: skip


def _told(
    facts: Facts, found: NewKinds, often: set[str], left: Pace
) -> tuple[Verdict, str, Sequence[ErrorKind]]:
    """The verdict, in words, and the kinds that it is about."""
    new, jobs = facts.new, f"{facts.jobs:,} jobs"
    if facts.integrity:
        return Verdict.REGRESSION, f"integrity error: {_named(facts.integrity)}", facts.integrity
    if often or found.verdict is Verdict.REGRESSION:
        about = [one for one in new if one.kind in often] or new
        said = f"new kinds of error: {_named(about)}, none of them in the {facts.history.jobs:,} jobs before"
        return Verdict.REGRESSION, said, about
    if facts.jobs < LEAST:
        so_far = f"new so far: {_named(new)}" if new else "nothing new so far"
        return Verdict.PENDING, f"{facts.jobs}/{LEAST} jobs, {so_far}{left.words}", new
    if not new:
        return Verdict.PROVEN, f"no {'new ' if facts.kinds else ''}kind of error in {jobs}", new
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
    fed=True,
    confounded=frozenset(),  # errors are charged to the release that made them, whatever happened in between
)
