"""`toolkit replay history`: who replayed what, why, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from toolkit.app import App
from toolkit.cli import render, words
from toolkit.cli import replay_screen as screen
from toolkit.cli.options import json_option, limit_option, settings_of

if TYPE_CHECKING:
    from toolkit.ledger.replay_views import Plan


@click.command("history", short_help="Who replayed what, why, and what became of it.")
@click.option("--job", metavar="ID", help="The replays of this job.")
@limit_option
@json_option
@click.pass_context
def history(ctx: click.Context, *, job: str | None, limit: int, as_json: bool) -> None:
    """Who replayed what, why, and what became of it: the newest plans, or every replay of one job."""
    from toolkit.ledger import find, replays
    from toolkit.ledger.reading import reading

    with App(settings_of(ctx)) as app, reading(app.brief()) as session:
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
                words.plain(_typed(one))[:60], words.plain(one.reason),
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


def _typed(plan: Plan) -> str:
    """The selection, as it is typed."""
    options = {f"--{name.replace('_', '-')}": value for name, value in plan.selection.items()}
    if plan.named:
        return " ".join(f"--job {job_id[: words.SHORT]}" for job_id in options["--job"])
    return " ".join(name if value is True else f"{name} {value}" for name, value in options.items())


def _state(plan: Plan) -> str:
    if plan.ending or plan.started_at:
        return plan.ending or "unfinished"
    return "planned" if screen.to_run(plan) else "nothing to run"
