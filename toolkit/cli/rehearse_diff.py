"""`toolkit rehearse diff`: every captured case with two bodies, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.app import App
from toolkit.cli import render, words
from toolkit.cli.options import json_option, settings_of
from toolkit.cli.rehearse_case import told
from toolkit.cli.rehearse_room import server_option

if TYPE_CHECKING:
    from toolkit.rehearse.diff import Beside

ROWS = 5
"""Rows shown of one table and side; --json has all."""


@click.command("diff", short_help="Run captured jobs with two bodies.")
@click.option(
    "--cases",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("tests/cases"),
    show_default=True,
    help="A folder of captured jobs (`toolkit capture`).",
)
@click.option("--old", required=True, help="The body that was, by name or as module:NAME.")
@click.option("--new", default="current", show_default=True, help="The body that is to be.")
@server_option
@json_option
@click.pass_context
def command(ctx: click.Context, *, folder: Path, old: str, new: str, elsewhere: bool, as_json: bool) -> int:
    """Run captured jobs with two bodies, and say what differs.

    Each runs in a throw-away database of its own; told are how it ended and the rows that only one left. A body is `current`
    (the job's own), one that the job keeps from its past (an unknown name lists them), or any function at module:NAME. Kept
    ones get the payload as it was recorded, the others today's.

    Exit code: 1 when a case that was fine with the old body fails with the new one, else 0.
    """
    from toolkit.rehearse.case import case_room
    from toolkit.rehearse.diff import Verdict, beside, cases_in

    settings = settings_of(ctx)
    cases = cases_in(folder)
    results: list[Beside] = []
    with App(settings) as app, render.progress("cases") as shown:
        url, _ = app.rehearsal_server(elsewhere=elsewhere)
        with case_room(app.registry, url) as room:
            for name, case in cases.items():
                done = beside(name, case, app.registry, room, old=old, new=new, release=settings.release)
                results.append(done)
                shown.update(len(results))
    if as_json:
        render.as_json({"old": old, "new": new, "cases": results})
    else:
        _show(results, old, new)
    return 1 if any(one.verdict is Verdict.WORSE for one in results) else 0


def _show(results: Sequence[Beside], old: str, new: str) -> None:
    render.table(
        ("case", old, new, "verdict", "rows"),
        [(one.case, told(one.old), told(one.new), one.verdict, _counted(one)) for one in results],
    )
    for one in results:
        if one.rows:
            click.echo()
            render.heading(f"{one.case}: rows that only one left (- {old}, + {new})")
        for rows in one.rows:
            click.echo(f"  {words.plain(rows.table)}")
            _show_rows("-", rows.old, "red")
            _show_rows("+", rows.new, "green")
    counted = Counter(one.verdict for one in results)
    render.say(
        f"{len(results)} cases: " + ", ".join(f"{number} {word}" for word, number in sorted(counted.items()))
    )


def _counted(one: Beside) -> str:
    gone, more = (sum(len(getattr(rows, side)) for rows in one.rows) for side in ("old", "new"))
    return f"-{gone} +{more}" if one.rows else "same"


def _show_rows(sign: str, rows: Sequence[dict[str, Any]], colour: str) -> None:
    for row in rows[:ROWS]:
        text = "  ".join(f"{name}={value}" for name, value in row.items() if value is not None)
        click.echo(click.style(f"    {sign} {words.plain(text)}", fg=colour))
    if len(rows) > ROWS:
        click.echo(f"    {sign} … and {len(rows) - ROWS} more (--json has all)")
