"""A story as a spec for PostgreSQL's isolation tester (src/test/isolation).

The spec is self-contained for the tables of schema public that the story touched: their columns, primary keys and the
foreign keys among them. What calls functions of schema `toolkit` needs that schema in the tester's database; the spec
says so. The tester's grammar ends a block of SQL at the first `}`, so braces inside literals are written as \\x7b, \\x7d.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from psycopg import sql

from toolkit.ledger.database import Session
from toolkit.rehearse.words import CRASH, Story

_DDL = """
WITH wanted AS (
  SELECT c.oid, c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY(%(tables)s))
SELECT 'CREATE TABLE ' || quote_ident(w.relname) || ' (' || (
         SELECT string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
                || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
                || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END, ', ' ORDER BY a.attnum)
         FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = w.oid AND a.attnum > 0 AND NOT a.attisdropped) || ');', 1, w.relname
FROM wanted w
UNION ALL
SELECT 'ALTER TABLE ' || quote_ident(w.relname) || ' ADD CONSTRAINT ' || quote_ident(k.conname) || ' '
       || pg_get_constraintdef(k.oid) || ';', CASE k.contype WHEN 'p' THEN 2 ELSE 3 END, k.conname
FROM wanted w JOIN pg_constraint k ON k.conrelid = w.oid
WHERE k.contype = 'p' OR (k.contype = 'f' AND k.confrelid IN (SELECT oid FROM wanted))
ORDER BY 2, 3
"""
_TABLES = """SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY relname"""
_LITERAL = re.compile(r"(?<![\w])(E?)'((?:[^']|'')*)'")


def export(story: Story, session: Session, *, name: str, isolation: str) -> str:
    """The spec. `session` is at the starting rows, and `story` was played with `watch`."""
    said = " ".join(step.rendered for step in story.steps)
    known = [row[0] for row in session.execute(_TABLES).fetchall()]
    tables = _with_rows(
        session, [table for table in known if re.search(rf'"?\b{re.escape(table)}\b"?', said)]
    )
    setup = [row[0] for row in session.execute(_DDL, {"tables": tables}).fetchall()]
    rows = [statement for table in tables for statement in _rows(session, table)]
    setup = (
        [one for one in setup if one.startswith("CREATE")]
        + rows
        + [one for one in setup if one.startswith("ALTER")]
    )
    drop = ", ".join(f'"{table}"' for table in tables)
    lines = [f"# {name}: {', '.join(f'{who} {end}' for who, end in story.outcome.endings)}"]
    lines.append("# Written by `toolkit rehearse race`; run it with PostgreSQL's isolationtester.")
    if "toolkit." in said:
        lines.append("# Needs schema toolkit in the tester's database: `toolkit init`.")
    lines += ["", "setup", "{", *(f"  {_no_braces(one)}" for one in setup), "}", "", "teardown", "{"]
    lines += [f"  DROP TABLE {drop} CASCADE;", "}"]
    for actor in dict.fromkeys(story.schedule):
        lines += ["", f'session "{actor}"']
        for number, step in enumerate(story.steps, start=1):
            if step.actor != actor or step.sql.startswith(CRASH):
                continue
            statement = " ".join((step.rendered or step.sql).split())
            if statement == "BEGIN":
                statement = f"BEGIN ISOLATION LEVEL {isolation}"
            lines.append(f'step "{actor}{number}" {{ {_no_braces(statement.rstrip(";"))}; }}')
    order = [
        f'"{step.actor}{number}"'
        for number, step in enumerate(story.steps, start=1)
        if not step.sql.startswith(CRASH)
    ]
    return "\n".join([*lines, "", f"permutation {' '.join(order)}", ""])


def _with_rows(session: Session, tables: Sequence[str]) -> list[str]:
    """The tables, and those that their rows point to: without them no foreign key would hold."""
    found = session.execute(
        """
        WITH RECURSIVE reached AS (
            SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = ANY(%s)
            UNION SELECT k.confrelid FROM reached r JOIN pg_constraint k ON k.conrelid = r.oid AND k.contype = 'f')
        SELECT relname FROM reached JOIN pg_class USING (oid) ORDER BY relname
        """,
        (list(tables),),
    ).fetchall()
    return [row[0] for row in found]


def _rows(session: Session, table: str) -> list[str]:
    """INSERTs for what is in the table now."""
    cursor = session.execute(sql.SQL("SELECT * FROM {} ORDER BY 1").format(sql.Identifier(table)))
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in cursor.description or ())
    return [
        sql.SQL("INSERT INTO {} ({}) VALUES ({});")
        .format(sql.Identifier(table), columns, sql.SQL(", ").join(sql.Literal(value) for value in row))
        .as_string(session)
        for row in cursor.fetchall()
    ]


def _no_braces(statement: str) -> str:
    """Braces only occur in literals; an escape string says them without the character."""

    def escaped(match: re.Match[str]) -> str:
        text = match.group(2)
        if "{" not in text and "}" not in text:
            return match.group(0)
        body = text if match.group(1) else text.replace("\\", "\\\\")
        return "E'" + body.replace("{", "\\x7b").replace("}", "\\x7d") + "'"

    return _LITERAL.sub(escaped, statement)
