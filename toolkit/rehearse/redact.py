"""Made-up ids, names and addresses in place of real ones, the same one for the same, so that foreign keys still fit. Pure.

Made-up ids sort as the real ones do, because jobs work in the order of ids. Times, states and the shape of everything stay.
Known weakness: times and counts are real, and may tell an insider which order it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from toolkit.jobspec import Holds, Rows

_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>)]+", re.IGNORECASE)
_QUOTED = re.compile(r"'[^']{1,400}'|=\([^)]{1,400}\)")


class Redactor:
    """Knows every value that must not leave. `ids` are all there are; texts and addresses are numbered as they come."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids = {real: f"id{number:06}" for number, real in enumerate(sorted(set(ids)), start=1)}
        self._texts: dict[str, str] = {}
        self._urls: dict[str, str] = {}

    def value(self, holds: Holds, value: Any) -> Any:
        """One value, by what its column holds."""
        if value is None or holds == "plain":
            return value
        if isinstance(value, list | tuple):
            return [self.value(holds, one) for one in value]
        match holds:
            case "id":
                return self._ids.get(str(value)) or self._text(str(value))
            case "url":
                return self._urls.setdefault(str(value), f"https://shop.example/{len(self._urls) + 1}")
            case "number":
                return 1
            case _:
                return self._text(str(value))

    def payload(self, value: Any) -> Any:
        """A payload of any form: names of fields, numbers and flags stay."""
        if isinstance(value, Mapping):
            return {key: self.payload(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.payload(item) for item in value]
        return self.value("id", value) if isinstance(value, str) else value

    def message(self, text: str) -> str:
        """An error message's first line: known values replaced, quoted ones and addresses taken out."""
        line = text.partition("\n")[0]
        for known in (self._urls, self._ids, self._texts):
            for real in sorted(known, key=len, reverse=True):
                if len(real) > 2:
                    line = line.replace(real, known[real])
        return _QUOTED.sub("…", _URL.sub("https://…", line))[:500]

    def _text(self, real: str) -> str:
        return self._texts.setdefault(real, f"text {len(self._texts) + 1}")


def ids_in(rows: Sequence[Rows], payload: Mapping[str, Any]) -> set[str]:
    """Every id in the rows' id columns, and every text in the payload that looks like one."""
    found = {
        str(value)
        for one in rows
        for row in one.rows
        for holds, value in zip(one.columns.values(), row, strict=True)
        if holds == "id" and value is not None
    }
    return found | {value for value in payload.values() if isinstance(value, str)}
