"""When a line was written, and where in a long log a moment begins.

Known: ISO 8601 (also within JSON, under `timestamp`, `time` or `ts`), PostgreSQL's times, syslog's without a year. A time
without a zone is taken as UTC. Known weakness: other named zones are not understood, since one name means several.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import IO, Final

BY_LINE: Final = 64 << 10
"""Bytes that are read line by line once the search has come so near."""

_ISO: Final = re.compile(
    rb"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?\s?(Z|UTC|GMT|[+-]\d\d(?::?\d\d)?\b|[A-Z]{1,3}[SD]?T\b)?"
)
_KEY: Final = re.compile(rb'"(?:@?timestamp|time|ts)"\s*:\s*"')
_SYSLOG: Final = re.compile(
    rb"^(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +(\d{1,2}) (\d\d):(\d\d):(\d\d)"
)
_MONTHS: Final = (
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
)  # fmt: skip
_HEAD: Final = 80


class UnknownZone(ValueError):
    """A time in a zone that is not understood."""


def moment(line: bytes, now: datetime) -> datetime | None:
    """The time of a line, None when it has none. Pure. `now` gives a year where there is none. Raises UnknownZone."""
    found = None
    if line[:1] == b"{":
        key = _KEY.search(line)
        found = _ISO.match(line, key.end()) if key else None
    found = found or _ISO.search(line[:_HEAD])
    if found is not None:
        return _iso(found)
    syslog = _SYSLOG.match(line)
    if syslog is None:
        return None
    month, day = _MONTHS.index(syslog[1]) + 1, int(syslog[2])
    try:
        at = datetime(now.year, month, day, int(syslog[3]), int(syslog[4]), int(syslog[5]), tzinfo=UTC)
    except ValueError:
        return None
    return at if at <= now + timedelta(days=1) else at.replace(year=now.year - 1)


def _iso(found: re.Match[bytes]) -> datetime | None:
    year, month, day, hour, minute, second = (int(found[n]) for n in range(1, 7))
    micro = int((found[7] or b"0").ljust(6, b"0")[:6])
    try:
        return datetime(year, month, day, hour, minute, second, micro, _zone(found[8]))
    except UnknownZone:
        raise
    except ValueError:
        return None


def _zone(text: bytes | None) -> timezone:
    if text is None or text in {b"Z", b"UTC", b"GMT"}:
        return UTC
    if text[:1] not in {b"+", b"-"}:
        raise UnknownZone(text.decode())
    digits = text[1:].replace(b":", b"")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:] or b"0"))
    return timezone(offset if text[:1] == b"+" else -offset)


def begin_of(file: IO[bytes], size: int, at: datetime, now: datetime) -> int | None:
    """The offset of the first line written at `at` or later, `size` when there is none yet, None when no line has a time.

    Bisects: a log of any size costs some twenty reads. Lines must be in the order of their times. Raises UnknownZone."""
    low, high = 0, size
    while high - low > BY_LINE:
        file.seek((low + high) // 2)
        file.readline()
        found = _next_timed(file, high, now)
        if found is None or found[1] >= at:
            high = (low + high) // 2
        else:
            low = found[0]
    file.seek(low)
    timed = low > 0
    while (found := _next_timed(file, size, now)) is not None:
        timed = True
        if found[1] >= at:
            return found[0]
    return size if timed else None


def _next_timed(file: IO[bytes], end: int, now: datetime) -> tuple[int, datetime] | None:
    """The next line before `end` that has a time: where it begins, and its time."""
    while (begin := file.tell()) < end and (line := file.readline()):
        if (found := moment(line, now)) is not None:
            return begin, found
    return None
