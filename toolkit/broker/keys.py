"""RQ's names in the broker, for whoever only looks: importing RQ takes as long as the look itself.

A test holds each to RQ's own (tests/unit/test_keys.py). What writes takes RQ's own names, or RQ's methods.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

QUEUE: Final = "rq:queue:{}"
JOB: Final = "rq:job:{}"
STARTED: Final = "rq:wip:{}"
SCHEDULED: Final = "rq:scheduled:{}"
DEFERRED: Final = "rq:deferred:{}"
FAILED: Final = "rq:failed:{}"
FINISHED: Final = "rq:finished:{}"
WORKERS: Final = "rq:workers:{}"
"""Keys of the workers of a queue."""
WORKER: Final = "rq:worker:"
"""Before a worker's name."""
EXECUTIONS: Final = "rq:worker:{}:executions"
"""Of a worker, by its name."""


def moment(text: str) -> datetime:
    """A time as RQ writes it. Raises ValueError."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
