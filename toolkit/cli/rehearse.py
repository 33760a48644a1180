"""`toolkit rehearse`: the sealed room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.app import App
from toolkit.cli import rehearse_case, rehearse_diff, render
from toolkit.settings import Settings

if TYPE_CHECKING:
    from toolkit.rehearse.certificate import Certificate
    from toolkit.rehearse.race import Counterexample, RaceReport
    from toolkit.rehearse.room import Room
    from toolkit.rehearse.server_log import ServerLog
    from toolkit.rehearse.words import Options, Rehearsal

PATH = click.Path(dir_okay=False, path_type=Path)


@click.group(name="rehearse")
def command() -> None:
    """Race job code against everything else, in a throw-away database, schedule by schedule.

    Rehearsals run on the embedded PostgreSQL (`toolkit up`); beside your own databases on DATABASE_URL's server only with
    --on-database-url. No row of a real database is read or written.
    """


command.add_command(rehearse_case.command)
command.add_command(rehearse_diff.command)

server_option = click.option(
    "--on-database-url",
    "elsewhere",
    is_flag=True,
    help="Make the throw-away databases on DATABASE_URL's server.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


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


@contextmanager
def _room(chosen: Rehearsal, *, elsewhere: bool) -> Iterator[tuple[Room, ServerLog]]:
    from toolkit.rehearse.room import Room
    from toolkit.rehearse.server_log import ServerLog

    with App(Settings.from_env()) as app:
        url, log = app.rehearsal_server(elsewhere=elsewhere)
        with Room.open(url, chosen.prepare) as room:
            yield room, ServerLog(log)


def _options(given: dict[str, Any]) -> Options:
    import msgspec

    from toolkit.rehearse.words import Options

    return msgspec.convert(given, type=Options)


@command.command(name="list")
def list_() -> None:
    """The scenarios there are."""
    from toolkit.rehearse import installed
    from toolkit.rehearse.words import Options

    chosen = installed.rehearsal()
    rows = [
        (one.name, ", ".join(actor.name for actor in one.actors), one.about)
        for one in installed.all_scenarios(chosen, Options()).values()
    ]
    render.table(("scenario", "actors", "about"), rows)


@command.command()
@variations
@server_option
@json_option
def table(elsewhere: bool, as_json: bool, **given: Any) -> None:
    """The kept bodies of the incident against a delete, all schedules: in how many the job gets 23503.

    BEGIN, body, COMMIT against BEGIN, DELETE, COMMIT.
    """
    from toolkit.rehearse import installed
    from toolkit.rehearse.race import race

    chosen = installed.rehearsal()
    with _room(chosen, elsewhere=elsewhere) as (room, _log):
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


@command.command(name="race")
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
@click.option("--save", type=PATH, help="Write the counterexample, for `toolkit rehearse replay`.")
@click.option("--spec", type=PATH, help="Write it as a spec for PostgreSQL's isolation tester.")
@server_option
@json_option
def race_(  # noqa: PLR0917  click calls it by keywords
    scenario: str | None, samples: int | None, seed: int, reduce: bool | None, limit: int | None, first: bool,
    save: Path | None, spec: Path | None, elsewhere: bool, as_json: bool, **given: Any,
) -> int:  # fmt: skip
    """Race SCENARIO (all of today's job's without a name) through every schedule, and show the shortest that goes wrong.

    Exit code 1 when one did, 3 when none did but not all were seen.
    """
    from toolkit.rehearse import installed, story_file
    from toolkit.rehearse.race import Method, race

    options = _options(given)
    chosen = installed.rehearsal()
    everything = list(chosen.scenarios(options).values())
    wanted = [installed.scenario(chosen, scenario, options)] if scenario else everything
    method = Method(reduce=reduce, samples=samples, seed=seed, limit=limit, stop_at_first=first)
    reports: list[RaceReport] = []
    with _room(chosen, elsewhere=elsewhere) as (room, log):
        for one in wanted:
            with render.progress(f"schedules of {one.name}") as shown:
                report, worst = race(room, one, method=method, log=log, progress=shown.update)
            reports.append(report)
            if not as_json:
                _show(report)
            if worst is not None:
                if not as_json:
                    from toolkit.rehearse.story_view import draw

                    click.echo("\n" + draw(one, worst.story) + "\n")
                if save:
                    story_file.write(save, _kept(one.name, options, worst))
                if spec:
                    spec.write_text(worst.spec, encoding="utf-8")
    if as_json:
        render.as_json(reports)
    if any(not report.clean for report in reports):
        render.next_steps(
            f"toolkit rehearse replay {save}" if save else "toolkit rehearse race … --save FILE"
        )
        return 1
    return 0 if all(report.exhausted for report in reports) else 3


def _kept(name: str, options: Options, worst: Counterexample) -> Any:
    from toolkit.rehearse.story_file import KeptStory

    return KeptStory(
        scenario=name, options=options, schedule=worst.story.schedule, outcome=worst.story.outcome
    )


def _show(report: RaceReport) -> None:
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


@command.command()
@click.argument("file", type=PATH)
@click.option("--spec", type=PATH, help="Write it as a spec for PostgreSQL's isolation tester.")
@server_option
def replay(file: Path, spec: Path | None, elsewhere: bool) -> int:
    """Play a saved schedule again, and tell it. Exit code 1 when it goes wrong (again)."""
    from toolkit.rehearse import installed, story_file
    from toolkit.rehearse.race import replay as play_again
    from toolkit.rehearse.story_view import draw
    from toolkit.rehearse.words import findings

    kept = story_file.read(file)
    chosen = installed.rehearsal()
    scenario = installed.scenario(chosen, kept.scenario, kept.options)
    with _room(chosen, elsewhere=elsewhere) as (room, _log):
        told = play_again(room, scenario, kept.schedule)
    click.echo(draw(scenario, told.story))
    if spec:
        spec.write_text(told.spec, encoding="utf-8")
    if told.story.schedule != kept.schedule:
        render.say("note: the code does not take this schedule any more; this is the nearest to it")
    elif told.story.outcome != kept.outcome:
        render.say("note: it ends otherwise than when it was saved")
    return 1 if findings(scenario, told.story) else 0


@command.command()
@click.argument("names", nargs=-1)
@server_option
@json_option
def mutate(names: tuple[str, ...], elsewhere: bool, as_json: bool) -> int:
    """Sabotage the job in the ways there are (or those named): each must be noticed, or the proof is void (exit code 1)."""
    from toolkit.errors import NotFound
    from toolkit.rehearse import installed
    from toolkit.rehearse.mutants import judge

    chosen = installed.rehearsal()
    if unknown := set(names) - {one.name for one in chosen.mutants}:
        raise NotFound(
            f"no mutant {', '.join(sorted(unknown))}",
            remedy=f"there are: {', '.join(one.name for one in chosen.mutants)}",
        )
    wanted = [one for one in chosen.mutants if not names or one.name in names]
    with _room(chosen, elsewhere=elsewhere) as (room, _log), render.progress("mutants") as shown:
        verdicts = []
        for verdict in judge(room, chosen.name, wanted):
            verdicts.append(verdict)
            shown.update(len(verdicts))
    if as_json:
        render.as_json(verdicts)
    else:
        rows = [
            (one.mutant, one.about, one.by or "NOBODY", one.schedules, one.saw or one.void)
            for one in verdicts
        ]
        render.table(
            ("mutant", "what is taken away", "noticed by", "schedules", "what it saw"),
            rows,
            right=("schedules",),
        )
    missed = [one.mutant for one in verdicts if not one.caught]
    if missed:
        render.say(f"the proof is void: nobody noticed {', '.join(missed)}")
    return 1 if missed or not verdicts else 0


@command.command()
@click.argument("file", type=PATH)
@server_option
def incident(file: Path, elsewhere: bool) -> int:
    """Run the timeline in FILE, by a virtual clock: with the body of then, and with today's job.

    Exit code 0 when the body of then ends as the incident did, and today's job without error or harm.
    """
    from toolkit.rehearse import incident as incidents
    from toolkit.rehearse import incident_file, installed

    timeline, node = incident_file.read(file)
    chosen = installed.rehearsal(timeline.rehearsal)
    incident_file.check(file, node, timeline, chosen)
    with _room(chosen, elsewhere=elsewhere) as (room, _log):
        report = incidents.rehearse(room, timeline, chosen.cast)
    click.echo(incidents.told(report), nl=False)
    return 0 if report.reproduced and report.fixed else 1


@command.command()
@click.option(
    "--output",
    "-o",
    type=PATH,
    default=Path("rehearsal-certificate.json"),
    show_default=True,
    help="Where it is written.",
)
@server_option
def certify(output: Path, elsewhere: bool) -> int:
    """Race every scenario and judge every mutant, and write down what holds. Exit code 1 when it does not hold.

    Takes a minute or two. The same code on the same server gives the same bytes. A repository keeps its certificates in
    runbooks/certificates/.
    """
    from toolkit.rehearse import certificate

    output.parent.mkdir(parents=True, exist_ok=True)  # now: in a minute it would be too late to fail
    made = _certificate(elsewhere=elsewhere)
    certificate.write(output, made)
    schedules = sum(one.schedules for one in made.races)
    click.echo(
        f"{'holds' if made.holds else 'DOES NOT HOLD'}: {len(made.races)} scenarios, {schedules} schedules, "
        f"{sum(bool(by) for by in made.mutants.values())}/{len(made.mutants)} mutants noticed; code {made.code[:12]}, "
        f"PostgreSQL {made.server}; written to {output}"
    )
    for one in made.races:
        if one.findings or not one.exhausted:
            click.echo(f"  ✗ {one.scenario}: {'; '.join(one.findings) or 'not exhausted'}")
    return 0 if made.holds else 1


@command.command()
@click.argument("file", type=PATH)
@server_option
def verify(file: Path, elsewhere: bool) -> int:
    """Run a certificate's rehearsal again and compare. Exit code 1 when anything differs or it never held."""
    from toolkit.rehearse import certificate, installed

    then = certificate.read(file)
    chosen = installed.rehearsal(then.rehearsal)
    code = certificate.code_hash(chosen.sources)
    if code != then.code:
        click.echo(f"✗ the code is not the one certified: {then.code[:12]} then, {code[:12]} now")
        render.next_steps("toolkit rehearse certify")
        return 1
    differing = certificate.differences(then, _certificate(elsewhere=elsewhere))
    for one in differing:
        click.echo(f"✗ {one}")
    if differing or not then.holds:
        return 1
    click.echo(f"verified: {len(then.races)} scenarios, {len(then.mutants)} mutants, code {then.code[:12]}")
    return 0


def _certificate(*, elsewhere: bool) -> Certificate:
    from toolkit.rehearse import certificate, installed
    from toolkit.rehearse.mutants import judge
    from toolkit.rehearse.race import race
    from toolkit.rehearse.words import Options

    chosen = installed.rehearsal()
    options = Options()
    with _room(chosen, elsewhere=elsewhere) as (room, log), render.progress("scenarios and mutants") as shown:
        races: list[certificate.Raced] = []
        for one in chosen.scenarios(options).values():
            races.append(certificate.raced(race(room, one, log=log)[0]))
            shown.update(len(races))
        table = {}
        for name, one in chosen.table(options).items():
            report = race(room, one)[0]
            table[name] = (report.schedules, report.errors.get("job 23503", 0))
        verdicts = list(judge(room, chosen.name, chosen.mutants))
        return certificate.Certificate(
            rehearsal=chosen.name,
            release=Settings.from_env().release,
            code=certificate.code_hash(chosen.sources),
            server=room.server_version,
            options=options,
            races=tuple(races),
            table=table,
            mutants=certificate.noticed(verdicts),
        )
