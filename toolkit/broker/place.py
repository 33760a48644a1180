"""Put a job into its queue exactly once, whatever the broker still knows of it: one Lua script over RQ's own keys.

What the broker knows of an earlier asking (a failed job that is replayed: its registry entry, its error, its expiry) goes.
A relay that died after its push and before its commit pushes again; the script finds the job waiting and leaves it. With
`again`, for a job whose worker died, the job is taken out of every list it may be in before it is queued anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec
import redis
from rq import Queue
from rq.executions import ExecutionRegistry
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry, StartedJobRegistry

from toolkit.broker.codec import REPLAY_OF

_PLACE = """
local queue, middle, wip, scheduled, failed, finished, queues = unpack(KEYS)
local again, job_prefix, executions_prefix = ARGV[1], ARGV[2], ARGV[3]
local function place(id, replay_of, fields)
    local job, executions = job_prefix .. id, executions_prefix .. id
    local known = redis.call('HMGET', job, 'status', 'replay_of')
    local status = known[1]
    local waits = status == 'queued' or status == 'started' or status == 'scheduled' or status == 'deferred'
    if again == '0' and waits and (known[2] or '') == replay_of then
        return 0
    end
    if again == '1' or waits then
        redis.call('LREM', queue, 0, id)
    end
    redis.call('LREM', middle, 0, id)
    for _, execution in ipairs(redis.call('ZRANGE', executions, 0, -1)) do
        redis.call('ZREM', wip, id .. ':' .. execution)
    end
    redis.call('DEL', executions, job)
    redis.call('ZREM', scheduled, id)
    redis.call('ZREM', failed, id)
    redis.call('ZREM', finished, id)
    redis.call('HSET', job, unpack(fields))
    redis.call('RPUSH', queue, id)
    return 1
end
redis.call('SADD', queues, queue)
local placed = {}
for number, one in ipairs(cmsgpack.unpack(ARGV[4])) do
    placed[number] = place(unpack(one))
end
return placed
"""

CHUNK = 100
"""Jobs a script call: the broker serves nobody else for some milliseconds meanwhile."""


class Placer:
    """Places jobs of one broker. `place` is pipelined: one round trip for a batch."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._script = connection.register_script(_PLACE)

    def place(
        self, queue: str, jobs: Iterable[tuple[str, dict[str, str]]], *, again: bool = False
    ) -> list[bool]:
        """Queue each (job id, hash); True where it was put in, False where it waited or ran already."""
        pipe = self._connection.pipeline(transaction=False)
        left = iter(jobs)
        while some := list(islice(left, CHUNK)):
            packed = msgspec.msgpack.encode([_flat(job_id, fields) for job_id, fields in some])
            self._script(
                keys=keys(queue),
                args=[
                    "1" if again else "0",
                    Job.key_for(""),
                    ExecutionRegistry.key_template.format(""),
                    packed,
                ],
                client=pipe,
            )
        return [bool(placed) for answer in pipe.execute() for placed in answer]


def _flat(job_id: str, fields: dict[str, str]) -> tuple[str, str, list[str]]:
    """A job as the script takes it: its id, which run it replays, and HSET's arguments."""
    return job_id, fields.get(REPLAY_OF, ""), [part for pair in fields.items() for part in pair]


def keys(queue: str) -> Sequence[str]:
    """RQ's keys for this queue, in the script's order."""
    return [
        f"{Queue.redis_queue_namespace_prefix}{queue}",
        f"{Queue.redis_queue_namespace_prefix}{queue}:intermediate",
        StartedJobRegistry.key_template.format(queue),
        ScheduledJobRegistry.key_template.format(queue),
        FailedJobRegistry.key_template.format(queue),
        FinishedJobRegistry.key_template.format(queue),
        Queue.redis_queues_keys,
    ]
