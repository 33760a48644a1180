"""Detectors of foreign key errors, and the positive control: a detector counts only once it has seen a planted one.

A planted violation goes the whole way of a real one: `verify-deploy` asks for the control job (toolkit/verify/control.py), a
worker of the deployed release runs it and meets SQLSTATE 23503 in temporary tables, rolled back; its run, counters and logs
tell of constraint CONTROL_CONSTRAINT. A detector that does not show it within Rules.lag is blind, whatever else it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from toolkit.telemetry.draw import duration


class Sight(StrEnum):
    """How a detector stands to the planted violation."""

    SEEN = "seen"
    NOT_YET = "not yet"
    BLIND = "blind"
    AWAY = "does not answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What a detector says. `errors`: foreign key errors of the release since the window began, planted ones left out, by
    constraint; `runs`: runs of the release that it knows of (None: it does not count runs). `unclaimed`:
    errors on constraints that are not the job's, which nothing says whose they are. `planted`: the planted violations that it
    shows. `jobs`, `traces`: examples. `detail`: why it is blind or away, and what to do."""

    source: str
    sight: Sight
    errors: dict[str, int]
    planted: int
    runs: int | None = None
    unclaimed: int = 0
    after: float | None = None
    """Seconds from the planting until it was seen; None when it was not."""
    jobs: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    detail: str = ""

    @property
    def total(self) -> int:
        """Foreign key errors."""
        return sum(self.errors.values())

    @property
    def said(self) -> str:
        """How the source is, for people."""
        if self.sight is Sight.SEEN and self.after is not None:
            return f"saw the planted error after {duration(self.after)}"
        return f"{self.sight.value}: {self.detail}" if self.detail else self.sight.value


@dataclass(frozen=True, slots=True)
class Planted:
    """The control of a verification: its job, when it was asked for, when the run that met the violation ended (None: not yet),
    and its trace. `trouble`: why no run will meet it, '' while one may."""

    job_id: str
    at: datetime
    run_at: datetime | None
    trace_id: str = ""
    trouble: str = ""

    @property
    def met_at(self) -> datetime:
        """When a worker met it; until then, when it was asked for. From here on detectors have their lag to see it."""
        return self.run_at or self.at


class Detector(Protocol):
    """One source of foreign key errors: the ledger, a supervisor's counters, Prometheus, a log."""

    @property
    def source(self) -> str:
        """Its name, in receipts."""

    @property
    def where(self) -> str:
        """What it reads, for people: a table, an address, a file."""

    def look(
        self, release: str, since: datetime, planted: Planted | None, now: datetime, lag: float
    ) -> Sighting:
        """What it shows of this release since then. Never raises for a source that is away: that is a Sighting, too."""
