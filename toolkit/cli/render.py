"""Rendering: tables on a terminal, tab-separated lines in a pipe, JSON when asked. Data to stdout, talk to stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal

import click
import msgspec

STYLES = {
    "processed": "green", "skipped": "yellow", "failed": "bold red", "lost": "bold magenta", "running": "cyan",
    "waiting": "blue", "ok": "green", "away": "bold red", "idle": "green", "busy": "cyan", "dead": "bold red",
    "stopped": "bold red", "silent": "bold red",
    "proven": "green", "regression": "bold red", "inconclusive": "yellow", "pending": "cyan",
}  # fmt: skip
"""How a word of a closed list is shown."""


_IN_A_LINE: Final = str.maketrans("\t\n\r", "   ")


def as_json(value: Any) -> None:
    """One JSON document on stdout, indented for people, stable for programs."""
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode())


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = (),
          whole: Iterable[str] = ()) -> None:  # fmt: skip
    """Rows under `columns`; those in `right` are aligned right, those in `whole` never broken over lines, so that an id can be
    copied. In a pipe: tab-separated, a line each, with a header line."""
    if not sys.stdout.isatty():
        click.echo("\t".join(columns))
        for row in rows:
            click.echo("\t".join(str(cell).translate(_IN_A_LINE) for cell in row))
        return
    # Rich takes longer to load than a command's answer in a pipe.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, header_style="dim", pad_edge=False)
    for column in columns:
        side: Literal["left", "right"] = "right" if column in set(right) else "left"
        drawn.add_column(column, justify=side, overflow="fold", no_wrap=column in set(whole))
    for row in rows:
        drawn.add_row(*(Text(str(cell), style=STYLES.get(str(cell), "")) for cell in row))
    Console().print(drawn)


def fields(values: Mapping[str, Any]) -> None:
    """A short list of names and values."""
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        text = str(value)
        click.echo(
            f"{click.style(name.ljust(width), dim=True)}  {click.style(text, fg=_colour(text))}", color=None
        )


def heading(text: str) -> None:
    """A heading within a command's output."""
    click.echo(click.style(text, bold=True))


def say(text: str) -> None:
    """Talk: to stderr."""
    click.echo(text, err=True)


def next_steps(*commands: str) -> None:
    """The commands to type next, on stderr."""
    say("next: " + "   ".join(commands))


@contextmanager
def until_enough() -> Iterator[None]:
    """Printing to whoever may close the pipe, as `head` does: what they do not want goes nowhere, and the command goes on to its
    own exit code."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Progress:
    """Progress of long work on stderr: rewritten in place on a terminal, one line every 10 s elsewhere."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._terminal = sys.stderr.isatty()
        self._next = time.monotonic() + (0.2 if self._terminal else 10.0)
        self._shown = False

    def update(self, done: int) -> None:
        """So many units are done."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + (0.2 if self._terminal else 10.0)
            self._shown = True
            click.echo(
                f"\r{done:,} {self._unit}" if self._terminal else f"{done:,} {self._unit}",
                err=True,
                nl=not self._terminal,
            )

    def done(self) -> None:
        """Leave the line."""
        if self._shown and self._terminal:
            click.echo("", err=True)
        self._shown = False


@contextmanager
def progress(unit: str) -> Iterator[Progress]:
    """Progress that leaves its line however the work ends."""
    shown = Progress(unit)
    try:
        yield shown
    finally:
        shown.done()


def many(count: int, one: str, more: str = "") -> str:
    """`1 job`, `3,000 jobs`; `more` where an s is not enough."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def seconds(value: float | None) -> str:
    """A duration for people: 12 ms, 3.4 s, 5 min 3 s, 2 h 5 min."""
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """How long ago, for people; '-' for never."""
    if moment is None:
        return "-"
    return f"{seconds(max(0.0, ((now or datetime.now(UTC)) - moment).total_seconds()))} ago"


def _colour(text: str) -> str | None:
    style = STYLES.get(text.split(" ", maxsplit=1)[0].rstrip(","), "")
    return style.rpartition(" ")[2] or None
