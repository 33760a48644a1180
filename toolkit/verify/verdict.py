"""What a check found, and what follows from it: verdicts, findings, the receipt. Pure.

    proven         the rule holds, and there is enough evidence that it does            exit code 0
    regression     the rule is broken                                                    1
    inconclusive   evidence is missing, stale, or its source cannot be believed          3
    pending        still collecting                                                      8

Silence is never a pass: a check without evidence is pending, and inconclusive once nobody waits for more.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec


class Verdict(StrEnum):
    """What a check, a phase or a whole verification comes to."""

    PROVEN = "proven"
    REGRESSION = "regression"
    INCONCLUSIVE = "inconclusive"
    PENDING = "pending"

    @property
    def exit_code(self) -> int:
        """The command's exit code (design, section 6)."""
        return _EXIT_CODES[self]


_EXIT_CODES = {Verdict.PROVEN: 0, Verdict.REGRESSION: 1, Verdict.INCONCLUSIVE: 3, Verdict.PENDING: 8}
_WORST_FIRST = (Verdict.REGRESSION, Verdict.PENDING, Verdict.INCONCLUSIVE, Verdict.PROVEN)
UNREACHABLE = 4
"""Exit code when a source does not answer, and nothing worse is known."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What a check's rule says of its facts. `said`: one line for people. `evidence`: its figures, by name, for programs and
    plots. `blind`, `unreachable`: sources that could not be believed, or asked. `jobs`, `traces`: examples of what is wrong.
    `next`: commands to type. `soon`: what is missing is under way, and a runner waits for it."""

    verdict: Verdict
    said: str
    soon: bool = False
    evidence: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    next: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A check's judgement in its phase. `since`: when its evidence begins; `took`: seconds."""

    check: str
    phase: str
    since: datetime
    took: float
    judgement: Judgement

    @property
    def verdict(self) -> Verdict:
        """The judgement's."""
        return self.judgement.verdict


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What happened inside the window and confounds it: `kind` is deployment, rollback or flip."""

    kind: str
    at: datetime
    what: str
    who: str


class Rescue(msgspec.Struct, frozen=True, kw_only=True):
    """A way back to safety: what to type, how long it takes until it is safe (seconds; None: never measured here), and by
    what that was measured."""

    name: str
    command: str
    seconds: float | None
    measured: str


class Moment(msgspec.Struct, frozen=True, array_like=True):
    """One slice of time in the plots: runs of the release that ended in it, by outcome, and foreign key errors."""

    at: datetime
    processed: int
    skipped: int
    failed: int
    lost: int
    fk_errors: int


class Plots(msgspec.Struct, frozen=True, kw_only=True):
    """What the page draws: outcomes over time in slices of `slice` seconds; run durations of this release and of the last
    proven one, in seconds, at most some hundred each, in order of size."""

    slice: float = 60.0
    moments: tuple[Moment, ...] = ()
    durations: tuple[float, ...] = ()
    before: tuple[float, ...] = ()


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """A verification as it stands: kept in the ledger, printed in every format. Times in UTC."""

    verification_id: int
    release: str
    previous: str
    since: datetime
    since_what: str
    started_at: datetime
    looked_at: datetime
    who: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    later: dict[str, datetime] = {}
    """Phases whose time has not come: their names, and when it does."""
    events: tuple[Event, ...] = ()
    sources: dict[str, str] = {}
    """Each source in use and how it is: `seen in 0.4 s`, `blind: …`, `does not answer: …`."""
    rescues: tuple[Rescue, ...] = ()
    certificate: str = ""
    """Whether the races of this release's code were explored (`toolkit rehearse certify`); not a verdict's business."""
    test_orders: int = 0
    left: int = 0
    """Rows of test orders that are in the catalog still, at the end."""
    plots: Plots = Plots()

    @property
    def exit_code(self) -> int:
        """0 proven, 1 regression, 3 inconclusive, 8 pending; 4 when a source does not answer and nothing is broken."""
        if self.verdict in {Verdict.REGRESSION, Verdict.PROVEN}:
            return self.verdict.exit_code
        if any(finding.judgement.unreachable for finding in self.findings):
            return UNREACHABLE
        return self.verdict.exit_code

    def of(self, verdict: Verdict) -> tuple[Finding, ...]:
        """The findings with this verdict."""
        return tuple(finding for finding in self.findings if finding.verdict is verdict)


def combined(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict of all together: any regression is one; nothing at all is inconclusive."""
    found = set(verdicts)
    return next((verdict for verdict in _WORST_FIRST if verdict in found), Verdict.INCONCLUSIVE)


def settled(judgement: Judgement) -> Judgement:
    """The judgement once nobody waits for more: pending becomes inconclusive."""
    if judgement.verdict is not Verdict.PENDING:
        return judgement
    return msgspec.structs.replace(judgement, verdict=Verdict.INCONCLUSIVE)


def unclean(finding: Finding, left: int, why: str) -> Finding:
    """The finding once test orders have left `left` rows behind: an order that went through and left something has not passed."""
    if finding.check != "end-to-end" or finding.verdict is not Verdict.PROVEN:
        return finding
    judgement = msgspec.structs.replace(
        finding.judgement,
        verdict=Verdict.REGRESSION,
        said=f"{left} rows of test orders could not be taken away{f' ({why})' if why else ''}; {finding.judgement.said}",
    )
    return msgspec.structs.replace(finding, judgement=judgement)
