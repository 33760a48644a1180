"""`toolkit demo`: the image job, shown once, on the embedded servers; with --incident, the incident beside the fix."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from secrets import token_hex
from typing import TYPE_CHECKING, TextIO

import click
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from toolkit.cli import render
from toolkit.settings import Settings

if TYPE_CHECKING:
    from toolkit.telemetry.draw import Line

_PIPE_WIDTH = 116
_WATERFALL = {
    "title": "bold", "tree": "dim", "name": "", "bar": "cyan", "wait": "dim", "error": "bold red", "warning": "yellow",
    "ok": "green", "time": "bold", "detail": "dim", "link": "magenta",
}  # fmt: skip
_LEVELS = {"warning": "yellow", "error": "red", "debug": "dim"}
_WORDS = render.STYLES | {
    "attached": "green", "skipped: draft_deleted": "yellow", "skipped: no_images_found": "yellow",
}  # fmt: skip


@click.command()
@click.option("--incident", is_flag=True, help="Show the incident of 2025-10-11 itself, beside the fix.")
def command(incident: bool) -> int:
    """Show the main job once, for real, on the embedded servers.

    A purchase order comes in from a file, a worker searches a small web shop for its products' images, a draft is deleted in
    mid-job, and the job skips it. Then: what was attached, what was skipped and why, the trace, the counters, and commands
    to go on with. It takes a few seconds, and can be run again and again; the servers stay up (`toolkit down` stops them).

    Exits with 1 when what happened is not what must happen. Refused while DATABASE_URL or REDIS_URL is set.
    """
    from jobs.demo import incident as the_incident
    from jobs.demo import story

    settings = Settings.from_env()
    number = f"DEMO-{datetime.now(UTC):%Y%m%d-%H%M%S}-{token_hex(2).upper()}"
    screen = TerminalScreen(sys.stdout, colour=not settings.no_color)
    with _ended_politely():
        checks = (the_incident.tell if incident else story.tell)(settings, screen, number=number)
    screen.verdict(checks.made, checks.differences)
    return 1 if checks.differences else 0


class TerminalScreen:
    """The demo's screen: colours and the terminal's width on a terminal, plain text in a pipe."""

    def __init__(self, out: TextIO, *, colour: bool) -> None:
        if hasattr(out, "reconfigure"):
            out.reconfigure(
                errors="replace"
            )  # a terminal without UTF-8 gets `?` for a picture, not a traceback
        terminal = out.isatty()
        self._console = Console(file=out, highlight=False, no_color=not colour, soft_wrap=False, emoji=False, markup=False,
                                width=None if terminal else _PIPE_WIDTH)  # fmt: skip
        self._started = time.monotonic()

    @property
    def width(self) -> int:
        """Columns that a line may take."""
        return min(self._console.width, 130) - 4

    def act(self, title: str) -> None:
        """A rule with the title and the time so far."""
        self._console.print()
        elapsed = f"{time.monotonic() - self._started:.1f} s"
        self._console.print(
            Rule(Text.assemble((title, "bold"), (f"  {elapsed}", "dim")), align="left", style="dim")
        )

    def step(self, text: str) -> None:
        """One line with a mark before it."""
        self._line("  ▸ ", "bold cyan", text)

    def note(self, text: str) -> None:
        """A dim line."""
        self._line("    ", "", Text(text, style="dim"))

    def log(self, text: str, level: str = "info") -> None:
        """A line behind a bar, as it came."""
        bar = Text("  │ ", style="dim")
        self._console.print(bar.append(text, style=_LEVELS.get(level, "not dim")), soft_wrap=True)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = ()
    ) -> None:
        """Columns without lines."""
        drawn = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
        aligned = set(right)
        for column in columns:
            drawn.add_column(column, justify="right" if column in aligned else "left", overflow="fold")
        for row in rows:
            drawn.add_row(*(Text(str(cell), style=_WORDS.get(str(cell), "")) for cell in row))
        self._console.print(Padding(drawn, (0, 0, 0, 4), expand=False))

    def waterfall(self, lines: Sequence[Line]) -> None:
        """The trace in colours."""
        for line in lines:
            text = Text.assemble(*((piece.text, _WATERFALL[piece.style]) for piece in line.segments))
            text.rstrip()
            self._console.print(Text("    ").append_text(text), soft_wrap=True)

    def commands(self, rows: Iterable[tuple[str, str]]) -> None:
        """Commands whole, so that they can be copied."""
        listed = list(rows)
        wide = max(len(command) for command, _ in listed)
        for command, shows in listed:
            line = Text.assemble("  ", (command.ljust(wide), "cyan"), (f"   {shows}", "dim"))
            self._console.print(line, soft_wrap=True)

    def verdict(self, made: int, differences: Sequence[str]) -> None:
        """The end: all as it must be, or each difference."""
        self._console.print()
        took = f"{time.monotonic() - self._started:.1f} s"
        for difference in differences:
            self._line("✗ ", "bold red", Text(difference, style="red"))
        if differences:
            self._line("✗ ", "bold red", f"{len(differences)} of {made} checks found something else   {took}")
        else:
            self._line(
                "✓ ", "bold green", Text.assemble((f"all {made} checks hold", "bold"), (f"   {took}", "dim"))
            )

    def _line(self, mark: str, style: str, text: str | Text) -> None:
        """A line whose continuation is indented as its beginning is."""
        line = Table.grid()
        line.add_column(no_wrap=True)
        line.add_column(overflow="fold")
        line.add_row(Text(mark, style=style), text)
        self._console.print(line)


@contextmanager
def _ended_politely() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind as Ctrl-C does, so that the worker and the shop go too."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
