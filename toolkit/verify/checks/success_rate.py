"""Success rate: Wald's SPRT over the release's jobs, which may be looked at as often as one likes.

A job counts once, by its end: one that was retried to success is a success, one that killed its workers until it was given up
is a failure. Left out: test orders, the control job, and replays, which people choose among jobs that failed; the failure that
was replayed stays one.

A look that accepts does not end it: jobs that fail later count, too. That costs no false alarms, for the likelihood ratio of a
fine release reaches A in at most 1/A of all cases, however long one watches (Ville's inequality).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from toolkit.ledger import evidence as ledger
from toolkit.ledger.evidence import ErrorKind
from toolkit.ledger.reading import reading
from toolkit.run import Outcome
from toolkit.verify.check import Check, Phase, Scene
from toolkit.verify.evidence import Sprt, pace, wilson
from toolkit.verify.rules import Rules
from toolkit.verify.verdict import Judgement, Verdict

NAMED: Final = 3
"""Kinds of error that are named."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Jobs that came to a good end, and to a bad one, in `seconds`; the kinds of error of the release's runs, worst first."""

    good: int
    bad: int
    seconds: float
    kinds: Sequence[ErrorKind]

    @property
    def jobs(self) -> int:
        """Jobs that ended."""
        return self.good + self.bad


def look(scene: Scene) -> Facts:
    """The ledger."""
    target, name = scene.target, scene.spec.name
    window = ledger.Window(target.release, target.since, target.now)
    with reading(scene.database) as session:
        ended = ledger.ended_runs(session, window, name)
        lost = ledger.lost_jobs(session, window, name)
        kinds = ledger.error_kinds(session, window, [name])
    good = sum(
        one.runs for one in ended if one.outcome in {Outcome.PROCESSED, Outcome.SKIPPED} and not one.redundant
    )
    failed = sum(one.runs for one in ended if one.outcome == Outcome.FAILED and one.last)
    return Facts(good, failed + lost, (target.now - target.since).total_seconds(), kinds)


def judge(facts: Facts, rules: Rules) -> Judgement:
    """Pure."""
    test = Sprt(rules.p0, rules.p1, rules.alpha, rules.beta)
    low, high = wilson(facts.good, facts.jobs, rules.confidence)
    needed = test.least_to_accept(facts.bad)
    left = pace(facts.jobs, needed, facts.seconds)
    figures = {  # neither `have` nor `need`: test orders do not count here, so nothing can be topped up
        "jobs": facts.jobs, "needed": needed, "failures": facts.bad, "rate_low": low, "rate_high": high,
        "p0": rules.p0, "p1": rules.p1, "log_likelihood": test.log_likelihood(facts.bad, facts.jobs),
        "accept_at": test.lower, "reject_at": test.upper,
        "per_minute": left.per_minute, "seconds_left": left.seconds_left,
        "errors": {one.label: one.given_up for one in facts.kinds[:20] if one.given_up},
    }  # fmt: skip
    if not facts.jobs:
        return Judgement(
            verdict=Verdict.PENDING, said="no job has ended: nothing is known yet", evidence=figures
        )
    shown = f"{facts.good:,} of {facts.jobs:,} jobs ended well ({facts.good / facts.jobs:.1%}, between {low:.1%} and {high:.1%})"
    decision = test.decide(facts.bad, facts.jobs)
    if decision == "accept":
        return Judgement(verdict=Verdict.PROVEN, said=shown, evidence=figures)
    worst = [one for one in facts.kinds if one.given_up][:NAMED]
    top = ", ".join(f"{one.label} {one.given_up}×" for one in worst)
    about = f"; most of all {top}" if top else ""
    if decision == "continue":
        said = f"{shown}; {facts.jobs}/{needed} jobs if no more fail{left.words}{about}"
        return Judgement(verdict=Verdict.PENDING, said=said, evidence=figures)
    return Judgement(
        verdict=Verdict.REGRESSION,
        said=f"{shown}: more like {rules.p1:.1%} failures than {rules.p0:.1%}{about}",
        evidence=figures,
        jobs=tuple(one.job_id for one in worst),
        traces=tuple(one.trace_id for one in worst if one.trace_id),
        next=("toolkit jobs failed", *(f"toolkit jobs show {one.job_id}" for one in worst[:1])),
    )


CHECK = Check(
    name="success-rate",
    phase=Phase.LONG_TERM,
    symptom="Background jobs failing repeatedly",
    rule="Wald's SPRT accepts a failure rate of 0.5 % against one of 5 %, over the release's jobs",
    runbook="ErrorBudgetBurnFast",
    look=look,
    judge=judge,
    confounded=frozenset(),  # each job is charged to the release that ended it
)
