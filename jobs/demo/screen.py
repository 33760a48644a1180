"""What the demo asks of whatever it is shown on. The command line has the real one, with colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from toolkit.telemetry.draw import Line


class Screen(Protocol):
    """Shows things in the order in which they happen. `width` is in columns."""

    @property
    def width(self) -> int:
        """Columns that a line may take."""

    def act(self, title: str) -> None:
        """A new part of the story begins."""

    def step(self, text: str) -> None:
        """One short line: what has just been done, or what is to be seen below it."""

    def note(self, text: str) -> None:
        """A line below a step: a fact, quietly."""

    def log(self, text: str, level: str = "info") -> None:
        """A log line of a job; `level` is a level of the logs."""

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()
    ) -> None:
        """Rows under columns; those in `right` are aligned right."""

    def waterfall(self, lines: Sequence[Line]) -> None:
        """A trace, drawn."""

    def commands(self, rows: Iterable[tuple[str, str]]) -> None:
        """Commands to type, each with what it shows."""
