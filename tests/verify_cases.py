"""Cases for verify-deploy: an incident as data (tests/cases/verify/, the format is in the incident's head), put into a database.

    for case in cases(): …
    with seeded(connection, case, case.verify["fixed"]): …     # times are moved: `at` is right now

A later document is a patch of the first file: mappings are merged, anything else is replaced, what is empty goes.
Known weakness: catalog rows of the seeded jobs are not made; checks read those of test orders and review sessions only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import yaml

from jobs.images import words
from tests.ledger_rows import TRACE
from tests.orders import new_order
from toolkit.ledger import toggles

FOLDER = Path(__file__).parent / "cases" / "verify"
INCIDENT = FOLDER / "incident-2025-10-11.yaml"
SYMPTOMS = FOLDER / "symptoms.yaml"


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a case: a name that is not known is refused."""


class Deployment(_Part, frozen=True):
    """A mark."""

    release: str
    at: time


class Proven(_Part, frozen=True):
    """The verification that ended proven before."""

    release: str
    since: time
    until: time


class Attempt(_Part, frozen=True):
    """A run and how it ended."""

    outcome: str
    reason: str = ""
    error: str | None = None
    message: str | None = None
    sqlstate: str | None = None
    constraint: str | None = None
    fingerprint: str | None = None


class Jobs(_Part, frozen=True):
    """A group of jobs."""

    release: str
    first: time
    every: float = 0.0
    number: int = 1
    mode: str = "async"
    asked_by: str = ""
    pushed: bool = True
    waits: tuple[float, ...] = (0.0,)
    takes: tuple[float, ...] = (1.0,)
    attached: int = 12
    again: float = 5.0
    runs: tuple[Attempt, ...] = (Attempt(outcome="processed"),)


class Reviews(_Part, frozen=True):
    """A review session with its decisions."""

    at: time
    approved: int
    rejected: int


class Process(_Part, frozen=True):
    """A process that is connected. `release`: '' for the one that is verified."""

    kind: str
    host: str
    pid: int
    release: str = ""


class Placed(_Part, frozen=True):
    """What is changed of a test order after it went through. `waits`: nobody took it. `ends`: its run, in place of the real one.
    `after`: seconds from asked to done, or to now. `served`: so many of its drafts keep their images. `reviews`: so many review
    sessions there are. `workflow`: seconds. `trace`: that of its run."""

    waits: bool = False
    ends: Attempt | None = None
    after: float = 0.0
    served: int | None = None
    reviews: int = 1
    workflow: float = 0.0
    trace: str = ""


class Expected(_Part, frozen=True):
    """What a check says."""

    verdict: str
    says: str


class Looked(_Part, frozen=True):
    """A verification, and what is expected of it by check."""

    release: str
    at: time
    expect: dict[str, Expected]
    orders: dict[str, Placed] = {}


class Case(_Part, frozen=True):
    """The whole file."""

    title: str
    date: date
    deployments: dict[str, Deployment]
    proven: Proven
    jobs: dict[str, Jobs]
    reviews: dict[str, Reviews]
    processes: dict[str, Process]
    verify: dict[str, Looked]


def merged(base: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7396), with '' in the place of null."""
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return patch
    changed = base | {name: merged(base.get(name, {}), value) for name, value in patch.items()}
    return {name: value for name, value in changed.items() if value != ""}


def cases() -> list[Case]:
    """The incident, and it with each symptom: of those, only the fixed release is verified."""
    # BaseLoader: all scalars are text, for YAML would make 17:30:00 a number.
    base = yaml.load(INCIDENT.read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506  it builds text, lists and mappings only
    patches = list(yaml.load_all(SYMPTOMS.read_text(encoding="utf-8"), yaml.BaseLoader))
    only = base | {"verify": {"fixed": base["verify"]["fixed"]}}
    plain = [base, *(merged(only, patch) for patch in patches)]
    return [msgspec.convert(one, type=Case, strict=False) for one in plain]


@dataclass(frozen=True, slots=True)
class _Clock:
    """Moves the incident's times so that `at` is `now`."""

    day: date
    at: time
    now: datetime

    def moment(self, when: time) -> datetime:
        """When it is in the test."""
        return self.now + (self._of(when) - self._of(self.at))

    def _of(self, when: time) -> datetime:
        return datetime.combine(self.day, when, UTC)


@contextmanager
def seeded(
    connection: psycopg.Connection, case: Case, looked: Looked, *, processes: bool = True
) -> Iterator[None]:
    """A database as it stood then; what is later has not happened. The processes are connected until the context ends."""
    row: Any = connection.execute("SELECT clock_timestamp()").fetchone()
    clock = _Clock(case.date, looked.at, row[0])
    with connection.transaction():
        for one in case.deployments.values():
            if one.at <= looked.at:
                connection.execute(
                    "INSERT INTO toolkit.deployment (release, at, who) VALUES (%s, %s, 'ann')",
                    (one.release, clock.moment(one.at)),
                )
        since, until = clock.moment(case.proven.since), clock.moment(case.proven.until)
        connection.execute(
            "INSERT INTO toolkit.verification (release, since, asked, who, started_at, finished_at, verdict)"
            " VALUES (%s, %s, '{}', 'ann', %s, %s, 'proven')",
            (case.proven.release, since, until, until),
        )
        for name, group in case.jobs.items():
            _jobs(connection, name, group, clock)
        for name, one_review in case.reviews.items():
            _review(connection, name, one_review, clock)
    with ExitStack() as stack:
        for name, process in case.processes.items() if processes else ():
            own = stack.enter_context(
                psycopg.connect(connection.info.dsn, password=connection.info.password, autocommit=True)
            )
            _joins(own, name, process, looked.release)
        yield


def _jobs(connection: psycopg.Connection, name: str, group: Jobs, clock: _Clock) -> None:
    """The intents and runs of a group."""
    intents, runs = [], []
    for number in range(group.number):
        asked = clock.moment(group.first) + timedelta(seconds=number * group.every)
        if asked < clock.now:
            job = f"{name} {number + 1}"
            runs += _runs(job, group, number, asked)
            ended = runs[-1]["finished_at"] if group.runs else None
            if ended and ended > clock.now:
                raise ValueError(f"{job} ends after the moment it is looked at")
            intents.append(_intent(job, group, asked, ended))
    _insert(connection, "toolkit.intent", intents)
    _insert(connection, "toolkit.run", runs)


def _intent(job: str, group: Jobs, asked: datetime, ended: datetime | None) -> dict[str, Any]:
    return {
        "job_id": job, "job_name": words.NAME, "queue": words.QUEUE, "payload": "{}", "mode": group.mode,
        "release": group.asked_by or group.release, "created_at": asked, "due_at": asked,
        "pushed_at": asked if group.pushed and group.mode == "async" else None, "done_at": ended,
        "outcome": group.runs[-1].outcome if group.runs else None,
    }  # fmt: skip


def _runs(job: str, group: Jobs, number: int, asked: datetime) -> Iterator[dict[str, Any]]:
    wait = group.waits[number % len(group.waits)]
    takes = group.takes[number % len(group.takes)]
    began = asked + timedelta(seconds=wait)
    for attempt, run in enumerate(group.runs, 1):
        ended = began + timedelta(seconds=takes)
        again = ended + timedelta(seconds=group.again)
        counts = {words.DraftOutcome.ATTACHED: group.attached} if run.outcome == "processed" else {}
        yield {
            "job_id": job, "job_name": words.NAME, "queue": words.QUEUE, "number": attempt, "mode": group.mode,
            "worker": "work-1.4003.0", "host": "work-1", "release": group.release, "queue_wait": wait, "started_at": began,
            "finished_at": ended, "duration": takes, "counts": json.dumps(counts), "trace_id": TRACE,
            "retry_at": again if attempt < len(group.runs) else None, **outcome_columns(run),
        }  # fmt: skip
        began = again


def outcome_columns(run: Attempt) -> dict[str, Any]:
    """How a run ended, as the columns of toolkit.run."""
    return {
        "outcome": run.outcome, "reason": run.reason, "error_type": run.error, "error_message": run.message,
        "sqlstate": run.sqlstate, "constraint_name": run.constraint, "fingerprint": run.fingerprint,
    }  # fmt: skip


def _insert(connection: psycopg.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        names = list(rows[0])
        places = ", ".join(f"%({name})s" for name in names)
        with connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})", rows)


def _review(connection: psycopg.Connection, name: str, review: Reviews, clock: _Clock) -> None:
    """A review session of an order with one image, decided on again and again: only the decisions are counted."""
    opened = clock.moment(review.at)
    if opened >= clock.now:
        return
    order = new_order(connection, 1)
    connection.execute(
        "INSERT INTO \"ProductImage\" (id, \"productDraftId\", url, source, position) VALUES (%s, %s, 'u', 'memory', 0)",
        (name, order.drafts[0]),
    )
    connection.execute(
        'INSERT INTO "ImageReviewSession" (id, "purchaseOrderId", "merchantId", status, "createdAt", "updatedAt")'
        " VALUES (%s, %s, %s, 'done', %s, now())",
        (name, order.id, order.merchant, opened.astimezone(UTC).replace(tzinfo=None)),
    )
    connection.execute(
        'INSERT INTO "ImageReviewItem" (id, "sessionId", "imageId", decision)'
        " SELECT %(name)s || n, %(name)s, %(name)s, CASE WHEN n <= %(good)s THEN 'approved' ELSE 'rejected' END"
        " FROM generate_series(1, %(all)s) n",
        {"name": name, "good": review.approved, "all": review.approved + review.rejected},
    )


def _joins(connection: psycopg.Connection, name: str, process: Process, release: str) -> None:
    """A process says that it is there, as each does."""
    toggles.ack(
        connection, words.TOGGLE, process=name, kind=process.kind, host=process.host, pid=process.pid,
        release=process.release or release, version=0, variant="async", layer="default", direct=True,
    )  # fmt: skip
