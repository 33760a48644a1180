"""Where the demo plays: the embedded servers, migrated, with nobody else at work on them.

Only ever the embedded servers: the demo makes tables and rows. A worker that somebody else runs there must not take the
demo's jobs, for it may not fetch from loopback, where the shop is; then the demo takes servers of its own, in a second
home beside the first. Two demos at once part in the same way.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from jobs.demo.screen import Screen
from jobs.demo.told import ToScreen
from toolkit.app import App
from toolkit.broker import view
from toolkit.embedded import servers
from toolkit.errors import Refused
from toolkit.ledger.migrate import migrate
from toolkit.settings import Settings
from toolkit.telemetry import logs

_LOCK = 0x66726573_64656D6F
"""Advisory lock that a demo holds on the database it plays on."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The place: an App on the embedded servers, whose own log lines go to the screen."""

    app: App
    home: Path
    server_log: Path
    """PostgreSQL's own log."""
    usual: bool
    """False when these are not the servers that `toolkit` finds by itself."""

    def command(self, text: str) -> str:
        """A command line that works on these servers."""
        return text if self.usual else f"TOOLKIT_HOME={shlex.quote(str(self.home))} {text}"

    def worker_environment(self) -> dict[str, str]:
        """The environment of the demo's worker: it may fetch from loopback, and has patience while the shop holds a page."""
        app = self.app
        own = {
            "TOOLKIT_JOBS": "",
            "TOOLKIT_METRICS_HOST": "127.0.0.1",
            "TOOLKIT_IMAGES_ALLOW_PRIVATE": "true",
            "TOOLKIT_IMAGES_READ_TIMEOUT": "30",
            "TOOLKIT_IMAGES_DEADLINE": "60",
            "TOOLKIT_IMAGES_PER_DRAFT": "3",
        }
        inherited = app.settings.for_child(database_url=app.database_url, redis_url=app.redis_url)
        return inherited | own


@contextmanager
def set_stage(settings: Settings, screen: Screen) -> Iterator[Stage]:
    """Servers up, schema migrated, nobody else there. The servers stay up afterwards.

    Raises Refused when DATABASE_URL or REDIS_URL is set, DependencyUnreachable when a server cannot be started.
    """
    given = [
        name
        for name, value in (("DATABASE_URL", settings.database_url), ("REDIS_URL", settings.redis_url))
        if value
    ]
    if given:
        raise Refused(
            f"{' and '.join(given)} set: the demo makes tables, orders and jobs, and does that on the embedded servers only",
            remedy=f"env -u {' -u '.join(given)} toolkit demo",
        )
    with ExitStack() as stack:
        yield _find_place(settings, screen, stack)


def _find_place(settings: Settings, screen: Screen, stack: ExitStack) -> Stage:
    for home in (settings.home, settings.home.with_name(f"{settings.home.name}-demo")):
        running = servers.up(home)
        chosen = dataclasses.replace(settings, home=home, jobs="", async_image_processing=True)
        app = stack.enter_context(App(chosen))
        logs.configure(stream=ToScreen(screen), style="json", release=chosen.release)
        app.log = logs.get_logger()
        app.create_catalog()
        schema = migrate(app.database, app.registry)
        screen.step(
            f"PostgreSQL {running.postgres.version} and Valkey {running.valkey.version} run, on loopback only"
        )
        screen.note(f"data in {home}; schema toolkit at revision {schema.after}")
        busy = _busy(app, stack)
        if not busy:
            return Stage(app, home, running.postgres.log, usual=home == settings.home)
        screen.note(f"{busy} is at work there already, and would take the demo's jobs")
    raise Refused("two demos are at work here already", remedy="wait for one of them to end")


def _busy(app: App, stack: ExitStack) -> str:
    """Who else is at work on these servers ('' for nobody); until the stack's end this demo is."""
    guard = stack.enter_context(app.database.session())
    row = guard.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone()
    if not row or not row[0]:
        return "another demo"
    # A worker that was killed stays in RQ's list for minutes; the servers are this machine's, so its pid tells.
    others = [
        one
        for one in view.workers(app.broker, app.registry.queues, datetime.now(UTC))
        if psutil.pid_exists(one.pid)
    ]
    return f"worker {others[0].name}" if others else ""
