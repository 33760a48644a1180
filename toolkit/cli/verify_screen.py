"""What a verification shows while it goes on: a live table on a terminal, one line per change in a pipe; all on stderr."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click
from rich.console import Console
from rich.live import Live

from toolkit.cli import render, verify_view

if TYPE_CHECKING:
    from toolkit.verify.verdict import Receipt


class Screen:
    """Use it as a context manager. `quiet`: nothing but trouble."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._last: Receipt | None = None
        self._live = (
            Live(console=Console(stderr=True), transient=True) if sys.stderr.isatty() and not quiet else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def told(self, receipt: Receipt) -> None:
        """A look."""
        if self._live is not None:
            self._live.update(verify_view.live(receipt))
        elif not self._quiet:
            for line in verify_view.changes(self._last, receipt):
                render.say(line)
        self._last = receipt

    def trouble(self, text: str) -> None:
        """PostgreSQL is away, and asked again."""
        render.say(click.style("waiting: ", fg="yellow") + text)
