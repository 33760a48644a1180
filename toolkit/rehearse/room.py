"""The sealed room: a throw-away database made from a template, in which schedules are played.

    with Room.open(server_url, prepare) as room:          # makes the template, once
        with room.theatre(scenario) as theatre:           # a copy of it; connections are kept between schedules
            story = theatre.play(choose)

The databases are called `rehearse_…` and dropped at the end. Commits do not wait for the disk there (synchronous_commit
off), which changes nothing that a session can see while the server lives. Known weakness: a rehearsal killed by -9 leaves
its databases; `DROP DATABASE` them.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from toolkit.errors import DependencyUnreachable, ToolkitError
from toolkit.ledger.database import Session
from toolkit.rehearse.connection import ScheduledDatabase
from toolkit.rehearse.stage import Chooser, Part, Stage
from toolkit.rehearse.words import Actor, Outcome, Scenario, Step, Story

TRIES = 4
"""Times that a schedule is played again because the machine was too slow for a time limit."""


def _connect(url: str, name: str = "") -> psycopg.Connection[Any]:
    try:
        return psycopg.connect(url, autocommit=True, connect_timeout=5, application_name=name or "rehearse")
    except psycopg.OperationalError as error:
        raise DependencyUnreachable(
            f"the server for rehearsals does not answer: {' '.join(str(error).split())}",
            remedy="`toolkit up`, or check DATABASE_URL",
        ) from error


def with_database(url: str, name: str) -> str:
    """The same server, another database."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


class Room:
    """A template database and its copies. Make it with `open`."""

    def __init__(self, server_url: str, admin: psycopg.Connection[Any], name: str, mark: str = "") -> None:
        self.server_url = server_url
        self.name = name
        self._admin = admin
        self._mark = mark
        self._copies = 0

    @classmethod
    @contextmanager
    def open(cls, server_url: str, prepare: Callable[[str], None]) -> Iterator[Room]:
        """A room on that server; `prepare` fills the template, given its URL. Dropped at the end.

        Raises DependencyUnreachable when the server is away, ToolkitError when it may not create databases.
        """
        name = f"rehearse_{os.getpid()}_{secrets.token_hex(4)}"
        with _connect(server_url) as admin:
            room = cls(server_url, admin, name)
            with room._database(name):
                prepare(with_database(server_url, name))
                yield room

    @classmethod
    @contextmanager
    def beside(cls, server_url: str, template: str, mark: str) -> Iterator[Room]:
        """Another process's room: its template, copies of our own, told apart by `mark`."""
        with _connect(server_url) as admin:
            yield cls(server_url, admin, template, mark)

    @property
    def server_version(self) -> str:
        """PostgreSQL's version: `18.4`."""
        return self._admin.info.parameter_status("server_version") or "unknown"

    @contextmanager
    def copy(self, schema: str = "") -> Iterator[str]:
        """A copy of the template, altered by `schema`; its URL. Dropped at the end."""
        self._copies += 1
        name = f"{self.name}_{self._mark}{self._copies}"
        with self._database(name, template=self.name):
            url = with_database(self.server_url, name)
            if schema:
                with _connect(url) as connection:
                    connection.execute(schema.encode())
            yield url

    @contextmanager
    def theatre(self, scenario: Scenario) -> Iterator[Theatre]:
        """A copy of the template with the scenario's actors seated in it."""
        with self.copy(scenario.schema) as url, ExitStack() as stack:
            name = urlsplit(url).path.removeprefix("/")
            control = stack.enter_context(_connect(url, f"{name}.control"))
            theatre = Theatre(scenario, url, name, control)
            stack.callback(theatre.close)
            yield theatre

    @contextmanager
    def _database(self, name: str, template: str = "template1") -> Iterator[None]:
        make = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template)
        )
        quick = sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(sql.Identifier(name))
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        try:
            self._admin.execute(make)
        except psycopg.errors.InsufficientPrivilege as error:
            raise ToolkitError(
                "this login may not create a database to rehearse in",
                remedy="ALTER ROLE … CREATEDB, or rehearse on the embedded server",
            ) from error
        try:
            self._admin.execute(quick)
            yield
        finally:
            with suppress(psycopg.OperationalError):  # the server went away, and the room with it
                self._admin.execute(drop)


@dataclass(slots=True)
class _Usher:
    """The gate of an actor's connections, which outlive a schedule: sends them to its part in the present one."""

    part: Part | None = field(default=None)

    def enter(self, connection: Any, statement: str, params: Any) -> None:
        """Gate."""
        if self.part is not None:
            self.part.enter(connection, statement, params)

    def leave(self, connection: Any, error: psycopg.Error | None, rows: int | None) -> None:
        """Gate."""
        if self.part is not None:
            self.part.leave(connection, error, rows)

    def check(self) -> None:
        """Gate."""
        if self.part is not None:
            self.part.check()


class Theatre:
    """A scenario in a database of its own: plays schedule after schedule on the same connections."""

    def __init__(self, scenario: Scenario, url: str, name: str, control: psycopg.Connection[Any]) -> None:
        self.scenario = scenario
        self.name = name
        self.url = url
        self.control: Session = control
        self.told: Counter[tuple[str, str]] = Counter()
        """(actor, SQLSTATE) → how often, over all schedules: what the server's log must have too."""
        self._ushers = {actor.name: _Usher() for actor in scenario.actors}
        self._databases = {
            actor.name: ScheduledDatabase(
                url,
                self._ushers[actor.name],
                isolation=scenario.isolation,
                application_name=f"{name}.{actor.name}",
                settings={
                    "rehearse.actor": actor.name,
                    "default_transaction_isolation": scenario.isolation.lower(),
                    **actor.settings,
                },
            )
            for actor in scenario.actors
        }
        for database in self._databases.values():
            with database.session():  # the pool's own first statements belong to no schedule
                pass

    def play(self, choose: Chooser, *, watch: bool = False, footprints: bool = False) -> Story:
        """Play one schedule from the starting rows. With `watch`, the steps tell locks and carry their SQL in full.

        A schedule that a slow machine disturbed is played again, at most 4 times; then the story says so.
        """
        again = getattr(choose, "again", None)
        for number in range(TRIES):
            if number and again is not None:
                again()
            story = self._play(choose, watch=watch, footprints=footprints)
            if not story.disturbed:
                break
        return story

    def _play(self, choose: Chooser, *, watch: bool, footprints: bool) -> Story:
        self.scenario.reset(self.control)
        cast: list[tuple[Actor, Any]] = [
            (actor, self._databases[actor.name]) for actor in self.scenario.actors
        ]
        stage = Stage(
            cast,
            self.control,
            watch_locks=watch,
            footprints=footprints,
            render=self._rendered if watch else None,
        )
        for name, part in stage.parts.items():
            self._ushers[name].part = part
        try:
            steps = stage.play(choose)
        finally:
            for name, part in stage.parts.items():
                self._ushers[name].part = None
                if part.ended:
                    self._databases[name].engine.dispose()  # its connections died with it
        return Story(
            steps=tuple(steps),
            outcome=self._outcome(stage, steps),
            deadlocks=stage.deadlocks,
            disturbed=stage.disturbed,
        )

    def _outcome(self, stage: Stage, steps: list[Step]) -> Outcome:
        for name, part in stage.parts.items():
            self.told.update((name, error.split(" ")[0]) for error in part.errors)
        facts = self.scenario.inspect(self.control)
        errors = sorted(
            {
                (name, error)
                for step in steps
                for name, all_ in step.errors.items()
                for error in all_.split("; ")
            }
        )
        return Outcome(
            endings=tuple((name, part.ending) for name, part in stage.parts.items()),
            errors=tuple(errors),
            facts=tuple(sorted((name, number) for name, number in facts.items() if number)),
        )

    def _rendered(self, statement: str, params: Any) -> str:
        if not params:
            return statement
        return psycopg.ClientCursor(self.control).mogrify(statement, params)

    def close(self) -> None:
        """Close the actors' connections."""
        for database in self._databases.values():
            database.close()
