"""How a detector stands to the planted violation, in one place for all of them. Pure."""

from __future__ import annotations

from datetime import datetime

from toolkit.verify.detect import Planted, Sight


def judged(planted: Planted | None, *, seen: bool, now: datetime, lag: float) -> tuple[Sight, str]:
    """Seen, or why not. The `lag` (seconds) runs from the moment a worker met the violation: a long queue blinds nobody. What
    is seen before any worker has met it is not it."""
    if planted is None:
        return Sight.NOT_YET, "nothing was planted yet"
    if seen and (planted.run_at or planted.trouble):
        return Sight.SEEN, ""
    if planted.trouble:
        return Sight.BLIND, planted.trouble
    if planted.run_at is None:
        return Sight.NOT_YET, "the planted violation waits for a worker of the release"
    waited = (now - planted.run_at).total_seconds()
    if waited <= lag:
        return Sight.NOT_YET, f"a worker met the planted violation {max(0.0, waited):.0f} s ago"
    return Sight.BLIND, f"the violation that was planted {waited:.0f} s ago is not there"
