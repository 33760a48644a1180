"""`toolkit worker`: the supervisor of this host."""

from __future__ import annotations

import click

from toolkit.app import App
from toolkit.settings import Settings


@click.command()
@click.option(
    "--processes",
    "-n",
    type=click.IntRange(1, 256),
    help="Worker processes  [default: TOOLKIT_PROCESSES or 2]",
)
def command(processes: int | None) -> int:
    """Run this host's worker processes, under one supervisor.

    The supervisor also moves committed intents into the broker, serves /metrics, /healthz and /readyz on one loopback port
    (TOOLKIT_METRICS_PORT, default 9464), and replaces worker processes that die.

    Stop it with SIGTERM or Ctrl-C: jobs in hand are finished first; a second one ends them, and they run again elsewhere.
    Logs go to stderr: lines on a terminal, JSON in a pipe.
    """
    from toolkit.serve import supervise

    settings = Settings.from_env()
    with App(settings, flush=5.0) as app:
        return supervise(app, processes or settings.processes)
