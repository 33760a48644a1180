"""The toggles in a supervisor's metrics and log: what is in force here, whether it is stale, and leases that are over.

A lease reminds, and never flips: the log says so when it ends and every REMIND seconds after, until somebody flips.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from toolkit.telemetry import catalog
from toolkit.telemetry.logs import Log
from toolkit.telemetry.metrics import Metrics
from toolkit.toggle.decide import Known, Layer, layer, variant
from toolkit.toggle.watch import Event, Watcher

REMIND = 900.0


@dataclass(slots=True)
class ToggleGauges:
    """`heard` is the watcher's listener; `run_once` is to be called every second or so."""

    watcher: Watcher
    metrics: Metrics
    log: Log
    now: Callable[[], datetime]
    _reminded: dict[str, tuple[int, datetime]] = field(default_factory=dict)

    def heard(self, event: Event, name: str, known: Known) -> None:
        """Something changed: tell it, and show it at once."""
        shown = self._show(name, known)
        if event in {"stale", "error"}:
            catalog.emit(
                self.log, catalog.TOGGLE_STORE_AWAY, toggle=name, variant=shown, error_message=known.why
            )
        else:
            catalog.emit(
                self.log,
                catalog.TOGGLE_CHANGED,
                toggle=name,
                variant=shown,
                version=known.version,
                layer=str(layer(known, switched_off=self.watcher.switched_off(name))),
            )

    def run_once(self) -> None:
        """Show every toggle, and remind of leases that are over."""
        for name in self.watcher.names:
            known = self.watcher.known(name)
            self._remind(name, known, self._show(name, known))

    def _show(self, name: str, known: Known) -> str:
        off = self.watcher.switched_off(name)
        shown = variant(known, switched_off=off)
        source = layer(known, switched_off=off)
        self.metrics.set_toggle(
            name,
            variant=shown,
            version=str(known.version) if source in {Layer.LEDGER, Layer.DEFAULT} else source.value,
            enabled=shown != "sync",
        )
        held = known.toggle.held_until if known.toggle else None
        self.metrics.set_toggle_state(
            name,
            stale=known.stale_since is not None,
            overdue=self._overdue(known),
            held=held is not None and held > self.now(),
        )
        return shown

    def _overdue(self, known: Known) -> float:
        lease = known.toggle.lease_until if known.toggle else None
        return max(0.0, (self.now() - lease).total_seconds()) if lease else 0.0

    def _remind(self, name: str, known: Known, shown: str) -> None:
        overdue, toggle = self._overdue(known), known.toggle
        if not overdue or toggle is None:
            return
        last = self._reminded.get(name)
        if last is not None and last[0] == toggle.version and (self.now() - last[1]).total_seconds() < REMIND:
            return
        self._reminded[name] = (toggle.version, self.now())
        catalog.emit(
            self.log, catalog.TOGGLE_LEASE_OVER, toggle=name, variant=shown, overdue=overdue, reason=toggle.reason,
            who=toggle.who, version=toggle.version,
        )  # fmt: skip
