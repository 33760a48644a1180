"""Old beside new: each captured case with two bodies, each in a throw-away database of its own, and what differs after.

A run is fine when it processed or skipped. A verdict compares endings; rows are told beside it and judge nothing: which of
two results is right, a person says. Rows are compared whole, in every table but the ledger's.

Known weakness: an id or a time that a body makes at random differs each time, and shows as a difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from psycopg import sql

from toolkit.errors import InputFileError
from toolkit.jobspec import Registry
from toolkit.ledger.database import Session
from toolkit.rehearse.case import ending_of, performed
from toolkit.rehearse.case_file import Case, Ending, read
from toolkit.rehearse.quiet import QuietLog
from toolkit.rehearse.room import Room
from toolkit.run import Outcome
from toolkit.telemetry.logs import Log

_TABLES: Final = """SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname <> ALL (ARRAY['toolkit', 'information_schema']) AND n.nspname NOT LIKE 'pg\\_%'
ORDER BY n.nspname <> 'public', n.nspname, c.relname"""

Row = dict[str, Any]


class Verdict(StrEnum):
    """The new body's ending beside the old one's."""

    BETTER = "better"  # the old body failed, the new one does not
    SAME = "same"
    OTHER = "other"  # both are fine, or both fail, and not in the same way
    WORSE = "worse"  # the old body was fine, the new one fails


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one table that only one of the two left."""

    table: str
    old: tuple[Row, ...]
    new: tuple[Row, ...]


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """One case with both bodies. `recorded`: how it ended when it was captured; `rows`: only tables that differ."""

    case: str
    recorded: Ending
    old: Ending
    new: Ending
    verdict: Verdict
    rows: tuple[Left, ...]


def cases_in(folder: Path) -> dict[str, Case]:
    """The cases of a folder (*.json, not below), by the file's name without its end. Raises InputFileError when it has none
    or one of them is no case."""
    found = {path.stem: read(path) for path in sorted(folder.glob("*.json"))}
    if not found:
        raise InputFileError(
            f"{folder} holds no case (*.json)",
            remedy=f"`toolkit capture ID -o {folder}/NAME.json` writes one",
        )
    return found


def beside(
    name: str, case: Case, registry: Registry, room: Room, *, old: str, new: str, release: str
) -> Beside:
    """Run one case with both bodies, by name. Raises as `case.performed` does."""
    log = cast("Log", QuietLog())
    with performed(case, registry, room, release=release, log=log, body=old) as (ended, session):
        before, then = ending_of(ended), _rows(session)
    with performed(case, registry, room, release=release, log=log, body=new) as (ended, session):
        after, now = ending_of(ended), _rows(session)
    return Beside(
        case=name, recorded=case.error, old=before, new=after, verdict=verdict(before, after), rows=left(then, now)
    )  # fmt: skip


def verdict(old: Ending, new: Ending) -> Verdict:
    """Pure."""
    was_fine, is_fine = (one.outcome in {Outcome.PROCESSED, Outcome.SKIPPED} for one in (old, new))
    if was_fine != is_fine:
        return Verdict.BETTER if is_fine else Verdict.WORSE
    return Verdict.SAME if old == new else Verdict.OTHER


Rows = Mapping[str, Counter[str]]
"""Table → its rows as JSON texts, each as often as it is there."""


def left(old: Rows, new: Rows) -> tuple[Left, ...]:
    """What each left that the other did not, in the tables' order. Pure."""

    def only(one: Rows, other: Rows, table: str) -> tuple[Row, ...]:
        more = one.get(table, Counter()) - other.get(table, Counter())
        return tuple(msgspec.json.decode(row, type=Row) for row in sorted(more.elements()))

    tables = dict.fromkeys((*old, *new))
    found = (Left(table=one, old=only(old, new, one), new=only(new, old, one)) for one in tables)
    return tuple(one for one in found if one.old or one.new)


def _rows(session: Session) -> dict[str, Counter[str]]:
    found = {}
    for schema, table in session.execute(_TABLES).fetchall():
        query = sql.SQL("SELECT to_json(t)::text FROM {} t").format(sql.Identifier(schema, table))
        name = table if schema == "public" else f"{schema}.{table}"
        found[name] = Counter(row for (row,) in session.execute(query).fetchall())
    return found
