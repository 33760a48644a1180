"""Take waiting jobs back out of RQ: one Lua script over RQ's own keys. A job that a worker has in hand is left alone.

Whoever calls holds the jobs' rows in the ledger, so that no relay puts them in again meanwhile. If the caller dies before it
has written that down, the broker merely forgot some jobs, and the reconciler pushes them again.
"""

from __future__ import annotations

from collections.abc import Sequence

import redis
from rq.job import Job
from rq.registry import ScheduledJobRegistry

from toolkit.broker.view import queue_key

# Jobs come oldest first, which is how the list is ordered: LREM finds each near the head.
_PARK = """
local job, queue, scheduled = unpack(KEYS)
local removed = redis.call('LREM', queue, 1, ARGV[1]) + redis.call('ZREM', scheduled, ARGV[1])
if removed > 0 then
    redis.call('DEL', job)
end
return removed
"""


def park(broker: redis.Redis, jobs: Sequence[tuple[str, str]]) -> list[str]:
    """Take (job id, queue) pairs out of their queue or out of RQ's schedule; returns the ids that waited there."""
    script = broker.register_script(_PARK)
    pipe = broker.pipeline(transaction=False)
    for job_id, queue in jobs:
        keys = (Job.key_for(job_id), queue_key(queue), ScheduledJobRegistry.key_template.format(queue))
        script(keys=keys, args=[job_id], client=pipe)
    return [job_id for (job_id, _), removed in zip(jobs, pipe.execute(), strict=True) if removed]
