"""Flip a toggle, and wait until every process has acknowledged it.

    plan → compare-and-set (with history and audit) → NOTIFY → each process reads, obeys, acknowledges → receipt

Emits: toggle.flipped, toggle.receipt or toggle.laggards; span `flip toggle`. A complete receipt's time is kept in the audit:
verify-deploy ranks its rescues by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry.trace import Span, Tracer

from toolkit.ledger import audit, toggles
from toolkit.ledger.database import Database
from toolkit.ledger.toggles import Toggle
from toolkit.telemetry import catalog
from toolkit.telemetry.logs import Log
from toolkit.toggle.decide import Known, variant
from toolkit.toggle.plan import Plan
from toolkit.toggle.receipt import Receipt, receipt, took

KEPT = "toggle receipt"
"""The audit's action: `seconds` until the last of `processes` went by `version`."""
LOOK = 0.02
"""Seconds between two looks at who has acknowledged."""


@dataclass(frozen=True, slots=True)
class Flipper:
    """Flips for one operator."""

    database: Database
    tracer: Tracer
    log: Log
    who: str
    monotonic: Callable[[], float] = time.monotonic

    def flip(self, name: str, plan: Plan, *, jobs: tuple[str, ...], reason: str) -> Toggle:
        """Carry the plan out. Raises FlipLost when the toggle has moved on since the plan was made."""
        with self.tracer.start_as_current_span(
            catalog.SPAN_FLIP, attributes={catalog.FLAG_KEY: name}
        ) as span:
            with self.database.session() as session:
                standing = toggles.flip(
                    session, name, version=plan.version, enabled=plan.enabled, percent=plan.percent, pins=plan.pins,
                    jobs=jobs, hold=plan.hold, lease=plan.lease, who=self.who, reason=reason,
                )  # fmt: skip
            shown = self._describe(span, standing)
            catalog.emit(
                self.log, catalog.TOGGLE_FLIPPED, toggle=name, variant=shown, version=standing.version, reason=reason,
                who=self.who, percent=standing.percent, pins=dict(standing.pins),
            )  # fmt: skip
        return standing

    def _describe(self, span: Span, standing: Toggle) -> str:
        shown = variant(Known(reached=True, toggle=standing), switched_off=False)
        span.set_attributes(
            {
                catalog.FLAG_VARIANT: shown,
                catalog.FLAG_VERSION: str(standing.version),
                "toggle.actor": standing.who,
                "toggle.reason": standing.reason,
                "toggle.percent": standing.percent,
            }
        )
        return shown

    def await_receipt(
        self, standing: Toggle, *, within: float, told: Callable[[Receipt, float], None] | None = None
    ) -> Receipt:
        """Until every connected process goes by this version, or `within` seconds have passed. `told` gets each look and
        the seconds since the wait began."""
        began = self.monotonic()
        with self.tracer.start_as_current_span(
            catalog.SPAN_RECEIPT, attributes={catalog.FLAG_KEY: standing.name}
        ) as span:
            while True:
                with self.database.session() as session:
                    seen = receipt(standing.version, toggles.seen_by(session, standing.name))
                waited = self.monotonic() - began
                if told is not None:
                    told(seen, waited)
                if seen.complete or waited >= within:
                    break
                time.sleep(
                    LOOK
                )  # acknowledgements come from many processes; there is no one signal to wait for
            span.set_attributes(
                {"toggle.acknowledged": len(seen.acknowledged), "toggle.laggards": len(seen.laggards)}
            )
            if seen.complete:
                self._keep(standing, seen)
                catalog.emit(
                    self.log, catalog.TOGGLE_RECEIPT, toggle=standing.name, version=standing.version,
                    acknowledged=len(seen.acknowledged), duration=waited,
                )  # fmt: skip
            else:
                catalog.emit(
                    self.log, catalog.TOGGLE_LAGGARDS, toggle=standing.name, version=standing.version,
                    laggards=", ".join(one.process for one in seen.laggards),
                )  # fmt: skip
        return seen

    def _keep(self, standing: Toggle, seen: Receipt) -> None:
        seconds = took(standing, seen)
        if seconds is None:
            return
        detail = {"version": standing.version, "seconds": seconds, "processes": len(seen.acknowledged)}
        with self.database.session() as session:
            audit.write(
                session, who=self.who, action=KEPT, subject=standing.name, reason=standing.reason, detail=detail
            )  # fmt: skip
