"""`toolkit logs scan`: foreign key errors, completions, skips and unknown errors in a log of any origin and age."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from toolkit.cli import render, words
from toolkit.cli.options import json_option, settings_of
from toolkit.jobspec import CONTROL_CONSTRAINT

if TYPE_CHECKING:
    from toolkit.logscan.scan import Minute, Report

BARS: Final = 40
"""Rows of the chart at most; more minutes are drawn as tens of minutes, hours or days."""
SHOWN: Final = 8
"""Different unknown errors that are listed; --json has all."""
_WIDTHS: Final = (16, 15, 13, 10, 7)
"""Characters of `2025-10-11 17:16` that are kept: minute, ten minutes, hour, day, month."""
_WIDTH: Final = 50
_KINDS: Final = (("fk_errors", "red"), ("errors", "yellow"), ("skipped", "blue"), ("completed", "green"))


@click.group("logs")
def command() -> None:
    """What logs tell, whoever wrote them."""


@command.command(short_help="Count errors, completions and skips in logs.")
@click.argument("log", metavar="FILE|-")
@json_option
@click.pass_context
def scan(ctx: click.Context, *, log: str, as_json: bool) -> int:
    """Count foreign key errors by constraint, completions, skips and unknown errors, per minute.

    Reads our JSON and console lines, the text lines of the report of 2025-10-11, PostgreSQL's stderr, csv and json logs, plain
    or gzip, of any size; `-` is stdin. Times are as the log has them.

    Exit code 1 when there is a foreign key error. Those that verify-deploy plants are told apart, those of rehearsals left out.
    """
    from toolkit.logscan import source
    from toolkit.logscan.scan import scan as count

    settings_of(ctx)
    with source.opened(log) as blocks, render.progress("MB") as shown:
        report = count(blocks, lambda done: shown.update(done // 1_000_000))
    if as_json:
        render.as_json(report)
    else:
        _show(report)
    return 1 if report.fk_errors else 0


def _show(report: Report) -> None:
    render.table(
        ["what", "which", "count"],
        [
            *(("foreign key error", key, f"{n:,}") for key, n in report.fk_errors.items() or [("", 0)]),
            ("completed", "", f"{report.completed:,}"),
            *(("skipped", key, f"{n:,}") for key, n in report.skipped.items() or [("", 0)]),
            *(("unknown error", words.plain(key), f"{n:,}") for key, n in _most(report)),
            *(
                [("planted by verify-deploy", CONTROL_CONSTRAINT, f"{report.planted:,}")]
                if report.planted
                else []
            ),
        ],
        right=["count"],
    )
    bars = merged(report.minutes)
    if sys.stdout.isatty():
        click.echo("")
        _draw(bars)
        _examples(report)
    elif bars:
        click.echo("")
        render.table(
            ["time", "release", "fk_errors", "errors", "skipped", "completed"],
            [
                (bar.minute, bar.release, *(getattr(bar, name) for name, _ in _KINDS))
                for bar in report.minutes
            ],
        )
    render.say(f"{report.bytes:,} bytes read")


def _most(report: Report) -> list[tuple[str, int]]:
    found = list(report.errors.items())
    rest = sum(n for _, n in found[SHOWN:])
    return [*found[:SHOWN], *([(f"({len(found) - SHOWN} others)", rest)] if rest else [])] or [("", 0)]


def merged(minutes: Sequence[Minute]) -> list[Minute]:
    """The same counts in at most about BARS rows: by minute, ten minutes, hour, day or month."""
    for width in _WIDTHS:
        rows: dict[tuple[str, str], Minute] = {}
        for one in minutes:
            # A log without a year has five characters less, at the beginning.
            cut = one.minute[: max(2, len(one.minute) - (16 - width))]
            rows[cut, one.release] = _sum(cut, one, rows.get((cut, one.release)))
        if len(rows) <= BARS:
            break
    return [rows[key] for key in sorted(rows)]


def _sum(cut: str, one: Minute, before: Minute | None) -> Minute:
    counts = {name: getattr(one, name) + (getattr(before, name) if before else 0) for name, _ in _KINDS}
    return replace(one, minute=cut, **counts)


def _draw(bars: Sequence[Minute]) -> None:
    """One bar a row; its parts are in the colours of the words under it."""
    most = max((sum(getattr(bar, name) for name, _ in _KINDS) for bar in bars), default=0)
    if not most:
        return
    for bar in bars:
        parts = []
        for name, colour in _KINDS:
            if count := getattr(bar, name):
                parts.append(click.style("█" * max(1, round(_WIDTH * count / most)), fg=colour))
        label = words.plain(f"{bar.minute or 'no time':16}  {bar.release:12}")
        total = "  ".join(f"{getattr(bar, name):,} {name}" for name, _ in _KINDS if getattr(bar, name))
        click.echo(f"{label}  {''.join(parts)}  {click.style(total, dim=True)}")


def _examples(report: Report) -> None:
    wanted = [one for one in report.examples if one.kind in {"fk_error", "error"}]
    if wanted:
        click.echo("")
        render.heading("examples")
    for one in wanted[:SHOWN]:
        click.echo(f"  {click.style(f'byte {one.offset:,}', dim=True)}  {words.plain(one.text)[:160]}")
