"""What stands now: servers, workers, queues, ledger; and what is wrong with them. Pure: `toolkit.look` does the looking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from toolkit.broker.view import QueueView, WorkerView
from toolkit.ledger.views import Summary

SILENCE: Final = 60.0
"""Seconds without a heartbeat after which an idle worker counts as dead; a busy one has its job's time limit more."""
LATE: Final = 30.0
"""Seconds after which an intent that no relay has pushed is wrong."""


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
    """Everything that was seen; None where the server that knows is away. `longest`: the longest job time limit, seconds."""

    release: str
    postgres: Server
    broker: Server
    schema: Schema | None
    ledger: Summary | None
    queues: tuple[QueueView, ...] | None
    workers: tuple[WorkerView, ...] | None
    longest: float

    @property
    def away(self) -> bool:
        """True when a server does not answer."""
        return "away" in {self.postgres.state, self.broker.state}

    def worker_state(self, worker: WorkerView) -> str:
        """RQ's word for it, or `dead` when it died or fell silent."""
        patience = SILENCE + (self.longest if worker.job_id else 0.0)
        return "dead" if worker.state == "dead" or worker.heartbeat_age > patience else worker.state


def judge(seen: Status) -> list[Finding]:
    """What is wrong, the gravest first, then what is worth knowing."""
    found = [
        Finding(f"{server.name} does not answer: {server.detail}", _back(server))
        for server in (seen.postgres, seen.broker)
        if server.state == "away"
    ]
    return [*found, *_schema(seen.schema), *_work(seen), *_ledger(seen.ledger)]


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
    states = [seen.worker_state(worker) for worker in seen.workers]
    alive = sum(state != "dead" for state in states)
    waiting = max(
        sum(queue.queued + queue.intermediate for queue in seen.queues), seen.ledger.due if seen.ledger else 0
    )
    found = []
    if waiting and not alive:
        found.append(
            Finding(
                f"{waiting:,} {_plural(waiting, 'job waits', 'jobs wait')} and no worker runs",
                "toolkit worker",
            )
        )
    if dead := len(states) - alive:
        found.append(
            Finding(f"{dead} {_plural(dead, 'worker', 'workers')} died or fell silent without being replaced", "toolkit worker",
                    wrong=False)
        )  # fmt: skip
    if not alive and not waiting:
        found.append(Finding("no worker runs; nothing waits for one", "toolkit worker", wrong=False))
    return found


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
    if lost := ledger.runs["lost"]:
        found.append(
            Finding(
                f"{lost:,} {_plural(lost, 'run was', 'runs were')} lost in the last hour",
                "toolkit jobs failed --since 1h",
            )
        )
    if failed := ledger.runs["failed"]:
        what = f"{failed:,} {_plural(failed, 'run', 'runs')} failed in the last hour"
        found.append(Finding(what, "toolkit jobs failed --since 1h", wrong=False))
    return found


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
