"""`toolkit capture`: a failed job as one portable file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from toolkit.cli import render
from toolkit.cli.options import ledger
from toolkit.errors import Refused, ToolkitError


@click.command()
@click.argument("name", metavar="ID")
@click.option(
    "--output", "-o", required=True, type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="The file to write; - for stdout.",
)  # fmt: skip
@click.option("--raw", is_flag=True, help="With the real ids, names and addresses; for your eyes only.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.pass_context
def command(ctx: click.Context, *, name: str, output: Path, raw: bool, force: bool) -> None:
    """Save a failed job as one file that can be run again anywhere: payload, rows, answers, clock, release and error.

    ID is a job id or a unique beginning of it, a run id, a trace id, or an id in the payload. Ids, names and addresses are
    replaced by made-up ones that fit together, unless --raw. What the file cannot tell stands in its notes.
    """
    from toolkit.ledger.find import one
    from toolkit.rehearse.capture import capture
    from toolkit.rehearse.case_file import encode

    if str(output) != "-" and output.exists() and not force:
        raise Refused(f"{output} is there already", remedy="give another name, or --force")
    with ledger(ctx) as seen:
        case = capture(
            seen.session, seen.app.registry, one(seen.session, name), now=datetime.now(UTC), raw=raw
        )
    if str(output) == "-":
        click.echo(encode(case), nl=False)
        return
    try:
        output.touch(0o600)
        output.write_bytes(encode(case))
    except OSError as error:
        raise ToolkitError(f"cannot write {output}: {error.strerror}", remedy="give another -o") from error
    rows = sum(len(table.rows) for table in case.tables)
    render.say(
        f"{output}: {case.error.outcome}: {case.error.reason}, {render.many(rows, 'row')}, "
        f"{render.many(len(case.answers), 'answer')}"
    )
    for note in case.notes:
        render.say(f"note: {note}")
    if raw:
        render.say("note: it is not redacted; do not pass it on")
    render.next_steps(f"toolkit rehearse case {output}")
