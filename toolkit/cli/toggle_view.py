"""How a toggle, a receipt and a history are shown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolkit.ledger.toggles import InFlight, SeenBy, Toggle
    from toolkit.toggle.look import Standing
    from toolkit.toggle.receipt import Receipt

_GOOD = datetime(9999, 1, 1, tzinfo=UTC)


def value(toggle: Toggle) -> str:
    """A version in a few words."""
    if not toggle.enabled:
        shown = "off (sync)"
    elif toggle.percent < 100:
        shown = f"on for {toggle.percent} % of the orders (async)"
    else:
        shown = "on (async)"
    pins = ", ".join(
        f"{merchant} → {'async' if on else 'sync'}" for merchant, on in sorted(toggle.pins.items())
    )
    return f"{shown}; pinned: {pins}" if pins else shown


def state(standing: Standing) -> None:
    """The toggle itself."""
    now = datetime.now(UTC)
    toggle = standing.known.toggle
    shown = {"value": f"{standing.variant}, says the {standing.layer} layer"}
    if not standing.known.reached:
        shown["value"] = f"{standing.variant} for a process that starts now"
        shown["ledger"] = f"away: {standing.known.why}"
        shown["running processes"] = "keep their last known value, marked stale"
    elif toggle is None:
        shown["ledger"] = "never flipped; the default is async"
    else:
        shown["ledger"] = f"{value(toggle)}, version {toggle.version}"
        shown["by"] = f"{toggle.who}, {render.ago(toggle.at, now)}: {toggle.reason}"
        if toggle.lease_until is not None:
            left = (toggle.lease_until - now).total_seconds()
            shown["lease"] = (
                f"{render.seconds(left)} left"
                if left > 0
                else f"over for {render.seconds(-left)}; flip it or renew it"
            )
        if standing.held:
            shown["queued jobs"] = held(toggle)
    if standing.switched_off:
        shown["environment"] = f"{standing.name}=false here"
    if standing.in_flight is not None:
        shown["in flight"] = in_flight(standing.in_flight)
    render.heading(standing.name)
    render.fields(shown)


def held(toggle: Toggle) -> str:
    """For how long a toggle that holds jobs keeps them back."""
    if toggle.held_until is None or toggle.held_until > _GOOD:
        return f"held in the ledger until the next flip (toolkit toggle on {toggle.name})"
    return f"held in the ledger while they are reclaimed, until {toggle.held_until:%H:%M} UTC unless that goes on"


def in_flight(counts: InFlight) -> str:
    """Open asynchronous jobs in words."""
    return f"{counts.waiting:,} in the ledger, {counts.queued:,} queued, {counts.running:,} running"


def processes(seen: Sequence[SeenBy], version: int) -> None:
    """Who goes by which version."""
    rows = [
        (
            one.kind,
            one.process,
            one.release,
            "-" if one.version is None else one.version,
            one.variant or "-",
            one.layer or "-",
            _word(one, version),
            f"{render.seconds(one.silent)} ago",
        )
        for one in seen
    ]
    columns = ("kind", "process", "release", "version", "value", "layer", "state", "heard")
    render.table(columns, rows, right=("version",))


def _word(one: SeenBy, version: int) -> str:
    if not one.connected:
        return "gone"
    return "ok" if one.version is not None and one.version >= version else "laggard"


def receipt(standing: Toggle, seen: Receipt, waited: float) -> None:
    """Each process with the time from the flip to its acknowledgement; who has not, last."""
    width = max((len(one.process) for one in (*seen.acknowledged, *seen.laggards)), default=0)
    for one in seen.acknowledged:
        took = (one.acked_at - standing.at).total_seconds() if one.acked_at else 0.0
        known = render.seconds(took) if took >= 0 else "started later"
        mark = click.style("✔", fg="green")
        click.echo(f"  {mark} {one.kind:10} {one.process:{width}}  {one.variant:5}  {known}")
    if seen.gone:
        click.echo(
            f"  · {render.many(len(seen.gone), 'process', 'processes')} gone: without a connection they can create nothing"
        )
    for one in seen.laggards:
        click.echo(
            f"  {click.style('✗', fg='red')} {one.kind:10} {one.process:{width}}  goes by version {one.version}, heard"
            f" {render.seconds(one.silent)} ago; connected, but it does not answer: kill -KILL {one.pid} on {one.host}"
        )
    after = f"version {seen.version} after {render.seconds(waited)}"
    count = len(seen.acknowledged)
    if seen.laggards:
        everybody = render.many(len(seen.laggards) + count, "process", "processes")
        render.say(f"{len(seen.laggards)} of {everybody} did not acknowledge {after}")
    elif count:
        click.echo(f"{render.many(count, 'process goes', 'processes go')} by {after}")
    else:
        click.echo(f"no process looks at it right now; the next that starts goes by version {seen.version}")


def document(standing: Standing) -> dict[str, Any]:
    """The same for programs."""
    return {
        "name": standing.name,
        "value": standing.variant,
        "layer": standing.layer,
        "ledger": standing.known.toggle,
        "ledger_away": None if standing.known.reached else standing.known.why,
        "environment_false": standing.switched_off,
        "in_flight": standing.in_flight,
        "held": standing.held,
        "processes": standing.processes,
        "laggards": [one.process for one in standing.receipt.laggards] if standing.known.reached else None,
    }
