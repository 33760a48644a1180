"""A clock of the rehearsal's own, for code and database: what happened in three minutes is over in a second.

Code asks `now()`, a decision: freezegun freezes time for just that question, never around I/O (it stops time.monotonic too,
and with it every time-out). The database's `now()` and `clock_timestamp()` are found in schema rehearse_clock, because the
sessions' search path leads there first; CURRENT_TIMESTAMP and defaults of columns are the server's still.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from freezegun import freeze_time

from toolkit.ledger.database import Session

SETTINGS = {"search_path": "rehearse_clock,pg_catalog,public"}
"""Server settings of a session that lives by this clock."""

SCHEMA = """
CREATE SCHEMA rehearse_clock;
CREATE TABLE rehearse_clock.moment (at timestamptz NOT NULL);
INSERT INTO rehearse_clock.moment VALUES (pg_catalog.now());
CREATE FUNCTION rehearse_clock.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT at FROM rehearse_clock.moment';
CREATE FUNCTION rehearse_clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT at FROM rehearse_clock.moment';
"""


class VirtualClock:
    """Stands still until it is moved; `control` is a session outside every transaction."""

    def __init__(self, control: Session, start: datetime) -> None:
        self._control = control
        self.moment = start
        self.move(start)

    def move(self, to: datetime) -> None:
        """It is then, for code and database. Never back."""
        self.moment = max(self.moment, to)
        self._control.execute("UPDATE rehearse_clock.moment SET at = %s", (self.moment,))

    def now(self) -> datetime:
        """The time, as code that asks the system would see it."""
        with freeze_time(self.moment):
            seconds = time.time()
        return datetime.fromtimestamp(seconds, UTC)  # outside: a frozen datetime is a type of its own
