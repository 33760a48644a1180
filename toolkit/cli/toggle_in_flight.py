"""`toolkit toggle off --in-flight reclaim|hold`: what becomes of the jobs that are queued, and what is told of it.

Known weakness: a worker that takes a job and freezes within SETTLE looks like one that is about to begin.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli import render
from toolkit.errors import DependencyUnreachable, PartlyDone, SettingError, UsageError

if TYPE_CHECKING:
    from toolkit.app import App
    from toolkit.ledger.toggles import Toggle


def require_broker_url(app: App) -> None:
    """Raise UsageError for a REDIS_URL that is missing or cannot be read, while nothing has been flipped. That a broker is
    merely away, the embedded one too, is no reason not to flip."""
    if not (app.settings.redis_url or app.settings.database_url):
        return
    try:
        _ = app.broker  # it connects on first use
    except (SettingError, DependencyUnreachable) as error:
        raise UsageError(
            f"nothing was flipped: {error}",
            remedy=f"{error.remedy}; or leave --in-flight out, which needs no broker",
        ) from error


def take_back(app: App, standing: Toggle, *, as_json: bool) -> dict[str, Any]:
    """Queued jobs back into the ledger. Raises PartlyDone when the broker does not answer: the toggle is off by then."""
    from toolkit.broker.connection import BROKER_AWAY
    from toolkit.toggle import in_flight

    try:
        taken = in_flight.take_back(
            app.database, app.broker, standing, log=app.log, tracer=app.tracing.tracer
        )
    except (*BROKER_AWAY, DependencyUnreachable) as error:
        raise PartlyDone(
            f"{standing.name} is off, but queued jobs are still in the broker: {error}",
            remedy="type the same command again when it answers (`toolkit status`)",
        ) from error
    stuck = in_flight.not_begun(app.database, standing.jobs, settle=time.sleep)
    if not as_json:
        click.echo(f"{render.many(taken, 'queued job')} taken back into the ledger")
    if stuck:
        render.say(
            f"{render.many(stuck, 'job')} could not be taken back: a worker that is stopped or dead has taken them and not begun."
            " `kill -KILL PID` ends a stopped one, and its supervisor queues its jobs again"
        )
    return {"what": "hold", "taken_back": taken, "not_begun": stuck}


def reclaim(app: App, standing: Toggle, *, as_json: bool) -> dict[str, Any]:
    """Do here what was taken back."""
    from toolkit.toggle import in_flight

    with render.progress("jobs done here") as progress:
        came = in_flight.reclaim(
            app.database, app.inline, standing, app.log, lambda done, _: progress.update(done)
        )
    if not as_json:
        click.echo(f"done here: {came.done:,}; failed: {came.failed:,}; left to the workers: {came.left:,}")
    return {"what": "reclaim", "done": came.done, "failed": came.failed, "left": came.left}
