"""How an intent looks as an RQ job, so that `rq info` and rq-dashboard understand it: JSON, never pickle.

The RQ job's function name is the registered job name, not an importable path; its keyword arguments are the payload; its
meta carries the trace context. FreshJob never imports a function or a callback that a hash in Redis names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
import redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from toolkit.jobspec import JobSpec
from toolkit.ledger.intents import Intent

RESULT_TTL = 500
"""Seconds that RQ keeps a finished job; the ledger keeps it for good."""

REPLAY_OF = "replay_of"
"""Field of the hash: which failed run this asking replays; absent on a job's first asking."""

FAILURE_TTL = 365 * 24 * 3600
"""Seconds that RQ keeps a failed job."""


class FreshJob(Job):
    """An RQ job of ours. What a hash names is data: nothing is imported because of it."""

    success_callback: ClassVar[None] = None
    failure_callback: ClassVar[None] = None
    stopped_callback: ClassVar[None] = None

    def asked(self) -> tuple[str, Mapping[str, Any]]:
        """Job name and payload. Raises rq.exceptions.DeserializationError when the data is not JSON (a pickle, say)."""
        return str(self.func_name), self.kwargs


def encode(intent: Intent, spec: JobSpec, connection: redis.Redis) -> dict[str, Any]:
    """The RQ job hash of an intent, as HSET takes it."""
    payload = msgspec.json.decode(intent.payload)
    context = {"traceparent": intent.traceparent, "tracestate": intent.tracestate}
    job = FreshJob.create(
        func=spec.name,
        kwargs=payload,
        connection=connection,
        id=intent.job_id,
        timeout=int(spec.timeout),
        result_ttl=RESULT_TTL,
        failure_ttl=FAILURE_TTL,
        description=f"{spec.name}({', '.join(f'{key}={value}' for key, value in payload.items())})",
        origin=spec.queue,
        status=JobStatus.QUEUED,
        meta={key: value for key, value in context.items() if value},
        serializer=JSONSerializer,
    )
    job.created_at = intent.created_at
    fields = job.to_dict()
    fields["enqueued_at"] = utcformat(intent.due_at)
    if intent.replay_of:
        fields[REPLAY_OF] = intent.replay_of
    return fields
