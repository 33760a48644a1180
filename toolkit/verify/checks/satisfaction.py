"""User satisfaction: the share of results that users approved, beside the last proven release's.

What the job's hooks count are decisions on what was made in a window. Newcombe's interval of the difference must lie above
-Rules.approved; below it is a regression. Where too few decisions were made, or there is no release to compare with, somebody
may vouch for it (`toolkit attest`): that proves it while it is valid, but never against the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from toolkit.ledger import verifications
from toolkit.ledger.reading import reading
from toolkit.ledger.verifications import Attestation
from toolkit.verify import looks
from toolkit.verify.check import Check, Phase, Scene
from toolkit.verify.evidence import wilson
from toolkit.verify.rules import Rules
from toolkit.verify.verdict import Judgement, Verdict

NAME = "user-satisfaction"


@dataclass(frozen=True, slots=True)
class Decisions:
    """Of `decided` results, those `approved`."""

    approved: int
    decided: int

    @property
    def shown(self) -> str:
        """`45 of 50 approved (90 %)`."""
        if not self.decided:
            return "nothing was decided on"
        return f"{self.approved:,} of {self.decided:,} approved ({self.approved / self.decided:.0%})"


@dataclass(frozen=True, slots=True)
class Facts:
    """This release's window, that of the last proven one (None: there is none), and who vouches (None: nobody)."""

    now: Decisions
    before: Decisions | None
    previous: str
    attested: Attestation | None


def look(scene: Scene) -> Facts:
    """The catalog through the job's hooks, and the ledger."""
    target, hooks = scene.target, scene.spec.verify
    now, before = Decisions(0, 0), None
    with reading(scene.database) as session:
        if hooks is not None:
            now = Decisions(*hooks.approved(session, target.since, target.now))
            if target.before is not None:
                before = Decisions(*hooks.approved(session, *target.before))
        return Facts(now, before, target.previous, verifications.attested(session, NAME, target.release))


def newcombe(now: Decisions, before: Decisions, confidence: float) -> tuple[float, float]:
    """The interval of the difference of two shares, now - before. Nothing counted on a side: as wide as can be.

    Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine 17 (1998),
    873-890, method 10: from the Wilson intervals of both.
    """
    share, share_before = (one.approved / one.decided if one.decided else 0.5 for one in (now, before))
    low, high = wilson(now.approved, now.decided, confidence)
    low_before, high_before = wilson(before.approved, before.decided, confidence)
    difference = share - share_before
    return (
        difference - math.hypot(share - low, high_before - share_before),
        difference + math.hypot(high - share, share_before - low_before),
    )


def judge(facts: Facts, rules: Rules) -> Judgement:
    """Pure. Figures that say worse are believed before any word."""
    now, before = facts.now, facts.before
    compared = before if before is not None and before.decided else None
    low, high = -1.0, 1.0
    if compared is not None:
        size = min(now.decided, compared.decided)
        # One-sided: each end may be wrong in one of 1 - confidence.
        confidence = 1 - 2 * looks.spent(1 - rules.confidence, size)
        low, high = newcombe(now, compared, confidence)
    figures = {
        "approved": now.approved, "decided": now.decided, "difference_low": low, "difference_high": high,
        "allowed": -rules.approved,
        "before": {"approved": compared.approved, "decided": compared.decided} if compared else None,
        "attested_by": facts.attested.who if facts.attested else None,
    }  # fmt: skip
    beside = f"release {facts.previous}: {before.shown}" if before else "no proven release to compare with"
    said = f"{now.shown}; {beside}"
    if compared is not None and high < -rules.approved:
        said = f"users approve less, by {-high:.0%} at least: {said}"
        return Judgement(verdict=Verdict.REGRESSION, said=said, evidence=figures)
    if compared is not None and low > -rules.approved:
        return Judgement(verdict=Verdict.PROVEN, said=said, evidence=figures)
    if facts.attested is not None:
        word = facts.attested
        vouched = f"{word.who} vouches for it until {word.valid_until:%Y-%m-%d %H:%M} UTC: {word.evidence}"
        return Judgement(verdict=Verdict.PROVEN, said=vouched, evidence=figures, notes=(said,))
    too_few = f", too few to tell (from {low:+.0%} to {high:+.0%})" if compared and now.decided else ""
    return Judgement(
        verdict=Verdict.PENDING,
        said=f"{said}{too_few}",
        evidence=figures,
        next=(f"toolkit attest {NAME} --evidence URL --by NAME --valid 7d",),
    )


CHECK = Check(
    name=NAME,
    phase=Phase.LONG_TERM,
    symptom="User confusion (no images in review)",
    rule="the share of results that users approve is not 10 points below the last proven release's, or somebody vouches",
    runbook="ImagesMissing",
    look=look,
    judge=judge,
)
