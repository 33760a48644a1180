"""What every rehearsal's command shares: whose rehearsal it is, and where its throw-away databases are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.app import App
from toolkit.settings import Settings

if TYPE_CHECKING:
    from toolkit.rehearse.room import Room
    from toolkit.rehearse.server_log import ServerLog
    from toolkit.rehearse.words import Rehearsal

PATH = click.Path(dir_okay=False, path_type=Path)
rehearsal_option = click.option(
    "--rehearsal", default="", metavar="NAME", help="Whose scenarios, where several packages bring some."
)
server_option = click.option(
    "--on-database-url",
    "elsewhere",
    is_flag=True,
    help="Make the throw-away databases on DATABASE_URL's server.",
)


@contextmanager
def open_room(chosen: Rehearsal, *, elsewhere: bool) -> Iterator[tuple[Room, ServerLog]]:
    """A room for it, and the server's log. Raises as `App.rehearsal_server` does."""
    from toolkit.rehearse.room import Room
    from toolkit.rehearse.server_log import ServerLog

    with App(Settings.from_env()) as app:
        url, log = app.rehearsal_server(elsewhere=elsewhere)
        with Room.open(url, chosen.prepare) as room:
            yield room, ServerLog(log)
