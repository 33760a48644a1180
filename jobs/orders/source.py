"""A file as text: UTF-8 (with or without a byte order mark), and where exactly it is not."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TextIO

from jobs.orders.model import Problem

_PIECE = 1 << 20


def opened(path: Path, *, newline: str | None) -> TextIO:
    """The file as text, without its byte order mark. Reading raises UnicodeDecodeError if it is not UTF-8."""
    return path.open(encoding="utf-8-sig", newline=newline)


def bad_byte(path: Path) -> Problem:
    """Where the file stops being UTF-8: line and byte of the line. Called after a UnicodeDecodeError."""
    offset, byte, marked = _first_bad(path)
    if offset == 0 and byte in {"byte 0xFF", "byte 0xFE"}:
        return Problem(1, 1, "the file is UTF-16, not UTF-8", "convert it: iconv -f UTF-16 -t UTF-8")
    line, line_start, at = 1, 3 if marked else 0, 0
    with path.open(
        encoding="latin-1", newline=""
    ) as file:  # a character a byte, split at every kind of break
        while (piece := file.readline(_PIECE)) and at + len(piece) <= offset:
            at += len(piece)
            if piece.endswith(("\n", "\r")):
                line, line_start = line + 1, at
    return Problem(
        line,
        offset - line_start + 1,
        f"{byte} is not UTF-8",
        "save the file as UTF-8; it is probably Windows-1252: iconv -f WINDOWS-1252 -t UTF-8",
    )


def _first_bad(path: Path) -> tuple[int, str, bool]:
    """Offset and name of the first byte that is not UTF-8, and whether the file has a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    at, marked = 0, False
    with path.open("rb") as file:
        while True:
            chunk = file.read(_PIECE)
            marked = marked or (at == 0 and chunk.startswith(codecs.BOM_UTF8))
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                return at - pending + error.start, f"byte 0x{error.object[error.start]:02X}", marked
            if not chunk:  # mended since it was read
                return at, "the end of the file", marked
            at += len(chunk)
