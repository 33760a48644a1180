"""What can be wrong between ledger and broker, found in a snapshot of both. Pure: no clock, no I/O.

nowhere     pushed and due, and in none of the broker's lists
twice       in two places of the broker, or in one of them twice
past-lease  running, and its lease has run out: its host is gone
expiring    it waits, and its hash expires by itself (`rq requeue` leaves it so), or has
abandoned   it came to a good end, and the broker has it as failed
stranded    taken from the queue or started by a worker that is gone, and no run has it
unpushed    asked for, and not handed to the broker
unknown     failed in RQ, and the ledger does not know it
residue     a worker that is gone stands in RQ's books
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from toolkit.broker.census import DEFERRED, FAILED, PASSING, SCHEDULED, STARTED, WAITING, Census
from toolkit.ledger.checkup import DoneJob, HeldRun, OpenJob


class Kind(StrEnum):
    """A closed list."""

    NOWHERE = "nowhere"
    TWICE = "twice"
    PAST_LEASE = "past-lease"
    EXPIRING = "expiring"
    ABANDONED = "abandoned"
    STRANDED = "stranded"
    UNPUSHED = "unpushed"
    UNKNOWN = "unknown"
    RESIDUE = "residue"


@dataclass(frozen=True, slots=True)
class Stray:
    """A failed job of RQ that the ledger does not know. `refused`: why it cannot be taken into the ledger, '' when it can."""

    job_id: str
    queue: str
    function: str
    refused: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Both, as they stood: the broker first, then the ledger at `now`. `known`: ids of the ledger among the broker's that
    are in question."""

    census: Census
    now: datetime
    jobs: Mapping[str, OpenJob]
    runs: Sequence[HeldRun]
    done: Mapping[str, DoneJob]
    strays: Sequence[Stray]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `subject`: a job id, or a worker's name; `mend`: the command that mends it; `repairable`:
    `toolkit doctor --repair` can; `stamp` tells whether a second look sees the very same thing."""

    kind: Kind
    subject: str
    queue: str
    detail: str
    mend: str
    repairable: bool = True
    stamp: str = ""


REPAIR = "toolkit doctor --repair"
DROP = "toolkit doctor --drop"


def decide(seen: Snapshot, *, grace: float) -> list[Finding]:
    """The findings, at most one a job and kind of subject, jobs first. `grace`: seconds that a job may be on its way."""
    found: dict[str, Finding] = {}
    held = {run.job_id for run in seen.runs if not _expired(run, seen.now)}
    looks: Iterable[Iterator[Finding]] = (
        _past_lease(seen), _twice(seen), _expiring(seen), _abandoned(seen), _stranded(seen, held),
        _open(seen, seen.now - timedelta(seconds=grace)), _strays(seen),
    )  # fmt: skip
    for findings in looks:
        for finding in findings:
            found.setdefault(finding.subject, finding)
    return [*found.values(), *_residue(seen)]


def confirmed(first: Sequence[Finding], second: Sequence[Finding]) -> list[Finding]:
    """What both looks saw, unchanged: a job on its way is not."""
    before = {(finding.kind, finding.subject, finding.stamp) for finding in first}
    return [finding for finding in second if (finding.kind, finding.subject, finding.stamp) in before]


def _past_lease(seen: Snapshot) -> Iterator[Finding]:
    for run in seen.runs:
        if _expired(run, seen.now):
            late = (seen.now - run.lease_until).total_seconds() if run.lease_until else 0.0
            detail = f"run of {run.worker} on {run.host}: its lease ran out {late:.0f} s ago"
            yield Finding(
                Kind.PAST_LEASE,
                run.job_id,
                run.queue,
                detail,
                f"toolkit worker, or {REPAIR}",
                stamp=run.run_id,
            )


def _expired(run: HeldRun, now: datetime) -> bool:
    return run.lease_until is not None and run.lease_until < now


def _twice(seen: Snapshot) -> Iterator[Finding]:
    for job_id, places in seen.census.places.items():
        if len(places) > 1:
            known = job_id in seen.jobs or job_id in seen.done
            mend = REPAIR if known else "nothing of ours: delete one with RQ's own tools"
            detail = f"it is in {' and in '.join(places)}"
            yield Finding(
                Kind.TWICE, job_id, seen.census.queues[job_id], detail, mend, repairable=known, stamp=detail
            )


def _expiring(seen: Snapshot) -> Iterator[Finding]:
    for job_id, left in seen.census.expiring.items():
        known = job_id in seen.jobs or job_id in seen.done
        detail = f"its hash expires in {left:.0f} s" if left else "its hash is gone: no worker can run it"
        mend = REPAIR if known else f"redis-cli persist rq:job:{job_id}"
        yield Finding(Kind.EXPIRING, job_id, seen.census.queues[job_id], detail, mend, repairable=known)


def _abandoned(seen: Snapshot) -> Iterator[Finding]:
    for job_id, done in seen.done.items():
        if done.good and FAILED in seen.census.places.get(job_id, ()):
            detail = f"the ledger has it as {done.outcome}, RQ as failed"
            yield Finding(
                Kind.ABANDONED, job_id, seen.census.queues[job_id], detail, REPAIR, stamp=str(done.done_at)
            )


def _stranded(seen: Snapshot, held: set[str]) -> Iterator[Finding]:
    living = {entry for worker in seen.census.workers if not worker.gone for entry in worker.executions}
    for job_id, places in seen.census.places.items():
        if job_id in held or not {PASSING, STARTED} & set(places):
            continue
        entries = seen.census.executions.get(job_id, ())
        if any(entry in living for entry in entries):
            continue
        known = job_id in seen.jobs or job_id in seen.done
        where = "between queue and worker" if PASSING in places else "started by a worker that is gone"
        mend = f"toolkit worker, or {REPAIR}" if known else "a running RQ worker takes it back"
        yield Finding(
            Kind.STRANDED, job_id, seen.census.queues[job_id], f"{where}, and no run has it", mend,
            repairable=known, stamp=_stamp(seen.jobs.get(job_id), entries),
        )  # fmt: skip


def _stamp(job: OpenJob | None, entries: Sequence[str]) -> str:
    return f"{' '.join(entries)} {job.pushes if job else ''} {job.runs if job else ''}"


def _open(seen: Snapshot, before: datetime) -> Iterator[Finding]:
    places = seen.census.places
    at_rest = {WAITING, SCHEDULED, DEFERRED, PASSING, STARTED}
    for job in seen.jobs.values():
        if job.held or job.due_at >= before:
            continue
        waits = (seen.now - job.due_at).total_seconds()
        if job.pushed_at is None:
            if job.mode == "async":
                detail = f"asked for {waits:.0f} s ago, and no relay has pushed it"
                yield Finding(Kind.UNPUSHED, job.job_id, job.queue, detail, f"toolkit worker, or {REPAIR}")
        elif job.pushed_at < before and not at_rest & set(places.get(job.job_id, ())):
            where = " but among the failed ones" if FAILED in places.get(job.job_id, ()) else ""
            detail = f"due for {waits:.0f} s, and in no list of the broker{where}"
            yield Finding(
                Kind.NOWHERE,
                job.job_id,
                job.queue,
                detail,
                f"toolkit worker, or {REPAIR}",
                stamp=_stamp(job, ()),
            )


def _strays(seen: Snapshot) -> Iterator[Finding]:
    for stray in seen.strays:
        detail = f"failed in RQ, not in the ledger: {stray.function[:80] or 'unreadable'}"
        if stray.refused:
            detail += f"; its ids cannot be had: {stray.refused[:300]}"
        mend = (
            f"ask for it anew by its ids, then {DROP} {shlex.quote(stray.job_id)}"
            if stray.refused
            else f"{REPAIR}; toolkit replay --job {stray.job_id}"
        )
        yield Finding(Kind.UNKNOWN, stray.job_id, stray.queue, detail, mend, repairable=not stray.refused)


def _residue(seen: Snapshot) -> Iterator[Finding]:
    for worker in seen.census.workers:
        if worker.gone:
            held = f", holding {', '.join(worker.executions)}" if worker.executions else ""
            yield Finding(
                Kind.RESIDUE,
                worker.name,
                worker.queue,
                f"{worker.gone}{held}",
                f"toolkit worker, or {REPAIR}",
            )
