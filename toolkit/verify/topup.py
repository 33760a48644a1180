"""How many test orders to place now, so that the evidence comes to be enough. Pure.

Only checks that are fed by test orders can be topped up: they say `have` and `need` in their evidence. At most AHEAD orders
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
    """Jobs that the neediest of these checks lacks, and how many it needs in all."""
    counted = [
        (
            int(one.judgement.evidence["need"]) - int(one.judgement.evidence["have"]),
            int(one.judgement.evidence["need"]),
        )
        for one in findings
        if {"have", "need"} <= one.judgement.evidence.keys()
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
