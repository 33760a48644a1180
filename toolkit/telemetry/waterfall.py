"""Spans → a waterfall: a tree with bars on a time line, as lines for a terminal or as data. Pure, no colour:
every piece of a line carries a style name (STYLES) that the caller turns into one.

    for line in draw(arrange(read_spans(data)), width=100):
        print(line)                               # plain; or line.segments, each with .text and .style

The wait in the queue is a row of its own between the enqueue span's end and the run's start; when it would
dwarf the rest its bar is cut short (`░╱░`) and the rest keeps its scale. A run in another trace that a run
links to is named."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from toolkit.telemetry import catalog
from toolkit.telemetry.otlp import SpanRow

STYLES: Final = ("title", "tree", "name", "bar", "wait", "error", "warning", "ok", "time", "detail", "link")
WAIT: Final = "wait in queue"
LONG_WAIT = 0.4
"""A wait above this share of a trace is cut short on the time line."""
CUT_WAIT = 0.12
"""Share of the bar column that a wait keeps when it is cut."""
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Row:
    """A span or the wait before one. `tree` is the drawn branch, times are ns since 1970, `mark` how it
    ended.
    """

    tree: str
    name: str
    start_ns: int
    end_ns: int
    style: str
    mark: str = ""
    mark_style: str = "detail"
    span: SpanRow | None = None

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Trace:
    """The rows of one trace in the order of the tree, and the links that lead out of it, in words."""

    trace_id: str
    rows: tuple[Row, ...]
    links: tuple[str, ...]

    @property
    def start_ns(self) -> int:
        """When its first row starts."""
        return min(row.start_ns for row in self.rows)

    @property
    def end_ns(self) -> int:
        """When its last row ends."""
        return max(row.end_ns for row in self.rows)


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


# Spans → rows


def arrange(spans: Iterable[SpanRow]) -> list[Trace]:
    """The traces of these spans in the order of time, each as a tree; spans given twice count once."""
    known = {(span.trace_id, span.span_id): span for span in spans}
    traces: dict[str, list[SpanRow]] = {}
    for span in sorted(known.values(), key=lambda span: (span.start_ns, -span.end_ns)):
        traces.setdefault(span.trace_id, []).append(span)
    return [
        Trace(trace_id, tuple(_tree(rows)), tuple(_links(rows, known))) for trace_id, rows in traces.items()
    ]


def _tree(spans: Sequence[SpanRow]) -> list[Row]:
    ids = {span.span_id for span in spans}
    children: dict[str, list[SpanRow]] = {}
    for span in spans:
        children.setdefault(span.parent_id if span.parent_id in ids else "", []).append(span)
    by_id = {span.span_id: span for span in spans}
    rows: list[Row] = []
    seen: set[str] = set()
    # The roots; then, for spans whose parents form a ring, whatever has not been reached.
    for root in [*children.get("", []), *spans]:
        stack: list[tuple[SpanRow, str, str]] = [(root, "", "")]
        while stack:
            span, branch, stem = stack.pop()
            if span.span_id in seen:
                continue
            seen.add(span.span_id)
            rows += _rows_of(span, by_id.get(span.parent_id), branch)
            below = [child for child in children.get(span.span_id, []) if child.span_id not in seen]
            for child in reversed(below):
                last = child is below[-1]
                stack.append((child, stem + ("└ " if last else "├ "), stem + ("  " if last else "│ ")))
    return rows


def _rows_of(span: SpanRow, parent: SpanRow | None, branch: str) -> list[Row]:
    mark, mark_style = _mark(span)
    style = "error" if span.status == "error" else "bar"
    row = Row(branch, span.name, span.start_ns, span.end_ns, style, mark, mark_style, span)
    began = _wait_began(span, parent)
    if began is None or began >= span.start_ns:
        return [row]
    return [Row(_before(branch), WAIT, began, span.start_ns, "wait"), row]


def _before(branch: str) -> str:
    """The branch of a row above the last one of its parent."""
    return branch[:-2] + "├ " if branch else ""


def _wait_began(span: SpanRow, parent: SpanRow | None) -> int | None:
    """When a run's job began to wait: at the end of the enqueue span, or as the run's own record says."""
    if span.kind != "consumer":
        return None
    if parent is not None and parent.kind == "producer":
        return parent.end_ns
    wait = span.attributes.get(catalog.JOB_QUEUE_WAIT)
    return span.start_ns - int(wait * 1e9) if isinstance(wait, int | float) and wait > 0 else None


def _mark(span: SpanRow) -> tuple[str, str]:
    """How a span ended in a few words, and the style of that."""
    attributes = span.attributes
    error = str(attributes.get(catalog.ATTR_ERROR_TYPE) or span.status_message or "error")
    outcome, reason = attributes.get(catalog.JOB_OUTCOME), attributes.get(catalog.JOB_REASON)
    if outcome == "processed":
        return f"✓ processed{_counts(attributes)}", "ok"
    if outcome == "skipped":
        return f"⚠ skipped: {reason}", "warning"
    if outcome:
        return f"✗ {outcome}: {reason or error} ({error})", "error"
    if span.status == "error":
        return f"✗ {error}", "error"
    return _detail(attributes), "detail"


def _counts(attributes: Mapping[str, Any]) -> str:
    counts = {
        key.removeprefix(catalog.JOB_COUNT): value
        for key, value in attributes.items()
        if key.startswith(catalog.JOB_COUNT) and value
    }
    return "".join(f" {name}={count}" for name, count in counts.items())


def _detail(attributes: Mapping[str, Any]) -> str:
    status = attributes.get(catalog.HTTP_STATUS_CODE)
    where = attributes.get(catalog.URL_FULL) or attributes.get(catalog.SERVER_ADDRESS)
    if status is not None or catalog.HTTP_METHOD in attributes:
        return " ".join(str(part) for part in (status, _short_url(str(where or ""))) if part)
    return str(attributes.get(catalog.DB_QUERY_SUMMARY) or "")


def _short_url(url: str) -> str:
    return url.partition("://")[2].partition("?")[0] or url


def _links(spans: Sequence[SpanRow], known: Mapping[tuple[str, str], SpanRow]) -> list[str]:
    """In words, the spans of other traces that these link to."""
    found: dict[str, None] = {}
    for span in spans:
        for link in span.links:
            if link.trace_id != span.trace_id:
                found[_link(span, known.get((link.trace_id, link.span_id)), link.trace_id)] = None
    return list(found)


def _link(span: SpanRow, target: SpanRow | None, trace_id: str) -> str:
    whose = (
        f"run {span.attributes[catalog.RUN_NUMBER]}" if catalog.RUN_NUMBER in span.attributes else span.name
    )
    if target is None:
        return f"{whose} is linked to trace {trace_id}"
    if target.kind == "producer":
        return f"{whose} was asked for in trace {trace_id} ({target.name})"
    number = target.attributes.get(catalog.RUN_NUMBER)
    mark = _mark(target)[0]
    earlier = f"run {number}" if number is not None else target.name
    return f"{whose} follows {earlier} in trace {trace_id}{f'  {mark}' if mark else ''}"


# Rows → lines


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


# Rows → data


def as_json(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """The same as plain data: times in ns since 1970, durations in seconds; the wait is a row without a
    span.
    """
    return [
        {
            "trace_id": trace.trace_id,
            "start_ns": trace.start_ns,
            "duration": (trace.end_ns - trace.start_ns) / 1e9,
            "links": list(trace.links),
            "rows": [_row_json(row) for row in trace.rows],
        }
        for trace in traces
    ]


def _row_json(row: Row) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": row.name,
        "start_ns": row.start_ns,
        "duration": row.seconds,
        "mark": row.mark,
    }
    if row.span is None:
        return told | {"kind": "wait"}
    span = row.span
    return told | {
        "kind": span.kind,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "status": span.status,
        "attributes": dict(span.attributes),
        "events": [
            {"name": event.name, "time_ns": event.time_ns, "attributes": dict(event.attributes)}
            for event in span.events
        ],
        "links": [{"trace_id": link.trace_id, "span_id": link.span_id} for link in span.links],
    }
