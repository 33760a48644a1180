"""From what a person has at hand to the job: a job id or a unique beginning of it, a run id, a trace id, an id in its payload.

Exact ids go by index. The rest is looked for among the jobs of the last week, and only when it is not there among all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from psycopg import sql

from toolkit.errors import NotFound, UsageError
from toolkit.ledger.database import Session
from toolkit.ledger.queries import CARRIES, lines
from toolkit.ledger.views import JobLine

SHORTEST: Final = 6
"""Characters of an id's beginning that may stand for it."""
MOST: Final = 20
"""Jobs that an ambiguous id is told to be, at most."""
_RECENT: Final = "7 days"

_HEX = re.compile(r"[0-9a-f]+(-[0-9a-f]+)*-?")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

_EXACT = """
SELECT job_id, 'job id' FROM toolkit.intent WHERE job_id = %(wanted)s
UNION SELECT job_id, 'run id' FROM toolkit.run WHERE run_id = %(run_id)s::uuid
UNION SELECT job_id, 'trace id' FROM toolkit.run WHERE %(trace)s AND trace_id = %(wanted)s
UNION SELECT job_id, 'trace id' FROM toolkit.trace JOIN toolkit.intent USING (job_id)
       WHERE %(trace)s AND trace_id = %(wanted)s
LIMIT %(most)s"""

_SEARCH = """
SELECT i.job_id, CASE WHEN {carries} THEN 'payload'
                      WHEN starts_with(i.job_id, %(about)s) THEN 'job id' ELSE 'trace id' END
FROM toolkit.intent i
WHERE (%(within)s::interval IS NULL OR i.created_at >= now() - %(within)s::interval)
  AND (%(prefix)s AND starts_with(i.job_id, %(about)s) OR {carries}
       OR %(trace)s AND split_part(i.traceparent, '-', 2) = %(about)s)
ORDER BY i.created_at DESC LIMIT %(most)s"""

By = Literal["job id", "run id", "trace id", "payload"]


@dataclass(frozen=True, slots=True)
class Match:
    """A job, and by which of its ids it was found."""

    job_id: str
    by: By


def find(session: Session, text: str) -> list[Match]:
    """The jobs that `text` may mean, the newest first, at most MOST + 1; [] when there is none."""
    wanted = text.strip()
    if not wanted or not wanted.isprintable():
        return []
    if whole := _TRACEPARENT.fullmatch(wanted.lower()):
        wanted = whole.group(1)
    if _HEX.fullmatch(wanted.lower()):
        wanted = wanted.lower()
    return _exact(session, wanted) or _searched(session, wanted, _RECENT) or _searched(session, wanted, None)


def one(session: Session, text: str) -> str:
    """The job that `text` means. Raises NotFound, or UsageError when it may mean several."""
    return only(session, text, some(session, text))


def some(session: Session, text: str) -> list[Match]:
    """Like `find`, but raises NotFound when there is none."""
    found = find(session, text)
    if not found:
        short = (
            f": an id's beginning has {SHORTEST} characters or more"
            if 0 < len(text.strip()) < SHORTEST
            else ""
        )
        raise NotFound(
            f"the ledger has no job that {text!r} could mean{short}",
            remedy=f"give a job id (or its first {SHORTEST} characters or more), a run id, a trace id, or an id in the payload\n"
            "`toolkit jobs list` shows the newest jobs",
        )
    return found


def only(session: Session, text: str, found: list[Match]) -> str:
    """The one job that was found. Raises UsageError, naming them, when there are several."""
    if len(found) == 1:
        return found[0].job_id
    known = lines(session, [match.job_id for match in found[:MOST]])
    count = f"more than {MOST}" if len(found) > MOST else str(len(found))
    raise UsageError(
        f"{text!r} is the {found[0].by} of {count} jobs",
        remedy="name one:\n" + "\n".join(f"  {_told(line)}" for line in known),
    )


def _told(line: JobLine) -> str:
    return f"{line.job_id}  {line.state:9}  asked {line.asked_at:%Y-%m-%d %H:%M:%S} UTC  {line.job_name}"


def _exact(session: Session, wanted: str) -> list[Match]:
    values = {
        "wanted": wanted,
        "run_id": _uuid(wanted, "") if len(_digits(wanted)) == 32 else None,
        "trace": len(wanted) == 32,
        "most": MOST + 1,
    }
    return [Match(*row) for row in session.execute(_EXACT, values).fetchall()]


def _searched(session: Session, wanted: str, within: str | None) -> list[Match]:
    values = {
        "about": wanted,
        "within": within,
        "prefix": len(wanted) >= SHORTEST,
        "trace": len(wanted) == 32,
        "most": MOST + 1,
    }
    query = sql.SQL(_SEARCH).format(carries=sql.SQL(CARRIES))
    found = {row[0]: Match(*row) for row in session.execute(query, values).fetchall()}
    return list((found | {match.job_id: match for match in _runs_beginning(session, wanted)}).values())


def _runs_beginning(session: Session, wanted: str) -> list[Match]:
    """Runs whose id begins so: a range of the primary key."""
    low, high = _uuid(wanted, "0"), _uuid(wanted, "f")
    if low is None or len(wanted) < SHORTEST:
        return []
    rows: list[Any] = session.execute(
        "SELECT DISTINCT job_id, 'run id' FROM toolkit.run WHERE run_id BETWEEN %s::uuid AND %s::uuid LIMIT %s",
        (low, high, MOST + 1),
    ).fetchall()
    return [Match(*row) for row in rows]


def _digits(text: str) -> str:
    return text.replace("-", "") if _HEX.fullmatch(text) else ""


def _uuid(text: str, fill: str) -> str | None:
    """The UUID that begins with `text` and goes on with `fill`; None when there is none."""
    digits = _digits(text)
    filled = digits.ljust(32, fill) if fill else digits
    return filled if len(filled) == 32 and digits else None
