"""The receipt of a flip: which processes go by the new version, and who does not. Pure.

A process counts while its connection to the ledger is open. One that has none can neither read the toggle nor write an
order, since both lie in one database; it is named as gone, and is not waited for. When it comes back it reads first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.ledger.toggles import SeenBy, Toggle


@dataclass(frozen=True, slots=True)
class Receipt:
    """Who acknowledged `version` (or a later one), who is connected and has not, and who is not connected any more."""

    version: int
    acknowledged: Sequence[SeenBy]
    laggards: Sequence[SeenBy]
    gone: Sequence[SeenBy]

    @property
    def complete(self) -> bool:
        """Every process that may act goes by this version."""
        return not self.laggards


def receipt(version: int, processes: Sequence[SeenBy]) -> Receipt:
    """Sort the processes by what they have seen."""
    connected = [one for one in processes if one.connected]
    return Receipt(
        version=version,
        acknowledged=[one for one in connected if (one.version or 0) >= version and one.version is not None],
        laggards=[one for one in connected if one.version is None or one.version < version],
        gone=[one for one in processes if not one.connected],
    )


def took(flip: Toggle, seen: Receipt) -> float | None:
    """Seconds from the flip until the last process that ran before it went by it. None: not all do, or there was none."""
    acknowledged = [one.acked_at for one in seen.acknowledged if one.acked_at and one.started_at < flip.at]
    if not seen.complete or not acknowledged:
        return None
    return (max(acknowledged) - flip.at).total_seconds()
