"""Integrity errors (SQLSTATE class 23) of a release in a window, by index whatever the ledger's size. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from toolkit.ledger.database import Session

_ERRORS = """
SELECT sqlstate, coalesce(constraint_name, '') AS "constraint", job_name, count(*)::int AS runs,
    (array_agg(job_id ORDER BY started_at DESC))[1:3] AS jobs, (array_agg(trace_id ORDER BY started_at DESC))[1:3] AS traces
FROM toolkit.run
WHERE sqlstate LIKE '23%%' AND release = %(release)s AND started_at >= %(since)s
    AND (%(until)s::timestamptz IS NULL OR started_at < %(until)s)
GROUP BY 1, 2, 3"""


@dataclass(frozen=True, slots=True)
class Violations:
    """Runs of one job that violated one constraint ('' where SQLSTATE names none), with the newest three of them."""

    sqlstate: str
    constraint: str
    job_name: str
    runs: int
    jobs: list[str]
    traces: list[str]


def violations(
    session: Session, release: str, since: datetime, until: datetime | None = None
) -> list[Violations]:
    """Those of runs of the release that began from `since` on, and before `until`; planted ones, too."""
    with session.cursor(row_factory=class_row(Violations)) as cursor:
        return cursor.execute(_ERRORS, {"release": release, "since": since, "until": until}).fetchall()


def runs_of(session: Session, release: str, since: datetime) -> int:
    """Runs of the release that began since then, of every job and outcome."""
    row: Any = session.execute(
        "SELECT count(*) FROM toolkit.run WHERE release = %s AND started_at >= %s", (release, since)
    ).fetchone()
    return int(row[0])
