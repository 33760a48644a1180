"""Running a job inline, in the process that asked for it: the sink of synchronous mode.

There is no supervisor here: the record stays in the ledger until some supervisor has counted it, and the spans go to the
recent traces directly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from toolkit.errors import DependencyUnreachable
from toolkit.ledger.database import SESSION_UNREACHABLE, Database
from toolkit.ledger.traces import TraceChunk, store
from toolkit.run import Run, RunRecord


@dataclass(slots=True)
class LedgerSink:
    """A Sink that needs nobody else. `export` sends spans on, where a collector is configured."""

    database: Database
    export: Callable[[bytes, int], None]
    uncounted: bool = True

    def began(self, run: Run, timeout: float, trace_id: str) -> None:
        """Nobody watches an inline run but its lease."""

    def ended(self, ended: RunRecord) -> None:
        """The ledger has the record already, marked as uncounted."""

    def spans(self, trace_id: str, job_id: str, run_id: str, data: bytes, count: int) -> None:  # noqa: ARG002  Sink's words
        """Keep the spans; a trace that cannot be kept costs the job nothing."""
        if not data:
            return
        self.export(data, count)
        try:
            with self.database.session() as session:
                store(session, [TraceChunk(trace_id, job_id, data)])
        except (*SESSION_UNREACHABLE, DependencyUnreachable):
            return

    def dropped(self, signal: str, reason: str, count: int = 1) -> None:
        """An importer has no /metrics to count it in."""
