"""`toolkit replay`: run failed jobs again, for real, by a plan that is judged again under lock."""

from __future__ import annotations

import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING, Any, Final

import click

from toolkit.app import App
from toolkit.cli import render
from toolkit.cli import replay_screen as screen
from toolkit.cli.options import SINCE, Since, json_option, limit_option, settings_of
from toolkit.errors import DependencyUnreachable, NotFound, ToolkitError, UsageError

if TYPE_CHECKING:
    from toolkit.ledger.replay_views import Item, Landed, Plan, Selection
    from toolkit.replay.execute import Ended, Told
    from toolkit.replay.pace import Limits

DONE, WRONG, PARTLY, UNSAFE, STILL, INTERRUPTED = 0, 1, 3, 5, 8, 130
"""Exit codes (design, section 6)."""

WAIT: Final = 600.0
"""Seconds that `--wait` and a canary wait when no number is given."""

_RATE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(?:/(s|min|h))?")
_CONDITIONS = ("fingerprint", "error", "sqlstate", "job_name", "merchant", "release", "since", "until")


class Rate(click.ParamType[float]):
    """`20`, `20/s`, `90/min`, `500/h`: jobs a second."""

    name = "rate"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Jobs a second, above 0."""
        if isinstance(value, float):
            return value
        found = _RATE.fullmatch(value)
        if not found or float(found[1]) <= 0:
            self.fail(f"{value!r} is not a rate: 20/s, 90/min, 500/h", param, ctx)
        return float(found[1]) / {"s": 1, "min": 60, "h": 3600}[found[2] or "s"]


@dataclass(frozen=True, slots=True)
class Call:
    """What the operator typed."""

    options: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.options[name]

    @property
    def conditions(self) -> dict[str, Any]:
        """The conditions of a selection that were given."""
        return {name: self.options[name] for name in _CONDITIONS if self.options[name]}

    @property
    def selects(self) -> bool:
        """True when jobs are selected, not named."""
        return bool(self.failed or self.conditions)

    def check(self) -> None:
        """Raise UsageError unless exactly one way of saying which jobs was taken, with what it needs."""
        ways = [bool(self.jobs), self.selects, self.execute is not None, self.resume is not None]
        if sum(ways) != 1:
            raise UsageError(
                "say which jobs, in one way" if any(ways) else "say which jobs to replay",
                remedy="--job ID, or a selection (--failed, --fingerprint, …), or --execute HASH, or --resume\n"
                "`toolkit jobs failed` shows what failed",
            )
        if self.dry_run and not self.jobs:
            raise UsageError("--dry-run is for jobs that are named", remedy="give --job ID")
        if self.selects and not self.plan and not self.reason:
            raise UsageError(
                "a selection needs a reason, for the audit",
                remedy='give --reason "why", or --plan to look first',
            )
        if self.selects and not (self.plan or self.yes or sys.stdin.isatty()):
            raise UsageError("a selection asks first, and there is no terminal to ask on",
                             remedy="give --yes, or freeze the plan with --plan and run it with --execute HASH")  # fmt: skip

    def limits(self, plan: Plan) -> Limits:
        """The limits of carrying out; named jobs do not wait for better weather."""
        from toolkit.replay.pace import Limits

        return Limits(canary=self.canary, rate=self.rate, max_failures=self.max_failures, heed=not plan.named)

    def again(self) -> str:
        """The limits as they were typed, to go on with."""
        typed = {"--canary": self.canary, "--max-failures": self.max_failures}
        parts = [f"{option} {value}" for option, value in typed.items() if value is not None]
        return " ".join([*parts, *([f"--rate {self.rate:g}/s"] if self.rate else [])])


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
    call = Call(options)
    call.check()
    with App(settings_of(ctx)) as app:
        app.require_schema()
        if call.dry_run:
            return _dry(app, call)
        if call.resume is not None:
            return _resume(app, call)
        if call.execute is not None:
            return _carry_out(app, call, _frozen(app, call))
        return _new(app, call)


@command.command("history")
@click.option("--job", metavar="ID", help="The replays of this job.")
@limit_option
@json_option
@click.pass_context
def history(ctx: click.Context, *, job: str | None, limit: int, as_json: bool) -> None:
    """Who replayed what, why, and what became of it: the newest plans, or every replay of one job."""
    from toolkit.ledger import find, replays
    from toolkit.ledger.reading import reading

    with App(settings_of(ctx)) as app, reading(app.database) as session:
        if job is not None:
            _flights(replays.flights(session, find.one(session, job)), as_json=as_json)
            return
        found = [(one, replays.landed(session, one.replay_id)) for one in replays.recent(session, limit)]
    if as_json:
        render.as_json([
            screen.document(one, (), seen=seen) | {
                "planned_at": one.planned_at, "planned_by": one.planned_by, "started_at": one.started_at,
                "started_by": one.started_by, "state": _state(one), "remainder_of": one.remainder_of}
            for one, seen in found
        ])  # fmt: skip
        return
    render.table(
        ("plan", "when", "who", "state", "jobs", "replayed", "outcomes", "selection", "reason"),
        [
            (
                one.hash, f"{one.started_at or one.planned_at:%Y-%m-%d %H:%M:%S}", one.started_by or one.planned_by,
                _state(one), one.jobs, seen.flights, screen.counted(seen.outcomes | {"in the air": seen.in_air}) or "-",
                " ".join(f"{name}={value}" for name, value in one.selection.items())[:60], one.reason,
            )
            for one, seen in found
        ],
    )  # fmt: skip


def _flights(found: Sequence[Any], *, as_json: bool) -> None:
    if as_json:
        import msgspec

        render.as_json([msgspec.to_builtins(one) for one in found])
        return
    render.table(
        ("when", "who", "plan", "replay of run", "outcome", "reason"),
        [
            (
                f"{one.started_at:%Y-%m-%d %H:%M:%S}",
                one.holder,
                one.hash,
                one.replay_of,
                one.outcome or "in the air",
                one.reason,
            )
            for one in found
        ],
    )


def _state(plan: Plan) -> str:
    return plan.ending or ("unfinished" if plan.started_at else "planned")


def _named(app: App, texts: Sequence[str]) -> tuple[str, ...]:
    """The ledger's job ids for what was typed. A failed job that only RQ knows is taken into the ledger first."""
    from toolkit.ledger import find

    def known(text: str) -> str:
        with app.database.session() as session:
            return find.one(session, text)

    ids = []
    for text in texts:
        try:
            ids.append(known(text))
        except NotFound:
            for dead in app.adopt_dead({text}):
                raise ToolkitError(
                    f"UNDECODABLE: job {text} is in RQ only, and its ids cannot be had: {dead.asked.refused}",
                    remedy="nothing of it was run; ask for the job again with toolkit.enqueue, then delete it in RQ",
                ) from None
            ids.append(known(text))
    return tuple(ids)


def _selection(app: App, call: Call) -> Selection:
    from toolkit.ledger.replay_views import Selection

    if call.jobs:
        return Selection(job_ids=_named(app, call.jobs))
    try:
        strays = app.adopt_dead()
    except DependencyUnreachable as error:
        render.say(f"not looked for in RQ: {error}")
    else:
        if strays:
            render.say(
                f"left out, in RQ only and UNDECODABLE: {len(strays):,} (toolkit jobs failed lists them)"
            )
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        name: value.moment(now) if isinstance(value, Since) else value
        for name, value in call.conditions.items()
    }
    return Selection(**values)


def _new(app: App, call: Call) -> int:
    """Plan, print, ask where that is due, and carry out."""
    selection = _selection(app, call)
    plan = app.replays.plan(selection, reason=call.reason, force=call.force)
    items = _items(app, plan, call)
    if not call.as_json:
        screen.plan(plan, items)
    if call.plan:
        if call.as_json:
            render.as_json(screen.document(plan, items))
        render.next_steps(
            f"toolkit replay --execute {plan.hash} --canary 10 --wait"
            + ("" if plan.named or plan.reason else ' --reason "why"')
        )
        return DONE
    runs = _to_run(plan)
    if not runs:
        return _nothing(call, plan, items)
    if not (plan.named or call.yes) and not click.confirm(f"Replay {runs:,} jobs?", err=True):
        render.say("nothing was moved; the plan is kept")
        render.next_steps(f"toolkit replay --execute {plan.hash}")
        return DONE
    return _carry_out(app, call, plan, items)


def _frozen(app: App, call: Call) -> Plan:
    """The plan that was typed, fit to be carried out."""
    from toolkit.ledger import replays

    with app.database.session() as session:
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

    with app.database.session() as session:
        plans = [plan for plan in replays.unfinished(session) if plan.hash.startswith(call.resume)]
    if not plans:
        render.say("nothing was interrupted")
        render.next_steps("toolkit replay history")
        return DONE
    codes = [_carry_out(app, call, plan) for plan in plans]
    return max(codes)


def _carry_out(app: App, call: Call, plan: Plan, items: Sequence[Item] | None = None) -> int:
    from toolkit.replay.execute import Told

    begun = app.replays.start(plan, reason=call.reason, force=call.force)
    total, told = _left(app, begun), Told()
    seen: Landed | None = None
    with _stoppable() as stop:
        with screen.progress(total, "asking again") as shown:
            ended = app.replays.carry_out(begun, call.limits(begun), stop=stop, patience=call.wait or WAIT,
                                          watch=shown.moved, told=told)  # fmt: skip
        if call.wait is not None and ended.how == "done":
            with screen.progress(total, "following") as shown:
                seen = app.replays.follow(begun, within=call.wait, stop=stop, watch=shown.followed)
        interrupted = stop.is_set()
    if call.as_json:
        shown_items = _items(app, begun, call) if items is None else items
        render.as_json(screen.document(begun, shown_items, how=ended, told=told, seen=seen))
    else:
        screen.ended(ended, told, total)
        if seen is not None:
            screen.landed(seen)
    _next(call, begun, ended, seen)
    if interrupted:
        return INTERRUPTED
    return exit_code(begun.verdicts, ended, told, seen, forced=begun.forced)


def exit_code(
    verdicts: dict[str, int], ended: Ended, told: Told, seen: Landed | None, *, forced: bool = False
) -> int:
    """The exit code of a plan that was carried out. Pure."""
    if ended.how == "stopped":
        return PARTLY
    if seen is not None and seen.bad:
        return WRONG
    if seen is not None and seen.in_air:
        return STILL
    planned = {name: number for name, number in verdicts.items() if not (forced and name == "LOOP")}
    left = Counter(planned) + told.changed
    if not refused(left):
        return DONE
    return PARTLY if told.moved else refused(left)


def refused(verdicts: dict[str, int]) -> int:
    """The exit code when no job at all was moved. Pure."""
    for name, code in (("LOOP", UNSAFE), ("UNDECODABLE", WRONG), ("STILL-RUNNING", STILL)):
        if verdicts.get(name):
            return code
    return DONE


def _nothing(call: Call, plan: Plan, items: Sequence[Item]) -> int:
    if call.as_json:
        render.as_json(screen.document(plan, items))
    render.say("no job is to be run; nothing was moved")
    if plan.verdicts.get("LOOP"):
        render.next_steps("toolkit jobs show ID", "toolkit replay … --force")
    elif plan.verdicts.get("STILL-RUNNING"):
        render.next_steps("toolkit jobs show ID", "toolkit status")
    else:
        render.next_steps("toolkit jobs failed")
    return refused(plan.verdicts)


def _next(call: Call, plan: Plan, ended: Ended, seen: Landed | None) -> None:
    """The command to type next."""
    limits = f" {again}" if (again := call.again()) else ""
    if ended.how == "interrupted":
        render.say("interrupted; every job is either asked again or as it was")
        render.next_steps(f"toolkit replay --resume {plan.hash}{limits}")
    elif ended.remainder is not None:
        render.say(f"what is left is plan {ended.remainder.hash}: {ended.remainder.jobs:,} jobs")
        render.next_steps("toolkit jobs failed", f"toolkit replay --execute {ended.remainder.hash}{limits}")
    elif seen is not None and seen.bad:
        render.next_steps("toolkit jobs failed", "toolkit replay history")
    elif plan.named and plan.jobs == 1:
        render.next_steps(
            f"toolkit jobs show {plan.selection['job'][0]}", f"toolkit trace {plan.selection['job'][0]}"
        )
    else:
        render.next_steps("toolkit replay history", "toolkit jobs failed")


def _dry(app: App, call: Call) -> int:
    """The bodies for real, and every write rolled back."""
    ids, runner, bad = _named(app, call.jobs), app.dry_runner(), False
    results = []
    for job_id in ids:
        dry = runner.run(job_id)
        bad = bad or dry.failure is not None
        answer = dry.result.answer()
        if dry.failure is not None:
            answer |= {
                "success": False,
                "reason": dry.failure.reason,
                "error": dry.failure.message,
                "error_type": dry.failure.error_type,
            }
        results.append({"job_id": job_id, "dry_run": True} | answer)
    if call.as_json:
        render.as_json(results)
    else:
        for result in results:
            render.heading(f"{result.pop('job_id')}: what a run would come to (nothing was written)")
            result.pop("dry_run")
            render.fields(result)
    render.next_steps("toolkit replay " + " ".join(f"--job {job_id}" for job_id in ids[:3]))
    return WRONG if bad else DONE


def _items(app: App, plan: Plan, call: Call) -> list[Item]:
    from toolkit.ledger import replays

    with app.database.session() as session:
        return replays.items(session, plan.replay_id, screen.JSON_SHOWN if call.as_json else screen.SHOWN)


def _to_run(plan: Plan) -> int:
    from toolkit.replay.execute import attempted

    return sum(plan.verdicts.get(name, 0) for name in attempted(plan))


def _left(app: App, plan: Plan) -> int:
    from toolkit.ledger import replays
    from toolkit.replay.execute import attempted

    with app.database.session() as session:
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
