"""Which skus a file has had so far, in bounded memory: an SQLite table in a private temporary file.

A table of 1,000,000 skus takes 2 MB of memory (SQLite's page cache) and some 40 MB of the temporary folder,
which are given back at the end. Exact: skus are compared as they are, not by hash.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from jobs.orders.model import Seen


@contextmanager
def remembered() -> Iterator[Seen]:
    """A Seen that remembers until the block ends."""
    with closing(sqlite3.connect("", isolation_level=None)) as table:  # "": a temporary file of our own
        table.execute("PRAGMA journal_mode = OFF")
        table.execute("CREATE TABLE sku (name TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        table.execute("BEGIN")

        def seen(sku: str, line: int) -> int | None:
            added = table.execute("INSERT INTO sku VALUES (?, ?) ON CONFLICT DO NOTHING", (sku, line))
            if added.rowcount:
                return None
            found: int = table.execute("SELECT line FROM sku WHERE name = ?", (sku,)).fetchone()[0]
            return found

        yield seen


def forgotten(_sku: str, _line: int) -> None:
    """A Seen for a file whose skus were checked before."""
