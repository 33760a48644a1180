"""`toolkit toggle`: the switch, its receipt, its history."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from toolkit.app import App
from toolkit.cli import render
from toolkit.cli import toggle_in_flight as in_flight
from toolkit.cli import toggle_view as view
from toolkit.cli.options import json_option, parse_since, refuse_beside, settings_of, typed
from toolkit.errors import UsageError

if TYPE_CHECKING:
    from toolkit.toggle.look import Standing
    from toolkit.toggle.plan import Request


def _duration(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """`2h` in seconds."""
    if text is None:
        return None
    try:
        start = parse_since(text).start
    except ValueError:
        start = None
    if not isinstance(start, timedelta):
        raise click.BadParameter(f"{text!r} is not a duration (15m, 2h, 3d)")
    return start.total_seconds()


name_argument = click.argument("name", required=False, metavar="[NAME]")


def flip_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `on` and `off` share."""
    for option in reversed(
        (
            click.option("--reason", required=True, metavar="TEXT", help="Why; kept for good."),
            click.option("--merchant", metavar="ID", help="Pin this merchant only."),
            click.option("--for", "lease", metavar="2h", callback=_duration,
                         help="Remind after that (metric and log). Nothing flips by itself."),
            click.option("--timeout", type=click.FloatRange(0, 600), default=10.0, show_default=True, metavar="SECONDS",
                         help="Wait so long for the receipt."),
            click.option("--via", type=click.Choice(["vercel"]),
                         help="Set the environment variable there and redeploy, in place of the ledger."),
            click.option("--deadline", type=click.FloatRange(1, 7200), default=900.0, show_default=True, metavar="SECONDS",
                         help="Follow a deployment for so long (--via)."),
            json_option,
        )
    ):  # fmt: skip
        function = option(function)
    return function


@click.group(invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> int | None:
    """Switch asynchronous processing off and on, and see who goes by it.

    Layers, the first that speaks decides: NAME=false in a process's environment, always sync; the ledger; the default,
    async. A process that has never reached the ledger is sync. An order's mode is fixed when it is created.
    """
    if ctx.invoked_subcommand is None:
        return int(ctx.invoke(status, name=None, as_json=False))
    return None


@command.command()
@name_argument
@json_option
@click.pass_context
def status(ctx: click.Context, *, name: str | None, as_json: bool) -> int:
    """The toggle, what each process sees, and the jobs in flight.

    Exit code: 0 everybody goes by it; 3 some process does not; 4 the ledger does not answer.
    """
    with App(settings_of(ctx)) as app:
        standing = _look(app, name)
    if as_json:
        render.as_json(view.document(standing))
    else:
        _show(standing)
    return _code(standing)


@command.command(short_help="Why it is what it is, layer by layer.")
@name_argument
@click.option("--order", "order_id", metavar="ID", help="For this order.")
@click.option("--merchant", metavar="ID", help="For this merchant.")
@json_option
@click.pass_context
def explain(
    ctx: click.Context, *, name: str | None, order_id: str | None, merchant: str | None, as_json: bool
) -> int:
    """Why it is what it is: each layer's word, and what each process sees."""
    from toolkit.toggle.decide import decide
    from toolkit.toggle.look import conflicts, explain

    with App(settings_of(ctx)) as app:
        standing = _look(app, name)
    steps = explain(standing, order_id=order_id, merchant=merchant)
    decision = decide(
        standing.name,
        standing.known,
        switched_off=standing.switched_off,
        order_id=order_id,
        merchant=merchant,
    )
    odd = conflicts(standing)
    if as_json:
        render.as_json(
            {
                "name": standing.name,
                "value": decision.variant,
                "reason": decision.reason,
                "why": decision.why,
                "layers": steps,
                "conflicts": odd,
                "processes": standing.processes,
            }
        )
        return _code(standing)
    click.echo(
        f"{standing.name} is {decision.variant} for an order made with this environment: {decision.why}"
    )
    for step in steps:
        mark = click.style("▶", fg="green") if step.decides else " "
        click.echo(f"  {mark} {step.layer:12} {step.says}")
    if standing.processes:
        render.heading("what each process sees")
        view.processes(standing.processes, standing.known.version)
    for line in odd:
        click.echo(f"{click.style('!', fg='yellow')} {line}")
    return _code(standing)


@command.command()
@name_argument
@click.option("--limit", "-n", type=click.IntRange(1, 10_000), default=20, show_default=True)
@json_option
@click.pass_context
def history(ctx: click.Context, *, name: str | None, limit: int, as_json: bool) -> int:
    """Every version: who, why, when."""
    from toolkit.ledger import toggles

    with App(settings_of(ctx)) as app:
        app.require_schema()
        with app.single.session() as session:
            versions = toggles.history(session, _named(app, name), limit)
    if as_json:
        render.as_json(versions)
        return 0
    rows = [
        (one.version, f"{one.at:%Y-%m-%d %H:%M:%S} UTC", view.value(one), one.who, one.reason)
        for one in versions
    ]
    render.table(("version", "at", "value", "who", "why"), rows, right=("version",))
    if not rows:
        render.say("never flipped; the default is on (async)")
    return 0


@command.command(short_help="To the safe side: images inline, no jobs.")
@name_argument
@flip_options
@click.option("--in-flight", "in_flight", type=click.Choice(["finish", "reclaim", "hold"]), default="finish",
              show_default=True, help="Queued jobs: left to the workers; done here; kept until the next flip.")  # fmt: skip
@click.pass_context
def off(ctx: click.Context, /, *, name: str | None, **given: Any) -> int:
    """To the safe side: new orders search their images inline, in the importer.

    Exit code: 0 every process acknowledged; 3 some did not, they are named, or queued jobs could not be taken back; 5 somebody
    else flipped meanwhile.
    """
    return _flip(ctx, name, on=False, percent=None, force=True, **given)


@command.command()
@name_argument
@flip_options
@click.option(
    "--percent", type=click.IntRange(0, 100), help="Only that share of the orders, by a hash of their ids."
)
@click.option("--force", is_flag=True, help="Without a word about the verify-deploy verdict.")
@click.pass_context
def on(ctx: click.Context, /, *, name: str | None, **given: Any) -> int:
    """To asynchronous: new orders leave their images to the workers. Ends a hold.

    Exit code: 0 every process acknowledged; 3 some did not, they are named; 5 somebody else flipped meanwhile.
    """
    return _flip(ctx, name, on=True, in_flight="finish", **given)


def _flip(
    ctx: click.Context,
    name: str | None,
    *,
    timeout: float,
    via: str | None,
    deadline: float,
    as_json: bool,
    in_flight: str,
    **given: Any,
) -> int:
    from toolkit.toggle.plan import InFlight, Request

    refuse_beside(ctx, "via", "timeout", "force", why="no process acknowledges, and no verdict is asked for")
    if via is None and "deadline" in typed(ctx):
        raise UsageError("--deadline is for --via: only a deployment is followed", remedy="leave it out")
    request = Request(in_flight=InFlight(in_flight), **given)
    with App(settings_of(ctx)) as app:
        toggle = _named(app, name)
        if via is not None:
            from toolkit.cli.toggle_vercel import flip_there

            return flip_there(app, toggle, request, deadline=deadline, as_json=as_json)
        app.require_schema()
        with app.tracing.tracer.start_as_current_span("toolkit toggle") as span:
            trace_id = f"{span.get_span_context().trace_id:032x}"
            code = _carry_out(app, toggle, request, timeout, trace_id, as_json=as_json)
        _keep_spans(app, trace_id)
    return code


def _keep_spans(app: App, trace_id: str) -> None:
    data, count = app.tracing.take()
    app.inline_sink(app.single).spans(trace_id, "", "", data, count)


def _carry_out(app: App, name: str, request: Request, timeout: float, trace_id: str, *, as_json: bool) -> int:
    from toolkit.toggle.plan import InFlight, plan

    before = _look(app, name)
    planned = plan(
        name, before.known.toggle, request, switched_off=before.switched_off, reclaim_hold=_longest(app) + 60,
        doubt=_doubt(app) if request.on else "",
    )  # fmt: skip
    for warning in planned.warnings:
        render.say(click.style("warning: ", fg="yellow") + warning)
    taken_back = request.in_flight is not InFlight.FINISH
    if taken_back:
        in_flight.require_broker_url(app)
    began = time.monotonic()
    standing = app.flipper.flip(name, planned, jobs=app.registry.governed(name), reason=request.reason)
    if not as_json:
        click.echo(f"{name}: {view.value(standing)}, version {standing.version}; was {_was(before)}")
        if before.in_flight is not None:
            click.echo(f"in flight before: {view.in_flight(before.in_flight)}")
    seen = app.flipper.await_receipt(standing, within=timeout)
    waited = time.monotonic() - began
    if not as_json:
        view.receipt(standing, seen, waited)
    done = in_flight.take_back(app, standing, as_json=as_json) if taken_back else {}
    if request.in_flight is InFlight.RECLAIM:
        _keep_spans(app, trace_id)  # what comes now are the jobs' own
        done |= in_flight.reclaim(app, standing, as_json=as_json)
    after = _look(app, name)
    if as_json:
        render.as_json(
            {
                "toggle": standing, "before": before.known.toggle, "warnings": planned.warnings, "waited": waited,
                "acknowledged": seen.acknowledged, "laggards": seen.laggards, "gone": seen.gone,
                "in_flight_before": before.in_flight, "in_flight_after": after.in_flight, "in_flight": done or None,
                "trace_id": trace_id,
            }
        )  # fmt: skip
    else:
        if after.in_flight is not None:
            click.echo(f"in flight after:  {view.in_flight(after.in_flight)}")
        steps = ("toolkit status", "toolkit doctor") if done.get("not_begun") else ()
        render.next_steps(*steps, f"toolkit toggle status {name}", f"toolkit trace {trace_id}")
    return 3 if seen.laggards or done.get("not_begun") else 0


def _doubt(app: App) -> str:
    """Why the deployed release is not known to be good; '' when verify-deploy has proven it."""
    from toolkit.ledger import verifications
    from toolkit.ledger.reading import reading

    with reading(app.single) as session:
        marked = verifications.deployments(session, limit=1)
        release = marked[0].release if marked else app.settings.release
        newest = verifications.last_whole(session, release)
    if newest is None:
        return f"no verify-deploy verdict is known for release {release}"
    if newest.verdict == "proven":
        return ""
    return f"verify-deploy {newest.verification_id} says {newest.verdict} of release {release}"


def _look(app: App, name: str | None) -> Standing:
    from toolkit.toggle.look import look

    toggle = _named(app, name)
    return look(app.single, app.registry, toggle, switched_off=app.settings.switched_off(toggle))


def _named(app: App, name: str | None) -> str:
    """The toggle's name; the only one there is when none is given."""
    known = app.registry.toggles
    if name is None and len(known) == 1:
        return known[0]
    if name not in known:
        raise UsageError(
            f"no toggle named {name}" if name else "there is more than one toggle",
            remedy=f"toggles: {', '.join(known) or 'none'}",
        )
    return name


def _longest(app: App) -> float:
    return max((spec.timeout for spec in app.registry), default=0.0)


def _was(before: Standing) -> str:
    toggle = before.known.toggle
    return (
        f"{view.value(toggle)}, version {toggle.version}"
        if toggle
        else "on (async) by default, never flipped"
    )


def _show(standing: Standing) -> None:
    from toolkit.toggle.look import conflicts

    view.state(standing)
    if standing.processes:
        render.heading("processes")
        view.processes(standing.processes, standing.known.version)
    for line in conflicts(standing):
        click.echo(f"{click.style('!', fg='yellow')} {line}")
    further = f"toolkit toggle history {standing.name}" if standing.known.reached else "toolkit status"
    render.next_steps(f"toolkit toggle explain {standing.name}", further)


def _code(standing: Standing) -> int:
    if not standing.known.reached:
        return 4
    return 3 if standing.receipt.laggards else 0
