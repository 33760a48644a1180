"""What stands now: servers, workers, queues, ledger; and what is wrong with them. Pure: `toolkit.look` does the looking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from toolkit.broker.view import QueueView, WorkerView
from toolkit.ledger.views import Summary

SILENCE: Final = 60.0
"""Seconds without a heartbeat after which an idle worker counts as silent; a busy one has its job's time limit more."""
LATE: Final = 30.0
"""Seconds after which an intent that no relay has pushed is wrong."""

ABSENT: Final = ("dead", "stopped", "silent")
"""States of a worker that takes no jobs."""


class Process(StrEnum):
    """What this host's process table says of a worker."""

    RUNS = "runs"
    STOPPED = "stopped"  # SIGSTOP, Ctrl-Z, a debugger
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """PostgreSQL or the broker: `state` ok or away, `source` the variable that names it or `embedded`; the URL is masked."""

    name: str
    state: str
    source: str
    url: str
    version: str
    detail: str


@dataclass(frozen=True, slots=True)
class Schema:
    """The revision of schema `toolkit` (None: missing) and the one that this release wants; why it cannot be read ('')."""

    found: str | None
    wanted: str
    problem: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that an engineer should know, and the command that goes on from there. A note is not wrong by itself."""

    what: str
    next: str
    wrong: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything that was seen; None where the server that knows is away. `processes`: what is known of this host's worker
    processes, by the worker's name; `longest`: the longest job time limit, seconds."""

    release: str
    postgres: Server
    broker: Server
    schema: Schema | None
    ledger: Summary | None
    queues: tuple[QueueView, ...] | None
    workers: tuple[WorkerView, ...] | None
    processes: Mapping[str, Process]
    longest: float

    @property
    def away(self) -> bool:
        """True when a server does not answer."""
        return "away" in {self.postgres.state, self.broker.state}

    def worker_state(self, worker: WorkerView) -> str:
        """RQ's word for it while it lives; else `dead` (no such process), `stopped`, or `silent` (hanging, its host gone)."""
        process = self.processes.get(worker.name)
        if worker.state == "dead" or process is Process.GONE:
            return "dead"
        if process is Process.STOPPED:
            return "stopped"
        patience = SILENCE + (self.longest if worker.job_id else 0.0)
        return "silent" if worker.heartbeat_age > patience else worker.state

    def among(self, *states: str) -> list[WorkerView]:
        """The workers in these states."""
        return [worker for worker in self.workers or () if self.worker_state(worker) in states]

    @property
    def living(self) -> int:
        """How many workers take jobs."""
        return len(self.workers or ()) - len(self.among(*ABSENT))

    @property
    def absent(self) -> str:
        """How many do not: `2 dead, 1 silent`; '' when all do."""
        counts = {state: len(self.among(state)) for state in ABSENT}
        return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def judge(seen: Status) -> list[Finding]:
    """What is wrong, the gravest first, then what is worth knowing."""
    found = [
        Finding(f"{server.name} does not answer: {server.detail}", _back(server))
        for server in (seen.postgres, seen.broker)
        if server.state == "away"
    ]
    found += [*_schema(seen.schema), *_work(seen), *_ledger(seen.ledger)]
    return sorted(found, key=lambda finding: not finding.wrong)


def exit_code(seen: Status, findings: Sequence[Finding]) -> int:
    """0 fine, 1 something is wrong, 4 a server is away."""
    if seen.away:
        return 4
    return 1 if any(finding.wrong for finding in findings) else 0


def _back(server: Server) -> str:
    return "toolkit up" if server.source == "embedded" else f"check {server.source}"


def _schema(schema: Schema | None) -> list[Finding]:
    if schema is None:
        return []
    if schema.problem:
        return [Finding(schema.problem, schema.remedy)]
    if schema.found is None:
        return [Finding("schema toolkit is missing", "toolkit init")]
    if schema.found != schema.wanted:
        return [
            Finding(
                f"schema toolkit is at revision {schema.found}, this release wants {schema.wanted}",
                "toolkit init",
            )
        ]
    return []


def _work(seen: Status) -> list[Finding]:
    if seen.workers is None or seen.queues is None:
        return []
    waiting = max(
        sum(queue.queued + queue.intermediate for queue in seen.queues), seen.ledger.due if seen.ledger else 0
    )
    return [*_nobody(seen, waiting), *_stopped(seen), *_silent(seen), *_dead(len(seen.among("dead")))]


def _nobody(seen: Status, waiting: int) -> list[Finding]:
    """No worker takes jobs. That is wrong when jobs wait for one, or when there were some."""
    if seen.living:
        return []
    here = _here(seen, "stopped", "silent")  # a second supervisor beside theirs would not start
    following = _look_at(here) if here else "toolkit worker"
    if waiting:
        return [
            Finding(f"{waiting:,} {_plural(waiting, 'job waits', 'jobs wait')} and no worker runs", following)
        ]
    if seen.absent:
        return [Finding(f"no worker runs: {seen.absent}", following)]
    return [Finding("no worker runs; nothing waits for one", following, wrong=False)]


def _stopped(seen: Status) -> list[Finding]:
    if not (stopped := seen.among("stopped")):
        return []
    what = (
        f"{_workers(len(stopped))} stopped (SIGSTOP, Ctrl-Z, a debugger): what they have in hand waits;"
        " `kill -KILL PID` ends such a process, SIGTERM does not, and its supervisor starts another"
    )
    return [Finding(what, _look_at(stopped))]


def _silent(seen: Status) -> list[Finding]:
    if not (silent := seen.among("silent")):
        return []
    here = _here(seen, "silent")
    what = f"{_workers(len(silent))} silent: hanging, or on a host that is gone"
    return [Finding(what, _look_at(here) if here else "toolkit doctor", wrong=False)]


def _here(seen: Status, *states: str) -> list[WorkerView]:
    return [worker for worker in seen.among(*states) if worker.name in seen.processes]


def _dead(count: int) -> list[Finding]:
    if not count:
        return []
    what = f"{_workers(count)} dead and still in RQ's books"
    return [Finding(what, "toolkit doctor --repair", wrong=False)]


def _workers(count: int) -> str:
    return f"{count} {_plural(count, 'worker is', 'workers are')}"


def _look_at(workers: Sequence[WorkerView]) -> str:
    return f"ps -o pid,ppid,stat,etime,args -p {','.join(str(worker.pid) for worker in workers)}"


def _ledger(ledger: Summary | None) -> list[Finding]:
    if ledger is None:
        return []
    found = []
    if ledger.unpushed_age > LATE:
        found.append(
            Finding(f"{ledger.unpushed:,} committed {_plural(ledger.unpushed, 'intent is', 'intents are')} not in the queue, the "
                    f"oldest for {ledger.unpushed_age:,.0f} s: no relay moves them", "toolkit worker")
        )  # fmt: skip
    if ledger.silent:
        found.append(
            Finding(f"{ledger.silent:,} {_plural(ledger.silent, 'run is', 'runs are')} past the lease: the host is gone and no "
                    "supervisor has closed them", "toolkit worker")
        )  # fmt: skip
    left = ledger.unresolved
    since = (
        f"{left:,} {_plural(left, 'job is', 'jobs are')} unresolved"
        if left
        else "all their jobs are resolved"
    )
    following = "toolkit jobs failed --since 1h"
    if lost := ledger.runs["lost"]:
        found.append(
            Finding(
                f"{lost:,} {_plural(lost, 'run was', 'runs were')} lost in the last hour; {since}", following
            )
        )
    if failed := ledger.runs["failed"]:
        what = f"{failed:,} {_plural(failed, 'run', 'runs')} failed in the last hour; {since}"
        found.append(Finding(what, following, wrong=False))
    return found


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
