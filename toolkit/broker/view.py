"""Looking at the broker without touching it: raw reads only.

RQ's registries clean up when they are counted or listed, that is, they write, and can requeue a job that still runs; so
nothing here goes through them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import redis

from toolkit.broker import keys


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue as it stands: jobs by state, and the age in seconds of the one that waits longest (0.0 when none)."""

    queue: str
    queued: int
    intermediate: int
    started: int
    scheduled: int
    deferred: int
    failed: int
    finished: int
    oldest_age: float

    def states(self) -> dict[str, int]:
        """The states that `job_queue_depth` tells."""
        names = ("queued", "intermediate", "started", "scheduled", "deferred", "failed")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker that registered with RQ. `heartbeat_age` in seconds; `job_id` is None when it is idle."""

    name: str
    host: str
    pid: int
    state: str
    queues: tuple[str, ...]
    job_id: str | None
    heartbeat_age: float
    succeeded: int
    failed: int


def queue_key(queue: str) -> str:
    """RQ's list of waiting jobs."""
    return keys.QUEUE.format(queue)


def queue_view(broker: redis.Redis, queue: str, now: datetime) -> QueueView:
    """One round trip, and a second one for the oldest job's age."""
    key = queue_key(queue)
    pipe = broker.pipeline(transaction=False)
    pipe.llen(key)
    pipe.llen(f"{key}:intermediate")
    for registry in (keys.STARTED, keys.SCHEDULED, keys.DEFERRED, keys.FAILED, keys.FINISHED):
        pipe.zcard(registry.format(queue))
    pipe.lindex(key, 0)
    queued, intermediate, started, scheduled, deferred, failed, finished, oldest = pipe.execute()
    age = 0.0
    if oldest is not None:
        since = cast("bytes | None", broker.hget(keys.JOB.format(oldest.decode()), "enqueued_at"))
        age = max(0.0, (now - keys.moment(since.decode())).total_seconds()) if since else 0.0
    return QueueView(queue, queued, intermediate, started, scheduled, deferred, failed, finished, age)


def known_ids(broker: redis.Redis, queue: str) -> tuple[set[str], set[str]]:
    """Ids that the broker has in a place of rest (waiting, scheduled, deferred), and those in passing: popped or started
    by some worker. A job in passing whose worker is dead will not move by itself."""
    key = queue_key(queue)
    pipe = broker.pipeline(transaction=True)
    pipe.lrange(key, 0, -1)
    pipe.zrange(keys.SCHEDULED.format(queue), 0, -1)
    pipe.zrange(keys.DEFERRED.format(queue), 0, -1)
    pipe.lrange(f"{key}:intermediate", 0, -1)
    pipe.zrange(keys.STARTED.format(queue), 0, -1)
    waiting, scheduled, deferred, middle, started = pipe.execute()
    resting = {*_text(waiting), *_text(scheduled), *_text(deferred)}
    passing = {*_text(middle), *(entry.partition(":")[0] for entry in _text(started))}
    return resting, passing


def workers(broker: redis.Redis, queues: Sequence[str], now: datetime) -> list[WorkerView]:
    """The workers registered for these queues, by name."""
    pipe = broker.pipeline(transaction=False)
    for queue in queues:
        pipe.smembers(keys.WORKERS.format(queue))
    registered = sorted({key for answer in pipe.execute() for key in _text(answer)})
    pipe = broker.pipeline(transaction=False)
    for key in registered:
        pipe.hgetall(key)
        pipe.smembers(keys.EXECUTIONS.format(key.removeprefix(keys.WORKER)))
    answers = pipe.execute()
    found = []
    for key, raw, running in zip(registered, answers[::2], answers[1::2], strict=True):
        if raw:
            found.append(_worker(key, raw, running, now))
    return found


def _worker(key: str, raw: dict[bytes, bytes], running: Iterable[bytes], now: datetime) -> WorkerView:
    fields = {name.decode(): value.decode() for name, value in raw.items()}
    beat = (
        keys.moment(fields["last_heartbeat"])
        if fields.get("last_heartbeat")
        else datetime.min.replace(tzinfo=UTC)
    )
    job = next(iter(_text(running)), None)
    return WorkerView(
        name=key.removeprefix(keys.WORKER),
        host=fields.get("hostname", ""),
        pid=int(fields.get("pid") or 0),
        state="dead" if "death" in fields else fields.get("state", "?"),
        queues=tuple(fields.get("queues", "").split(",")),
        job_id=job.partition(":")[0] if job else None,
        heartbeat_age=max(0.0, (now - beat).total_seconds()),
        succeeded=int(fields.get("successful_job_count", 0)),
        failed=int(fields.get("failed_job_count", 0)),
    )


def _text(values: Iterable[bytes]) -> list[str]:
    return [value.decode() for value in values]
