"""Every job's places in the broker, and every worker in RQ's books: raw reads, each queue's lists in one transaction.

Known weakness: the ids of all lists are in memory at once, about 100 bytes a job.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

import redis

from toolkit.broker import keys as rq
from toolkit.broker.view import queue_key

WAITING: Final = "waiting"
PASSING: Final = "passing"
STARTED: Final = "started"
SCHEDULED: Final = "scheduled"
DEFERRED: Final = "deferred"
FAILED: Final = "failed"
FINISHED: Final = "finished"

REGISTRIES: Final = {
    STARTED: rq.STARTED,
    SCHEDULED: rq.SCHEDULED,
    DEFERRED: rq.DEFERRED,
    FAILED: rq.FAILED,
    FINISHED: rq.FINISHED,
}
"""Sorted sets of a queue. `passing` is the list between waiting and started."""

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A worker in RQ's books of one queue. `gone` says why it cannot be alive, '' when it may be; `executions` are the
    entries `job_id:execution_id` that it holds."""

    name: str
    queue: str
    gone: str
    executions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Census:
    """The broker as it stood. `places`: the lists that a job is in, one for each time it is there; `expiring`: waiting jobs
    whose hash goes by itself, in seconds (0: it has gone); `executions`: the started entries of each job."""

    places: Mapping[str, tuple[str, ...]]
    queues: Mapping[str, str]
    expiring: Mapping[str, float]
    executions: Mapping[str, tuple[str, ...]]
    workers: tuple[WorkerSeen, ...]


def take(
    broker: redis.Redis,
    queues: Sequence[str],
    *,
    now: datetime,
    alive: Callable[[str, int], bool | None],
    silence: float,
) -> Census:
    """Count everything once. `alive(host, pid)` is None where it cannot be known; a worker that has not beaten its heart for
    `silence` seconds is gone."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    origin: dict[str, str] = {}
    entries: defaultdict[str, list[str]] = defaultdict(list)
    workers: list[WorkerSeen] = []
    for queue in queues:
        lists, keys = _lists(broker, queue)
        for place, ids in lists:
            for entry in ids:
                job_id = entry.partition(":")[0] if place == STARTED else entry
                places[job_id].append(place)
                origin[job_id] = queue
                if place == STARTED:
                    entries[job_id].append(entry)
        workers += _workers(broker, queue, keys, lambda fields: _gone(fields, now, alive, silence))
    waiting = [job_id for job_id, where in places.items() if WAITING in where]
    return Census(
        {job_id: tuple(where) for job_id, where in places.items()},
        origin,
        _expiring(broker, waiting),
        {job_id: tuple(held) for job_id, held in entries.items()},
        tuple(workers),
    )


def executions(broker: redis.Redis, queue: str) -> dict[str, tuple[str, ...]]:
    """The started entries of the queue's jobs, `job_id:execution_id`."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for entry in _text(cast("list[bytes]", broker.zrange(REGISTRIES[STARTED].format(queue), 0, -1))):
        found[entry.partition(":")[0]].append(entry)
    return {job_id: tuple(entries) for job_id, entries in found.items()}


def _lists(broker: redis.Redis, queue: str) -> tuple[list[tuple[str, list[str]]], list[str]]:
    key = queue_key(queue)
    pipe = broker.pipeline(transaction=True)
    pipe.lrange(key, 0, -1)
    pipe.lrange(f"{key}:intermediate", 0, -1)
    for template in REGISTRIES.values():
        pipe.zrange(template.format(queue), 0, -1)
    pipe.smembers(rq.WORKERS.format(queue))
    *answers, workers = pipe.execute()
    places = (WAITING, PASSING, *REGISTRIES)
    return [(place, _text(ids)) for place, ids in zip(places, answers, strict=True)], sorted(_text(workers))


def _expiring(broker: redis.Redis, waiting: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for start in range(0, len(waiting), _BATCH):
        some = waiting[start : start + _BATCH]
        pipe = broker.pipeline(transaction=False)
        for job_id in some:
            pipe.pttl(rq.JOB.format(job_id))
        for job_id, left in zip(some, pipe.execute(), strict=True):
            if left != -1:
                found[job_id] = max(0.0, left / 1000)
    return found


def _workers(
    broker: redis.Redis, queue: str, keys: Sequence[str], gone: Callable[[Sequence[bytes | None]], str]
) -> list[WorkerSeen]:
    names = [key.removeprefix(rq.WORKER) for key in keys]
    pipe = broker.pipeline(transaction=False)
    for key, name in zip(keys, names, strict=True):
        pipe.hmget(key, ("last_heartbeat", "death", "hostname", "pid"))
        pipe.smembers(rq.EXECUTIONS.format(name))
    answers: list[Any] = pipe.execute()
    return [
        WorkerSeen(name, queue, gone(fields), tuple(sorted(_text(held))))
        for name, fields, held in zip(names, answers[::2], answers[1::2], strict=True)
    ]


def _gone(
    fields: Sequence[bytes | None], now: datetime, alive: Callable[[str, int], bool | None], silence: float
) -> str:
    beat, death, host, pid = (value.decode() if value else "" for value in fields)
    if not beat:
        return "its registration has expired"
    if death:
        return f"it ended at {death}"
    if pid.isdecimal() and alive(host, int(pid)) is False:
        return f"no process {pid} runs on {host}"
    quiet = (now - rq.moment(beat)).total_seconds()
    return f"its last heartbeat is {quiet:.0f} s old" if quiet > silence else ""


def _text(values: Iterable[bytes]) -> list[str]:
    return [value.decode(errors="replace") for value in values]
