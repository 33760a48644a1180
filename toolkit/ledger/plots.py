"""What a verification's page draws: outcomes over time and durations. Reads only, the newest MOST runs of a window.

Times in UTC, durations in seconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from toolkit.ledger.database import Session

MOST: Final = 20_000
POINTS: Final = 200
"""Durations that are drawn: quantiles of the newest MOST."""
SLICES: Final = 60

_RUNS = (
    "(SELECT * FROM toolkit.run WHERE release = %(release)s AND job_name = %(job)s AND started_at >= %(since)s"
    " AND started_at < %(until)s AND outcome IS NOT NULL AND reason NOT IN ('already_done', 'already_running')"
    f" ORDER BY started_at DESC LIMIT {MOST}) r"
)


def slice_of(since: datetime, until: datetime) -> float:
    """Seconds of one slice, at least one."""
    return max(1.0, (until - since).total_seconds() / SLICES)


def moments(
    session: Session, release: str, job_name: str, since: datetime, until: datetime
) -> list[tuple[datetime, int, int, int, int, int]]:
    """(slice's begin, processed, skipped, failed, lost, foreign key errors), slices without runs left out."""
    rows: Any = session.execute(
        "SELECT date_bin(%(slice)s * interval '1 second', r.started_at, %(since)s) AS at,"
        " count(*) FILTER (WHERE outcome = 'processed'), count(*) FILTER (WHERE outcome = 'skipped'),"
        " count(*) FILTER (WHERE outcome = 'failed'), count(*) FILTER (WHERE outcome = 'lost'),"
        f" count(*) FILTER (WHERE sqlstate = '23503') FROM {_RUNS} GROUP BY at ORDER BY at",
        {
            "slice": slice_of(since, until),
            "release": release,
            "job": job_name,
            "since": since,
            "until": until,
        },
    ).fetchall()
    return [tuple(row) for row in rows]


def durations(session: Session, release: str, job_name: str, since: datetime, until: datetime) -> list[float]:
    """Durations of processed runs in order of size: all of them, or POINTS quantiles."""
    rows: Any = session.execute(
        f"SELECT duration FROM {_RUNS} WHERE outcome = 'processed' ORDER BY duration",
        {"release": release, "job": job_name, "since": since, "until": until},
    ).fetchall()
    found = [float(row[0]) for row in rows]
    if len(found) <= POINTS:
        return found
    return [found[round(place * (len(found) - 1) / (POINTS - 1))] for place in range(POINTS)]
