"""Put a job into its queue exactly once, whatever the broker still knows of it: one Lua script over RQ's own keys.

What the broker knows of an earlier asking (a failed job that is replayed: its registry entry, its error, its expiry) goes.
A relay that died after its push and before its commit pushes again; the script finds the job waiting and leaves it. With
`again`, for a job whose worker died, the job is taken out of every list it may be in before it is queued anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import redis
from rq import Queue
from rq.executions import ExecutionRegistry
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry, StartedJobRegistry

from toolkit.broker.codec import REPLAY_OF

_PLACE = """
local job, queue, middle, wip, scheduled, failed, finished, queues, executions = unpack(KEYS)
local id, again, replay_of = ARGV[1], ARGV[2], ARGV[3]
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
redis.call('DEL', executions)
redis.call('ZREM', scheduled, id)
redis.call('ZREM', failed, id)
redis.call('ZREM', finished, id)
redis.call('DEL', job)
redis.call('HSET', job, unpack(ARGV, 4))
redis.call('SADD', queues, queue)
redis.call('RPUSH', queue, id)
return 1
"""


class Placer:
    """Places jobs of one broker. `place` is pipelined: one round trip for a batch."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._script = connection.register_script(_PLACE)

    def place(
        self, queue: str, jobs: Iterable[tuple[str, dict[str, Any]]], *, again: bool = False
    ) -> list[bool]:
        """Queue each (job id, hash); True where it was put in, False where it waited or ran already."""
        pipe = self._connection.pipeline(transaction=False)
        for job_id, fields in jobs:
            flat = [part for pair in fields.items() for part in pair]
            self._script(
                keys=keys(queue, job_id),
                args=[job_id, "1" if again else "0", fields.get(REPLAY_OF, ""), *flat],
                client=pipe,
            )
        return [bool(answer) for answer in pipe.execute()]


def keys(queue: str, job_id: str) -> Sequence[str]:
    """RQ's keys for a job of this queue, in the script's order."""
    return [
        Job.key_for(job_id),
        f"{Queue.redis_queue_namespace_prefix}{queue}",
        f"{Queue.redis_queue_namespace_prefix}{queue}:intermediate",
        StartedJobRegistry.key_template.format(queue),
        ScheduledJobRegistry.key_template.format(queue),
        FailedJobRegistry.key_template.format(queue),
        FinishedJobRegistry.key_template.format(queue),
        Queue.redis_queues_keys,
        ExecutionRegistry.key_template.format(job_id),
    ]
