"""The words of rehearsing: scenarios and actors going in, stories and outcomes coming out. Frozen; no I/O.

A scenario names actors that run at once. A schedule is the order in which their SQL statements are issued; a story is
what happened in one schedule; an outcome is how it ended: each actor's ending and the facts found in the tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from toolkit.ledger.database import Database, Session

OnDelete = Literal["CASCADE", "NO ACTION", "SET NULL"]
Delete = Literal["committed", "rolled back", "held open"]
Isolation = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]

CRASH = "-- crash"
"""The label of the step in which another actor's session ends in the middle."""

LOCAL = ("BEGIN", "START TRANSACTION", "SET ", "SAVEPOINT")
"""How statements begin that touch no row and take no snapshot: in whatever order, nobody can tell."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What can be varied of a scenario without writing another."""

    isolation: Isolation = "READ COMMITTED"
    on_delete: OnDelete = "CASCADE"
    deferrable: bool = False
    delete: Delete = "committed"
    recreate: bool = False
    """The draft is created again, with the same id, by the transaction that deletes it."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One turn: `actor` issued `sql`. `waits_for`: it did not come back, and who holds it up. `woke`: who went on because
    of it. `errors`: actor → SQLSTATE and constraint, of every statement that ended in this turn. `locks`: actor → the
    tables that its transaction holds locks on, stronger than reading, after the turn (only when asked for)."""

    actor: str
    sql: str
    waits_for: tuple[str, ...] = ()
    woke: tuple[str, ...] = ()
    errors: dict[str, str] = {}
    rows: int | None = None
    locks: dict[str, tuple[str, ...]] = {}
    touched: dict[str, bool] | None = None
    """Tables that the turn read (False) or wrote or locked (True), when that was asked for and can be told."""
    rendered: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """How a schedule ended. `endings`: (actor, word or SQLSTATE). `errors`: every (actor, SQLSTATE constraint) that the
    server gave a client, also those that the code dealt with. `facts`: (name, number), only those above 0."""

    endings: tuple[tuple[str, str], ...]
    errors: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, int], ...] = ()


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """One schedule and what came of it. `disturbed`: a time limit fired only because the machine was slow."""

    steps: tuple[Step, ...]
    outcome: Outcome
    deadlocks: int = 0
    disturbed: bool = False

    @property
    def schedule(self) -> tuple[str, ...]:
        """Who had each turn."""
        return tuple(step.actor for step in self.steps)

    @property
    def switches(self) -> int:
        """How often the turn went to somebody else: a story with few is easy to read."""
        order = self.schedule
        return sum(1 for one, other in itertools.pairwise(order) if one != other)


class Seat(Protocol):
    """An actor's place on the stage: its connections, and what it shares with the others of this schedule."""

    name: str
    database: Database
    shared: dict[str, Any]

    def crash(self, actor: str) -> None:
        """End another actor's session here and now, as `kill -9` of its process does. One turn."""

    def after_commit(self, call: Callable[[], object]) -> None:
        """Call this, in the actor's own thread, after every COMMIT of its."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """One of those who run at once. `act` is called in a thread of its own and returns how it ended, in a word; a
    psycopg.Error that it raises is an ending too. `job`: 23503, losses and the like count against it."""

    name: str
    act: Callable[[Seat], str]
    job: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    """Server settings of its sessions."""
    held: bool = False
    """Its COMMIT or ROLLBACK comes only when nobody else can go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Actors, the rows they start from, and what is looked at when all are done.

    `reset` leaves exactly the starting rows, whatever was there. `inspect` returns numbers by name; every one above 0 is
    a finding unless its name begins with '~' (told, not judged). `allowed` are the SQLSTATEs that count against nobody here,
    jobs included: what the code deals with by itself. `schema` alters a fresh copy of the template once.
    """

    name: str
    about: str
    actors: tuple[Actor, ...]
    reset: Callable[[Session], None]
    inspect: Callable[[Session], Mapping[str, int]] = lambda _session: {}
    schema: str = ""
    isolation: Isolation = "READ COMMITTED"
    allowed: frozenset[str] = frozenset()
    reduce: bool = False
    """Explore one schedule of each class of equal ones, where all would be too many."""

    @property
    def jobs(self) -> tuple[str, ...]:
        """The actors that are held to account."""
        return tuple(actor.name for actor in self.actors if actor.job)


def findings(scenario: Scenario, story: Story) -> list[str]:
    """What is wrong with how a story ended, in words; empty when nothing is. Pure."""
    found = [
        f"{who} got {error}"
        for who, error in story.outcome.errors
        if error.split(" ")[0] not in scenario.allowed
        and (who in scenario.jobs or not error.startswith("23503"))
    ]
    found += [f"{name}: {number}" for name, number in story.outcome.facts if not name.startswith("~")]
    if story.deadlocks:
        found.append(f"deadlock: {story.deadlocks}")
    found += [f"{who} ended in {end}" for who, end in story.outcome.endings if end.startswith("bug ")]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """Sabotage: in the source of `module`, `old` (which must be there exactly once) becomes `new`. `caught_by` are the
    scenarios that should notice, likeliest first; one of them is enough."""

    name: str
    about: str
    module: str
    old: str
    new: str
    pattern: bool = False
    """`old` is a regular expression."""
    caught_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """All that a package brings to the sealed room, by entry point in the group `freshfetch.rehearsals`.

    `prepare` fills a new template database, given its URL. `scenarios` and `table` make scenarios for options; the
    table is the kept bodies, oldest first, of which only the job's 23503 are counted. `sources` are the modules that a
    certificate's code hash covers. `cast` knows how to play this package's incidents (incident.py).
    """

    name: str
    prepare: Callable[[str], None]
    scenarios: Callable[[Options], Mapping[str, Scenario]]
    table: Callable[[Options], Mapping[str, Scenario]]
    mutants: tuple[Mutant, ...] = ()
    sources: tuple[str, ...] = ()
    cast: Any = None
