"""How many test orders to place now, so that the evidence comes to be enough. Pure.

Only the checks that count clean jobs can be topped up: they say `clean` and `needed` in their evidence. At most AHEAD orders
are on their way at once, and no more than TWICE what is needed are ever placed: where orders do not get through, more of them
prove nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from toolkit.ledger.verifications import PlacedOrder
from toolkit.verify.verdict import Finding

AHEAD: Final = 50
TWICE: Final = 2


def lacking(findings: Sequence[Finding]) -> tuple[int, int]:
    """Clean jobs that the neediest check lacks, and how many it needs in all."""
    counted = [
        (
            int(one.judgement.evidence["needed"]) - int(one.judgement.evidence["clean"]),
            int(one.judgement.evidence["needed"]),
        )
        for one in findings
        if {"clean", "needed"} <= one.judgement.evidence.keys()
    ]
    return max(counted, default=(0, 0))


def to_place(
    findings: Sequence[Finding], orders: Sequence[PlacedOrder], *, rate: float, seconds: float
) -> int:
    """Orders to place now, at `rate` a second, `seconds` after the last time."""
    lack, needed = lacking(findings)
    under_way = sum(order.done_at is None for order in orders)
    placed = sum(order.purpose == "top-up" for order in orders)
    room = min(AHEAD - under_way, TWICE * needed - placed)
    return max(0, min(lack - under_way, room, round(rate * seconds) or 1))
