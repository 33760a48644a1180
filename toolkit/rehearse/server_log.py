"""The server's own word on a rehearsal: the errors that it logged for the actors' sessions.

Lines are recognised by their application name and SQLSTATE, as the embedded server's log_line_prefix writes them
(`%m [%p] %e %a `). Known weakness: another server's log is another format in another place; then nothing is read, and the
report says so.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

_LINE = re.compile(r"\] (?P<state>[0-9A-Z]{5}) (?P<app>rehearse_[\w.-]+?) (?:ERROR|FATAL|PANIC):")


class ServerLog:
    """Reads what a log file gained since this was made; `path` None: there is no log to read."""

    def __init__(self, path: Path | None) -> None:
        self.path = path if path is not None and path.is_file() else None
        self._offset = self.path.stat().st_size if self.path else 0

    def errors(self, room: str) -> Counter[tuple[str, str]] | None:
        """(actor, SQLSTATE) → how often, for the sessions of that room; None when there is no log to read."""
        if self.path is None:
            return None
        with self.path.open("rb") as file:
            file.seek(self._offset)
            text = file.read().decode(errors="replace")
        prefix = f"{room}."
        return Counter(
            (match["app"].removeprefix(prefix), match["state"])
            for match in _LINE.finditer(text)
            if match["app"].startswith(prefix)
        )

    def agreed(self, room: str, told: Counter[tuple[str, str]], *, within: float = 2.0) -> bool | None:
        """True when the log has exactly the errors that the clients were told; waits for the log to be written."""
        deadline = time.monotonic() + within
        while (found := self.errors(room)) != told:
            if found is None:
                return None
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)  # the log collector gives no signal
        return True
