"""A purchase order from a file, CSV or JSON, checked whole before its first line is used.

The file is read twice: `read_order` checks everything and tells every problem at once; `OrderFile.lines`
then yields the lines as they are read again, so that an order of any length takes the same memory. A file
that changes in between is refused at the end, when its lines are written but not yet committed.

Known weakness: a change in between that keeps the file's size and time of change is not seen. Pipes are
refused, since they cannot be read twice.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.orders import csv_file, fields, json_file, skus
from jobs.orders.model import Fact, FactName, Item, OrderHeader, OrderLine, Problem, Seen
from toolkit.errors import InputFileError, UsageError

SHOWN = 20
"""Problems that an error tells in full; the others are only counted."""

_OPTIONS: dict[FactName, str] = {"merchant": "--merchant", "order_number": "--number"}
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class OrderFile:
    """An order whose file was found good: `count` lines from 1 up, to be read with `lines`."""

    path: Path
    header: OrderHeader
    count: int
    _stamp: _Stamp

    def lines(self) -> Iterator[OrderLine]:
        """The lines, in the file's order. Raises InputFileError when the file is not what it was."""
        yielded = 0
        for item in _checked(self.path, skus.forgotten):
            if isinstance(item, OrderLine):
                yielded += 1
                yield item
            elif isinstance(item, Problem):
                raise _failed(self.path, [item], 1)
        if yielded != self.count or _stamp(self.path) != self._stamp:
            raise InputFileError(
                f"{self.path}: the file changed while it was being read",
                remedy="import it again when nothing writes to it",
            )


def read_order(path: Path | str, merchant: str | None = None, number: str | None = None) -> OrderFile:
    """Check the whole file; `merchant` (an id) and `number` name the order where the file does not.

    Raises InputFileError with the first problem's line and column, and up to 20 problems in its message, one
    a line, as `file:line:column: what; what to do`; UsageError when merchant or number cannot be used.
    """
    path = Path(path)
    given = _options({"merchant": merchant, "order_number": number})
    stamp = _stamp(path)
    found = _Found(given)
    with skus.remembered() as seen:
        for item in _checked(path, seen):
            found.add(item)
    header = found.header()
    if isinstance(header, OrderHeader):
        return OrderFile(path, header, found.count, stamp)
    raise _failed(path, *header)


class _Found:
    """What the items of a file come to."""

    def __init__(self, given: dict[FactName, str]) -> None:
        self.count = 0
        self._given = given
        self._facts: dict[FactName, Fact] = {}
        self._problems: list[Problem] = []
        self._total = 0

    def add(self, item: Item) -> None:
        if isinstance(item, OrderLine):
            self.count += 1
        elif isinstance(item, Problem):
            self._add(item)
        else:
            self._add_fact(item)

    def header(self) -> OrderHeader | tuple[list[Problem], int]:
        """The order's header, or the first problems and how many there are in all."""
        values = {name: fact.value for name, fact in self._facts.items()} | self._given
        if not self._total:
            for name, option in _OPTIONS.items():
                if name not in values:
                    column = f"or put {name} into the file (a column in CSV, a key in JSON)"
                    self._add(Problem(1, 1, f"the file does not say the {name}", f"give {option}, {column}"))
        if self._total:
            return self._problems, self._total
        return OrderHeader(values["merchant"], values.get("merchant_name"), values["order_number"])

    def _add(self, problem: Problem) -> None:
        self._total += 1
        if self._total <= SHOWN:
            self._problems.append(problem)

    def _add_fact(self, fact: Fact) -> None:
        given = self._given.get(fact.name)
        before = self._facts.setdefault(fact.name, fact)
        if given is not None and given != fact.value:
            what = f"{fact.name} is {fact.value!r} here and {given!r} in {_OPTIONS[fact.name]}"
            self._add(Problem(fact.line, fact.column, what, "correct the one that is wrong"))
        elif before.value != fact.value:
            what = f"{fact.name} is {fact.value!r} here and {before.value!r} on line {before.line}"
            self._add(Problem(fact.line, fact.column, what, "put one order into a file"))


def _options(options: dict[FactName, str | None]) -> dict[FactName, str]:
    given: dict[FactName, str] = {}
    for name, value in options.items():
        if value is not None:
            try:
                given[name] = fields.fact(name, value)
            except fields.Refused as refused:
                raise UsageError(f"{_OPTIONS[name]}: {refused.what}", remedy=refused.remedy) from None
    return given


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise InputFileError(
            f"{path}: this is not a file that can be read twice", remedy="save the order as a file"
        )
    return status.st_ino, status.st_size, status.st_mtime_ns


def _checked(path: Path, seen: Seen) -> Iterator[Item]:
    """The items of the file by its form: JSON when it begins as JSON does or is named so, else CSV."""
    try:
        with path.open("rb") as file:
            begin = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        json_like = begin in {b"{", b"["} or path.suffix.lower() == ".json"
        scan: Callable[[Path, Seen], Iterator[Item]] = json_file.scan if json_like else csv_file.scan
        yield from scan(path, seen)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputFileError:
    return InputFileError(
        f"{path}: cannot be read: {error.strerror}", remedy="check the path and its permissions"
    )


def _failed(path: Path, problems: list[Problem], total: int) -> InputFileError:
    told = [f"{path}:{p.line}:{p.column}: {p.what}; {p.remedy}" for p in problems]
    if total > len(told):
        told.append(f"and {total - len(told):,} more")
    return InputFileError(
        "\n".join(told),
        line=problems[0].line,
        column=problems[0].column,
        remedy="nothing was imported; mend the file and import it again",
    )
