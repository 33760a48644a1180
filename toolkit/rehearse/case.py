"""Running a case again: in a throw-away database with its rows, at its time, with its answers; once, then all is dropped.

The clock is an argument of whatever performs a job, so the recorded time is given, and nothing is frozen around I/O. A
payload of an older form runs in today's, as `toolkit replay` would run it; a body of the past gets it as it was.

Known weakness: PostgreSQL's own clock cannot be set; a fault of two sessions at once is the explorer's to show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import EntryPoint
from typing import Any, Final

import psycopg
from psycopg import sql

from toolkit.broker.worker import TIMEOUTS, time_limit
from toolkit.errors import InputFileError, UsageError
from toolkit.jobspec import JobSpec, Payload, Registry
from toolkit.ledger.database import Database, Session
from toolkit.ledger.migrate import migrate
from toolkit.perform import JobContext, Performer
from toolkit.rehearse.capture import todays
from toolkit.rehearse.case_file import Case, Ending, Table, Unique
from toolkit.rehearse.quiet import KeptRecord
from toolkit.rehearse.room import Room
from toolkit.run import Result, RunRecord
from toolkit.telemetry.logs import Log
from toolkit.telemetry.traces import Tracing

CURRENT: Final = "current"
"""The name of the body that the job has today."""

Body = Callable[[JobContext, Any], Result]

_JOB: Final = "rehearsed-case"


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What came of it. `same`: the recorded error came again; `as_expected`: it ended as the case says it should today, or,
    where it says nothing, not in the same error. `same_kind`: the fingerprint is the same too."""

    ending: Ending
    message: str
    counts: dict[str, int]
    same: bool
    same_kind: bool
    as_expected: bool


@contextmanager
def case_room(registry: Registry, server_url: str) -> Iterator[Room]:
    """A room whose template has the jobs' tables and the ledger, for any number of cases. Raises DependencyUnreachable, and
    ToolkitError when the login may not create databases."""

    def prepare(url: str) -> None:
        with closing(Database(url)) as database:
            with database.begin() as connection:
                for spec in registry.specs.values():
                    if spec.create_schema is not None:
                        spec.create_schema(connection)
            migrate(database, registry)

    with Room.open(server_url, prepare) as room:
        yield room


def rehearse(
    case: Case, registry: Registry, room: Room, *, release: str, log: Log, body: str = CURRENT
) -> Rehearsed:
    """Run the case once, in a database of its own. Raises as `performed` does."""
    with performed(case, registry, room, release=release, log=log, body=body) as (ended, _):
        return _compared(case, ended)


@contextmanager
def performed(
    case: Case, registry: Registry, room: Room, *, release: str, log: Log, body: str = CURRENT
) -> Iterator[tuple[RunRecord, Session]]:
    """The run's record, and a session on its database, which is dropped at the end. Raises UsageError when its job has no
    hooks for it or there is no such body, InputFileError when its rows do not fit this release's tables, PayloadRefused when
    no ids can be had from its payload."""
    spec = registry.get(case.job_name)
    if spec.case is None:
        raise UsageError(
            f"jobs named {spec.name} cannot be rehearsed", remedy="give its JobSpec a `case` (CaseHooks)"
        )
    payload, _ = todays(spec, case.payload)
    chosen = dataclasses.replace(spec, body=_body(case, spec, body))
    with room.copy() as url, closing(Database(url)) as database:
        with database.session() as session, session.transaction():
            _load(session, case, spec, payload)
        ended = _perform(case, chosen, database, release=release, log=log)
        with database.session() as session:
            yield ended, session


def _body(case: Case, spec: JobSpec, name: str) -> Body:
    """The body of that name: the job's own, one of those it keeps, or what is at `module:ATTRIBUTE`. Raises UsageError."""
    kept = spec.case.bodies if spec.case else {}
    if name == CURRENT:
        return spec.body
    if name in kept:
        return lambda context, _payload: kept[name](context, case.payload)
    if ":" not in name:
        raise UsageError(
            f"jobs named {spec.name} keep no body {name!r}",
            remedy=f"there are: {', '.join((CURRENT, *kept))}; or give a function's place, as module:NAME",
        )
    try:
        found = EntryPoint(name, name, "").load()
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"there is no body at {name}: {error}", remedy="is its folder in PYTHONPATH, and the name right?"
        ) from error
    if not callable(found):
        raise UsageError(f"{name} is no function", remedy="a body is called with a JobContext and a payload")
    body: Body = found
    return body


def _load(session: Session, case: Case, spec: JobSpec, payload: Payload) -> None:
    try:
        for table in case.tables:
            _insert(session, table)
        for unique in case.unique:
            _create_unique(session, unique)
    except psycopg.Error as error:
        raise InputFileError(f"the case's rows do not fit: {error.diag.message_primary}",
                             remedy="was it captured from tables that this release does not know?") from error  # fmt: skip
    session.execute(
        "INSERT INTO toolkit.intent (job_id, job_name, queue, payload, mode, created_at, due_at, pushed_at, pushes)"
        " VALUES (%s, %s, %s, %s::jsonb, %s, %s, %s, %s, 1)",
        (_JOB, spec.name, spec.queue, spec.encode(payload).decode(), case.mode.value, *(case.asked_at,) * 3),
    )


def _insert(session: Session, table: Table) -> None:
    if not table.rows:
        return
    query = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(table.table),
        sql.SQL(", ").join(map(sql.Identifier, table.columns)),
        sql.SQL(", ").join([sql.Placeholder()] * len(table.columns)),
    )
    with session.cursor() as cursor:
        cursor.executemany(query, table.rows)


def _create_unique(session: Session, unique: Unique) -> None:
    session.execute(
        sql.SQL("CREATE UNIQUE INDEX IF NOT EXISTS {} ON {} ({})").format(
            sql.Identifier(unique.name),
            sql.Identifier(unique.table),
            sql.SQL(", ").join(map(sql.Identifier, unique.columns)),
        )
    )


def _perform(case: Case, spec: JobSpec, database: Database, *, release: str, log: Log) -> RunRecord:
    assert spec.case is not None  # noqa: S101  checked by `rehearse`
    kept = KeptRecord()

    def clock() -> datetime:
        return case.ran_at

    with spec.case.resources(case.answers) as opened:
        Performer(
            registry=Registry.of([spec]),
            database=database,
            tracing=Tracing("freshfetch", release, {}),
            log=log,
            sink=kept,
            resources={spec.name: opened},
            worker="rehearsal",
            host="rehearsal",
            release=release,
            lease=spec.timeout,
            random=lambda: 0.5,
            time_limit=time_limit,
            timeouts=TIMEOUTS,
            now=clock,
        ).perform(_JOB, mode=case.mode)
    assert kept.record is not None  # noqa: S101  nobody else holds this run
    return kept.record


def ending_of(ended: RunRecord) -> Ending:
    """How a run ended, by its record."""
    failure = ended.failure
    return Ending(
        outcome=ended.outcome,
        reason=ended.reason,
        error_type=failure.error_type if failure else "",
        sqlstate=failure.sqlstate if failure else "",
        constraint=failure.constraint if failure else "",
    )


def _compared(case: Case, ended: RunRecord) -> Rehearsed:
    failure = ended.failure
    ending = ending_of(ended)
    same = ending == case.error
    return Rehearsed(
        ending=ending,
        message=failure.message.partition("\n")[0] if failure else "",
        counts=dict(ended.counts),
        same=same,
        same_kind=same and failure is not None and failure.fingerprint == case.fingerprint,
        as_expected=ending == case.expected if case.expected is not None else not same,
    )
