"""`toolkit replay`: run failed jobs again, for real, by a plan that is judged again under lock."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, Any, Final

import click

from toolkit.app import App
from toolkit.cli import render
from toolkit.cli import replay_screen as screen
from toolkit.cli import replay_which as which
from toolkit.cli.options import SINCE, json_option, refuse_beside, settings_of
from toolkit.cli.replay_call import Call, Rate
from toolkit.cli.replay_dry import dry_run
from toolkit.cli.replay_ending import (
    DONE,
    INTERRUPTED,
    execute,
    exit_code,
    instead,
    next_steps,
    nothing,
    worst,
)
from toolkit.cli.replay_history import history
from toolkit.errors import UsageError

if TYPE_CHECKING:
    from toolkit.ledger.replay_views import Item, Landed, Plan

WAIT: Final = 600.0
"""Seconds that `--wait` and a canary wait when no number is given."""


@click.group(invoke_without_command=True, subcommand_metavar="[history]")
@click.option(
    "--job",
    "jobs",
    multiple=True,
    metavar="ID",
    help="This job, at once: a job, run or trace id. Repeatable.",
)
@click.option("--failed", is_flag=True, help="Every job that failed or was lost for good.")
@click.option(
    "--fingerprint", default="", metavar="HEX", help="Those whose last failure has this fingerprint."
)
@click.option("--error", default="", metavar="TEXT", help="… whose error is called so, or says so.")
@click.option("--sqlstate", default="", metavar="CODE", help="… with this SQLSTATE, e.g. 23503.")
@click.option("--job-name", default="", metavar="NAME", help="… of this job name.")
@click.option("--merchant", default="", metavar="ID", help="… of this merchant.")
@click.option("--release", default="", metavar="NAME", help="… that failed under this release.")
@click.option(
    "--since", type=SINCE, help="… whose failed run began since then: 90s, 15m, 2h, 3d, or an ISO time."
)
@click.option("--until", type=SINCE, help="… and before then.")
@click.option("--plan", is_flag=True, help="Freeze and print the plan, with its hash, and stop.")
@click.option("--execute", metavar="HASH", help="Carry out exactly this frozen plan.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[HASH]",
    help="Go on with what was interrupted.",
)
@click.option(
    "--dry-run", is_flag=True, help="Run the bodies here, roll every write back, and show what they came to."
)
@click.option("--wait", is_flag=False, flag_value=WAIT, type=click.FloatRange(0), default=None, metavar="[SECONDS]",
              help=f"Follow the jobs to their outcome  [{WAIT:g} s when no number is given]")  # fmt: skip
@click.option(
    "--canary", type=click.IntRange(1), metavar="N", help="N jobs first; the rest only when they end well."
)
@click.option("--rate", type=Rate(), metavar="N/s", help="At most so many jobs a second (or /min, /h).")
@click.option(
    "--max-failures",
    type=click.IntRange(1),
    metavar="N",
    help="Stop when N failed again; the rest is a plan of its own.",
)
@click.option(
    "--reason", default="", metavar="TEXT", help="Why; required with a selection. Goes to the audit."
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option(
    "--force", is_flag=True, help="Also jobs that loop: a replay under this release failed the same way."
)
@json_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> int:
    """Run failed jobs again, for real, on live data.

    Each job gets a verdict from live rows: RUN, SKIP-GONE (its order or drafts are gone), ALREADY-DONE, STILL-RUNNING,
    UNDECODABLE, LOOP. Jobs named by --job go at once. A selection prints its plan and asks. Every verdict is judged again
    under lock; a job is replayed once, however many operators try; ten replays have the effect of one.

    \b
    toolkit replay --job 7f3a…                              one job, at once
    toolkit replay --fingerprint 3fc1 --plan                what would happen?
    toolkit replay --execute 9c41… --canary 10 --wait       that, ten first
    toolkit replay history                                  who replayed what

    Exit codes: 0 moved (with --wait: ended well), 1 failed again or cannot be replayed, 3 stopped with a rest or only partly
    moved, 5 it loops (--force), 8 still running, 130 interrupted (--resume goes on).
    """
    if ctx.invoked_subcommand is not None:
        return DONE
    moving = ("wait", "canary", "rate", "max_failures", "yes")
    refuse_beside(
        ctx, "plan", "dry_run", "execute", "resume", *moving, why="it stops before anything is moved"
    )
    refuse_beside(ctx, "dry_run", "reason", "force", *moving, why="nothing is moved")
    call = Call(options)
    call.check()
    with App(settings_of(ctx)) as app:
        app.require_schema()
        if call.dry_run:
            return dry_run(app, which.named(app, call.jobs), as_json=call.as_json)
        if call.resume is not None:
            return _resume(app, call)
        if call.execute is not None:
            return _executed(app, call)
        return _new(app, call)


command.add_command(history)


def _new(app: App, call: Call) -> int:
    """Plan, print, ask where that is due, and carry out."""
    selection = which.selection(app, call)
    plan = app.replays.plan(selection, reason=call.reason, force=call.force)
    items, runs = _items(app, plan, call), screen.to_run(plan)
    if not call.as_json:
        screen.plan(plan, items)
    if call.plan:
        if call.as_json:
            render.as_json(screen.document(plan, items))
        render.next_steps(*([execute(plan, "--canary 10 --wait")] if runs else instead(plan, items)))
        return DONE
    if not runs:
        return nothing(call, plan, items)
    question = f"Replay {render.many(runs, 'job')}?"
    if not (plan.named or call.yes) and not click.confirm(question, err=True):
        render.say("nothing was moved; the plan is kept")
        render.next_steps(execute(plan, ""))
        return DONE
    return _carried_out(app, call, plan, items)


def _executed(app: App, call: Call) -> int:
    """Carry out the plan that was typed; one that has no job to run stays open for --force."""
    plan = _frozen(app, call)
    if screen.to_run(replace(plan, forced=plan.forced or call.force)):
        return _carried_out(app, call, plan)
    items = _items(app, plan, call)
    if not call.as_json:
        screen.plan(plan, items)
    return nothing(call, plan, items)


def _frozen(app: App, call: Call) -> Plan:
    """The plan that was typed, fit to be carried out."""
    from toolkit.ledger import replays

    with app.single.session() as session:
        plan = replays.find_plan(session, call.execute)
    if plan.ending:
        raise UsageError(
            f"plan {plan.hash} was carried out already ({plan.ending})",
            remedy="`toolkit replay history` tells what became of it",
        )
    if not (plan.named or plan.reason or call.reason):
        raise UsageError("a selection needs a reason, for the audit", remedy='give --reason "why"')
    return plan


def _resume(app: App, call: Call) -> int:
    """Go on with one plan that was interrupted, or with all of them."""
    from toolkit.ledger import replays

    with app.single.session() as session:
        plans = [plan for plan in replays.unfinished(session) if plan.hash.startswith(call.resume)]
    if not plans:
        if call.as_json:
            render.as_json([])
        render.say("nothing was interrupted")
        render.next_steps("toolkit replay history")
        return DONE
    came = []
    with _stoppable() as stop:
        for plan in plans:
            came.append(_carry_out(app, call, plan, stop))
            if stop.is_set():
                break
    if call.as_json:
        render.as_json([document for _, document in came])
    return worst([code for code, _ in came])


def _carried_out(app: App, call: Call, plan: Plan, items: Sequence[Item] | None = None) -> int:
    with _stoppable() as stop:
        code, document = _carry_out(app, call, plan, stop, items)
    if call.as_json:
        render.as_json(document)
    return code


def _carry_out(
    app: App, call: Call, plan: Plan, stop: Event, items: Sequence[Item] | None = None
) -> tuple[int, dict[str, Any]]:
    """The exit code, and the document that --json prints."""
    from toolkit.replay.execute import Told

    begun = app.replays.start(plan, reason=call.reason, force=call.force)
    total, told = screen.to_run(begun) if plan.started_at is None else _left(app, begun), Told()
    seen: Landed | None = None
    with screen.progress(total, "asking again") as shown:
        ended = app.replays.carry_out(begun, call.limits(begun), stop=stop, patience=call.wait or WAIT,
                                      watch=shown.moved, told=told)  # fmt: skip
    if call.wait is not None and ended.how == "done":
        with screen.progress(total, "following") as shown:
            seen = app.replays.follow(begun, within=call.wait, stop=stop, watch=shown.followed)
    document: dict[str, Any] = {}
    if call.as_json:
        shown_items = _items(app, begun, call) if items is None else items
        document = screen.document(begun, shown_items, how=ended, told=told, seen=seen)
    else:
        screen.ended(begun, ended, told, total)
        if seen is not None:
            screen.landed(seen)
    next_steps(call, begun, ended, seen)
    code = INTERRUPTED if stop.is_set() else exit_code(begun.verdicts, ended, told, seen, forced=begun.forced)
    return code, document


def _items(app: App, plan: Plan, call: Call) -> list[Item]:
    from toolkit.ledger import replays

    with app.single.session() as session:
        return replays.items(session, plan.replay_id, screen.JSON_SHOWN if call.as_json else screen.SHOWN)


def _left(app: App, plan: Plan) -> int:
    from toolkit.ledger import replays
    from toolkit.replay.execute import attempted

    with app.single.session() as session:
        return replays.count_open(session, plan.replay_id, attempted(plan))


@contextmanager
def _stoppable() -> Iterator[Event]:
    """Ctrl-C or SIGTERM ends it after the batch in hand; the second one at once."""
    stop = Event()

    def asked(_signum: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
