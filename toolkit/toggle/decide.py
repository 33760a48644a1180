"""What a toggle says for one order: from the layers to a value, with the reason and who decided. Pure.

    environment   NAME=false                    always sync
    ledger        off → sync; a pin of the merchant, then on (percent: by a stable hash of the order id)
    default       never flipped → async
    (none)        the store was never reached → sync

Enabled means asynchronous, which is the risky side: whatever is not known is sync.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from toolkit.ledger.toggles import Toggle


class Layer(StrEnum):
    """Who decided."""

    ENVIRONMENT = "environment"
    LEDGER = "ledger"
    DEFAULT = "default"
    NONE = "none"


class Reason(StrEnum):
    """Why, in OpenFeature's words."""

    STATIC = "STATIC"  # the same for every order
    TARGETING_MATCH = "TARGETING_MATCH"  # the merchant is pinned
    SPLIT = "SPLIT"  # a share of the orders
    DEFAULT = "DEFAULT"  # nobody has flipped it, or nothing is known
    STALE = "STALE"  # the last known value; the store is away


@dataclass(frozen=True, slots=True)
class Known:
    """What a process knows of a toggle. `reached`: the store was read at least once; `toggle` None then means that it was
    never flipped. `stale_since`: the store has been away since then, and `why`."""

    reached: bool = False
    toggle: Toggle | None = None
    stale_since: datetime | None = None
    why: str = ""

    @property
    def version(self) -> int:
        """0: never flipped, or not known."""
        return self.toggle.version if self.toggle else 0


@dataclass(frozen=True, slots=True)
class Decision:
    """The value for one order. `variant` is async or sync; `why` is a sentence; `stale`: from a store that is away."""

    enabled: bool
    layer: Layer
    reason: Reason
    why: str
    version: int
    who: str
    stale: bool

    @property
    def variant(self) -> str:
        """The value's name."""
        return "async" if self.enabled else "sync"


def decide(
    name: str, known: Known, *, switched_off: bool, order_id: str | None = None, merchant: str | None = None
) -> Decision:
    """The value of toggle `name` for an order. `switched_off`: the environment says NAME=false."""
    toggle = known.toggle
    enabled, layer, reason, why = _layers(name, known, switched_off, order_id, merchant)
    stale = known.stale_since is not None and layer is not Layer.ENVIRONMENT
    return Decision(
        enabled=enabled,
        layer=layer,
        reason=Reason.STALE if stale and known.reached else reason,
        why=f"{why}; the store is away: {known.why}" if stale and known.reached else why,
        version=known.version,
        who=toggle.who if toggle and layer is Layer.LEDGER else "",
        stale=stale,
    )


def _layers(
    name: str, known: Known, switched_off: bool, order_id: str | None, merchant: str | None
) -> tuple[bool, Layer, Reason, str]:
    toggle = known.toggle
    if switched_off:
        return False, Layer.ENVIRONMENT, Reason.STATIC, f"the environment says {name}=false"
    if not known.reached:
        why = f"the store was never reached: {known.why}" if known.why else "the store was not read yet"
        return False, Layer.NONE, Reason.DEFAULT, why
    if toggle is None:
        return True, Layer.DEFAULT, Reason.DEFAULT, "never flipped"
    return _ledger(name, toggle, order_id, merchant)


def _ledger(
    name: str, toggle: Toggle, order_id: str | None, merchant: str | None
) -> tuple[bool, Layer, Reason, str]:
    told = f"{toggle.who} said so: {toggle.reason}"
    if merchant is not None and merchant in toggle.pins:
        value = "async" if toggle.pins[merchant] else "sync"
        pinned = f"merchant {merchant} is pinned to {value}"
        return toggle.pins[merchant], Layer.LEDGER, Reason.TARGETING_MATCH, pinned
    if not toggle.enabled or toggle.percent >= 100:
        return toggle.enabled, Layer.LEDGER, Reason.STATIC, told
    share = bucket(name, order_id) if order_id is not None else 100.0
    falls = f"this one falls at {share:.2f}" if order_id is not None else "and no order is named"
    return share < toggle.percent, Layer.LEDGER, Reason.SPLIT, f"{toggle.percent} % of the orders; {falls}"


def bucket(name: str, order_id: str) -> float:
    """Where an order falls, 0 ≤ x < 100, always the same: an order within 25 % is within 50 % too."""
    digest = hashlib.sha256(f"{name}:{order_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 10_000 / 100


def variant(known: Known, *, switched_off: bool) -> str:
    """What orders get that no pin names: async, sync, or split while a share of them is async."""
    if switched_off or not known.reached:
        return "sync"
    toggle = known.toggle
    if toggle is None:
        return "async"
    if not toggle.enabled or toggle.percent == 0:
        return "sync"
    return "async" if toggle.percent == 100 else "split"


def layer(known: Known, *, switched_off: bool) -> Layer:
    """The layer that decides for orders that no pin names."""
    return decide("", known, switched_off=switched_off).layer
