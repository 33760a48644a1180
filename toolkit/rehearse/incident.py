"""An incident, run again as its timeline says: once with the body of then, once with today's job, for each of its reasons.

The job is run as a worker runs it, by a clock of the rehearsal's own (clock.py), and its first statement and its write
happen at the moments that the timeline gives them. Running twice gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg

from toolkit.ledger.database import Database, Session
from toolkit.rehearse import clock
from toolkit.rehearse.connection import ScheduledConnection, ScheduledDatabase
from toolkit.rehearse.incident_file import FAILS, STARTS, WRITES, Event, Incident
from toolkit.rehearse.room import Room
from toolkit.rehearse.stage import described

INDENT = " " * 11


@dataclass(slots=True, kw_only=True)
class Scene:
    """What the cast works with. `memory` is the cast's own, for one run; `tell` says what the job logs."""

    control: Session
    database: Database
    clock: clock.VirtualClock
    reason: str
    body: str
    tell: Callable[[str], None]
    memory: dict[str, Any] = field(default_factory=dict)


class Cast(Protocol):
    """How a package plays its incidents. `verbs` are those of its timelines beside the job's own; `reasons` and `bodies`
    say what a name means."""

    verbs: frozenset[str]
    reasons: Mapping[str, str]
    bodies: Mapping[str, str]

    def play(self, verb: str, scene: Scene) -> None:
        """Do what the verb says."""

    def is_write(self, sql: str) -> bool:
        """True for the statement that is the job's write."""

    def perform(self, scene: Scene) -> str:
        """Run the job; how it ended, in words: `skipped no_drafts`, `failed integrity 23503`."""

    def harm(self, control: Session) -> list[str]:
        """What is wrong in the tables afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of the timeline. `error`: SQLSTATE and constraint; `error_at`: the moment of the statement that met it."""

    body: str
    reason: str
    lines: tuple[str, ...]
    ending: str
    error: str = ""
    error_at: str = ""
    waited: int = 0
    harm: tuple[str, ...] = ()

    @property
    def result(self) -> str:
        """In a few words."""
        return "; ".join((self.error or self.ending, *self.harm))


@dataclass(slots=True)
class _Watch:
    """The gate of the job's connections: moves the clock to the moments of the timeline, and notes errors."""

    incident: Incident
    cast: Cast
    clock: clock.VirtualClock
    line: Callable[[Event], None]
    error: str = ""
    error_at: str = ""

    def enter(self, connection: ScheduledConnection, sql: str, params: Any) -> None:  # noqa: ARG002  a Gate's words
        """A statement is about to be sent."""
        if self.cast.is_write(sql):
            self._happens(WRITES)

    def leave(self, connection: ScheduledConnection, error: psycopg.Error | None, rows: int | None) -> None:  # noqa: ARG002
        """It came back."""
        if error is not None and not self.error:
            self.error, self.error_at = described(error), f"{self.clock.moment:%H:%M:%S}"
            self._happens(FAILS)

    def check(self) -> None:
        """Nobody is killed here."""

    def _happens(self, verb: str) -> None:
        event = self.incident.event(verb)
        if event is not None:
            self.clock.move(self.incident.moment(event.at))
            self.line(event)


def run(room: Room, incident: Incident, cast: Cast, *, body: str, reason: str) -> Run:
    """The timeline once, in a database of its own."""
    lines: list[str] = []
    said: set[str] = set()

    def say(event: Event) -> None:
        if event.do not in {WRITES, FAILS} or event.do not in said:
            lines.append(f"{_when(event)} - {event.say}")
        said.add(event.do)

    with room.copy(clock.SCHEMA) as url, psycopg.connect(url, autocommit=True) as control:
        ticking = clock.VirtualClock(control, incident.moment(incident.timeline[0].at))
        watch = _Watch(incident, cast, ticking, say)
        database = ScheduledDatabase(
            url, watch, isolation="READ COMMITTED", application_name="rehearse", settings=dict(clock.SETTINGS)
        )
        scene = Scene(
            control=control, database=database, clock=ticking, reason=reason, body=body,
            tell=lambda text: lines.extend(INDENT + line for line in text.splitlines()),
        )  # fmt: skip
        try:
            ending = _play(incident, cast, scene, say)
        finally:
            database.close()
        return Run(
            body=body, reason=reason, lines=tuple(lines), ending=ending, error=watch.error, error_at=watch.error_at,
            waited=scene.memory.get("waited", 0), harm=tuple(cast.harm(control)),
        )  # fmt: skip


def _play(incident: Incident, cast: Cast, scene: Scene, say: Callable[[Event], None]) -> str:
    ending = ""
    for event in incident.timeline:
        if event.do in {WRITES, FAILS}:
            continue  # they happen when the job does
        scene.clock.move(incident.moment(event.at))
        say(event)
        if event.do == STARTS:
            ending = cast.perform(scene)
        elif event.do:
            cast.play(event.do, scene)
        if event.until:
            scene.clock.move(incident.moment(event.until))
    return ending


def _when(event: Event) -> str:
    return f"{event.at[:5]}-{event.until[:5]}" if event.until else event.at


@dataclass(frozen=True, slots=True)
class Report:
    """Both bodies, for every reason. `reproduced`: the body of then ended as the incident did, for the first reason;
    `fixed`: today's job met no error and did no harm, for any."""

    incident: Incident
    cast: Cast
    then: tuple[Run, ...]
    now: tuple[Run, ...]

    @property
    def reproduced(self) -> bool:
        """The same SQLSTATE, constraint and step."""
        expect, first = self.incident.expect, self.then[0]
        return (first.error, first.error_at) == (f"{expect.sqlstate} {expect.constraint}", expect.at)

    @property
    def fixed(self) -> bool:
        """No error and no harm with today's job."""
        return all(not run.error and not run.harm and run.ending.startswith("skipped") for run in self.now)


def rehearse(room: Room, incident: Incident, cast: Cast) -> Report:
    """Run the timeline with both bodies, for each reason."""

    def all_of(body: str) -> tuple[Run, ...]:
        return tuple(run(room, incident, cast, body=body, reason=reason) for reason in incident.reasons)

    return Report(incident, cast, all_of(incident.then), all_of(incident.now))


def told(report: Report) -> str:
    """The report as text: the timeline twice, for the first reason; then every reason in a line."""
    incident, cast = report.incident, report.cast
    lines = [f"{incident.title} ({incident.date}, times in UTC)"]
    for runs in (report.then, report.now):
        first = runs[0]
        lines += ["", f"== {cast.bodies[first.body]}; {cast.reasons[first.reason]} ==", "", *first.lines, ""]
        lines.append(f"=> {_ended(first)} (waited {first.waited} s in the queue)")
    lines += ["", "== why drafts might not exist, all the reasons of the report ==", ""]
    width = max(len(reason) for reason in incident.reasons)
    wide = max(len(run.result) for run in report.then)
    lines.append(f"{'reason'.ljust(width)}  {incident.then.ljust(wide)}  {incident.now}")
    lines += [
        f"{one.reason.ljust(width)}  {one.result.ljust(wide)}  {other.result}"
        for one, other in zip(report.then, report.now, strict=True)
    ]
    got, expect = _ended(report.then[0]), incident.expect
    but = "" if report.reproduced else f"; expected {expect.sqlstate} {expect.constraint} at {expect.at}"
    lines += [
        "",
        f"reproduced: {_yes(report.reproduced)} ({got}{but})",
        f"fixed: {_yes(report.fixed)} (no error, no harm, for any reason)",
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _ended(run: Run) -> str:
    return f"{run.result} at {run.error_at}" if run.error else run.result


def _yes(fact: bool) -> str:
    return "yes" if fact else "NO"
