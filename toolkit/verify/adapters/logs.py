"""A log file as a detector: a worker's, an importer's, PostgreSQL's own, in any form that `toolkit logs scan` reads.

Only what was written since the window began is read: its beginning is found by bisecting on the lines' times, and the rest goes
through the scan, some hundred MB a second. Lines that name another release are left out; of lines that name none (PostgreSQL's),
only errors on the job's own constraints count, for others write to that database, too. Rehearsals' are left out.

Known weakness: one worker meets the planted violation, so of hosts with a log each all others look blind: name PostgreSQL's, or
one that all of them write to. What was written before the log was rotated is not read; the detail says when the log begins
later than the window. The clocks of log and database may differ by SKEW seconds; of lines that name no job (PostgreSQL's), one
that was planted so shortly before is taken for this one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BufferedReader
from pathlib import Path
from typing import Final

from toolkit.logscan.lines import UNNAMED, Kind
from toolkit.logscan.moment import UnknownZone, begin_of, moment
from toolkit.logscan.scan import Report, scan
from toolkit.logscan.source import BLOCK, lines
from toolkit.verify.adapters.sight import judged
from toolkit.verify.detect import Planted, Sight, Sighting

SKEW: Final = 5.0
_GZIP: Final = b"\x1f\x8b"
_HEAD: Final = 64 << 10
_JOB: Final = "job_id"
"""Says that a line names its job."""


class Unusable(Exception):
    """A log that cannot tell; why, and what to do."""


@dataclass(frozen=True, slots=True)
class LogFile:
    """One log. `constraints`: the job's own, for lines that name no release; none means all."""

    path: str
    source: str
    constraints: frozenset[str] = frozenset()

    @property
    def where(self) -> str:
        """See Detector."""
        return self.path

    def look(
        self, release: str, since: datetime, planted: Planted | None, now: datetime, lag: float
    ) -> Sighting:
        """See Detector."""
        try:
            with Path(self.path).open("rb") as file:
                seen = _read(file, since, planted, now)
        except OSError as error:
            said = f"{self.path} cannot be read: {error.strerror or error}; check TOOLKIT_VERIFY_LOGS"
            return Sighting(source=self.source, sight=Sight.BLIND, errors={}, planted=0, detail=said)
        except UnknownZone as error:
            said = f"{self.path} tells its times in {error}: log in UTC (log_timezone = 'UTC')"
            return Sighting(source=self.source, sight=Sight.BLIND, errors={}, planted=0, detail=said)
        except Unusable as error:
            said = f"{self.path} {error}"
            return Sighting(source=self.source, sight=Sight.BLIND, errors={}, planted=0, detail=said)
        sight, detail = judged(planted, seen=seen.met is not None, now=now, lag=lag)
        errors, unclaimed = Counter[str](), 0
        for report in seen.reports:
            found, nobodys = self._errors(report, release)
            errors, unclaimed = errors + found, unclaimed + nobodys
        return Sighting(
            source=self.source, sight=sight, errors=dict(errors), unclaimed=unclaimed,
            planted=sum(report.planted for report in seen.reports),
            after=_after(seen.met, planted, now) if sight is Sight.SEEN else None, detail=detail or seen.note,
        )  # fmt: skip

    def _errors(self, report: Report, release: str) -> tuple[Counter[str], int]:
        """Real ones of this release, by constraint; and those that nothing says whose they are."""
        found: Counter[str] = Counter()
        unclaimed = 0
        for constraint, by_release in report.fk_releases.items():
            found[constraint] += by_release.get(release, 0)
            if not self.constraints or constraint in {*self.constraints, UNNAMED}:
                found[constraint] += by_release.get("", 0)
            else:
                unclaimed += by_release.get("", 0)
        return +found, unclaimed


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the log has from before and from after the planting, and the line of the planted one."""

    reports: tuple[Report, ...]
    met: bytes | None
    note: str


def _read(file: BufferedReader, since: datetime, planted: Planted | None, now: datetime) -> _Seen:
    if file.peek(2)[:2] == _GZIP:
        raise Unusable("is packed: name the log that is still written")
    size = file.seek(0, 2)
    begin = begin_of(file, size, since, now)
    if begin is None:
        raise Unusable(
            "has no line whose time is understood"
            if size
            else "is empty: is it still the log that is written?"
        )
    middle = size
    if planted is not None:
        middle = begin_of(file, size, (planted.run_at or planted.at) - timedelta(seconds=SKEW), now) or 0
    middle = max(begin, middle)
    before, after = _scanned(file, begin, middle), _scanned(file, middle, size)
    examples = (one.text for one in after.examples if one.kind is Kind.PLANTED)
    # Within SKEW there may be that of an earlier verification, which a log that is written no more has, too.
    met = next((text for text in examples if planted and (planted.job_id in text or _JOB not in text)), None)
    first = _first(file, now)
    late = first is not None and begin == 0 and first > since + timedelta(seconds=SKEW)
    note = f"it begins at {first:%H:%M:%S} UTC, after the window" if late and first else ""
    return _Seen((before, after), met.encode() if met is not None else None, note)


def _scanned(file: BufferedReader, begin: int, end: int) -> Report:
    file.seek(begin)
    return scan(lines(_Part(file, end - begin)))  # type: ignore[arg-type]


class _Part:
    """The next bytes of a file as a file: what is written meanwhile is the next look's."""

    def __init__(self, file: BufferedReader, left: int) -> None:
        self._file, self._left = file, left

    def read(self, size: int = BLOCK) -> bytes:
        found = self._file.read(min(size, self._left))
        self._left -= len(found)
        return found


def _first(file: BufferedReader, now: datetime) -> datetime | None:
    """The time of the first line that has one, as far as it is near the beginning."""
    file.seek(0)
    found = file.read(_HEAD).splitlines()
    return next((at for line in found if (at := moment(line, now)) is not None), None)


def _after(met: bytes | None, planted: Planted | None, now: datetime) -> float | None:
    if met is None or planted is None:
        return None
    return max(0.0, ((moment(met, now) or now) - planted.at).total_seconds())
