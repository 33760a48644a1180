"""The pytest plugin: a test marked `races` is held after every schedule of two or more functions on a real PostgreSQL.

    @pytest.mark.races(job, delete, setup="CREATE TABLE …", rows="INSERT INTO …")
    def test_the_job_survives_a_delete(schedule):
        assert not schedule.errors["job"]

Each function runs in a thread and a session of its own; all orders of their SQL statements, BEGIN and COMMIT too, are
played, each from the same `rows`. By the name of its only parameter a function gets a psycopg `connection` (autocommit),
a SQLAlchemy `engine`, or a toolkit `database`. The test fails with the shortest schedule that breaks it, drawn.

Marker's options: `setup` (SQL, once), `rows` (SQL, before each schedule; all tables are emptied first), `isolation`,
`reduce` (leave out schedules that must end alike), `limit` (play at most so many; the test then says so in a warning).
The server: `--races-url` or `races_url` in the ini file, a PostgreSQL where databases may be created; without, an embedded
one is started for the session (`freshfetch[embedded]`).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from toolkit.ledger.database import Session
    from toolkit.rehearse.room import Theatre
    from toolkit.rehearse.words import Scenario, Seat, Story

_EMBEDDED = pytest.StashKey[str]()


class Schedule:
    """What happened in one schedule. `endings`: function → what it returned, as text, or its SQLSTATE; `errors`: function →
    the SQLSTATEs and constraints that the server gave it; `order`: who had each turn."""

    def __init__(self) -> None:
        self.endings: dict[str, str] = {}
        self.errors: dict[str, list[str]] = {}
        self.order: tuple[str, ...] = ()
        self._session: Session | None = None

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query finds when all are done."""
        assert self._session is not None, "a schedule is only there in a test marked races"  # noqa: S101
        return self._session.execute(query.encode()).fetchall()

    def fill(self, story: Story, session: Session) -> None:
        """The next schedule."""
        self.endings = dict(story.outcome.endings)
        self.errors = {name: [] for name in self.endings}
        for name, error in story.outcome.errors:
            self.errors[name].append(error)
        self.order = story.schedule
        self._session = session


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--races-url` and its line in the ini file."""
    about = "PostgreSQL for tests marked races: postgresql://…; databases are created there and dropped"
    parser.addoption("--races-url", default=None, help=about)
    parser.addini("races_url", about, default="")


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest of the marker."""
    config.addinivalue_line(
        "markers",
        "races(*functions, setup, rows, isolation, reduce, limit): hold the test after every schedule",
    )


@pytest.fixture
def schedule() -> Schedule:
    """The schedule just played, in a test marked `races`."""
    return Schedule()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Play all schedules, and hold the test after each."""
    marker = pyfuncitem.get_closest_marker("races")
    if marker is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    shown = pyfuncitem.funcargs.get("schedule")
    _race(
        marker.args,
        partial(pyfuncitem.obj, **arguments),
        shown if isinstance(shown, Schedule) else Schedule(),
        url=_url(pyfuncitem),
        **marker.kwargs,
    )
    return True


def _race(
    functions: Sequence[Callable[..., Any]],
    test: Callable[[], object],
    schedule: Schedule,
    *,
    url: str,
    setup: str = "",
    rows: str = "",
    isolation: Any = "READ COMMITTED",
    reduce: bool = False,
    limit: int | None = None,
) -> None:
    from toolkit.rehearse.explorer import explore  # noqa: PLC0415  pytest loads this module in every session
    from toolkit.rehearse.room import Room  # noqa: PLC0415
    from toolkit.rehearse.words import Actor, Scenario  # noqa: PLC0415

    scenario = Scenario(
        name="test",
        about="",
        actors=tuple(Actor(name=one.__name__, act=_acting(one), job=True) for one in functions),
        reset=lambda session: _reset(session, rows),
        isolation=isolation,
    )
    with Room.open(url, lambda template: _run(template, setup)) as room, room.theatre(scenario) as theatre:
        checked = _Checked(theatre, test, schedule)
        found = explore(partial(checked.play, footprints=reduce), reduce=reduce, limit=limit)
        if checked.failures:
            raise _best(scenario, theatre, checked.failures, found.schedules)
    if not found.exhausted:
        warnings.warn(f"races: {found.schedules} schedules played, not all", stacklevel=1)


class _Checked:
    """Plays schedules and holds the test after each, keeping what it raised."""

    def __init__(self, theatre: Theatre, test: Callable[[], object], schedule: Schedule) -> None:
        self.theatre = theatre
        self.test = test
        self.schedule = schedule
        self.failures: list[tuple[Story, BaseException]] = []

    def play(self, choose: Callable[..., str], *, footprints: bool) -> Story:
        """One schedule."""
        story = self.theatre.play(choose, footprints=footprints)
        self.schedule.fill(story, self.theatre.control)
        try:
            self.test()
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  whatever the test raises is its verdict
            self.failures.append((story, error))
        return story


def _best(
    scenario: Scenario, theatre: Theatre, failures: Sequence[tuple[Story, BaseException]], played: int
) -> BaseException:
    """The failure that is easiest to read, with its schedule drawn."""
    from toolkit.rehearse.explorer import Follow, readability  # noqa: PLC0415
    from toolkit.rehearse.story_view import draw  # noqa: PLC0415

    story, error = min(failures, key=lambda one: readability(one[0]))
    told = theatre.play(Follow(story.schedule), watch=True)
    error.add_note(f"{len(failures)} of {played} schedules fail; the shortest:\n\n{draw(scenario, told)}")
    return error


def _acting(function: Callable[..., Any]) -> Callable[[Seat], str]:
    wanted = next(iter(inspect.signature(function).parameters), "connection")

    def act(seat: Seat) -> str:
        with _given(seat, wanted) as given:
            answer = function(given)
        return "returned" if answer is None else f"returned {answer}"

    return act


@contextmanager
def _given(seat: Seat, wanted: str) -> Iterator[Any]:
    if wanted == "database":
        yield seat.database
    elif wanted == "engine":
        yield seat.database.engine
    else:
        with seat.database.session() as session:
            yield session


def _run(url: str, script: str) -> None:
    import psycopg  # noqa: PLC0415

    with psycopg.connect(url) as connection:
        connection.execute(script.encode())


def _reset(session: Session, rows: str) -> None:
    tables = session.execute(
        "SELECT string_agg(format('%I.%I', schemaname, tablename), ', ') FROM pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    ).fetchone()
    empty = f"TRUNCATE {tables[0]} RESTART IDENTITY CASCADE;" if tables and tables[0] else ""
    session.execute((empty + rows).encode())


def _url(item: pytest.Function) -> str:
    config = item.config
    given = config.getoption("--races-url") or config.getini("races_url")
    if given:
        return str(given)
    if _EMBEDDED not in config.stash:
        config.stash[_EMBEDDED] = _start(item)
    return config.stash[_EMBEDDED]


def _start(item: pytest.Function) -> str:
    """An embedded PostgreSQL for this session; its data die with it, so it need not sync them."""
    from toolkit.embedded import servers  # noqa: PLC0415

    factory = getattr(item.config, "_tmp_path_factory")  # noqa: B009  what pytest's own tmp_path_factory fixture returns
    home: Path = factory.mktemp("races")
    running = servers.up(home, extra_options={"fsync": "off"})
    item.config.add_cleanup(lambda: servers.destroy(home))
    return running.postgres.url
