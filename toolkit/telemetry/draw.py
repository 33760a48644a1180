"""The rows of a waterfall → lines for a terminal. Pure, no colour: every piece of a line carries a style name
(STYLES) that the caller turns into one.

    for line in draw(arrange(read_spans(data)), width=100):
        print(line)                               # plain; or line.segments, each with .text and .style

A wait that would dwarf the rest has its bar cut short (`░╱░`), and the rest keeps its scale.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from toolkit.telemetry.waterfall import Row, Trace

STYLES: Final = ("title", "tree", "name", "bar", "wait", "error", "warning", "ok", "time", "detail", "link")
LONG_WAIT = 0.4
"""A wait above this share of a trace is cut short on the time line."""
CUT_WAIT = 0.12
"""Share of the bar column that a wait keeps when it is cut."""
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a line in one style."""

    text: str
    style: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the waterfall; as a string it is plain."""

    segments: tuple[Segment, ...]

    def __str__(self) -> str:
        return "".join(segment.text for segment in self.segments).rstrip()


def draw(traces: Sequence[Trace], *, width: int = 100, max_rows: int = 200) -> list[Line]:
    """The traces as lines of at most `width` columns (at least 64), at most `max_rows` rows a trace."""
    lines: list[Line] = []
    for trace in traces:
        if lines:
            lines.append(Line(()))
        lines += _draw(trace, max(64, width), max_rows)
    return lines


def _draw(trace: Trace, width: int, max_rows: int) -> list[Line]:
    columns = _Columns.of(trace, width)
    line_of_time = _Timeline.of(trace)
    total = duration((trace.end_ns - trace.start_ns) / 1e9)
    at = f"{datetime.fromtimestamp(trace.start_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC"
    title = [Segment(f"trace {trace.trace_id}", "title"), Segment(f"  {at}", "detail")]
    if cells(title[0].text + title[1].text) + len(total) + 2 <= width:
        title.append(Segment(f"  {total}", "time"))
    lines = [Line(tuple(title))]
    lines += [Line((Segment(fit(f"↩ {link}", width), "link"),)) for link in trace.links]
    lines += [
        Line((Segment(fit(row.mark, width), row.mark_style),))
        for row in trace.rows
        if row.mark_style != "detail" and cells(row.mark) > columns.mark
    ]
    lines += [_line(row, columns, line_of_time) for row in trace.rows[:max_rows]]
    if (more := len(trace.rows) - max_rows) > 0:
        lines.append(Line((Segment(f"… and {more} more", "detail"),)))
    return lines


@dataclass(frozen=True, slots=True)
class _Columns:
    """Widths: name, bar, duration, mark; one or two blanks between."""

    name: int
    bar: int
    time: int
    mark: int

    @classmethod
    def of(cls, trace: Trace, width: int) -> _Columns:
        time = 10
        widest = max(cells(row.tree + row.name) for row in trace.rows)
        name = min(widest, width * 35 // 100)
        mark = min(max(cells(row.mark) for row in trace.rows), width * 30 // 100)
        return cls(name, min(60, width - name - time - mark - 4), time, mark)


def _line(row: Row, columns: _Columns, timeline: _Timeline) -> Line:
    name = fit(row.name, columns.name - cells(row.tree))
    gap = columns.name - cells(row.tree) - cells(name) + 1
    return Line(
        (
            Segment(row.tree, "tree"),
            Segment(name, "detail" if row.style == "wait" else "name"),
            Segment(" " * gap, "name"),
            Segment(_bar(row, columns.bar, timeline), row.style),
            Segment(f"{duration(row.seconds):>{columns.time}}  ", "time"),
            Segment(fit(row.mark, columns.mark), row.mark_style),
        )
    )


@dataclass(frozen=True, slots=True)
class _Timeline:
    """Maps a time to a place from 0 to 1. The long wait, if there is one, takes only CUT_WAIT of it."""

    start: int
    end: int
    cut: tuple[int, int] | None

    @classmethod
    def of(cls, trace: Trace) -> _Timeline:
        start, end = trace.start_ns, trace.end_ns
        waits = [(row.start_ns, row.end_ns) for row in trace.rows if row.style == "wait"]
        longest = max(waits, key=lambda wait: wait[1] - wait[0], default=None)
        long = longest is not None and longest[1] - longest[0] > LONG_WAIT * (end - start)
        return cls(start, end, longest if long else None)

    def place(self, time: int) -> float:
        """0 at the start, 1 at the end."""
        if self.cut is None:
            return (time - self.start) / max(1, self.end - self.start)
        begin, until = self.cut
        rest = max(1, self.end - self.start - (until - begin))
        linear = (min(time, begin) - self.start + max(0, time - until)) / rest * (1 - CUT_WAIT)
        return linear + CUT_WAIT * (min(max(time, begin), until) - begin) / (until - begin)


def _bar(row: Row, width: int, timeline: _Timeline) -> str:
    """The row's bar in a column of `width`, to an eighth of a character at its end; never empty."""
    left = min(int(timeline.place(row.start_ns) * width), width - 1)
    length = min(timeline.place(row.end_ns) * width, width) - left
    if row.style == "wait":
        bar = "░" * max(1, round(length))
        if timeline.cut == (row.start_ns, row.end_ns) and len(bar) > 2:
            bar = bar[: len(bar) // 2] + "╱" + bar[len(bar) // 2 + 1 :]
    else:
        whole = int(length)
        bar = ("█" * max(0, whole) + _EIGHTHS[int((length - whole) * 8)]).rstrip() or "▏"
    return f"{' ' * left}{bar}"[:width].ljust(width)


def duration(seconds: float) -> str:
    """A time a person reads: `0.42 ms`, `302 ms`, `1.02 s`, `2 min 05 s`, `1 h 02 min`."""
    ms = seconds * 1000
    if ms < 9.995:
        return f"{ms:.2f} ms" if ms < 0.995 else f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if seconds < 59.995:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def cells(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(0 if unicodedata.combining(c) or c == "\ufe0f" else 2 if unicodedata.east_asian_width(c) in "WF" else 1
               for c in text)  # fmt: skip


def fit(text: str, width: int) -> str:
    """The text, cut with `…` when it is wider than `width` columns; line breaks become blanks."""
    text = " ".join(text.split()) if not text.isprintable() else text
    if cells(text) <= width:
        return text
    while text and cells(text) > width - 1:
        text = text[:-1]
    return f"{text}…"[: max(0, width)]
