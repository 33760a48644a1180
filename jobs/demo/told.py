"""Log lines, read back from their JSON, and shown as they read on a terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from jobs.demo.screen import Screen
from jobs.images import words
from toolkit.jobspec import LogEvent
from toolkit.telemetry import catalog

_LINES: Final = {
    event.name: event.line
    for event in (*words.LOG_EVENTS, *vars(catalog).values())
    if isinstance(event, LogEvent)
}


@dataclass(frozen=True, slots=True)
class Told:
    """One log line, as the JSON said it. `time` is of the day, in UTC, to the millisecond."""

    event: str
    level: str
    time: str
    fields: Mapping[str, Any]

    @classmethod
    def read(cls, line: str) -> Told | None:
        """None for what is not one of our JSON lines, e.g. a traceback of Python's own."""
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            told = json.loads(line)
            return cls(told.pop("event"), told.pop("level"), told.pop("timestamp")[11:23], told)
        return None

    @property
    def ended(self) -> bool:
        """The run is over."""
        return self.event.startswith("run.")

    def show(self, screen: Screen) -> None:
        """As the line reads on a terminal."""
        screen.log(f"{self.time}  {self}", self.level)

    def __str__(self) -> str:
        with suppress(ValueError, KeyError, TypeError):
            return _LINES[self.event].format_map(self.fields)
        return self.event


class ToScreen(io.StringIO):
    """A stream for this process's own logs, in JSON, whose lines go to the screen."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def write(self, text: str) -> int:
        """One JSON line."""
        if told := Told.read(text):
            told.show(self._screen)
        return len(text)
