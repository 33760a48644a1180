"""Spans → the rows of a waterfall: one trace after the other, each as a tree. Pure. `draw` makes lines of
them.

The wait in the queue is a row of its own, between the enqueue span's end and the run's start. A run in
another trace that a run links to (a retry's failed run, who asked) is named. Spans without their parents are
roots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from toolkit.telemetry import catalog
from toolkit.telemetry.otlp import SpanRow

WAIT: Final = "wait in queue"


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
    return str(attributes.get(catalog.DB_QUERY_SUMMARY) or _own(attributes))


def _own(attributes: Mapping[str, Any]) -> str:
    """A job's own attributes, `images.found = 3` as `found=3`; those of the toolkit and of messaging are told elsewhere."""
    told = {key: value for key, value in attributes.items() if not key.startswith(("job.", "messaging."))}
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in told.items())


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
