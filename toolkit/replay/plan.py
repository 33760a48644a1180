"""Verdicts: may a failed job run again? Pure: from a snapshot, the live rows' answer and the release; no clock, no I/O.

UNDECODABLE    its name is not registered, or no ids can be had from its payload
STILL-RUNNING  some worker may be at it, it waits for its turn, or another replay has it
ALREADY-DONE   a later run did it
SKIP-GONE      what it was about is gone
LOOP           a replay under this very release has failed in the same way already (runs with --force)
RUN            none of these
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from toolkit.errors import PayloadRefused
from toolkit.jobspec import JobSpec, Payload
from toolkit.ledger.replay_views import FAILED, Item, LastRun, Snapshot


class Verdict(StrEnum):
    """What a plan says of a job."""

    RUN = "RUN"
    SKIP_GONE = "SKIP-GONE"
    ALREADY_DONE = "ALREADY-DONE"
    STILL_RUNNING = "STILL-RUNNING"
    UNDECODABLE = "UNDECODABLE"
    LOOP = "LOOP"


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """A payload of today's form, or why there is none. `upcast` is its JSON when the ledger has it in an older form."""

    payload: Payload | None
    error: str = ""
    upcast: str | None = None


class Judged(msgspec.Struct, frozen=True, gc=False):
    """A verdict on a job, and why."""

    verdict: Verdict
    detail: str


def decode(specs: Mapping[str, JobSpec], snapshot: Snapshot) -> Decoded:
    """The job's ids, also out of an older form."""
    spec = specs.get(snapshot.job_name)
    if spec is None:
        return Decoded(None, f"no job named {snapshot.job_name!r} is registered")
    try:
        return Decoded(spec.decode(snapshot.payload))
    except PayloadRefused as refused:
        if spec.upcast is None:
            return Decoded(None, str(refused))
    try:
        raw = spec.encode(spec.upcast(msgspec.json.decode(snapshot.payload, type=dict[str, object])))
    except (PayloadRefused, msgspec.MsgspecError) as refused:
        return Decoded(None, str(refused))
    return Decoded(spec.decode(raw), upcast=raw.decode())


def decide(snapshot: Snapshot, decoded: Decoded, gone: str, *, release: str, force: bool = False) -> Judged:
    """The verdict. `gone`: '' while live rows want the job, else the reason; `release`: the one that would run it."""
    if snapshot.outcome == "":
        return Judged(Verdict.STILL_RUNNING, _still(snapshot))
    if snapshot.outcome not in FAILED:
        return Judged(Verdict.ALREADY_DONE, _done(snapshot))
    if decoded.payload is None:
        return Judged(Verdict.UNDECODABLE, decoded.error)
    if gone:
        return Judged(Verdict.SKIP_GONE, gone)
    if loops(snapshot, release):
        told = (
            f"replayed under release {release} already, and failed the same way ({_failure(snapshot.last)})"
        )
        return Judged(Verdict.RUN, f"forced: {told}") if force else Judged(Verdict.LOOP, told)
    return Judged(
        Verdict.RUN, _failure(snapshot.last) + ("; from an older payload" if decoded.upcast else "")
    )


def loops(snapshot: Snapshot, release: str) -> bool:
    """True when the last run was a replay, under this release, and failed as the run that it replayed had failed."""
    last, replayed = snapshot.last, snapshot.replayed
    return (
        last is not None
        and replayed is not None
        and last.release == release
        and last.signature == replayed.signature
    )


def item(snapshot: Snapshot, judged: Judged) -> Item:
    """The plan's line about a job."""
    run_id = snapshot.last.run_id if snapshot.last else ""
    return Item(job_id=snapshot.job_id, verdict=judged.verdict, detail=judged.detail, run_id=run_id)


class PlanHash:
    """Names a plan by its content: which jobs, which failed runs, which verdicts, for which release. Fed in job id order,
    so that a plan of any size is hashed while it streams by."""

    def __init__(self, release: str, *, force: bool) -> None:
        self._digest = hashlib.sha256(f"{release}\n{force}\n".encode())

    def add(self, item: Item) -> None:
        """The next job."""
        self._digest.update(f"{item.job_id} {item.verdict} {item.run_id}\n".encode())

    def text(self) -> str:
        """Twelve hex digits."""
        return self._digest.hexdigest()[:12]


def _still(snapshot: Snapshot) -> str:
    last = snapshot.last
    held = f"replayed by {snapshot.holder} {snapshot.in_air:.0f} s ago: " if snapshot.holder else ""
    if last is not None and last.outcome == "":
        if last.lease_left > 0:
            return f"{held}{last.worker} is at it, its lease holds for {last.lease_left:.0f} s"
        return (
            f"{held}{last.worker} fell silent {-last.lease_left:.0f} s ago; a supervisor takes the job back"
        )
    if snapshot.held_by:
        return f"{held}{snapshot.held_by} keeps it in the ledger; `toolkit toggle on {snapshot.held_by}` lets it go"
    if snapshot.due_in > 0:
        return f"{held}its retry is due in {snapshot.due_in:.0f} s"
    return held + (
        "it waits in the queue" if snapshot.pushed else "it waits for a relay (`toolkit worker` runs one)"
    )


def _done(snapshot: Snapshot) -> str:
    last = snapshot.last
    return f"run {last.number}: {snapshot.outcome} {last.reason}".rstrip() if last else snapshot.outcome


def _failure(last: LastRun | None) -> str:
    return f"{last.outcome}: {last.error_type or last.reason}" if last else "failed"
