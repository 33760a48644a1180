"""How an intent looks as an RQ job, so that `rq info` and rq-dashboard understand it: JSON, never pickle.

The RQ job's function name is the registered job name, not an importable path; its keyword arguments are the payload; its
meta carries the trace context. FreshJob never imports a function or a callback that a hash in Redis names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
import redis
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

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


def encoder(spec: JobSpec, connection: redis.Redis) -> Callable[[Intent], dict[str, str]]:
    """Makes RQ job hashes, as HSET takes them, of intents of this job. What all of them share is RQ's own work, done once;
    the rest is written as RQ reads it: an empty field is none, and is left out. `data` is plain JSON, which RQ takes as well as
    its own compressed form."""
    shared = FreshJob.create(
        func=spec.name, connection=connection, timeout=int(spec.timeout), result_ttl=RESULT_TTL, failure_ttl=FAILURE_TTL,
        status=JobStatus.QUEUED, serializer=JSONSerializer,
    ).to_dict()  # fmt: skip
    instance, arguments = None, ()

    common = {
        name: str(getattr(value, "value", value))
        for name, value in shared.items()
        if value != "" and not isinstance(value, bytes)
    }

    def encoded(intent: Intent) -> dict[str, str]:
        payload = msgspec.json.decode(intent.payload, type=dict[str, Any])
        context = {"traceparent": intent.traceparent, "tracestate": intent.tracestate}
        varied = {
            "origin": intent.queue,
            "created_at": _utc(intent.created_at),
            "enqueued_at": _utc(intent.due_at),
            "data": msgspec.json.encode((spec.name, instance, arguments, payload)).decode(),
            "description": f"{spec.name}({', '.join(f'{key}={value}' for key, value in payload.items())})",
            "meta": msgspec.json.encode({key: value for key, value in context.items() if value}).decode(),
        }
        replay = {REPLAY_OF: intent.replay_of} if intent.replay_of else {}
        return common | varied | replay

    return encoded


def encode(intent: Intent, spec: JobSpec, connection: redis.Redis) -> dict[str, str]:
    """The RQ job hash of one intent."""
    return encoder(spec, connection)(intent)


def _utc(moment: datetime) -> str:
    """A time as RQ writes it."""
    return str(msgspec.to_builtins(moment.astimezone(UTC)))
