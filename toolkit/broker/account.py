"""Do the ledger and the counters agree on the runs of this supervisor's workers? They are made from one record, so they must.

A run is in the ledger before its worker tells of it, and told within seconds. So at any time the ledger has at least as many
runs as were told before the look, and the counters have at least those that ended some seconds ago. What two looks in a row
find lacking is counted in job_runs_unaccounted_total, by the side that lacks it.

Left out are lost runs (whichever supervisor buries them counts them) and deliveries that were not needed (a worker that is
killed just then tells nobody). Known weakness: a run that lacks on one side hides one that lacks on the other later.

Defaults: a run counts as told TOLD seconds after it ended; what ended SETTLED seconds ago is not looked at again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from toolkit.ledger import runs
from toolkit.ledger.database import Database
from toolkit.run import CORE_SKIP_REASONS, Outcome, RunRecord
from toolkit.telemetry.metrics import Metrics

TOLD: Final = 10.0
SETTLED: Final = 60.0

COUNTERS: Final = "counters"
LEDGER: Final = "ledger"


def lacking(*, told_before: int, told_after: int, due: int, ended: int) -> dict[str, int]:
    """Runs that each side lacks: told before and after the look, `ended` by the ledger, `due` of them to be told. Pure."""
    return {COUNTERS: max(0, due - told_after), LEDGER: max(0, told_before - ended)}


@dataclass(slots=True)
class Account:
    """`told` for each record of a worker (any thread), `run_once` every few seconds. `workers`: what their names begin with;
    `longest`: seconds that a run may take."""

    database: Database
    metrics: Metrics
    workers: str
    longest: float
    _told: int = 0
    _settled: int = 0
    _cursor: datetime | None = None
    _before: dict[str, int] = field(default_factory=dict)
    _counted: dict[str, int] = field(default_factory=dict)

    def told(self, record: RunRecord) -> None:
        """A worker told of a run that ended."""
        if record.outcome is not Outcome.LOST and record.reason not in CORE_SKIP_REASONS:
            self._told += 1

    def run_once(self) -> dict[str, int]:
        """One look; returns what is newly found lacking, by side. Raises when PostgreSQL is away."""
        told_before = self._told
        with self.database.session() as session:
            seen = runs.ended_since(
                session, self.workers, self._cursor, told=TOLD, settled=SETTLED, longest=self.longest
            )
        now = lacking(
            told_before=told_before,
            told_after=self._told,
            due=self._settled + seen.due,
            ended=self._settled + seen.ended,
        )
        self._settled += seen.settled
        self._cursor = seen.cursor
        before, self._before = self._before, now
        found = {}
        for side, lack in now.items():
            stands = min(lack, before.get(side, 0))
            new = stands - self._counted.get(side, 0)
            if new > 0:
                self._counted[side] = stands
                self.metrics.unaccounted(side, new)
                found[side] = new
        return found
