"""What a dead worker left behind: its open runs in the ledger, its registration and executions in the broker, its job.

Run by the supervisor that saw the process end. Afterwards the job is in one place: queued again, or marked with the outcome
that the ledger has for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import redis
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE, ExecutionRegistry
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.utils import as_text
from rq.worker import BaseWorker
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

from toolkit.broker.relay import Relay
from toolkit.ledger import intents, runs
from toolkit.ledger.database import Database


@dataclass(frozen=True, slots=True)
class Buried:
    """Jobs whose runs were closed as lost, and how many of them were queued again."""

    lost: tuple[str, ...]
    requeued: int


def close_runs(database: Database, relay: Relay, worker: str, error_type: str) -> Buried:
    """Close the dead worker's runs as `lost` with the signal's name, and queue their jobs again."""
    with database.session() as session, session.transaction():
        lost = runs.lose(session, worker, error_type)
        wanted = intents.open_among(session, lost)
        requeued = relay.push(wanted, again=True) if wanted else 0
        intents.mark_pushed(session, [intent.job_id for intent in wanted])
    return Buried(tuple(lost), requeued)


def unregister(broker: redis.Redis, worker: str, queue: str) -> None:
    """Take the dead worker and its executions out of RQ's books. A job that it had ended but not yet told RQ of is marked
    finished; whether it was is the ledger's word, and the reconciler's to mend."""
    key = f"{BaseWorker.redis_worker_namespace_prefix}{worker}"
    executions = WORKER_EXECUTIONS_KEY_TEMPLATE.format(worker)
    held = [as_text(member) for member in broker.smembers(executions)]
    pipe = broker.pipeline(transaction=True)
    for entry in held:
        job_id, _, execution = entry.partition(":")
        pipe.zrem(StartedJobRegistry.key_template.format(queue), entry)
        pipe.zrem(ExecutionRegistry.key_template.format(job_id), execution)
    pipe.delete(key, executions)
    pipe.srem(REDIS_WORKER_KEYS, key)
    pipe.srem(WORKERS_BY_QUEUE_KEY % queue, key)
    pipe.execute()
    for entry in held:
        job_key = Job.key_for(entry.partition(":")[0])
        if broker.hget(job_key, "status") == JobStatus.STARTED.value.encode():
            broker.hset(job_key, "status", JobStatus.FINISHED.value)
