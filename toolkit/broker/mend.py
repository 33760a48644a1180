"""Bring the broker in line with the ledger's word about a job. The caller holds the job's intent, so no run can begin."""

from __future__ import annotations

from collections.abc import Iterable

import redis
from rq.executions import ExecutionRegistry
from rq.job import Job, JobStatus
from rq.utils import current_timestamp

from toolkit.broker.census import FAILED, FINISHED, REGISTRIES, STARTED
from toolkit.broker.codec import RESULT_TTL
from toolkit.broker.view import queue_key


def keep_only(broker: redis.Redis, queue: str, job_id: str, place: str, entries: Iterable[str]) -> None:
    """Take the job out of every list but `place`; '' for all. `entries` are its started entries, `job_id:execution_id`."""
    pipe = broker.pipeline(transaction=True)
    key = queue_key(queue)
    pipe.lrem(key, 0, job_id)
    pipe.lrem(f"{key}:intermediate", 0, job_id)
    for name, template in REGISTRIES.items():
        if name not in {place, STARTED}:
            pipe.zrem(template.format(queue), job_id)
    if place != STARTED:
        for entry in entries:
            pipe.zrem(REGISTRIES[STARTED].format(queue), entry)
        pipe.delete(ExecutionRegistry.key_template.format(job_id))
    pipe.execute()


def drop(broker: redis.Redis, queue: str, job_id: str) -> None:
    """Take a job that the ledger does not know out of the broker, with its data and its error."""
    keep_only(broker, queue, job_id, "", ())
    broker.delete(Job.key_for(job_id), f"rq:results:{job_id}")


def close(broker: redis.Redis, queue: str, job_id: str, *, good: bool, entries: Iterable[str]) -> None:
    """The ledger says that the job is done: it stays among the finished or the failed ones, as long as RQ keeps it."""
    keep_only(broker, queue, job_id, FINISHED if good else FAILED, entries)
    key = Job.key_for(job_id)
    if good and broker.exists(key):
        pipe = broker.pipeline(transaction=True)
        pipe.hset(key, "status", JobStatus.FINISHED.value)
        pipe.expire(key, RESULT_TTL)
        pipe.zadd(REGISTRIES[FINISHED].format(queue), {job_id: current_timestamp() + RESULT_TTL})
        pipe.execute()
