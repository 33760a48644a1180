"""`toolkit verify-deploy`: is this deployment good?"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from toolkit.app import App
from toolkit.cli import render, verify_more
from toolkit.cli.options import SINCE, Since, json_option, settings_of
from toolkit.errors import StillRunning, UsageError

if TYPE_CHECKING:
    from toolkit.ledger.verifications import Verification
    from toolkit.verify.asked import Asked
    from toolkit.verify.verdict import Receipt
    from toolkit.verify.window import Window

_PHASES = ("immediate", "short-term", "long-term", "all")
_WAIT = {"immediate": 600.0, "short-term": 3600.0, "long-term": 86400.0}
"""Seconds that --watch waits at most, by the longest phase."""


@click.group(invoke_without_command=True)
@click.option(
    "--release", help="The release to verify  [default: the one marked last, else TOOLKIT_RELEASE]."
)
@click.option("--since", type=SINCE, help="Evidence counts from then  [default: from the release's mark].")
@click.option(
    "--phase", "phases", multiple=True, type=click.Choice(_PHASES),
    help="Only this part of the checklist; may be repeated  [default: those whose time has come].",
)  # fmt: skip
@click.option("--check", "checks", multiple=True, metavar="NAME", help="Only this check; may be repeated.")
@click.option(
    "--set", "rules", multiple=True, metavar="RULE=VALUE", help="Another number to judge by, e.g. rate=0.1."
)
@click.option("--job-name", default="", help="The job to verify, where there is more than one.")
@click.option("--top-up", is_flag=True, help="Place marked test orders until the evidence is enough.")
@click.option(
    "--rate",
    type=click.FloatRange(0.1, 1000),
    default=10.0,
    show_default=True,
    metavar="N",
    help="Test orders a second.",
)
@click.option("--watch", is_flag=True, help="Wait for evidence, and show what changes.")
@click.option(
    "--within",
    type=click.FloatRange(1),
    metavar="SECONDS",
    help="Wait no longer  [default: 10 min; with --watch the phase's time].",
)
@click.option("--fail-fast", is_flag=True, help="End at the first regression.")
@click.option(
    "--on-fail",
    type=click.Choice(["toggle-off"]),
    help="On a regression, never on anything else: switch the job's toggle off, once.",
)
@click.option("--detach", is_flag=True, help="Go on in the background, and return at once.")
@click.option(
    "--resume", type=int, metavar="ID", help="Go on with a verification, or show its verdict again."
)
@click.option("--list", "list_them", is_flag=True, help="The newest verifications.")
@click.option(
    "--dry-run", is_flag=True, help="Show the checks and the queries that they would ask, and change nothing."
)
@click.option(
    "--junit",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the verdict there for a CI system.",
)
@click.option(
    "--markdown",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="For the incident channel; - for stdout.",
)
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="One page with the plots.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> int:
    """Is this deployment good? Works through the checklist and answers with evidence.

    Immediate: the deployment is live, no foreign key errors, the queue is processed, no new kinds of error. Short-Term (from
    5 min on): a test order end to end, no foreign key errors in more jobs. Long-Term (from 1 h on): success rate, skips,
    user satisfaction, performance kept.

    Zero errors in zero jobs is not a pass: a check without evidence is inconclusive and says what it lacks. A violation is
    planted first (in temporary tables, rolled back), and a source that does not see it is not believed. A probe and test orders
    are marked, belong to a merchant of their own, and are taken away at the end.

    Exit code: 0 proven; 1 regression; 3 inconclusive; 4 a source does not answer; 5 somebody else runs it; 8 begun (--detach).
    """
    if ctx.invoked_subcommand is not None:
        return 0
    with App(settings_of(ctx)) as app:
        app.require_schema()
        if given["list_them"]:
            return _list(app, as_json=given["as_json"])
        if given["resume"]:
            return _resume(app, given)
        return _verify(app, given)


def _verify(app: App, given: dict[str, Any]) -> int:
    from toolkit import verification

    since: Since | None = given["since"]
    found, now = verification.window_of(app, given["release"], since.moment if since else None)
    asked = _asked(
        given,
        verification.phases(given["phases"], found, now),
        verification.spec_of(app, given["job_name"]).name,
    )
    if given["dry_run"]:
        return _dry_run(app, found, asked, as_json=given["as_json"])
    verification.chosen(asked)
    begun = verification.begin(app, found, asked)
    render.say(
        f"verification {begun.verification_id}: release {found.release}, since {found.since:%Y-%m-%d %H:%M:%S} ({found.what})"
    )
    if given["detach"]:
        return _detach(app, begun)
    return _follow(app, begun, asked, found.what, given)


def _asked(given: dict[str, Any], phases: tuple[str, ...], job_name: str) -> Asked:
    from toolkit.verify.asked import Asked
    from toolkit.verify.rules import Rules

    rules: dict[str, str] = {}
    for text in given["rules"]:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: RULE=VALUE is wanted", remedy="e.g. --set rate=0.1")
        rules[name] = value
    Rules().but(rules)
    longest = max((_WAIT[phase] for phase in phases), default=_WAIT["immediate"])
    return Asked(
        job_name=job_name,
        phases=phases,
        checks=tuple(given["checks"]),
        rules=rules,
        top_up=given["top_up"],
        rate=given["rate"],
        watch=given["watch"],
        within=given["within"] or (longest if given["watch"] or given["detach"] else _WAIT["immediate"]),
        fail_fast=given["fail_fast"],
        on_fail=given["on_fail"] or "",
    )


def _resume(app: App, given: dict[str, Any]) -> int:
    from toolkit import verification
    from toolkit.verify.asked import decode
    from toolkit.verify.verdict import Receipt

    found = verification.find(app, given["resume"])
    if found.finished_at is not None and found.receipt is not None:
        return _show(app, msgspec.json.decode(found.receipt, type=Receipt), given)
    asked = decode(found.asked)
    if given["watch"]:
        asked = msgspec.structs.replace(asked, watch=True)
    return _follow(app, found, asked, "resumed", given)


def _follow(app: App, begun: Verification, asked: Asked, what: str, given: dict[str, Any]) -> int:
    from toolkit import verification
    from toolkit.cli.verify_view import Screen
    from toolkit.verify.follow import Follower

    verifier = verification.verifier(app, begun, asked, what)
    with Screen(watch=asked.watch or asked.top_up, quiet=given["as_json"]) as screen:
        follower = Follower(
            verifier=verifier,
            watch=asked.watch,
            within=asked.within,
            told=screen.told,
            trouble=screen.trouble,
        )
        try:
            receipt = follower.follow()
        except KeyboardInterrupt:
            verifier.leave()
            render.say(
                f"stopped; nothing is lost. go on: toolkit verify-deploy --resume {begun.verification_id}"
            )
            raise
    for trouble in verification.publish(app, receipt):
        render.say(f"warning: {trouble}")
    return _show(app, receipt, given, asked)


def _show(app: App, receipt: Receipt, given: dict[str, Any], asked: Asked | None = None) -> int:
    """Print and write the receipt; on a regression, do what was asked for then."""
    from toolkit import verification
    from toolkit.cli import verify_view
    from toolkit.verify.report import html, junit, markdown

    if given["as_json"]:
        render.as_json(receipt)
    else:
        verify_view.show(receipt, verification.runbooks())
    runbooks = verification.runbooks()
    for path, write in (("junit", junit.render), ("markdown", markdown.render), ("html", html.render)):
        if given[path] is not None:
            _write(given[path], write(receipt, runbooks))
    if asked is not None and asked.on_fail and receipt.exit_code == 1:
        render.say(verification.rescue(app, asked, receipt))
    return receipt.exit_code


def _write(path: Path, text: str) -> None:
    if str(path) == "-":
        click.echo(text)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", remedy="name another file") from error
    render.say(f"written: {path}")


def _detach(app: App, begun: Verification) -> int:
    """A process of its own goes on; what it would have printed lies in a file."""
    app.settings.home.mkdir(parents=True, exist_ok=True)
    log = app.settings.home / f"verification-{begun.verification_id}.log"
    with log.open("ab") as out:
        subprocess.Popen(
            [sys.executable, "-m", "toolkit.cli", "verify-deploy", "--resume", str(begun.verification_id), "--watch"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    raise StillRunning(
        f"verification {begun.verification_id} goes on in the background; it writes to {log}",
        remedy=f"toolkit verify-deploy --list, and toolkit verify-deploy --resume {begun.verification_id} for its verdict",
    )


def _list(app: App, *, as_json: bool) -> int:
    from toolkit.ledger import verifications
    from toolkit.ledger.reading import reading

    with reading(app.database) as session:
        found = verifications.listed(session)
    if as_json:
        render.as_json([dataclasses.replace(one, receipt=None) for one in found])
        return 0
    if not found:
        render.say("nothing was verified yet")
        render.next_steps("toolkit verify-deploy")
        return 0
    rows = [
        (
            one.verification_id,
            one.release,
            one.verdict,
            f"{one.started_at:%Y-%m-%d %H:%M:%S}",
            one.who,
            one.runner or "-",
        )
        for one in found
    ]
    render.table(("id", "release", "verdict", "started", "who", "run by"), rows)
    open_ones = [one for one in found if one.finished_at is None and not one.runner]
    if open_ones:
        render.next_steps(f"toolkit verify-deploy --resume {open_ones[0].verification_id}")
    return 0


def _dry_run(app: App, begun: Window, asked: Asked, *, as_json: bool) -> int:
    from toolkit import verification

    found = verification.dry(app, begun, asked)
    if as_json:
        render.as_json([{"check": one.check.name, "phase": one.check.phase, "rule": one.check.rule, "symptom": one.check.symptom,
                         "asks": one.statements, "trouble": one.trouble} for one in found])  # fmt: skip
        return 0
    for one in found:
        render.heading(f"{one.check.phase.value}: {one.check.name}")
        click.echo(f"rule     {one.check.rule}")
        click.echo(f"symptom  {one.check.symptom}")
        for statement in one.statements:
            click.echo(f"asks     {statement}")
        if one.trouble:
            click.echo(f"trouble  {one.trouble}")
    return 0


command.add_command(verify_more.mark)
command.add_command(verify_more.simulate)
