"""`toolkit status`: servers, workers, queues, the ledger, the switch and the settings, as they stand now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from toolkit.app import App
from toolkit.cli import render, toggle_view, words
from toolkit.cli.options import json_option, settings_of

if TYPE_CHECKING:
    from toolkit.settings import Settings
    from toolkit.status import Finding, Status
    from toolkit.toggle.look import Standing


@click.command()
@click.option(
    "--settings", "all_settings", is_flag=True, help="Also the settings that are at their defaults."
)
@json_option
@click.pass_context
def command(ctx: click.Context, *, all_settings: bool, as_json: bool) -> int:
    """Servers, workers, queue, intents, runs of the last hour, and the settings that the environment gives.

    A server that does not answer within 1.5 s is told as away, and the rest is shown. Exit code: 0 fine; 1 jobs wait and no
    worker runs, workers died or are stopped and none is left, intents are not pushed for 30 s, runs were lost in the last
    hour, or schema toolkit is not this release's; 4 a server is away.
    """
    from toolkit.look import look
    from toolkit.status import exit_code, judge

    settings = settings_of(ctx)
    with App(settings) as app:
        misspelt = app.unread_settings()
        seen = look(app)
        switches = [_switch(app, name, seen) for name in app.registry.toggles]
    for variable, meant in misspelt.items():
        render.say(f"warning: nothing reads {variable}: is {meant} meant?")
    findings = judge(seen)
    code = exit_code(seen, findings)
    if as_json:
        render.as_json(_document(seen, switches, findings, settings, code))
    else:
        _show(seen, switches)
        _show_settings(settings, every=all_settings)
        _verdict(findings)
    return code


def _document(
    seen: Status, switches: list[Standing], findings: list[Finding], settings: Settings, code: int
) -> dict[str, Any]:
    return {
        "exit_code": code,
        "release": seen.release,
        "servers": {"postgres": seen.postgres, "broker": seen.broker},
        "schema": seen.schema,
        "workers": None if seen.workers is None else [
            {"name": worker.name, "host": worker.host, "pid": worker.pid, "state": seen.worker_state(worker),
             "queues": worker.queues, "job_id": worker.job_id, "heartbeat_age": worker.heartbeat_age}
            for worker in seen.workers
        ],
        "queues": seen.queues,
        "ledger": seen.ledger,
        "toggles": [_toggle(switch) for switch in switches],
        "settings": settings.describe(),
        "findings": findings,
    }  # fmt: skip


def _switch(app: App, name: str, seen: Status) -> Standing:
    from toolkit.toggle.look import away, look

    off = app.settings.switched_off(name)
    if seen.ledger is None:
        return away(name, "the ledger cannot be read", switched_off=off)
    return look(app.brief(), app.registry, name, switched_off=off)


def _toggle(switch: Standing) -> dict[str, Any]:
    """`source`: the layer that decides for a process with this environment that starts now."""
    return {"name": switch.name, "enabled": switch.variant != "sync", "source": str(switch.layer)}


def _show(seen: Status, switches: list[Standing]) -> None:
    render.heading(f"Freshfetch {words.plain(seen.release)}")
    render.table(
        ("server", "state", "version", "from", "address"),
        [(one.name, one.state, one.version, one.source, one.url) for one in (seen.postgres, seen.broker)],
    )
    if seen.schema is not None and not seen.schema.problem:
        at = seen.schema.found or "missing"
        click.echo(
            f"schema toolkit: {at}" + ("" if at == seen.schema.wanted else f", wanted {seen.schema.wanted}")
        )
    if seen.workers is not None:
        _section(f"workers: {seen.living or 'none'}" + (f" ({seen.absent})" if seen.absent else ""))
        if seen.workers:
            rows = [
                (worker.name, seen.worker_state(worker), worker.host, worker.pid, worker.job_id or "-",
                 f"{render.seconds(worker.heartbeat_age)} ago")
                for worker in seen.workers
            ]  # fmt: skip
            render.table(("worker", "state", "host", "pid", "job", "heartbeat"), rows, right=("pid",))
    if seen.queues is not None:
        _section("queues")
        depths = [
            (queue.queue, queue.queued, queue.intermediate, queue.started, queue.scheduled, queue.failed,
             render.seconds(queue.oldest_age) if queue.queued else "-")
            for queue in seen.queues
        ]  # fmt: skip
        columns = ("queue", "waiting", "taken", "started", "scheduled", "failed", "oldest")
        render.table(columns, depths, right=columns[1:])
    _show_ledger(seen)
    for switch in switches:
        _show_switch(switch)


def _show_settings(settings: Settings, *, every: bool) -> None:
    """Those at their defaults only when asked for: they would push what is wrong off the screen."""
    rows = [(row["variable"], words.plain(row["value"]), row["source"]) for row in settings.describe()]
    shown = [row for row in rows if every or row[2] != "default"]
    _section("settings in force" if every else "settings from the environment")
    if shown:
        render.table(("variable", "value", "from"), shown)
    if left := len(rows) - len(shown):
        render.say(
            f"{render.many(left, 'setting is at its default', 'settings are at their defaults')}: toolkit status --settings"
        )


def _show_switch(switch: Standing) -> None:
    toggle, laggards = switch.known.toggle, switch.receipt.laggards
    if not switch.known.reached and not switch.switched_off:
        _section(f"{switch.name}: not known")
        click.echo("no order can be made until the ledger answers; a process that starts meanwhile is sync")
        return
    _section(f"{switch.name}: {'off' if switch.variant == 'sync' else 'on'} ({switch.layer})")
    click.echo("the importer does the job inline" if switch.variant == "sync" else "workers do the job")
    if toggle is not None:
        click.echo(f"version {toggle.version}, {words.plain(toggle.who)}: {words.plain(toggle.reason)}")
        if switch.held:
            click.echo(f"queued jobs are {toggle_view.held(toggle)}")
    if switch.known.reached and laggards:
        have = render.many(len(laggards), "process has", "processes have")
        click.echo(f"{have} not acknowledged: toolkit toggle explain")


def _show_ledger(seen: Status) -> None:
    ledger = seen.ledger
    if ledger is None:
        return
    _section("ledger")
    unpushed = f", the oldest for {render.seconds(ledger.unpushed_age)}" if ledger.unpushed else ""
    waiting = f", the oldest for {render.seconds(ledger.due_age)}" if ledger.due else ""
    next_retry = f", the next at {ledger.next_retry:%H:%M:%S} UTC" if ledger.next_retry else ""
    render.fields(
        {
            "intents not pushed": f"{ledger.unpushed:,}{unpushed}",
            "jobs waiting": f"{ledger.due:,}{waiting}",
            "waiting for a retry": f"{ledger.retries:,}{next_retry}",
            "runs now": f"{ledger.running:,}"
            + (f", {ledger.silent:,} past the lease" if ledger.silent else ""),
            "runs of the last hour": ", ".join(
                f"{name} {count:,}" for name, count in ledger.runs.items() if count
            )
            or "none",
        }
    )


def _section(title: str) -> None:
    click.echo("")
    render.heading(title)


def _verdict(findings: list[Finding]) -> None:
    """What is wrong and what to type, last, where the eye is."""
    click.echo("")
    wrong = [finding for finding in findings if finding.wrong]
    if not wrong:
        click.echo(click.style("all is well", fg="green"))
    for finding in findings:
        mark = click.style("✗", fg="red") if finding.wrong else click.style("·", dim=True)
        click.echo(f"{mark} {words.plain(finding.what)}")
    if steps := list(dict.fromkeys(finding.next for finding in findings)):
        render.next_steps(*steps)
