"""A purchase order as JSON: `{"merchant": …, "orderNumber": …, "lines": [{"sku": …, …}, …]}`.

Read in chunks with the standard library's own decoder, one element of `lines` at a time: the streaming
library ijson does not tell where in the file a value stands. One element has at most 1 Mi characters, so
memory is bounded whatever the file holds. Numbers are kept as they are written: no float comes near a unit
cost, which may also be a string (as Prisma writes decimals). Keys are known whatever their case, spaces and
underscores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TextIO, cast

from jobs.orders import fields, source
from jobs.orders.model import Fact, FactName, Item, Problem, Seen

CHUNK = 1 << 16
VALUE_LIMIT = 1 << 20

_SPACE = re.compile(r"[ \t\n\r]*")
_KEY = re.compile(r'[ \t\n\r,]*(")')
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_LONGEST_TOKEN = 16  # the longest literal or escape, which the end of a chunk may have cut


class _Number(str):
    """A number, as it is written."""

    __slots__ = ()


class _Object(list[tuple[str, Any]]):
    """An object's keys and values, with those that come twice."""


_DECODER = json.JSONDecoder(
    object_pairs_hook=_Object, parse_float=_Number, parse_int=_Number, parse_constant=_Number
)


class _Broken(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.what)
        self.problem = problem


class _Window:
    """A moving window on the file: `at` is the next character; `line` and `column` are those of `_mark`."""

    def __init__(self, file: TextIO, chunk: int) -> None:
        self._file, self._chunk = file, chunk
        self._line, self._column, self._mark = 1, 1, 0
        self._ended = False
        self.text, self.at = "", 0

    def peek(self) -> str:
        """The next character that is not white space; '' at the end of the file."""
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # matches the empty string
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._fill():
                return ""

    def take(self, expected: str) -> str:
        """The next character, which must be one of those expected."""
        found = self.peek()
        if found and found in expected:
            self.at += 1
            return found
        wanted = " or ".join(expected)
        raise self.broken(self.at, f"expected {wanted}, found {found or 'the end of the file'}")

    def value(self) -> Any:
        """The next JSON value, whole."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # A window that ends inside the value gives errors at its very end, or a string without one.
                cut = error.pos >= len(self.text) - _LONGEST_TOKEN or error.msg.startswith("Unterminated")
                if self._ended or not cut:
                    raise self.broken(error.pos, f"this is not JSON: {error.msg}") from None
            except RecursionError:
                raise self.broken(self.at, "arrays or objects are nested too deeply here") from None
            else:
                if end < len(self.text) or self._ended:  # else a number might go on
                    self.at = end
                    return value
            if len(self.text) - self.at > VALUE_LIMIT:
                what = f"a value of more than {VALUE_LIMIT:,} characters, or without an end, begins here"
                raise self.broken(self.at, what)
            self._fill()

    def place(self, index: int) -> tuple[int, int]:
        """Line and column of a character of the window that is not before the last mark."""
        breaks = self.text.count("\n", self._mark, index)
        if not breaks:
            return self._line, self._column + index - self._mark
        return self._line + breaks, index - self.text.rfind("\n", self._mark, index)

    def mark(self) -> tuple[int, int]:
        """Line and column of the next character; places are counted from here on."""
        self._line, self._column = self.place(self.at)
        self._mark = self.at
        return self._line, self._column

    def places_of_values(self) -> dict[str, tuple[int, int]]:
        """Where the values of the object at the mark stand, by key (the last of equal ones) and by field."""
        places: dict[str, tuple[int, int]] = {}
        at = self._mark + 1
        while key_at := _KEY.match(self.text, at):
            key, end = _DECODER.raw_decode(self.text, key_at.start(1))
            at = _COLON.match(self.text, end).end()  # type: ignore[union-attr]  # it was decoded before
            places[key] = places[fields.canonical(key) or key] = self.place(at)
            at = _DECODER.raw_decode(self.text, at)[1]
        return places

    def broken(self, index: int, what: str, remedy: str = "mend the JSON there") -> _Broken:
        return _Broken(Problem(*self.place(index), what, remedy))

    def _fill(self) -> bool:
        chunk = self._file.read(self._chunk)
        self._ended = not chunk
        self.mark()
        self.text, self.at, self._mark = self.text[self.at :] + chunk, 0, 0
        return not self._ended


def scan(path: Path, seen: Seen, chunk: int = CHUNK) -> Iterator[Item]:
    """Everything the file holds, in its order. After a fault of its structure nothing more of it is read.

    Raises OSError when the file cannot be read.
    """
    with source.opened(path, newline=None) as file:
        try:
            yield from _document(_Window(file, chunk), seen)
        except UnicodeDecodeError:
            yield source.bad_byte(path)
        except _Broken as broken:
            yield broken.problem


def _document(window: _Window, seen: Seen) -> Iterator[Item]:
    form = 'write {"merchant": "…", "orderNumber": "…", "lines": […]}'
    first = window.peek()
    if first != "{":
        raise window.broken(
            window.at, "the document is not an object" if first else "the file is empty", form
        )
    window.take("{")
    names: set[str] = set()
    more = window.peek() != "}"
    while more:
        name = _key(window, names)
        window.take(":")
        window.peek()
        if name == "lines":
            yield from _lines(window, seen)
        else:
            yield _fact(name, *window.mark(), window.value())
        more = window.take(",}") == ","
    if not names:
        window.take("}")
    if window.peek():
        raise window.broken(window.at, "something follows the end of the document", "remove it")
    if "lines" not in names:
        raise window.broken(window.at, "the document has no lines", form)


def _key(window: _Window, names: set[str]) -> FactName | Literal["lines"]:
    """The next key of the document. An unknown or repeated one ends the reading: its value may be huge."""
    if window.peek() != '"':
        raise window.broken(window.at, "expected a key in double quotes")
    place = window.mark()
    key = window.value()
    name = "lines" if key.lower() == "lines" else fields.canonical(key)
    if name not in {"lines", *fields.FACTS}:
        allowed = "merchant, merchantName, orderNumber, lines"
        raise _Broken(
            Problem(*place, f"unknown key {key[:40]!r}", f"remove or rename it; allowed are {allowed}")
        )
    if name in names:
        raise _Broken(Problem(*place, f"a second {key!r}", "keep one of them"))
    names.add(name)
    return cast("FactName", name)


def _fact(name: FactName, line: int, column: int, value: Any) -> Item:
    try:
        if not isinstance(value, str) or isinstance(value, _Number):
            raise fields.Refused(f"{name} is not a text", "write it in double quotes")
        return Fact(name, fields.fact(name, value), line, column)
    except fields.Refused as refused:
        return Problem(line, column, refused.what, refused.remedy)


def _lines(window: _Window, seen: Seen) -> Iterator[Item]:
    if window.peek() != "[":
        raise window.broken(window.at, "lines is not an array", "write the lines in [ and ]")
    window.take("[")
    if window.peek() == "]":
        raise window.broken(window.at, "the order has no lines", "add the lines of the order")
    more = True
    while more:
        if not window.peek():
            raise window.broken(window.at, "the file ends in the middle of the lines")
        line, column = window.mark()
        value = window.value()
        if isinstance(value, _Object):
            yield from _line(window, value, line, column, seen)
        else:
            yield Problem(line, column, "this line of the order is not an object", "write it in { and }")
        more = window.take(",]") == ","


def _line(window: _Window, pairs: _Object, line: int, column: int, seen: Seen) -> Iterator[Item]:
    """The order line of an element that `window` has just read, or its problems."""
    cells: dict[str, str] = {}
    refused: list[tuple[str, fields.Refused]] = []
    for key, value in pairs:
        name = fields.canonical(key)
        try:
            if name not in fields.LINE_FIELDS:
                allowed = "sku, productName, quantity, unitCost, productUrl"
                raise fields.Refused(
                    f"unknown key {key[:40]!r}", f"remove or rename it; allowed are {allowed}"
                )
            if name in cells:
                raise fields.Refused(f"a second {key!r}", "keep one of them")
            cells[name] = _cell(name, value)
        except fields.Refused as refusal:
            refused.append((key, refusal))
    if not refused:
        made = fields.order_line(cells, line, seen)
        if not isinstance(made, list):
            yield made
            return
        refused = made
    places = window.places_of_values()
    for name, found in refused:
        yield Problem(*places.get(name, (line, column)), found.what, found.remedy)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise fields.Refused(
            f"{name} is neither text nor number", "write a text in double quotes or a number"
        )
    if isinstance(value, _Number) and name not in {"quantity", "unit_cost"}:
        raise fields.Refused(f"{name} is a number", "write it in double quotes")
    return value
