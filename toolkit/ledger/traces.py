"""Recent traces: OTLP bytes by trace and job, kept for `toolkit trace`. Unlogged, pruned: a convenience, not the truth.

Defaults: kept for 24 hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.ledger.database import Session

KEEP_HOURS = 24


@dataclass(frozen=True, slots=True)
class TraceChunk:
    """Some spans of one trace, as an OTLP ExportTraceServiceRequest."""

    trace_id: str
    job_id: str
    spans: bytes


def store(session: Session, chunks: Sequence[TraceChunk]) -> None:
    """Keep these chunks, in one COPY."""
    with (
        session.cursor() as cursor,
        cursor.copy("COPY toolkit.trace (trace_id, job_id, spans) FROM STDIN (FORMAT binary)") as copy,
    ):
        copy.set_types(["text", "text", "bytea"])
        for chunk in chunks:
            copy.write_row((chunk.trace_id, chunk.job_id, chunk.spans))


def load(session: Session, trace_ids: Sequence[str]) -> bytes:
    """All spans of these traces; chunks concatenate. Empty when none is kept any more."""
    rows = session.execute(
        "SELECT spans FROM toolkit.trace WHERE trace_id = ANY(%s) ORDER BY recorded_at", (list(trace_ids),)
    ).fetchall()
    return b"".join(row[0] for row in rows)


def prune(session: Session, keep_hours: float = KEEP_HOURS) -> int:
    """Forget traces older than `keep_hours`; returns how many chunks went."""
    return session.execute(
        "DELETE FROM toolkit.trace WHERE recorded_at < clock_timestamp() - %s * interval '1 hour'",
        (keep_hours,),
    ).rowcount
