"""`toolkit verify-deploy`: is this deployment good?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from toolkit.app import App
from toolkit.cli import render, verify_more, verify_report
from toolkit.cli.options import SINCE, Since, json_option, settings_of
from toolkit.cli.verify_report import STDOUT
from toolkit.errors import StillRunning, ToolkitError, UsageError

if TYPE_CHECKING:
    from toolkit.ledger.verifications import Verification
    from toolkit.verify.asked import Asked
    from toolkit.verify.verdict import Receipt

_PHASES = ("immediate", "short-term", "long-term", "all")
_WITH = {
    "list_them": {"list_them", "as_json"},
    "resume": {"resume", "watch", "within", "detach", "on_fail", "junit", "markdown", "html", "as_json"},
    "dry_run": {"dry_run", "release", "since", "phases", "checks", "rules", "job_name", "as_json"},
}
"""What goes with an option that begins nothing new; all else would do nothing."""
_WAIT = {"immediate": 600.0, "short-term": 3600.0, "long-term": 86400.0}
"""Seconds that --watch waits at most, by the longest phase of its checks."""


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
    "--resume", type=int, metavar="ID", help="Go on with a verification, or show what it has found."
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
    _check_options(ctx, given)
    with App(settings_of(ctx)) as app:
        app.require_schema()
        if given["list_them"]:
            return verify_report.listed(app, as_json=given["as_json"])
        if given["resume"] is not None:
            return _resume(app, given)
        return _verify(app, given)


def _check_options(ctx: click.Context, given: dict[str, Any]) -> None:
    """Before anything is begun. Raises UsageError for options that do not go together, and for files that cannot be written."""
    typed = {
        str(one.name): one.opts[0] for one in ctx.command.params
        if ctx.get_parameter_source(str(one.name)) is click.core.ParameterSource.COMMANDLINE
    }  # fmt: skip
    for name, with_it in _WITH.items():
        if name in typed and (lost := sorted(flag for other, flag in typed.items() if other not in with_it)):
            raise UsageError(
                f"{typed[name]} does not go with {', '.join(lost)}",
                remedy="begin another verification for it",
            )
    files = [given[name] for name in ("junit", "markdown", "html") if given[name] is not None]
    if given["detach"] and files:
        raise UsageError(
            "--detach writes no report",
            remedy="write it afterwards: toolkit verify-deploy --resume ID --html FILE",
        )
    if given["as_json"] and given["markdown"] == STDOUT:
        raise UsageError("--json and --markdown - would share stdout", remedy="name a file: --markdown FILE")
    for path in files:
        if path != STDOUT and not path.absolute().parent.is_dir():
            raise UsageError(
                f"{path} cannot be written: there is no folder {path.parent}", remedy="make it first"
            )


def _verify(app: App, given: dict[str, Any]) -> int:
    from toolkit import verification

    since: Since | None = given["since"]
    found, now = verification.window_of(app, given["release"], since.moment if since else None)
    spec = verification.spec_of(app, given["job_name"])
    if given["top_up"] and spec.verify is None:
        raise UsageError(
            f"job {spec.name} has no test orders to top up with",
            remedy="give its JobSpec `verify=VerifyHooks(…)`",
        )
    if given["on_fail"] and not spec.toggle:
        raise UsageError(f"job {spec.name} has no toggle to switch off", remedy="leave --on-fail out")
    asked = _asked(given, verification.phases(given["phases"], found, now), spec.name, found.what)
    if given["dry_run"]:
        return verify_report.dry_run(app, found, asked, as_json=given["as_json"])
    verification.chosen(asked)
    begun = verification.begin(app, found, asked)
    render.say(
        f"verification {begun.verification_id}: release {found.release}, since {found.since:%Y-%m-%d %H:%M:%S} UTC ({found.what})"
    )
    if given["detach"]:
        return _detach(app, begun, asked, as_json=given["as_json"])
    return _follow(app, begun, asked, given)


def _asked(given: dict[str, Any], phases: tuple[str, ...], job_name: str, what: str) -> Asked:
    from toolkit.verify.asked import Asked
    from toolkit.verify.rules import Rules

    rules: dict[str, str] = {}
    for text in given["rules"]:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: RULE=VALUE is wanted", remedy="e.g. --set rate=0.1")
        rules[name] = value
    Rules().but(rules)
    asked = Asked(
        job_name=job_name,
        what=what,
        phases=phases,
        checks=tuple(given["checks"]),
        rules=rules,
        top_up=given["top_up"],
        rate=given["rate"],
        fail_fast=given["fail_fast"],
        on_fail=given["on_fail"] or "",
    )
    return _waiting(asked, given)


def _waiting(asked: Asked, given: dict[str, Any]) -> Asked:
    """The same, waiting as it is asked to now."""
    from toolkit import verification

    watch = asked.watch or given["watch"] or given["detach"]
    usual = asked.within
    if watch and not asked.watch:
        usual = max(_WAIT[check.phase.value] for check in verification.chosen(asked))
    return msgspec.structs.replace(asked, watch=watch, within=given["within"] or usual)


def _resume(app: App, given: dict[str, Any]) -> int:
    """Go on with it, or show its verdict again; of one that somebody else runs, what was found so far."""
    from toolkit import verification
    from toolkit.verify.asked import decode
    from toolkit.verify.verdict import Receipt

    found = verification.find(app, given["resume"])
    asked = _waiting(decode(found.asked), given)
    asked = msgspec.structs.replace(
        asked,
        on_fail=given["on_fail"] or (asked.on_fail if found.finished_at is None else ""),
    )
    receipt = msgspec.json.decode(found.receipt, type=Receipt) if found.receipt else None
    if found.finished_at is not None and receipt is not None:
        return _end(app, receipt, asked, given)
    if verification.elsewhere(app, found):
        if receipt is not None:
            verify_report.show(receipt, given)
    elif given["detach"]:
        return _detach(app, found, asked, as_json=given["as_json"])
    return _follow(app, found, asked, given)


def _follow(app: App, begun: Verification, asked: Asked, given: dict[str, Any]) -> int:
    from toolkit import verification
    from toolkit.cli.verify_view import Screen
    from toolkit.verify.follow import Follower

    verifier = verification.verifier(app, begun, asked, asked.what or "resumed")
    quiet = given["as_json"] or given["markdown"] == STDOUT
    try:
        with Screen(watch=asked.watch or asked.top_up, quiet=quiet) as screen:
            follower = Follower(
                verifier=verifier,
                watch=asked.watch,
                within=asked.within,
                told=screen.told,
                trouble=screen.trouble,
            )
            receipt = follower.follow()
    except KeyboardInterrupt:
        render.say(f"stopped; nothing is lost. go on: toolkit verify-deploy --resume {begun.verification_id}")
        verifier.leave()
        raise
    code = _end(app, receipt, asked, given)
    for trouble in verification.publish(app, receipt):
        render.say(f"warning: {trouble}")
    return code


def _end(app: App, receipt: Receipt, asked: Asked, given: dict[str, Any]) -> int:
    """Print and write the receipt; then, on a regression, what was asked for. If that fails, the verdict stands all the same."""
    written = verify_report.show(receipt, given)
    if asked.on_fail and receipt.exit_code == 1:
        _rescue(app, asked, receipt)
    return receipt.exit_code if written else receipt.exit_code or UsageError.exit_code


def _rescue(app: App, asked: Asked, receipt: Receipt) -> None:
    from toolkit import verification
    from toolkit.ledger.trouble import TROUBLE

    try:
        render.say(verification.rescue(app, asked, receipt))
    except (ToolkitError, *TROUBLE) as error:
        toggle = verification.spec_of(app, asked.job_name).toggle
        render.say(f"error: {toggle} may still be on: {' '.join(str(error).split())}")
        render.next_steps(
            f"toolkit toggle status {toggle}",
            f"toolkit verify-deploy --resume {receipt.verification_id} --on-fail {asked.on_fail}",
        )


def _detach(app: App, begun: Verification, asked: Asked, *, as_json: bool) -> int:
    """A process of its own goes on as it is asked to now; what it would have printed lies in a file."""
    app.settings.home.mkdir(parents=True, exist_ok=True)
    log = app.settings.home / f"verification-{begun.verification_id}.log"
    asks = ["--resume", str(begun.verification_id), "--watch", "--within", str(asked.within)]
    if asked.on_fail:
        asks += ["--on-fail", asked.on_fail]
    with log.open("ab") as out:
        subprocess.Popen(
            [sys.executable, "-m", "toolkit.cli", "verify-deploy", *asks],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    if as_json:
        render.as_json({"verification_id": begun.verification_id, "log": str(log)})
    render.say(f"verification {begun.verification_id} goes on in the background; it writes to {log}")
    render.next_steps(
        f"toolkit verify-deploy --resume {begun.verification_id}", "toolkit verify-deploy --list"
    )
    return StillRunning.exit_code


command.add_command(verify_more.mark)
command.add_command(verify_more.simulate)
