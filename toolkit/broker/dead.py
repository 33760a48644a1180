"""Failed jobs that reached RQ behind our back: put there by plain RQ, or by an older version with pickled payloads and whole
rows inside. Found by raw reads; nothing of them is run, imported or unpickled.

    for dead in find(broker, registry, known):     # what is there, with its ids or the reason why they cannot be had
        adopt(session, registry, dead, now=…)      # the ledger has it from here on, as any failed job

Defaults: 1,000 ids a round trip, and 200 jobs of those that the ledger does not know; data of more than 64 KiB is fetched
one by one, of more than 16 MiB not at all.
Known weakness: only the queues of registered jobs are looked at; a job that fails while we look may be told twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

import redis

from toolkit.broker import keys
from toolkit.broker.old_error import failure_of_text, kept_error
from toolkit.broker.old_payload import LARGEST, Asked, read
from toolkit.jobspec import Registry
from toolkit.ledger import adoption
from toolkit.ledger.database import Session
from toolkit.run import Failure

PAGE: Final = 1000
BATCH: Final = 200
_SMALL: Final = 64 * 1024
_FIELDS: Final = ("created_at", "enqueued_at", "started_at", "ended_at", "worker_name", "exc_info")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadJob:
    """A failed job that the ledger does not know: what it asked for, and how it failed. Times are aware, None where RQ has
    none."""

    job_id: str
    queue: str
    asked: Asked
    failure: Failure
    worker: str
    asked_at: datetime | None
    started_at: datetime | None
    failed_at: datetime | None


def find(
    broker: redis.Redis, registry: Registry, known: Callable[[Sequence[str]], set[str]]
) -> Iterator[DeadJob]:
    """The failed jobs of the registered queues that `known` does not return. Reads only; constant memory."""
    for queue in registry.queues:
        key = keys.FAILED.format(queue)
        ids = (member.decode(errors="replace") for member, _ in broker.zscan_iter(key, count=PAGE))
        for page in _batches(ids, PAGE):
            there = known(page)
            for batch in _batches((job_id for job_id in page if job_id not in there), BATCH):
                yield from _look(broker, registry, queue, batch)


def adopt(session: Session, registry: Registry, dead: DeadJob, *, now: datetime) -> bool:
    """Put it into the ledger, failed; False when it is there already, or has no payload to be run with. `now` stands for
    times that RQ does not have."""
    if dead.asked.payload is None:
        return False
    spec = registry.get(dead.asked.job_name)
    finished = dead.failed_at or now
    started = min(dead.started_at or finished, finished)
    run = adoption.FailedRun(
        asked_at=min(dead.asked_at or started, started),
        started_at=started,
        finished_at=finished,
        worker=dead.worker,
        failure=dead.failure,
    )
    return adoption.adopt_failed(session, spec, dead.job_id, spec.decode(dead.asked.payload), run)


def adopt_all(
    broker: redis.Redis,
    registry: Registry,
    session: Session,
    *,
    now: datetime,
    only: Collection[str] | None = None,
) -> tuple[list[str], list[DeadJob]]:
    """Take those that can be run (of `only`, when given) into the ledger. Returns the ids that were taken, and the jobs whose
    ids cannot be had. Safe to do again."""
    taken: list[str] = []
    refused: list[DeadJob] = []
    for one in find(broker, registry, lambda ids: adoption.known(session, ids)):
        if only is not None and one.job_id not in only:
            continue
        if one.asked.payload is None:
            refused.append(one)
        elif adopt(session, registry, one, now=now):
            taken.append(one.job_id)
    return taken, refused


def _batches(ids: Iterator[str] | Sequence[str], size: int) -> Iterator[list[str]]:
    left = iter(ids)
    while batch := list(islice(left, size)):
        yield batch


def _look(broker: redis.Redis, registry: Registry, queue: str, ids: Sequence[str]) -> Iterator[DeadJob]:
    pipe = broker.pipeline(transaction=False)
    for job_id in ids:
        key = keys.JOB.format(job_id)
        pipe.hmget(key, _FIELDS)
        pipe.hstrlen(key, "data")
        pipe.xrevrange(f"rq:results:{job_id}", count=1)
    answers = pipe.execute()
    sizes = answers[1::3]
    for job_id, size in zip(ids, sizes, strict=True):
        if size <= _SMALL:
            pipe.hget(keys.JOB.format(job_id), "data")
    small = iter(pipe.execute())
    for job_id, values, size, results in zip(ids, answers[::3], sizes, answers[2::3], strict=True):
        data = next(small) if size <= _SMALL else b""
        if _SMALL < size <= LARGEST:
            data = broker.hget(keys.JOB.format(job_id), "data")
        kept = results[0][1].get(b"exc_string") if results else None
        yield _dead(
            job_id, queue, _asked(registry, queue, data, size), dict(zip(_FIELDS, values, strict=True)), kept
        )


def _asked(registry: Registry, queue: str, data: bytes | None, size: int) -> Asked:
    if size > LARGEST:
        return Asked(refused=f"its data has {size:,} bytes; at most {LARGEST:,} are read")
    if data is None:
        return Asked(refused="its hash has expired: RQ knows only that it failed")
    return read(registry, queue, data)


def _dead(
    job_id: str, queue: str, asked: Asked, fields: Mapping[str, bytes | None], result: bytes | None
) -> DeadJob:
    return DeadJob(
        job_id=job_id,
        queue=queue,
        asked=asked,
        failure=failure_of_text(kept_error(result, fields["exc_info"])),
        worker=(fields["worker_name"] or b"").decode(errors="replace"),
        asked_at=_time(fields["enqueued_at"]) or _time(fields["created_at"]),
        started_at=_time(fields["started_at"]),
        failed_at=_time(fields["ended_at"]),
    )


def _time(value: bytes | None) -> datetime | None:
    try:
        return keys.moment(value.decode()) if value else None
    except ValueError:
        return None
