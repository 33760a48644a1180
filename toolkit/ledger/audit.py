"""The audit: who did what to what, why and when. Append only; read by `history` commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from toolkit.ledger.database import Session


@dataclass(frozen=True, slots=True)
class Act:
    """One act of an operator."""

    audit_id: int
    at: datetime
    who: str
    action: str
    subject: str
    reason: str
    detail: dict[str, Any]


def write(
    session: Session,
    *,
    who: str,
    action: str,
    subject: str,
    reason: str,
    detail: Mapping[str, Any] | None = None,
) -> int:
    """Append an act, in the caller's transaction; returns its id."""
    row: Any = session.execute(
        "INSERT INTO toolkit.audit (who, action, subject, reason, detail) VALUES (%s, %s, %s, %s, %s) RETURNING audit_id",
        (who, action, subject, reason, Jsonb(dict(detail or {}))),
    ).fetchone()
    return int(row[0])


def history(session: Session, action: str, limit: int = 50) -> list[Act]:
    """The newest acts of that kind, newest first."""
    with session.cursor(row_factory=class_row(Act)) as cursor:
        return cursor.execute(
            "SELECT * FROM toolkit.audit WHERE action = %s ORDER BY audit_id DESC LIMIT %s", (action, limit)
        ).fetchall()
