"""A log as blocks of whole lines, from a file, a gzip file (known by its first bytes, whatever its name) or a pipe.

Memory stays at a few blocks whatever the size of the log. A line longer than LONGEST bytes is cut there.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Final

from toolkit.errors import InputFileError

BLOCK: Final = 128 << 10
"""Bytes read at a time: larger ones cost a page fault for each of their pages, every time."""
LONGEST: Final = 16 << 20

_GZIP: Final = b"\x1f\x8b"


@contextmanager
def opened(name: str) -> Iterator[Iterator[bytes]]:
    """The blocks of the log `name`, `-` for stdin. Raises InputFileError when it cannot be read, then or on the way."""
    try:
        with _raw(name) as raw:
            yield _told(name, lines(_plain(raw)))
    except OSError as error:
        raise _unreadable(name, error.strerror or str(error)) from error


@contextmanager
def _raw(name: str) -> Iterator[BufferedReader]:
    if name == "-":
        yield sys.stdin.buffer  # type: ignore[misc]  # a BufferedReader wherever there is a stdin
        return
    with Path(name).open("rb") as file:
        yield file


def _plain(raw: BufferedReader) -> IO[bytes]:
    return gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == _GZIP else raw  # type: ignore[return-value]


def _told(name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from blocks
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _unreadable(name, f"broken gzip data: {error}") from error


def _unreadable(name: str, why: str) -> InputFileError:
    return InputFileError(
        f"{name} cannot be read: {why}",
        remedy="give a readable file, plain or gzip, or `-` and the log on stdin",
    )


def lines(raw: IO[bytes], size: int = BLOCK) -> Iterator[bytes]:
    """Blocks that end with a newline; the last one as the log ends."""
    kept: list[bytes] = []
    length = 0
    while block := raw.read(size):
        cut = block.rfind(b"\n") + 1
        if not cut and length < LONGEST:
            kept.append(block)
            length += len(block)
            continue
        cut = cut or len(block)
        yield b"".join((*kept, block[:cut])) if kept else block[:cut]
        kept = [block[cut:]] if cut < len(block) else []
        length = len(block) - cut
    if kept:
        yield b"".join(kept)
