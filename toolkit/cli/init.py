"""`toolkit init`: schema `toolkit` and its roles."""

from __future__ import annotations

import click

from toolkit.app import App
from toolkit.cli import render
from toolkit.settings import Settings


@click.command()
def command() -> None:
    """Bring schema toolkit to this release's revision, register the jobs, and write the roles.

    Safe to run again, and on two hosts at once. Your own tables are never altered. On the embedded servers the demo shop's
    catalog tables are created as well. Without the right to create roles the rest is done and the roles are left to you.
    """
    from toolkit.ledger.migrate import migrate

    with App(Settings.from_env()) as app:
        made_catalog = app.create_catalog()
        done = migrate(app.database, app.registry)
    if done.before == done.after:
        click.echo(f"schema toolkit: at revision {done.after} already")
    else:
        click.echo(f"schema toolkit: {done.before or 'new'} → {done.after}")
    if made_catalog:
        click.echo("catalog: the shop's tables are there")
    click.echo(f"roles: {done.roles}")
    render.next_steps("toolkit worker", "toolkit import FILE")
