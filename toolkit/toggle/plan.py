"""What a flip would make of a toggle, and whether it may: pure.

Towards safe (sync) a reason is enough. Towards async a verdict of `verify-deploy` is asked for: without one, or with a bad
one, a warning. A whole flip off takes pins towards async away, because off must mean off; pins towards sync stay until the
merchant is turned on again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from toolkit.errors import UsageError
from toolkit.ledger.toggles import Toggle


class InFlight(StrEnum):
    """What becomes of the jobs that are queued already."""

    FINISH = "finish"  # the workers do them
    RECLAIM = "reclaim"  # taken back, and done by the command, one after another
    HOLD = "hold"  # taken back, and kept in the ledger until the next flip


HOLD_FOR_GOOD: Final = float("inf")
FOREVER: Final = 9999
"""The year in which PostgreSQL's infinity arrives in Python."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the operator wants. `percent` and `lease` (seconds) only with `on`; `merchant`: only that one."""

    on: bool
    reason: str
    percent: int | None = None
    merchant: str | None = None
    lease: float | None = None
    in_flight: InFlight = InFlight.FINISH
    force: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The next version's state. `hold` in seconds (None: nothing is held); `warnings` for the operator."""

    version: int
    enabled: bool
    percent: int
    pins: Mapping[str, bool]
    hold: float | None
    lease: float | None
    warnings: Sequence[str] = field(default=())


def plan(
    name: str,
    standing: Toggle | None,
    request: Request,
    *,
    switched_off: bool,
    reclaim_hold: float,
    doubt: str = "no verify-deploy verdict is known for this release",
) -> Plan:
    """The flip that `request` asks for, from the version that stands (None: never flipped, that is async).

    `reclaim_hold`: seconds that a reclaim may take for one job; `doubt`: why the release is not known to be good, '' when
    verify-deploy has proven it. Raises UsageError for a request that means nothing.
    """
    _check(name, request)
    enabled = standing.enabled if standing else True
    percent = standing.percent if standing else 100
    pins = dict(standing.pins) if standing else {}
    hold = {InFlight.FINISH: None, InFlight.HOLD: HOLD_FOR_GOOD, InFlight.RECLAIM: reclaim_hold}[
        request.in_flight
    ]
    if request.merchant is not None:
        pins[request.merchant] = request.on
        if standing and standing.held_until and standing.held_until.year == FOREVER:
            hold = HOLD_FOR_GOOD  # a pin is not about what is held
    else:
        enabled = request.on
        percent = (request.percent if request.percent is not None else 100) if request.on else percent
        if not request.on:
            pins = {merchant: value for merchant, value in pins.items() if not value}
    warnings = []
    if request.on and doubt and not request.force:
        warnings.append(f"{doubt}; --force says that you know it is safe")
    if request.on and switched_off:
        warnings.append(
            f"{name}=false stands in this command's environment: a process that has it too stays sync, whatever the ledger says"
        )
    if request.on and any(not value for value in pins.values()) and request.merchant is None:
        kept = ", ".join(sorted(merchant for merchant, value in pins.items() if not value))
        warnings.append(f"these merchants stay pinned to sync: {kept}")
    return Plan(
        version=standing.version if standing else 0,
        enabled=enabled,
        percent=percent,
        pins=pins,
        hold=hold,
        lease=request.lease,
        warnings=warnings,
    )


def _check(name: str, request: Request) -> None:
    if not request.reason.strip():
        raise UsageError(
            "a flip needs a reason", remedy=f'toolkit toggle … {name} --reason "what you saw, or the ticket"'
        )
    if not request.on and request.percent is not None:
        raise UsageError(
            "--percent goes with `on`: off is off for all", remedy="toolkit toggle on … --percent N"
        )
    if request.merchant is not None and request.percent is not None:
        raise UsageError(
            "--percent and --merchant do not go together: a pin is for every order of the merchant",
            remedy="leave one of them out",
        )
    if request.in_flight is not InFlight.FINISH and (request.on or request.merchant is not None):
        raise UsageError(
            f"--in-flight {request.in_flight} goes with `off` for all",
            remedy="queued jobs are not told apart by merchant",
        )
