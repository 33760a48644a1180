"""The pure parts of the detectors: how a counter rose, when a line was written, what the planted one's absence means."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from toolkit.logscan import moment as moments
from toolkit.logscan.moment import UnknownZone, begin_of, moment
from toolkit.logscan.scan import scan
from toolkit.telemetry import catalog
from toolkit.verify.adapters.logs import LogFile
from toolkit.verify.adapters.prometheus import increased
from toolkit.verify.adapters.sight import judged
from toolkit.verify.detect import Planted, Sight

NOW = datetime(2025, 10, 11, 17, 30, tzinfo=UTC)
AT = datetime(2025, 10, 11, 17, 16, 22, tzinfo=UTC)


def before(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("planted", "seen", "sight"),
    [
        (None, False, Sight.NOT_YET),
        (None, True, Sight.NOT_YET),
        (Planted("j", before(900), None), False, Sight.NOT_YET),
        (Planted("j", before(900), None), True, Sight.NOT_YET),
        (Planted("j", before(900), before(44)), False, Sight.NOT_YET),
        (Planted("j", before(900), before(46)), False, Sight.BLIND),
        (Planted("j", before(900), before(46)), True, Sight.SEEN),
        (Planted("j", before(1), None, trouble="no right"), False, Sight.BLIND),
        (Planted("j", before(1), None, "ab", "the ledger swallowed it"), True, Sight.SEEN),
    ],
)
def test_a_detector_is_blind_only_once_it_must_have_seen(
    planted: Planted | None, seen: bool, sight: Sight
) -> None:
    assert judged(planted, seen=seen, now=NOW, lag=45)[0] is sight


@pytest.mark.parametrize("met", [44, 46])
def test_a_planted_error_is_waited_for_until_a_detector_is_blind(met: float) -> None:
    """However long it waited for a worker; else the verdict would name no blind source."""
    planted = Planted("j", before(900), before(met))
    still = judged(planted, seen=False, now=NOW, lag=45)[0] is Sight.NOT_YET
    assert ((NOW - planted.met_at).total_seconds() <= 45) is still


@pytest.mark.parametrize(
    ("values", "rises"),
    [
        ([], []),
        ([(100, 0), (110, 0)], []),
        ([(100, 3), (110, 3)], []),  # what was there at the start is not of the window
        ([(100, 3), (110, 5), (120, 5)], [(110, 2)]),
        ([(110, 2), (120, 2)], [(110, 2)]),  # a series that begins later began at 0
        ([(100, 3), (110, 1), (120, 2)], [(110, 1), (120, 1)]),  # its supervisor was started anew
        ([(100, 3), (110, 0), (120, 3)], [(120, 3)]),
    ],
)
def test_a_counter_rose_by_what_its_samples_say(
    values: list[tuple[float, float]], rises: list[tuple[float, float]]
) -> None:
    assert increased(values, 100.0) == rises


@pytest.mark.parametrize(
    ("line", "at"),
    [
        (b'{"timestamp":"2025-10-11T17:16:22Z","level":"error"}', AT),
        (b'{"level":"error","time":"2025-10-11T19:16:22+02:00","msg":"at 2020-01-01T00:00:00Z"}', AT),
        (b"2025-10-11 17:16:22.000 UTC [12] 23503 freshfetch ERROR:  insert", AT),
        (b"2025-10-11 17:16:22 ERROR no zone is UTC", AT),
        (b"2025-10-11T12:46:22-0430 x", AT),
        (b"2025-10-11T17:16:22.250Z x", AT + timedelta(milliseconds=250)),
        (b"2025-10-11T17:16:22,25 x", AT + timedelta(milliseconds=250)),
        (b"Oct 11 17:16:22 host job[1]: x", AT),
        (b"Dec 24 17:16:22 host job[1]: x", datetime(2024, 12, 24, 17, 16, 22, tzinfo=UTC)),
        (b"2025-13-11 17:16:22 x", None),
        (b"Feb 30 17:16:22 x", None),
        (b"DETAIL:  Key (id)=(2025) is not present", None),
        (b"", None),
    ],
)
def test_a_lines_time_is_read(line: bytes, at: datetime | None) -> None:
    assert moment(line, NOW) == at


@pytest.mark.parametrize("zone", [b"CEST", b"EST", b"MST", b"PDT"])
def test_a_zone_with_two_meanings_is_not_guessed(zone: bytes) -> None:
    with pytest.raises(UnknownZone, match=zone.decode()):
        moment(b"2025-10-11 17:16:22 " + zone + b" [1] LOG: x", NOW)


@pytest.mark.parametrize("by_line", [64, 64 << 10])
def test_the_beginning_of_a_window_is_found_in_a_log(by_line: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "BY_LINE", by_line)
    started = NOW - timedelta(hours=1)
    log = b"no time yet\n"
    begins: list[tuple[datetime, int]] = []
    for n in range(300):
        at = started + timedelta(seconds=2 * (n // 2))  # two lines share a time
        begins.append((at, len(log)))
        log += f"{at:%Y-%m-%d %H:%M:%S} line {n}\n".encode() + b"\tof many lines\n" * (n % 3)
    file, size = io.BytesIO(log), len(log)
    for at, _ in begins:
        for asked in (at, at - timedelta(seconds=1)):
            first = next(offset for moment_, offset in begins if moment_ >= asked)
            assert begin_of(file, size, asked, NOW) == first
    assert begin_of(file, size, NOW, NOW) == size
    assert begin_of(io.BytesIO(b"no time\n" * 99), 8 * 99, NOW, NOW) is None


def test_a_log_counts_foreign_key_errors_by_release() -> None:
    line = f'{{"event":"{catalog.RUN_FAILED.name}","release":"?","sqlstate":"23503","constraint":"a_fkey"}}\n'
    told = [line.replace("?", release) for release in ("r1", "r2", "r1")]
    told.append('2025-10-11 17:16:23 UTC [1] 23503 x ERROR:  violates foreign key constraint "a_fkey"\n')
    report = scan(["".join(told).encode()])
    assert report.fk_errors == {"a_fkey": 4}
    assert report.fk_releases == {"a_fkey": {"r1": 2, "r2": 1, "": 1}}


def test_a_log_tells_how_many_errors_it_has_that_nothing_says_whose_they_are(tmp_path: Path) -> None:
    """PostgreSQL's names no release, and others write to that database, too."""
    log = tmp_path / "log"
    line = '2025-10-11 17:16:22.000 UTC [1] 23503 x ERROR:  violates foreign key constraint "{}_fkey"\n'
    log.write_text("".join(line.format(name) for name in "abb"))
    found = LogFile(str(log), "server log", frozenset({"a_fkey"})).look("r1", AT, None, NOW, 45.0)
    assert (found.errors, found.unclaimed) == ({"a_fkey": 1}, 2)
