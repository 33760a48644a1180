"""--dry-run: the checks, and the very statements that they would ask, values filled in. Places nothing, plants nothing.

The looks are real: each is carried out on a session that writes down what it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import Row

from toolkit.errors import ToolkitError
from toolkit.ledger.database import Database, Session
from toolkit.verify.check import Check, Scene
from toolkit.verify.detect import Detector


@dataclass(frozen=True, slots=True)
class Asks:
    """A check and what it asks: SQL, and what was not asked of the ledger, in words."""

    check: Check
    statements: tuple[str, ...]
    trouble: str = ""


def asks(
    checks: Sequence[Check],
    scene: Callable[[Database], Scene],
    database: Database,
    sources: Callable[[Database], Sequence[Detector]],
) -> Iterator[Asks]:
    """What each check would ask; of those that want to see a planted violation, the detectors, too."""
    for check in checks:
        heard: list[str] = []
        trouble = ""
        hearing = Heard(database, heard)
        try:
            now = scene(hearing)
            check.look(now)
            for detector in sources(hearing) if check.planted else ():
                heard.append(f"{detector.source}: {detector.where}")
                detector.look(now.target.release, now.target.since, None, now.target.now, now.rules.lag)
        except ToolkitError as error:
            trouble = str(error)
        yield Asks(check, tuple(heard), trouble)


class Heard(Database):
    """Another Database whose sessions write down each statement."""

    def __init__(self, database: Database, heard: list[str]) -> None:  # builds no engine of its own
        self.url = database.url
        self._database = database
        self._heard = heard

    @contextmanager
    def session(self) -> Iterator[Session]:
        heard = self._heard

        class Cursor(psycopg.ClientCursor[Row]):
            def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
                text = " ".join(self.mogrify(query, params).split())
                if not text.startswith("SET "):
                    heard.append(text)
                return super().execute(query, params, **options)

        with self._database.session() as session:
            usual, session.cursor_factory = session.cursor_factory, Cursor
            try:
                yield session
            finally:
                session.cursor_factory = usual

    @contextmanager
    def begin(self) -> Iterator[Any]:
        with self._database.begin() as connection:
            yield connection

    def close(self) -> None:
        """The sessions are the other Database's."""
