"""What every report says in the same words: cleaned texts, headline, evidence as have and need, times. Pure.

A check whose evidence is counted names it in its judgement's evidence: `have`, `need` and `unit` (31, 59, "jobs"), or `clean`
and `needed` for clean jobs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from toolkit import redact
from toolkit.telemetry.draw import duration
from toolkit.verify.verdict import Finding, Receipt, Verdict

MARKS: Final = {
    Verdict.PROVEN: "✔",
    Verdict.REGRESSION: "✗",
    Verdict.INCONCLUSIVE: "?",
    Verdict.PENDING: "…",
}
"""A verdict where there is no colour."""
_COUNTED: Final = (("have", "need", ""), ("clean", "needed", "clean jobs"))


@dataclass(frozen=True, slots=True)
class Collected:
    """How much evidence a check has, and how much it needs."""

    check: str
    verdict: Verdict
    have: int
    need: int
    unit: str

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return min(1.0, max(0.0, self.have / self.need)) if self.need > 0 else 0.0

    @property
    def said(self) -> str:
        """`31 of 59 clean jobs`."""
        return f"{self.have:,} of {self.need:,} {self.unit}".strip()


def cleaned(receipt: Receipt) -> Receipt:
    """The same receipt, fit for others' eyes: credentials masked, every text one line of printable characters, later phases in
    their order, which the ledger's JSON does not keep."""
    shown: Receipt = msgspec.convert(_clean(msgspec.to_builtins(receipt)), Receipt)
    later = sorted(shown.later.items(), key=lambda phase: phase[1])
    return msgspec.structs.replace(shown, later=dict(later))


def _clean(item: Any) -> Any:
    if isinstance(item, str):
        return printable(redact.text(item))
    if isinstance(item, dict):
        return {_clean(key): _clean(value) for key, value in item.items()}
    if isinstance(item, list | tuple):
        return [_clean(part) for part in item]
    return item


def printable(text: str) -> str:
    """One line without control characters, lone surrogates or marks that turn the direction of reading."""
    return "".join(character if character.isprintable() else " " for character in text).strip()


def headline(receipt: Receipt) -> str:
    """`regression: release 4811ec9`; says when a later phase is still to come."""
    so_far = " so far" if receipt.verdict is Verdict.PROVEN and receipt.later else ""
    return f"{receipt.verdict}{so_far}: release {receipt.release}"


def why(receipt: Receipt) -> str:
    """The verdict's reason in one sentence: what the checks that made it say, or how many are proven."""
    deciding = receipt.of(receipt.verdict)
    if receipt.verdict is Verdict.PROVEN:
        return f"{len(deciding)} of {len(receipt.findings)} checks proven"
    if not deciding:
        return "no check has said anything"
    others = len(deciding) - 1
    more = f"; and {others} more check{'s' if others > 1 else ''}" if others else ""
    return f"{deciding[0].check}: {deciding[0].judgement.said}{more}"


def phases(receipt: Receipt) -> Iterator[tuple[str, list[Finding]]]:
    """The phases that were looked at, in order, with their findings."""
    for phase in dict.fromkeys(finding.phase for finding in receipt.findings):
        yield phase, [finding for finding in receipt.findings if finding.phase == phase]


def commands(receipt: Receipt) -> tuple[str, ...]:
    """What to type next, the worst finding's first; rescues are not among them."""
    order = (Verdict.REGRESSION, Verdict.INCONCLUSIVE, Verdict.PENDING, Verdict.PROVEN)
    told = [one for verdict in order for finding in receipt.of(verdict) for one in finding.judgement.next]
    return tuple(dict.fromkeys(told))


def blind(receipt: Receipt) -> dict[str, list[str]]:
    """Sources that could not be believed or asked, and the checks that wanted them."""
    found: dict[str, list[str]] = {}
    for finding in receipt.findings:
        for source in dict.fromkeys((*finding.judgement.blind, *finding.judgement.unreachable)):
            found.setdefault(source, []).append(finding.check)
    return found


def collected(receipt: Receipt) -> list[Collected]:
    """The checks that name how much evidence they have and need, in the receipt's order."""
    found = []
    for finding in receipt.findings:
        told = finding.judgement.evidence
        for have, need, unit in _COUNTED:
            if isinstance(told.get(have), int) and isinstance(told.get(need), int):
                of = str(told.get("unit", unit))
                found.append(Collected(finding.check, finding.verdict, told[have], told[need], of))
                break
    return found


def quantile(ordered: Sequence[float], share: float) -> float:
    """The least of the values, which are in order of size, that at least this share of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def when(moment: datetime) -> str:
    """`2025-10-11 17:15:22 UTC`."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def span(seconds: float | None) -> str:
    """A duration for people; `never measured here` for None."""
    return "never measured here" if seconds is None else duration(seconds)
