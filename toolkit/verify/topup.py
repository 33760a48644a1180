"""How many test orders to place now, so that the evidence comes to be enough, and no faster than the rate. Pure.

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


def wanted(findings: Sequence[Finding], orders: Sequence[PlacedOrder]) -> int:
    """Orders that could be placed now, were it not for the rate."""
    lack, needed = lacking(findings)
    under_way = sum(order.done_at is None for order in orders)
    placed = sum(order.purpose == "top-up" for order in orders)
    room = min(AHEAD - under_way, TWICE * needed - placed)
    return max(0, min(lack - under_way, room))


def paced(wanted: int, owed: float) -> tuple[int, float]:
    """Orders to place now, and what is owed from then on. `owed`: orders that the rate allows by now; no more
    than one is kept, so that a time in which none was wanted is not made up for at once."""
    now = min(wanted, int(owed))
    return now, min(1.0, owed - now)
