"""Spans on their way to where they are kept: the ledger's recent traces and, when it is configured, the OTLP exporter.

A bounded buffer that one thread empties in batches; a database that is away costs nobody anything: what does not fit is
dropped and counted. Default bound: 32 MiB.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Lock

from toolkit.ledger import traces
from toolkit.ledger.database import Database

LIMIT_BYTES = 32 * 1024 * 1024
BATCH = 500


class SpanStore:
    """Keeps chunks of spans until `run_once` has written them. `on_drop` is told signal, reason and spans."""

    def __init__(
        self, database: Database, on_drop: Callable[[str, str, int], None], limit: int = LIMIT_BYTES
    ) -> None:
        self._database = database
        self._on_drop = on_drop
        self._limit = limit
        self._waiting: deque[traces.TraceChunk] = deque()
        self._bytes = 0
        self._lock = Lock()  # of `_bytes`: added to by one thread, taken from by another

    def add(self, chunk: traces.TraceChunk, count: int) -> None:
        """Take a chunk of `count` spans; never waits."""
        with self._lock:
            fits = self._bytes + len(chunk.spans) <= self._limit
            if fits:
                self._waiting.append(chunk)
                self._bytes += len(chunk.spans)
        if not fits:
            self._on_drop("spans", "queue_full", count)

    def run_once(self) -> int:
        """Write what waits, at most a batch; returns how many chunks. Raises when PostgreSQL is away, losing nothing."""
        batch = [self._waiting[place] for place in range(min(BATCH, len(self._waiting)))]
        if not batch:
            return 0
        with self._database.session() as session:
            traces.store(session, batch)
        with self._lock:
            for _ in batch:
                self._bytes -= len(self._waiting.popleft().spans)
        return len(batch)
