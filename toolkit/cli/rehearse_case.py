"""`toolkit rehearse case`: a captured job, run again in a throw-away database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.app import App
from toolkit.cli import render, words
from toolkit.cli.options import json_option, settings_of
from toolkit.cli.rehearse_room import server_option

if TYPE_CHECKING:
    from toolkit.rehearse.case import Rehearsed
    from toolkit.rehearse.case_file import Case, Ending


@click.command("case", short_help="Run a captured job again.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@server_option
@json_option
@click.pass_context
def command(ctx: click.Context, *, file: Path, elsewhere: bool, as_json: bool) -> int:
    """Run a captured job again, in a throw-away database at the recorded time, and say whether the same error comes.

    Leaves nothing behind. Exit code: 0 it ended as the case expects today (where it expects nothing: not in the same error),
    1 it did not.
    """
    from toolkit.rehearse.case import case_room, rehearse
    from toolkit.rehearse.case_file import read

    settings = settings_of(ctx)
    case = read(file)
    with App(settings) as app:
        url, _ = app.rehearsal_server(elsewhere=elsewhere)
        with case_room(app.registry, url) as room:
            done = rehearse(case, app.registry, room, release=settings.release, log=app.log)
    if as_json:
        render.as_json({"case": str(file), "recorded": case.error, "expected": case.expected, "result": done,
                        "notes": case.notes})  # fmt: skip
    else:
        _show(case, done, settings.release)
    return 0 if done.as_expected else 1


def _show(case: Case, done: Rehearsed, release: str) -> None:
    then = f"release {words.plain(case.release) or 'unknown'}, {case.ran_at:%Y-%m-%d %H:%M:%S} UTC"
    facts = {
        "recorded": f"{told(case.error)}  ({then})",
        "this time": f"{told(done.ending)}  (release {release})",
        "message": words.plain(done.message),
        "counts": words.counts(done.counts),
        "same error": ("yes, of the same kind" if done.same_kind else "yes") if done.same else "no",
    }
    if case.expected is not None:
        facts["expected"] = f"{told(case.expected)}: {'so it is' if done.as_expected else 'it is not so'}"
    render.fields({name: value for name, value in facts.items() if value})
    for note in case.notes:
        render.say(f"note: {words.plain(note)}")


def told(ending: Ending) -> str:
    """An ending in a few words: `failed integrity ForeignKeyViolation 23503 ProductImage_productDraftId_fkey`."""
    parts = (ending.outcome, ending.reason, ending.error_type, ending.sqlstate, ending.constraint)
    return words.plain(" ".join(dict.fromkeys(part for part in parts if part)))
