"""A purchase order as CSV: a header line, then a line of fields for each line of the order.

Columns: sku, product_name, quantity, unit_cost, and, if wanted, product_url, merchant, merchant_name,
order_number, in any order, whatever their case, spaces and underscores. Fields are separated by comma,
semicolon or tab: the one that makes most sense of the header. Rows that are empty all over are skipped. One
row has at most 1 Mi characters, one field 128 Ki (the csv module's limit), so memory is bounded whatever
the file holds.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from jobs.orders import fields, source
from jobs.orders.model import Fact, FactName, Item, Problem, Seen

ROW_LIMIT = 1 << 20
DELIMITERS = ",;\t"

_QUOTED = re.compile(r'"(?:[^"]|"")*+"')
_BREAK = re.compile(r"\r\n|\r|\n")


class _RowTooLong(Exception):
    pass


class _Lines:
    """The physical lines of the file, for csv.reader; remembers those of the row that is being read."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.delimiter = ","
        self.number = 0  # of the line read last
        self.row: list[str] = []
        self._size = 0

    def begin_row(self) -> None:
        self.row, self._size = [], 0

    @property
    def row_begins(self) -> int:
        return self.number - len(self.row) + 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(ROW_LIMIT + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.row.append(line)
        self._size += len(line)
        if self._size > ROW_LIMIT:
            raise _RowTooLong
        return line


def scan(path: Path, seen: Seen) -> Iterator[Item]:
    """Everything the file holds, in its order. After a fault of its structure nothing more of it is read.

    Raises OSError when the file cannot be read.
    """
    with source.opened(path, newline="") as file:
        lines = _Lines(file)
        try:
            yield from _items(lines, seen)
        except UnicodeDecodeError:
            yield source.bad_byte(path)
        except (_RowTooLong, csv.Error) as error:
            yield _structure(lines, str(error))


def _items(lines: _Lines, seen: Seen) -> Iterator[Item]:
    first = next((line for line in lines if line.strip()), "")
    if not first:
        yield Problem(1, 1, "the file is empty", f"begin it with the line {','.join(fields.LINE_FIELDS)}")
        return
    lines.delimiter = delimiter = _delimiter(first)
    lines.row = [first]
    header = next(csv.reader([first], delimiter=delimiter, strict=True))
    problems = list(_header_problems(header, lines.number))
    yield from problems
    if problems:
        return
    names = [fields.canonical(name) or "" for name in header]
    facts: dict[str, str] = {}
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    rows = 0
    while True:
        lines.begin_row()
        row = next(reader, None)
        if row is None:
            break
        if not any(row) or not any(map(str.strip, row)):
            continue
        rows += 1
        yield from _row(names, row, lines.row_begins, facts, seen)
    if not rows:
        yield Problem(lines.number, 1, "the file has a header and no lines", "add the lines of the order")


def _row(names: list[str], row: list[str], line: int, facts: dict[str, str], seen: Seen) -> Iterator[Item]:
    if len(row) != len(names):
        column = min(len(row), len(names)) + 1
        yield Problem(
            line,
            column,
            f"{len(row)} fields where the header has {len(names)}",
            "make them equal; put a field that contains the separator in double quotes",
        )
        return
    cells = dict(zip(names, row, strict=True))
    for fact in fields.FACTS:
        if fact in cells and facts.get(fact) != cells[fact]:
            yield _fact(fact, cells[fact], line, names.index(fact) + 1)
            facts[fact] = cells[fact]
    made = fields.order_line(cells, line, seen)
    if isinstance(made, list):
        for name, refused in made:
            yield Problem(line, names.index(name) + 1, refused.what, refused.remedy)
    else:
        yield made


def _fact(name: FactName, value: str, line: int, column: int) -> Item:
    try:
        return Fact(name, fields.fact(name, value), line, column)
    except fields.Refused as refused:
        return Problem(line, column, refused.what, refused.remedy)


def _delimiter(header: str) -> str:
    def known(delimiter: str) -> int:
        return sum(fields.canonical(name.strip(' "')) is not None for name in header.split(delimiter))

    return max(DELIMITERS, key=known)


def _header_problems(header: list[str], line: int) -> Iterator[Problem]:
    allowed = ", ".join((*fields.LINE_FIELDS, *fields.FACTS))
    known = [fields.canonical(name) for name in header]
    if "\0" in "".join(header):
        yield Problem(line, 1, "the header contains NUL bytes", "convert it: iconv -f UTF-16 -t UTF-8")
        return
    if not any(known):
        yield Problem(
            line, 1, "this is not a header", f"begin the file with the line {','.join(fields.LINE_FIELDS)}"
        )
        return
    for column, (name, field) in enumerate(zip(header, known, strict=True), 1):
        if field is None:
            yield Problem(
                line, column, f"unknown column {name[:40]!r}", f"remove or rename it; allowed are {allowed}"
            )
        elif field in known[: column - 1]:
            yield Problem(line, column, f"a second column for {field}", "keep one of them")
    for field in fields.LINE_FIELDS:
        if field not in known and field not in fields.OPTIONAL:
            yield Problem(line, 1, f"there is no column {field}", f"add it; allowed are {allowed}")


def _structure(lines: _Lines, error: str) -> Problem:
    """Where and why the file stops being CSV."""
    open_quote = _open_quote("".join(lines.row), lines.row_begins, lines.delimiter)
    if open_quote and (not error or "unexpected end" in error or "field limit" in error):
        line, column = open_quote
        return Problem(
            line,
            column,
            "a double quote opens here and is never closed",
            "close it, or double it if it is meant",
        )
    if not error or "field limit" in error:
        return Problem(
            lines.row_begins,
            1,
            f"a field of over {csv.field_size_limit():,} characters, or a row of over {ROW_LIMIT:,}",
            "look for a missing line break",
        )
    return Problem(
        lines.number,
        1,
        f"this is not CSV: {error}, in the row that begins on line {lines.row_begins}",
        'write a double quote inside a quoted field twice: "5"" pipe"',
    )


def _open_quote(row: str, line: int, delimiter: str) -> tuple[int, int] | None:
    """Line and field of the quote that is still open at the end of the row; None if there is none."""
    at, field = 0, 1
    while at < len(row):
        if row[at] == '"':
            closed = _QUOTED.match(row, at)
            if closed is None:
                return line + len(_BREAK.findall(row, 0, at)), field
            at = closed.end()
        while at < len(row) and row[at] != delimiter:
            at += 1
        at, field = at + 1, field + 1
    return None
