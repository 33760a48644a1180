"""What people see of jobs, runs and failures in the ledger: frozen rows, and what follows from them. Pure.

A job's state is `waiting` (nobody holds it; perhaps for a retry), `running`, or the outcome that ended it: `processed`,
`skipped`, `failed`, `lost`. Times are aware and in UTC, durations in seconds. Deliveries that found the job done or held
already are runs too, but not the ones that tell how the job fares.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from toolkit.run import CORE_SKIP_REASONS, Outcome, Result

WAITING: Final = "waiting"
RUNNING: Final = "running"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run as the ledger has it; `outcome` is None while it runs, `retry_at` when the next attempt is due."""

    run_id: str
    number: int
    outcome: str | None
    reason: str
    counts: dict[str, int]
    mode: str
    release: str
    worker: str
    host: str
    queue_wait: float
    started_at: datetime
    finished_at: datetime | None
    duration: float | None
    lease_until: datetime | None
    error_type: str | None
    error_message: str | None
    sqlstate: str | None
    constraint: str | None
    fingerprint: str | None
    traceback: str | None
    retry_at: datetime | None
    replay_of: str | None
    trace_id: str
    span_id: str

    @property
    def redundant(self) -> bool:
        """True for a delivery that another run had made needless."""
        return self.outcome == Outcome.SKIPPED and self.reason in CORE_SKIP_REASONS

    def answer(self) -> dict[str, object] | None:
        """What the caller of the job saw, e.g. `{"success": true, "skipped": true, "reason": "no_drafts"}`; None: no
        answer yet, or ever."""
        if self.outcome in {None, Outcome.LOST}:
            return None
        if self.outcome == Outcome.FAILED:
            return {"success": False, "reason": self.reason, "error": self.error_message or ""}
        return Result(outcome=Outcome(self.outcome), reason=self.reason, counts=self.counts).answer()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    """A job in a list: what was asked, its state, and its last telling run (None before the first). `held_by`: the toggle
    that keeps it in the ledger."""

    job_id: str
    job_name: str
    queue: str
    payload: dict[str, Any]
    mode: str
    release: str
    asked_at: datetime
    pushed_at: datetime | None
    due_at: datetime
    done_at: datetime | None
    state: str
    runs: int
    last_outcome: str | None
    reason: str | None
    counts: dict[str, int] | None
    error_type: str | None
    error_message: str | None
    queue_wait: float | None
    started_at: datetime | None
    duration: float | None
    retry_at: datetime | None
    held_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job with everything the ledger knows of it; `asked_trace_id` is the trace of whoever asked ('' when unknown);
    `gone`: why a replay found nothing left to do for it ('' when none did)."""

    line: JobLine
    asked_trace_id: str
    gone: str
    runs: tuple[RunView, ...]

    @property
    def last(self) -> RunView | None:
        """The run that tells how the job fares; None before the first."""
        telling = [run for run in self.runs if not run.redundant]
        return telling[-1] if telling else None

    @property
    def trace_ids(self) -> list[str]:
        """Every trace that the job appears in, oldest first."""
        ids = [self.asked_trace_id, *(run.trace_id for run in self.runs)]
        return list(dict.fromkeys(one for one in ids if one))


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which jobs to list, newest first. `about`: a value in the payload; `since`: asked then or later."""

    state: str | None = None
    job_name: str | None = None
    since: datetime | None = None
    about: str | None = None
    limit: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedGroup:
    """Failed and lost runs of one kind. `open` of its `jobs` will be tried again by themselves, `given_up` will not;
    the others have come to a good end since, or were found gone by a replay. `example_*` is of the newest run."""

    fingerprint: str
    job_name: str
    outcome: str
    reason: str
    error_type: str
    sqlstate: str
    constraint: str
    runs: int
    jobs: int
    open: int
    given_up: int
    first_seen: datetime
    last_seen: datetime
    releases: list[str]
    example_job_id: str
    example_message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The ledger at a glance. `runs`: those that began since `since`, by outcome, all outcomes present, and `running`.
    Ages in seconds, 0.0 for none. `silent`: running past their lease, so their host is gone and no supervisor has seen it;
    `unresolved`: jobs with a failed or lost one among those runs that have not come to a good end since."""

    since: datetime
    runs: dict[str, int]
    unpushed: int
    unpushed_age: float
    due: int
    due_age: float
    running: int
    silent: int
    retries: int
    next_retry: datetime | None
    unresolved: int
