"""What replay knows of a job, of a plan and of its jobs in the air: frozen rows. Pure.

Times are aware and in UTC, durations in seconds. Strings are '' where the ledger has nothing to say. What there is one of
for each of 300,000 jobs is a msgspec struct: it is made five times as fast as a frozen dataclass, and without `gc` the
collector does not look through thousands of them for circles that cannot be there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

FAILED: Final = ("failed", "lost")
"""Outcomes of a job that a replay may open again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which failed jobs: those named, or all that meet every condition that is set. `error`: the exception's name, or a
    part of its message. `since` and `until`: when the failed run began."""

    job_ids: tuple[str, ...] = ()
    fingerprint: str = ""
    error: str = ""
    sqlstate: str = ""
    job_name: str = ""
    merchant: str = ""
    release: str = ""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def named(self) -> bool:
        """True when the jobs are named one by one."""
        return bool(self.job_ids)

    def told(self) -> dict[str, Any]:
        """The conditions that are set, as `history` shows them."""
        values = {
            "job": list(self.job_ids),
            "fingerprint": self.fingerprint,
            "error": self.error,
            "sqlstate": self.sqlstate,
            "job_name": self.job_name,
            "merchant": self.merchant,
            "release": self.release,
            "since": self.since.isoformat() if self.since else "",
            "until": self.until.isoformat() if self.until else "",
        }
        return {name: value for name, value in values.items() if value} or {"failed": True}


class LastRun(msgspec.Struct, frozen=True, gc=False):
    """The run that tells how a job fares: its last one that was not a needless delivery. `outcome` is '' while it runs;
    `lease_left` is 0.0 where there is no lease."""

    run_id: str
    number: int
    outcome: str
    reason: str
    error_type: str
    fingerprint: str
    release: str
    worker: str
    lease_left: float

    @property
    def signature(self) -> str:
        """What kind of failure: the fingerprint; for a lost run, which has none, how it was lost."""
        return self.fingerprint or f"{self.reason}:{self.error_type}"


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """One job at one moment. `payload` is JSON text; `outcome` is '' while the job is open; `due_in` counts then; `replayed`
    is the failed run that its last run replayed; `holder` and `in_air` (seconds) tell of the replay that has it now;
    `held_by` is the toggle that keeps it in the ledger."""

    job_id: str
    job_name: str
    payload: str
    outcome: str
    pushed: bool
    due_in: float
    last: LastRun | None
    replayed: LastRun | None
    holder: str
    in_air: float
    held_by: str = ""


class Item(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A job of a plan: its verdict, why, and the failed run ('' when there is none)."""

    job_id: str
    verdict: str
    detail: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A frozen plan. `verdicts` counts its jobs; `started_at` None: only planned; `ending`: '' (not begun or interrupted),
    `done` or `stopped`."""

    replay_id: int
    hash: str
    planned_at: datetime
    planned_by: str
    release: str
    selection: dict[str, Any]
    reason: str
    forced: bool
    verdicts: dict[str, int]
    remainder_of: int | None
    started_at: datetime | None
    started_by: str | None
    ending: str

    @property
    def jobs(self) -> int:
        """How many jobs it is about."""
        return sum(self.verdicts.values())

    @property
    def named(self) -> bool:
        """True when its jobs were named one by one."""
        return "job" in self.selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """What became of a plan's flights: how many by outcome, and how many are in the air."""

    outcomes: dict[str, int]
    in_air: int

    @property
    def bad(self) -> int:
        """Flights that failed again."""
        return sum(self.outcomes.get(outcome, 0) for outcome in FAILED)

    @property
    def flights(self) -> int:
        """All."""
        return sum(self.outcomes.values()) + self.in_air


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """One replay of one job: which failed run, by which plan, by whom and why, and how the job ended ('': in the air)."""

    job_id: str
    replay_of: str
    hash: str
    holder: str
    reason: str
    started_at: datetime
    landed_at: datetime | None
    outcome: str
