"""`toolkit rehearse`: the sealed room."""

from __future__ import annotations

from pathlib import Path

import click

from toolkit.cli import rehearse_case, rehearse_diff, rehearse_proof, rehearse_race, render
from toolkit.cli.options import json_option
from toolkit.cli.rehearse_room import PATH, open_room, server_option


@click.group(name="rehearse")
def command() -> None:
    """Race job code against everything else, in a throw-away database, schedule by schedule.

    Rehearsals run on the embedded PostgreSQL (`toolkit up`); beside your own databases on DATABASE_URL's server only with
    --on-database-url. No row of a real database is read or written.
    """


for one in (
    rehearse_case.command,
    rehearse_diff.command,
    rehearse_proof.certify,
    rehearse_proof.mutate,
    rehearse_proof.verify,
    rehearse_race.list_,
    rehearse_race.race_,
    rehearse_race.replay,
    rehearse_race.table,
):
    command.add_command(one)


@command.command(short_help="The incident's timeline, then and now.")
@click.argument("file", type=PATH)
@server_option
@json_option
def incident(file: Path, elsewhere: bool, as_json: bool) -> int:
    """Run the timeline in FILE, by a virtual clock: with the body of then, and with today's job.

    Exit code 0 when the body of then ends as the incident did, and today's job without error or harm.
    """
    from toolkit.rehearse import incident as incidents
    from toolkit.rehearse import incident_file, installed

    timeline, node = incident_file.read(file)
    chosen = installed.rehearsal(timeline.rehearsal)
    incident_file.check(file, node, timeline, chosen)
    with open_room(chosen, elsewhere=elsewhere) as (room, _log):
        report = incidents.rehearse(room, timeline, chosen.cast)
    if as_json:
        render.as_json(
            {"incident": timeline.title, "reproduced": report.reproduced, "fixed": report.fixed,
             "then": report.then, "now": report.now}
        )  # fmt: skip
    else:
        click.echo(incidents.told(report), nl=False)
    return 0 if report.reproduced and report.fixed else 1
