"""`toolkit dashboards push`: the dashboards into a Grafana, over its HTTP API."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from toolkit.cli import render
from toolkit.cli.options import json_option, settings_of
from toolkit.errors import UsageError

FOLDER: Final = Path(__file__).parent.parent.parent / "dashboards" / "json"
"""Where a checkout has them."""


@click.group("dashboards")
def command() -> None:
    """The dashboards for Grafana."""


@command.command()
@click.option("--url", required=True, envvar="TOOLKIT_GRAFANA_URL", help="Where Grafana is.")
@click.option(
    "--token", required=True, envvar="TOOLKIT_GRAFANA_TOKEN",
    help="A service account's token, role Editor. Better in the variable: others see a command line.",
)  # fmt: skip
@click.option("--folder", default="freshfetch", show_default=True, help="Uid of the folder; made if need be.")
@click.option("--runbooks", default="", help="Where links to runbooks begin.")
@click.option(
    "--from", "source", type=click.Path(path_type=Path), default=FOLDER, help="The folder of JSON files."
)
@json_option
@click.pass_context
def push(
    ctx: click.Context, *, url: str, token: str, folder: str, runbooks: str, source: Path, as_json: bool
) -> None:
    """Make the dashboards, or overwrite those of the same uid.

    Every file is read before anything is sent. Who can mount files into Grafana needs this not: see dashboards/GRAFANA.md.
    """
    from toolkit.grafana import Grafana, read

    settings_of(ctx)
    files = sorted(source.glob("*.json"))
    if not files:
        raise UsageError(f"no dashboards in {source}", remedy="name a checkout's: --from dashboards/json")
    dashboards = [read(path.read_bytes(), path.name, runbooks=runbooks) for path in files]
    with Grafana.connect(url, token) as grafana:
        grafana.folder(folder, folder.title())
        pushed = [grafana.push(one, folder=folder) for one in dashboards]
    if as_json:
        render.as_json(pushed)
        return
    render.table(
        ["dashboard", "version", "url"],
        [(one.title, one.version, one.url) for one in pushed],
        right=["version"],
    )
