"""What goes with `toolkit verify-deploy`: marking a deployment, playing the rules, and a person's word."""

from __future__ import annotations

import click

from toolkit.app import App
from toolkit.cli import render
from toolkit.cli.options import SINCE, Since, json_option, settings_of
from toolkit.errors import UsageError


@click.command(short_help="Record a deployment or a rollback.")
@click.option("--release", required=True, metavar="ID", help="The release that was deployed.")
@click.option("--at", type=SINCE, help="When  [default: now].")
@click.option("--note", default="", help="For people: a commit, a link.")
@json_option
@click.pass_context
def mark(ctx: click.Context, *, release: str, at: Since | None, note: str, as_json: bool) -> int:
    """Record a deployment (or a rollback: a release that was there before). Evidence for the release counts from here.

    Marked again within an hour, it is still the one deployment, and counts from its first mark.
    """
    from toolkit.ledger import audit, verifications
    from toolkit.ledger.reading import clock
    from toolkit.verify.window import window

    with App(settings_of(ctx)) as app:
        app.require_schema()
        with app.database.session() as session, session.transaction():
            now = clock(session)
            when = at.moment(now) if at else None
            if when is not None and when > now:
                raise UsageError(
                    f"--at {at and at.text}: that is still to come; it is {now:%Y-%m-%d %H:%M:%S} UTC",
                    remedy="mark it once it is deployed",
                )
            marked = verifications.mark(session, release, who=app.settings.operator, note=note, at=when)
            found = window(release, verifications.deployments(session), None, now)
            audit.write(
                session, who=marked.who, action="deployment", subject=release, reason=note or "marked"
            )
    if as_json:
        render.as_json(marked)
    else:
        click.echo(f"release {marked.release} is marked as deployed at {marked.at:%Y-%m-%d %H:%M:%S} UTC")
        if found.since != marked.at:
            render.say(
                f"note: it was marked before, and its evidence counts from {found.since:%Y-%m-%d %H:%M:%S} UTC all the same;"
                " from another time: toolkit verify-deploy --since TIME"
            )
        render.next_steps("toolkit verify-deploy", "toolkit verify-deploy --top-up")
    return 0


@click.command(short_help="How often are the rules wrong?")
@click.option(
    "--true-rate",
    required=True,
    metavar="SHARE",
    help="The failure rate of the made-up release: 0.5% or 0.005.",
)
@click.option("--runs", type=click.IntRange(100, 1_000_000), default=10_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same figures.")
@json_option
def simulate(*, true_rate: str, runs: int, seed: int, as_json: bool) -> int:
    """How often are the rules wrong? Play them against made-up jobs, looking after every job as --watch does."""
    import random

    from toolkit.cli import verify_view
    from toolkit.verify.simulate import simulate as play

    played = play(_share(true_rate), runs, random.Random(seed))  # noqa: S311  repeatable on purpose
    if as_json:
        render.as_json(played)
    else:
        verify_view.simulation(played)
    return 0


def _share(text: str) -> float:
    try:
        value = float(text.rstrip("% ")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"--true-rate {text!r} is no share", remedy="0.5% or 0.005")
    return value


@click.command()
@click.argument("what", type=click.Choice(["user-satisfaction"]))
@click.option("--evidence", required=True, metavar="URL", help="Where what you saw can be read.")
@click.option("--by", "who", required=True, metavar="NAME", help="Whose word it is.")
@click.option(
    "--valid",
    default="7d",
    show_default=True,
    metavar="DURATION",
    help="How long it holds: 12h, 7d, at most 90d.",
)
@click.option("--release", help="Of which release  [default: the one marked last, else TOOLKIT_RELEASE].")
@json_option
@click.pass_context
def attest(
    ctx: click.Context, *, what: str, evidence: str, who: str, valid: str, release: str | None, as_json: bool
) -> int:
    """Vouch for what no source can tell, with where it can be read. `verify-deploy` shows whose word it is.

    It counts where there is no data, and never against data. An attestation cannot be taken back; it runs out.
    """
    from datetime import timedelta

    from toolkit import verification
    from toolkit.cli.options import parse_since
    from toolkit.ledger import audit, verifications

    if not evidence.startswith(("http://", "https://")):
        raise UsageError(f"--evidence {evidence}: a URL is wanted", remedy="https://…, where it can be read")
    try:
        length = parse_since(valid).start
    except ValueError:
        length = None
    if not isinstance(length, timedelta) or not timedelta(0) < length <= timedelta(days=90):
        raise UsageError(f"--valid {valid}: a duration up to 90d is wanted", remedy="e.g. --valid 7d")
    with App(settings_of(ctx)) as app:
        app.require_schema()
        found, _ = verification.window_of(app, release, None)
        with app.database.session() as session, session.transaction():
            given = verifications.attest(
                session, what, found.release, evidence=evidence, who=who, valid=length.total_seconds()
            )
            audit.write(
                session,
                who=app.settings.operator,
                action="attest",
                subject=what,
                reason=evidence,
                detail={"by": who, "release": found.release},
            )
    if as_json:
        render.as_json(given)
    else:
        click.echo(
            f"{who} vouches for {what} of release {given.release} until {given.valid_until:%Y-%m-%d %H:%M} UTC: {evidence}"
        )
        render.next_steps("toolkit verify-deploy --phase long-term")
    return 0
