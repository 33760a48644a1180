"""`toolkit rehearse list, table, race, replay`: schedules, played to the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli import render
from toolkit.cli.options import json_option
from toolkit.cli.rehearse_room import PATH, open_room, rehearsal_option, server_option
from toolkit.errors import UsageError

if TYPE_CHECKING:
    from toolkit.rehearse.race import Counterexample, RaceReport
    from toolkit.rehearse.words import Options, Scenario


def variations(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that make a words.Options."""
    levels = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
    for option in (
        click.option("--recreate", is_flag=True, help="The draft is created again, with the same id."),
        click.option(
            "--delete", type=click.Choice(("committed", "rolled back", "held open")), default="committed",
            show_default=True, help="How the other transaction ends.",
        ),
        click.option("--deferrable", is_flag=True, help="The image's key is checked at COMMIT."),
        click.option(
            "--on-delete", type=click.Choice(("CASCADE", "NO ACTION", "SET NULL"), case_sensitive=False),
            default="CASCADE", show_default=True, help="What the image's key does.",
        ),
        click.option(
            "--isolation", type=click.Choice(levels, case_sensitive=False), default="READ COMMITTED",
            show_default=True,
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def _options(given: dict[str, Any]) -> Options:
    import msgspec

    from toolkit.rehearse.words import Options

    return msgspec.convert(given, type=Options)


@click.command("list")
@rehearsal_option
@json_option
def list_(rehearsal: str, as_json: bool) -> None:
    """The scenarios there are."""
    from toolkit.rehearse import installed
    from toolkit.rehearse.words import Options

    known = installed.all_scenarios(installed.rehearsal(rehearsal), Options()).values()
    if as_json:
        render.as_json(
            [
                {"scenario": one.name, "actors": [actor.name for actor in one.actors], "about": one.about}
                for one in known
            ]
        )
        return
    rows = [(one.name, ", ".join(actor.name for actor in one.actors), one.about) for one in known]
    render.table(("scenario", "actors", "about"), rows)


@click.command(short_help="The incident's bodies against a delete.")
@variations
@rehearsal_option
@server_option
@json_option
def table(rehearsal: str, elsewhere: bool, as_json: bool, **given: Any) -> None:
    """The kept bodies of the incident against a delete, all schedules: in how many the job gets 23503.

    BEGIN, body, COMMIT against BEGIN, DELETE, COMMIT.
    """
    from toolkit.rehearse import installed
    from toolkit.rehearse.race import race

    chosen = installed.rehearsal(rehearsal)
    with open_room(chosen, elsewhere=elsewhere) as (room, _log):
        reports = [race(room, one)[0] for one in chosen.table(_options(given)).values()]
    if as_json:
        render.as_json(
            [
                {"body": one.scenario, "schedules": one.schedules, "23503": one.errors.get("job 23503", 0),
                 "exhausted": one.exhausted, "errors": one.errors}
                for one in reports
            ]
        )  # fmt: skip
        return
    rows = [
        (one.about, one.schedules, one.errors.get("job 23503", 0), "yes" if one.exhausted else "NO",
         ", ".join(f"{who}: {number}" for who, number in one.errors.items() if who != "job 23503") or "-")
        for one in reports
    ]  # fmt: skip
    render.table(
        ("body of the job", "schedules", "job gets 23503", "exhausted", "other errors"),
        rows,
        right=("schedules", "job gets 23503"),
    )


@click.command("race", short_help="Every schedule of a scenario.")
@click.argument("scenario", required=False)
@variations
@click.option(
    "--sample", "samples", type=click.IntRange(1), help="So many schedules at random instead of all."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample.")
@click.option(
    "--reduce/--brute-force", "reduce", default=None, help="Leave out schedules that must end alike."
)
@click.option("--limit", type=click.IntRange(1), help="Stop after so many schedules.")
@click.option("--first", is_flag=True, help="Stop at the first schedule that goes wrong.")
@click.option("--save", type=PATH, help="Write SCENARIO's counterexample, for `toolkit rehearse replay`.")
@click.option("--spec", type=PATH, help="Write it as a spec for PostgreSQL's isolation tester.")
@rehearsal_option
@server_option
@json_option
def race_(  # noqa: PLR0917  click calls it by keywords
    scenario: str | None, samples: int | None, seed: int, reduce: bool | None, limit: int | None, first: bool,
    save: Path | None, spec: Path | None, rehearsal: str, elsewhere: bool, as_json: bool, **given: Any,
) -> int:  # fmt: skip
    """Race SCENARIO (all of today's job's without a name) through every schedule, and show the shortest that goes wrong.

    Exit code 1 when one did, 3 when none did but not all were seen.
    """
    from toolkit.rehearse import installed
    from toolkit.rehearse.race import Method, race

    if (save or spec) and not scenario:
        raise UsageError("--save and --spec are for one scenario's counterexample", remedy="name a SCENARIO")
    options = _options(given)
    chosen = installed.rehearsal(rehearsal)
    everything = list(chosen.scenarios(options).values())
    wanted = [installed.scenario(chosen, scenario, options)] if scenario else everything
    method = Method(reduce=reduce, samples=samples, seed=seed, limit=limit, stop_at_first=first)
    reports: list[RaceReport] = []
    told: list[str] = []
    with open_room(chosen, elsewhere=elsewhere) as (room, log):
        for one in wanted:
            with render.progress(f"schedules of {one.name}") as shown:
                report, worst = race(room, one, method=method, log=log, progress=shown.update)
            reports.append(report)
            if not as_json:
                _show(one, report, worst)
            if worst is not None:
                told.append(one.name)
                if save:
                    _save(save, chosen.name, one.name, options, worst)
                if spec:
                    spec.write_text(worst.spec, encoding="utf-8")
    if as_json:
        render.as_json(reports)
    if told:
        render.next_steps(
            f"toolkit rehearse replay {save}" if save else f"toolkit rehearse race {told[0]} … --save FILE"
        )
    if any(report.findings for report in reports):
        return 1
    return 0 if all(report.exhausted for report in reports) else 3


def _save(path: Path, rehearsal: str, scenario: str, options: Options, worst: Counterexample) -> None:
    from toolkit.rehearse import story_file

    story = worst.story
    kept = story_file.KeptStory(
        rehearsal=rehearsal,
        scenario=scenario,
        options=options,
        schedule=story.schedule,
        outcome=story.outcome,
    )
    story_file.write(path, kept)


def _show(scenario: Scenario, report: RaceReport, worst: Counterexample | None) -> None:
    how = " (sample)" if report.sampled else " (reduced)" if report.reduced else ""
    render.heading(f"{report.scenario}: {report.about}")
    speed = f"{report.schedules / report.seconds:.0f}/s" if report.seconds else "-"
    log = {True: "has the same errors", False: "DISAGREES", None: "not read"}[report.server_log]
    click.echo(
        f"  {report.schedules} schedules{how}, exhausted: {str(report.exhausted).lower()}, {speed}; server's log: {log}"
    )
    for one in report.outcomes:
        endings = ", ".join(f"{who} {end}" for who, end in one.endings.items())
        errors = "; ".join(f"{who} met {error}" for who, error in one.errors.items())
        click.echo(f"  {one.schedules:6}  {endings}" + (f"   [{errors}]" if errors else ""))
        for finding in one.findings:
            click.echo(click.style(f"          ✗ {finding}", fg="red"))
    if worst is not None:
        from toolkit.rehearse.story_view import draw

        click.echo("\n" + draw(scenario, worst.story) + "\n")


@click.command()
@click.argument("file", type=PATH)
@click.option("--spec", type=PATH, help="Write it as a spec for PostgreSQL's isolation tester.")
@server_option
@json_option
def replay(file: Path, spec: Path | None, elsewhere: bool, as_json: bool) -> int:
    """Play a saved schedule again, and tell it. Exit code 1 when it goes wrong (again)."""
    from toolkit.rehearse import installed, story_file
    from toolkit.rehearse.race import replay as play_again
    from toolkit.rehearse.story_view import cause, draw
    from toolkit.rehearse.words import findings

    kept = story_file.read(file)
    chosen = installed.rehearsal(kept.rehearsal)
    scenario = installed.scenario(chosen, kept.scenario, kept.options)
    with open_room(chosen, elsewhere=elsewhere) as (room, _log):
        again = play_again(room, scenario, kept.schedule)
    story, wrong = again.story, findings(scenario, again.story)
    if as_json:
        render.as_json({"story": story, "findings": wrong, "cause": cause(scenario, story)})
    else:
        click.echo(draw(scenario, story))
    if spec:
        spec.write_text(again.spec, encoding="utf-8")
    if story.schedule != kept.schedule:
        render.say("note: the code does not take this schedule any more; this is the nearest to it")
    elif story.outcome != kept.outcome:
        render.say("note: it ends otherwise than when it was saved")
    return 1 if wrong else 0
