"""`toolkit doctor`: what is wrong between ledger and broker, and the mending of it."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from toolkit.app import App
from toolkit.cli import render, words
from toolkit.cli.options import json_option, refuse_beside, settings_of
from toolkit.errors import DependencyUnreachable, UsageError

if TYPE_CHECKING:
    from toolkit.doctor.findings import Finding
    from toolkit.doctor.look import Doctor
    from toolkit.doctor.repair import Surgeon


@click.command()
@click.option("--repair", is_flag=True, help="Show what would be done about it, ask, and do it.")
@click.option(
    "--drop", "drops", multiple=True, metavar="ID",
    help="Take this failed job, whose ids cannot be had, out of RQ for good. Repeatable.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="With --repair or --drop: do it without asking.")
@click.option("--reason", default="", help="With --repair or --drop: why, for the audit.")
@click.option(
    "--grace", type=click.FloatRange(0), default=10.0, show_default=True, metavar="SECONDS",
    help="A job may be on its way for so long.",
)  # fmt: skip
@json_option
@click.pass_context
def command(ctx: click.Context, *, repair: bool, drops: tuple[str, ...], yes: bool, reason: str, grace: float,
            as_json: bool) -> int:  # fmt: skip
    """Compare the ledger with the broker, and name each job that is where it should not be, with the command that mends it.

    Finds jobs in no list or in two, runs past their lease, waiting jobs that expire, finished jobs marked as failed, jobs
    left behind by workers that are gone, jobs never pushed, failed jobs of RQ that the ledger does not know, and workers that
    are gone but registered. Looking changes nothing; what one look finds counts only when a second one finds it again.

    A failed job of RQ whose ids cannot be had stays a finding until it is dropped: nothing can run it. Its data is gone then;
    the audit keeps what it was.

    Exit code: 0 nothing is wrong, 1 something is (with --repair: still is), 4 a server does not answer.
    """
    from toolkit.broker.connection import BROKER_AWAY, check
    from toolkit.doctor.look import Doctor

    refuse_beside(ctx, "drops", "repair", why="each is an act of its own")
    settings = settings_of(ctx)
    with App(settings) as app:
        app.require_schema()
        check(app.redis_url)
        doctor = Doctor(app.brief(), app.broker, app.registry, _now, grace=grace)
        try:
            findings = doctor.diagnose(time.sleep)
        except BROKER_AWAY as error:
            raise DependencyUnreachable(f"the broker went away: {error}", remedy="run it again") from error
        if drops:
            return _drop(app, doctor, findings, drops, yes=yes, reason=reason, as_json=as_json)
        if not repair or not findings:
            _show(findings, as_json=as_json)
            return 1 if findings else 0
        return _repair(app, doctor, findings, yes=yes, reason=reason, as_json=as_json)


def _repair(
    app: App, doctor: Doctor, findings: Sequence[Finding], *, yes: bool, reason: str, as_json: bool
) -> int:
    if not as_json:
        _show(findings, as_json=False)
    plan = _plan(findings)
    for line in plan or ["nothing of this can be repaired from here"]:
        render.say(f"plan: {line}")
    if plan and not yes:
        _ask("--repair")
    done = _surgeon(app).repair(
        findings, who=app.settings.operator, reason=reason or "toolkit doctor --repair"
    )
    left = doctor.diagnose(time.sleep)
    if as_json:
        render.as_json({"findings": findings, "repaired": done, "left": left})
    else:
        for kind, count in done.items():
            render.say(f"done: {kind}: {count}")
        _show(left, as_json=False)
    return 1 if left else 0


def _drop(app: App, doctor: Doctor, findings: Sequence[Finding], ids: Sequence[str], *, yes: bool, reason: str,
          as_json: bool) -> int:  # fmt: skip
    from toolkit.doctor.findings import Kind

    strays = {one.subject: one for one in findings if one.kind is Kind.UNKNOWN and not one.repairable}
    for job_id in ids:
        if job_id not in strays:
            raise UsageError(
                f"{job_id} is no failed job of RQ whose ids cannot be had",
                remedy="`toolkit doctor` lists them",
            )
    wanted = [strays[job_id] for job_id in dict.fromkeys(ids)]
    for one in wanted:
        render.say(f"plan: take {one.subject} out of RQ, data and all; {words.plain(one.detail)}")
    if not yes:
        _ask("--drop")
    surgeon = _surgeon(app)
    for one in wanted:
        surgeon.drop(one, who=app.settings.operator, reason=reason or "toolkit doctor --drop")
    left = doctor.diagnose(time.sleep)
    if as_json:
        render.as_json({"dropped": wanted, "left": left})
    else:
        render.say(f"dropped {render.many(len(wanted), 'job')}")
        _show(left, as_json=False)
    return 1 if left else 0


def _ask(option: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError(
            f"{option} asks before it acts, and there is no terminal", remedy="add --yes to do it unasked"
        )
    click.confirm("do it?", abort=True, err=True)


def _surgeon(app: App) -> Surgeon:
    from toolkit.broker.relay import Relay
    from toolkit.doctor.repair import Surgeon

    relay = Relay(app.database, app.broker, app.registry, app.log)
    return Surgeon(app.database, app.broker, app.registry, relay, _now)


def _plan(findings: Sequence[Finding]) -> list[str]:
    from toolkit.doctor.repair import PLAN

    counts = Counter(finding.kind for finding in findings if finding.repairable)
    return [f"{kind.value}: {count} × {PLAN[kind]}" for kind, count in counts.items()]


def _show(findings: Sequence[Finding], *, as_json: bool) -> None:
    if as_json:
        render.as_json({"healthy": not findings, "findings": findings})
        return
    if not findings:
        render.say("nothing is wrong between ledger and broker")
        return
    rows = [
        (one.kind.value, one.subject, one.queue, words.plain(one.detail), words.plain(one.mend))
        for one in findings
    ]
    render.table(("what", "job or worker", "queue", "detail", "mend"), rows, whole=("job or worker",))
    from toolkit.doctor.findings import DROP, Kind

    render.say(f"{len(findings)} found")
    if any(one.repairable for one in findings):
        render.next_steps("toolkit doctor --repair")
    elif stray := next((one for one in findings if one.kind is Kind.UNKNOWN), None):
        render.next_steps(f"{DROP} {shlex.quote(stray.subject)}")


def _now() -> datetime:
    return datetime.now(UTC)
