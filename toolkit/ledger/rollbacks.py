"""Rollbacks in the ledger: a release that was marked again after another one, and when it ran again.

Times in UTC. Known weakness: the first run needs an order, so on an idle system the time is too long.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from toolkit.ledger.database import Session


@dataclass(frozen=True, slots=True)
class Rollback:
    """Back to `release`, marked `at`; `ran` is when its first run after that began, before the next deployment."""

    release: str
    at: datetime
    ran: datetime


_ROLLBACKS = """
SELECT d.release, d.at, r.ran FROM (
    SELECT release, at, lag(release) OVER marks AS before, lead(at) OVER marks AS until,
        row_number() OVER (PARTITION BY release ORDER BY at, deployment_id) AS time
    FROM toolkit.deployment WINDOW marks AS (ORDER BY at, deployment_id)
) d CROSS JOIN LATERAL (
    SELECT started_at AS ran FROM toolkit.run WHERE release = d.release AND started_at >= d.at
        AND (d.until IS NULL OR started_at < d.until) ORDER BY started_at LIMIT 1
) r
WHERE d.time > 1 AND d.before <> d.release ORDER BY d.at DESC LIMIT %s"""


def rollbacks(session: Session, *, limit: int = 5) -> list[Rollback]:
    """The newest rollbacks that have run, newest first."""
    with session.cursor(row_factory=class_row(Rollback)) as cursor:
        return cursor.execute(_ROLLBACKS, (limit,)).fetchall()
