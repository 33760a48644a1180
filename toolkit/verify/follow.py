"""Looking until there is a verdict, or nobody wants to wait any longer.

One shot waits only for what is under way: the planted violation, the probe, test orders. Watching waits for evidence, too.
While PostgreSQL is away it is asked again, for as long as there is time. Defaults: a look every 0.5 s while something is under
way, else every 5 s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from toolkit.errors import DependencyUnreachable
from toolkit.ledger.database import is_connection_loss
from toolkit.ledger.trouble import UNREACHABLE
from toolkit.verify.runner import Verifier
from toolkit.verify.verdict import Receipt, Verdict

T = TypeVar("T")

SOON: Final = 0.5
LATER: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """Follows one verification. `told` hears each look, `trouble` that PostgreSQL is away."""

    verifier: Verifier
    watch: bool
    within: float
    told: Callable[[Receipt], object]
    trouble: Callable[[str], object]
    sleep: Callable[[float], object] = time.sleep
    monotonic: Callable[[], float] = time.monotonic

    def follow(self) -> Receipt:
        """The receipt with its verdict. Raises Refused when another runner has it, DependencyUnreachable when PostgreSQL does not
        come back in time."""
        began = self.monotonic()
        self._patiently(began, self.verifier.prepare)
        while True:
            receipt = self._patiently(began, self.verifier.run_once)
            self.told(receipt)
            pause = self._pause(receipt)
            if pause is None or self.monotonic() - began + pause > self.within:
                break
            self.sleep(pause)  # evidence comes from many processes; there is no one signal to wait for
        return self._patiently(began, lambda: self.verifier.finish(receipt))

    def _pause(self, receipt: Receipt) -> float | None:
        """Seconds until the next look; None when this was the last."""
        if receipt.verdict is Verdict.REGRESSION and self.verifier.asked.fail_fast:
            return None
        pending = receipt.of(Verdict.PENDING)
        if any(one.judgement.soon for one in receipt.findings) or self.verifier.topping_up:
            return SOON
        waits = self.watch and pending and receipt.verdict is not Verdict.REGRESSION
        return LATER if waits else None

    def _patiently(self, began: float, action: Callable[[], T]) -> T:
        while True:
            try:
                return action()
            except (*UNREACHABLE, DependencyUnreachable) as error:
                lost = isinstance(error, DependencyUnreachable) or is_connection_loss(error)
                if not lost or not self.watch or self.monotonic() - began + LATER > self.within:
                    raise
                self.trouble(" ".join(str(error).split()))
                self.sleep(LATER)
