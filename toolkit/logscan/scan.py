"""Blocks of a log → Report. Pure.

One pass of a vectorised search for all needles at once finds the lines worth reading; the others cost nothing but that.
An error told on several lines (the report's `❌ [RETRY] …` and three lines below it what Prisma said) is one error: an
unknown one that a foreign key error follows within CONTEXT bytes, no empty line between, is its beginning.

What a rehearsal did in a throw-away database is left out, where a log of PostgreSQL names the database as the embedded one does.

Known weakness: of lines of several processes mixed in one log, a many-lined error may be torn apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ahocorasick_rs import BytesAhoCorasick, MatchKind
from msgspec.structs import replace

from toolkit import redact
from toolkit.jobspec import CONTROL_CONSTRAINT
from toolkit.logscan.lines import NEEDLES, Finding, Kind, minute, read

CONTEXT: Final = 1024
"""Bytes before a line in which its time or its beginning may stand."""
EXAMPLES: Final = 3
"""Of each kind and key, the first ones."""
MOST_KEYS: Final = 500
"""Different unknown errors that are told apart; what comes after is `(others)`."""
OTHERS: Final = "(others)"
_REHEARSED: Final = re.compile(rb"[^\n]*\] [0-9A-Z]{5} rehearse_")


@dataclass(frozen=True, slots=True)
class Example:
    """A line that was counted, and where it begins: bytes from the start of the (unpacked) log."""

    kind: Kind
    key: str
    minute: str
    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class Minute:
    """What one release did in one minute; both '' where the log does not say."""

    minute: str
    release: str
    fk_errors: int
    completed: int
    skipped: int
    errors: int


@dataclass(frozen=True, slots=True)
class Report:
    """A log, counted. Mappings: constraint, reason or error → how often, the most frequent first."""

    bytes: int
    fk_errors: Mapping[str, int]
    fk_releases: Mapping[str, Mapping[str, int]]
    """The same by constraint and release; '' where the log does not say which."""
    completed: int
    skipped: Mapping[str, int]
    errors: Mapping[str, int]
    planted: int
    """Foreign key errors that verify-deploy planted: in no other figure."""
    minutes: tuple[Minute, ...]
    examples: tuple[Example, ...]


_COLUMNS: Final = {
    Kind.FK_ERROR: "fk_errors",
    Kind.COMPLETED: "completed",
    Kind.SKIPPED: "skipped",
    Kind.ERROR: "errors",
}


def scan(blocks: Iterable[bytes], progress: Callable[[int], object] = lambda _: None) -> Report:
    """Count what the log says. Blocks hold whole lines; `progress` hears the bytes done, after each block."""
    searcher = BytesAhoCorasick([one.encode() for one in NEEDLES], matchkind=MatchKind.LeftmostFirst)
    tally = _Tally()
    before = b""
    done = 0
    for block in blocks:
        end = -1
        for _, start, _ in searcher.find_matches_as_indexes(block):
            if start < end:
                continue  # another needle of a line that has been read
            begin = block.rfind(b"\n", 0, start) + 1
            end = block.find(b"\n", start)
            end = len(block) if end < 0 else end
            line = block[begin:end]
            if b" rehearse_" in line and _REHEARSED.match(line):
                continue
            if (found := read(line)) is not None:
                tally.add(found, line, done + begin, block[max(0, begin - CONTEXT) : begin], before)
        done += len(block)
        before = block[-CONTEXT:] if len(block) >= CONTEXT else (before + block)[-CONTEXT:]
        progress(done)
    return tally.report(done)


@dataclass(slots=True)
class _Tally:
    counts: dict[Kind, Counter[str]] = field(default_factory=lambda: {kind: Counter() for kind in Kind})
    minutes: Counter[tuple[str, str, Kind]] = field(default_factory=Counter)
    fk_releases: dict[str, Counter[str]] = field(default_factory=dict)
    examples: dict[tuple[Kind, str], list[Example]] = field(default_factory=dict)
    pending: tuple[Finding, bytes, int] | None = None
    """An unknown error that may yet turn out to be the beginning of a foreign key error."""
    last: str = ""

    def add(self, found: Finding, line: bytes, offset: int, above: bytes, before: bytes) -> None:
        """`above`: what stands before the line in its block; `before`: the end of the block before that."""
        if self.pending is not None or not found.minute:
            context = above if len(above) >= CONTEXT else (before + above)[-CONTEXT:]
            found = self._with_beginning(found, offset, context)
        if found.kind is Kind.ERROR:
            self.pending = (found, line, offset)
        else:
            self._count(found, line, offset)

    def _with_beginning(self, found: Finding, offset: int, context: bytes) -> Finding:
        pending, self.pending = self.pending, None
        above = ""
        if pending is not None:
            first, line, begin = pending
            between = context[-(offset - begin) :] if offset - begin <= len(context) else None
            if found.kind is Kind.FK_ERROR and between is not None and _one_error(between, found):
                above = first.minute
            else:
                self._count(first, line, begin)
        at = found.minute or above or _nearest(context) or self.last
        return replace(found, minute=at)

    def _count(self, found: Finding, line: bytes, offset: int) -> None:
        self.last = found.minute or self.last
        if found.kind is Kind.FK_ERROR and found.key == CONTROL_CONSTRAINT:
            found = replace(found, kind=Kind.PLANTED)
        counts = self.counts[found.kind]
        key = found.key if found.key in counts or len(counts) < MOST_KEYS else OTHERS
        counts[key] += 1
        self.minutes[found.minute, found.release, found.kind] += 1
        if found.kind is Kind.FK_ERROR:
            self.fk_releases.setdefault(key, Counter())[found.release] += 1
        kept = self.examples.setdefault((found.kind, key), [])
        if len(kept) < EXAMPLES:
            text = redact.text(line[:400].decode("utf-8", "replace").strip())
            kept.append(Example(found.kind, key, found.minute, offset, text))

    def report(self, size: int) -> Report:
        """All that was counted."""
        if self.pending is not None:
            self._count(*self.pending)
            self.pending = None
        places = sorted({(at, release) for at, release, kind in self.minutes if kind in _COLUMNS})
        return Report(
            bytes=size,
            fk_errors=dict(self.counts[Kind.FK_ERROR].most_common()),
            fk_releases={key: dict(counts) for key, counts in self.fk_releases.items()},
            completed=self.counts[Kind.COMPLETED].total(),
            skipped=dict(self.counts[Kind.SKIPPED].most_common()),
            errors=dict(self.counts[Kind.ERROR].most_common()),
            planted=self.counts[Kind.PLANTED].total(),
            minutes=tuple(
                Minute(
                    at, release,
                    **{column: self.minutes[at, release, kind] for kind, column in _COLUMNS.items()},
                )
                for at, release in places
            ),
            examples=tuple(example for kept in self.examples.values() for example in kept),
        )  # fmt: skip


def _one_error(between: bytes, found: Finding) -> bool:
    """Whether an error line and the foreign key line below it are one: no empty line and no time between them."""
    lines = between.decode("utf-8", "replace").splitlines()
    return not found.minute and len(lines) <= 8 and all(line.strip() for line in lines)


def _nearest(context: bytes) -> str:
    """The minute of the nearest line above that has one."""
    for line in reversed(context.decode("utf-8", "replace").splitlines()):
        if at := minute(line):
            return at
    return ""
