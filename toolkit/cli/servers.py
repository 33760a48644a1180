"""`toolkit up` and `toolkit down`: the embedded servers."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from toolkit.cli import render
from toolkit.settings import Settings, masked


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the servers as JSON, URLs with their passwords.")
def up(as_json: bool) -> None:
    """Start the embedded PostgreSQL and Valkey, or find the ones that run.

    Their data lie in TOOLKIT_HOME and stay there; they listen on loopback only and outlive this command. A server whose
    place DATABASE_URL or REDIS_URL takes is started all the same, but not used.

    \b
    Use them with other tools:   psql "$(toolkit up --json | jq -r .postgres.url)"
    """
    from toolkit.embedded import servers

    settings = Settings.from_env()
    running = servers.up(settings.home, tell=render.say)
    if as_json:
        render.as_json(
            {
                one.name: {
                    "url": one.url,
                    "pid": one.pid,
                    "version": one.version,
                    "log": str(one.log),
                    "data": str(one.data),
                }
                for one in (running.postgres, running.valkey)
            }
        )
        return
    for one in (running.postgres, running.valkey):
        click.echo(f"{one.name} {one.version}  pid {one.pid}  {masked(one.url)}")
    for variable, given in (("DATABASE_URL", settings.database_url), ("REDIS_URL", settings.redis_url)):
        if given:
            render.say(f"note: {variable} is set, and takes the place of the embedded server")
    render.next_steps("toolkit init", "toolkit status")


@click.command()
def down() -> None:
    """Stop the embedded servers. Their data stay; `toolkit up` goes on from there."""
    from toolkit.embedded import servers

    settings = Settings.from_env()
    found = servers.find(settings.home)
    waiting = _workers(settings, found.valkey.url) if found.valkey else 0
    for name in ("valkey", "postgres"):
        if getattr(found, name) is None and (silent := servers.silent(settings.home, name)):
            render.say(f"note: {silent}; its end may take 45 s")
    stopped = servers.down(settings.home)
    for name in stopped:
        click.echo(f"{name} stopped")
    if waiting:
        render.say(f"note: worker processes on these servers: {waiting}; they wait until `toolkit up`")
    if not stopped:
        click.echo("no embedded server was running")


def _workers(settings: Settings, url: str) -> int:
    """How many living processes of this host take jobs from that broker; 0 where it cannot be told, and `down` goes on."""
    from toolkit.broker import connection, view
    from toolkit.embedded.state import is_alive
    from toolkit.errors import ToolkitError
    from toolkit.jobspec import Registry

    try:
        queues = Registry.named(settings.jobs).queues
        with connection.connect(url) as broker:
            registered = view.workers(broker, queues, datetime.now(UTC))
    except (ToolkitError, *connection.BROKER_AWAY):
        return 0
    return sum(worker.state != "dead" and is_alive(worker.pid) for worker in registered)
