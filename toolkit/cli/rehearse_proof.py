"""`toolkit rehearse mutate, certify, verify`: whether the proof is one, and its certificate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.cli import render
from toolkit.cli.options import json_option
from toolkit.cli.rehearse_room import PATH, open_room, rehearsal_option, server_option
from toolkit.errors import UsageError

if TYPE_CHECKING:
    from toolkit.rehearse.certificate import Certificate
    from toolkit.rehearse.words import Rehearsal


@click.command(short_help="Sabotage the job: is it noticed?")
@click.argument("names", nargs=-1)
@rehearsal_option
@server_option
@json_option
def mutate(names: tuple[str, ...], rehearsal: str, elsewhere: bool, as_json: bool) -> int:
    """Sabotage the job in the ways there are (or those named): each must be noticed, or the proof is void (exit code 1)."""
    from toolkit.rehearse import installed
    from toolkit.rehearse.mutants import judge

    chosen = installed.rehearsal(rehearsal)
    if unknown := set(names) - {one.name for one in chosen.mutants}:
        raise UsageError(
            f"no mutant {', '.join(sorted(unknown))}",
            remedy=f"there are: {', '.join(one.name for one in chosen.mutants)}",
        )
    wanted = [one for one in chosen.mutants if not names or one.name in names]
    with open_room(chosen, elsewhere=elsewhere) as (room, _log), render.progress("mutants") as shown:
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


@click.command(short_help="Write down what holds.")
@click.option(
    "--output",
    "-o",
    type=PATH,
    default=Path("rehearsal-certificate.json"),
    show_default=True,
    help="Where it is written.",
)
@rehearsal_option
@server_option
def certify(output: Path, rehearsal: str, elsewhere: bool) -> int:
    """Race every scenario and judge every mutant, and write down what holds. Exit code 1 when it does not hold.

    Takes a minute or two. The same code on the same server gives the same bytes. A repository keeps its certificates in
    runbooks/certificates/.
    """
    from toolkit.rehearse import certificate, installed

    chosen = installed.rehearsal(rehearsal)
    output.parent.mkdir(parents=True, exist_ok=True)  # now: in a minute it would be too late to fail
    made = _certificate(chosen, elsewhere=elsewhere)
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


@click.command(short_help="Does a certificate still hold?")
@click.argument("file", type=PATH)
@server_option
@json_option
def verify(file: Path, elsewhere: bool, as_json: bool) -> int:
    """Run a certificate's rehearsal again and compare. Exit code 1 when anything differs or it never held."""
    from toolkit.rehearse import certificate, installed

    then = certificate.read(file)
    chosen = installed.rehearsal(then.rehearsal)
    code = certificate.code_hash(chosen.sources)
    differing = (
        [f"the code is not the one certified: {then.code[:12]} then, {code[:12]} now"]
        if code != then.code  # no need to run it
        else certificate.differences(then, _certificate(chosen, elsewhere=elsewhere))
    )
    verified = then.holds and not differing
    if as_json:
        render.as_json(
            {"certificate": str(file), "verified": verified, "held": then.holds, "differences": differing}
        )
    else:
        for one in differing if then.holds else ("it never held", *differing):
            click.echo(f"✗ {one}")
        if verified:
            click.echo(
                f"verified: {len(then.races)} scenarios, {len(then.mutants)} mutants, code {then.code[:12]}"
            )
    if code != then.code:
        render.next_steps(f"toolkit rehearse certify --rehearsal {then.rehearsal}")
    return 0 if verified else 1


def _certificate(chosen: Rehearsal, *, elsewhere: bool) -> Certificate:
    from toolkit.rehearse import certificate
    from toolkit.rehearse.mutants import judge
    from toolkit.rehearse.race import race
    from toolkit.rehearse.words import Options

    options = Options()
    with (
        open_room(chosen, elsewhere=elsewhere) as (room, log),
        render.progress("scenarios and mutants") as shown,
    ):
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
            code=certificate.code_hash(chosen.sources),
            server=room.server_version,
            options=options,
            races=tuple(races),
            table=table,
            mutants=certificate.noticed(verdicts),
        )
