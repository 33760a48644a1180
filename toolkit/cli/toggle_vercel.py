"""`toolkit toggle … --via vercel`: for an importer that runs there and reads the toggle from its environment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from toolkit.cli import render
from toolkit.errors import DependencyUnreachable, UsageError

if TYPE_CHECKING:
    from toolkit.app import App
    from toolkit.toggle.plan import Request


def flip_there(app: App, name: str, request: Request, *, deadline: float, as_json: bool) -> int:
    """The environment variable of the importer's project at Vercel, and a deployment that sees it."""
    from toolkit.ledger import audit
    from toolkit.ledger.trouble import UNREACHABLE
    from toolkit.toggle.vercel import Deployment, Vercel

    if request.merchant or request.percent is not None or request.lease or request.in_flight != "finish":
        raise UsageError(
            "an environment variable is on or off for all: --merchant, --percent, --for and --in-flight need the ledger",
            remedy="leave them out, or leave --via out",
        )
    value = "true" if request.on else "false"
    began = time.monotonic()

    def told(now: Deployment, waited: float) -> None:
        promoted = ", promoted" if now.promoted else ""
        render.say(f"{render.seconds(waited):>8}  {now.id} {now.state}{promoted}")

    with Vercel.connect(app.settings) as vercel:
        serving = vercel.production()
        try:
            with app.database.session() as session:
                audit.write(
                    session, who=app.settings.operator, action="toggle", subject=name, reason=request.reason,
                    detail={"via": "vercel", "project": vercel.project, "value": value, "from": serving.id},
                )  # fmt: skip
        except (*UNREACHABLE, DependencyUnreachable) as error:
            render.say(f"warning: not in the audit, since the ledger does not answer: {error}")
        vercel.set_variable(name, value, comment=request.reason)
        started = vercel.redeploy(serving)
        ended = vercel.follow(started.id, within=deadline, told=told)
    waited = time.monotonic() - began
    if as_json:
        render.as_json({"name": name, "value": value, "was": serving, "deployment": ended, "waited": waited})
    else:
        click.echo(
            f"{name}={value} serves production at https://{ended.url} after {render.seconds(waited)} (was {serving.id})"
        )
        render.next_steps(f"toolkit toggle explain {name}")
    return 0
