"""The waterfall: what the spans say, drawn so that a tired person reads it at 80 columns."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.telemetry.draw import STYLES, cells, draw, duration, fit
from toolkit.telemetry.otlp import SpanLink, SpanRow
from toolkit.telemetry.waterfall import WAIT, arrange, as_json

MS = 10**6
START = 1_760_202_305 * 10**9
ONE, TWO = "4bf92f3577b34da6a3ce929d0e0e4736", "aaaabbbbccccddddeeeeffff00001111"
_ids = itertools.count(1)


def span(name: str, begin: float, end: float, parent: str = "", *, kind: str = "internal", status: str = "unset",
         trace: str = ONE, links: tuple[SpanLink, ...] = (), **attributes: Any) -> SpanRow:  # fmt: skip
    """A span from `begin` to `end` in ms; `a__b` stands for the attribute `a.b`."""
    return SpanRow(
        trace_id=trace, span_id=f"{next(_ids):016x}", parent_id=parent, name=name, kind=kind,
        start_ns=START + round(begin * MS), end_ns=START + round(end * MS), status=status, status_message="",
        attributes={key.replace("__", "."): value for key, value in attributes.items()}, events=(), links=links,
        resource={},
    )  # fmt: skip


def job(wait: float) -> list[SpanRow]:
    enqueue = span("enqueue images", 0, 1, kind="producer")
    counts = {"job.count.attached": 9, "job.count.draft_deleted": 1}
    perform = span("perform images", wait + 1, wait + 1001, enqueue.span_id, kind="consumer",
                   job__outcome="processed", job__run__number=1, **counts)  # fmt: skip
    search = span("search page", wait + 11, wait + 511, perform.span_id)
    get = span("GET", wait + 12, wait + 412, search.span_id, kind="client", status="error",
               error__type="ReadTimeout", http__request__method="GET")  # fmt: skip
    write = span(
        "guarded write", wait + 981, wait + 1000, perform.span_id, db__query__summary="INSERT ProductImage"
    )
    return [write, get, search, perform, enqueue]  # as they end, and any order will do


def drawn(spans: list[SpanRow], width: int = 80) -> list[str]:
    return [str(line) for line in draw(arrange(spans), width=width)]


def test_a_job_reads_from_enqueue_over_the_wait_to_the_last_write() -> None:
    assert drawn(job(wait=500)) == [
        "trace 4bf92f3577b34da6a3ce929d0e0e4736  2025-10-11 17:05:05 UTC  1.50 s",
        "✓ processed attached=9 draft_deleted=1",
        "enqueue images    ▏                            1.0 ms",
        "├ wait in queue   ░░░░░░░░                     500 ms",
        "└ perform images          █████████████████    1.00 s  ✓ processed attached=9 …",
        "  ├ search page           ████████▊            500 ms",
        "  │ └ GET                 ███████▏             400 ms  ✗ ReadTimeout",
        "  └ guarded write                         ▉     19 ms  INSERT ProductImage",
    ]


def test_a_step_of_the_job_is_told_by_its_own_attributes() -> None:
    search = span(
        "images.search",
        0,
        5,
        product__sku="MUG-01",
        images__candidates=3,
        job__name="j",
        messaging__system="rq",
    )
    (trace,) = arrange([search])
    assert trace.rows[0].mark == "sku=MUG-01 candidates=3"


def test_a_wait_of_three_minutes_is_cut_and_leaves_the_scale_to_the_run() -> None:
    lines = drawn(job(wait=180_000))
    wait = next(line for line in lines if WAIT in line)
    perform = next(line for line in lines if "perform images" in line)
    assert "░╱░" in wait
    assert "3 min 00 s" in wait
    assert perform.count("█") > 15


def test_a_wait_is_known_from_the_run_when_the_enqueue_span_was_not_kept() -> None:
    only = span("perform images", 200, 300, "gone", kind="consumer", job__queue_wait_seconds=0.15)
    (trace,) = arrange([only])
    assert [(row.name, row.seconds) for row in trace.rows] == [(WAIT, 0.15), ("perform images", 0.1)]


def test_clocks_that_disagree_give_no_negative_wait() -> None:
    enqueue = span("enqueue images", 10, 20, kind="producer")
    perform = span("perform images", 5, 30, enqueue.span_id, kind="consumer")
    (trace,) = arrange([enqueue, perform])
    assert [row.name for row in trace.rows] == ["enqueue images", "perform images"]


def test_a_retry_names_the_run_that_failed_and_who_asked() -> None:
    enqueue = span("enqueue images", 0, 1, kind="producer")
    failed = span("perform images", 2, 50, enqueue.span_id, kind="consumer", status="error", job__outcome="failed",
                  job__reason="transient", error__type="ConnectTimeout", job__run__number=1)  # fmt: skip
    links = tuple(SpanLink(other.trace_id, other.span_id, {}) for other in (failed, enqueue))
    again = span("perform images", 5000, 5100, kind="consumer", trace=TWO, links=links, job__outcome="skipped",
                 job__reason="no_drafts", job__run__number=2)  # fmt: skip
    first, second = arrange([again, failed, enqueue])
    assert (first.trace_id, second.trace_id) == (ONE, TWO)
    assert second.links == (
        f"run 2 follows run 1 in trace {ONE}  ✗ failed: transient (ConnectTimeout)",
        f"run 2 was asked for in trace {ONE} (enqueue images)",
    )
    assert second.rows[-1].mark == "⚠ skipped: no_drafts"


def test_a_link_to_a_trace_that_is_not_at_hand_still_gives_its_id() -> None:
    (trace,) = arrange([span("perform", 0, 1, links=(SpanLink(TWO, "1" * 16, {}),))])
    assert trace.links == (f"perform is linked to trace {TWO}",)


@pytest.mark.parametrize("width", [64, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    wide = span(
        "商品画像 🖼️ " + "long name " * 20,
        0,
        5,
        http__request__method="GET",
        url__full="http://x/" + "y" * 300,
    )
    for line in draw(arrange([*job(500), wide]), width=width):
        assert cells(str(line)) <= width


def test_every_piece_has_a_known_style_and_errors_stand_out() -> None:
    segments = [segment for line in draw(arrange(job(500))) for segment in line.segments]
    assert {segment.style for segment in segments} <= set(STYLES)
    assert [segment.text.strip() for segment in segments if segment.style == "error"][1] == "✗ ReadTimeout"


def test_a_thousand_spans_are_cut_with_their_number() -> None:
    root = span("root", 0, 100)
    lines = drawn([root, *(span("s", 1, 2, root.span_id) for _ in range(1000))])
    assert lines[-1] == "… and 801 more"
    assert len(lines) == 202


def test_the_same_span_twice_is_one_row() -> None:
    spans = job(500)
    assert len(arrange(spans + spans)[0].rows) == len(spans) + 1


def test_the_data_says_what_the_lines_say() -> None:
    (trace,) = as_json(arrange(job(500)))
    rows = trace["rows"]
    assert [row["kind"] for row in rows] == ["producer", "wait", "consumer", "internal", "client", "internal"]
    assert rows[1]["duration"] == 0.5
    assert rows[4]["mark"] == "✗ ReadTimeout"
    msgspec.json.encode(trace)


def test_nothing_gives_nothing() -> None:
    assert draw(arrange([])) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 10**12), st.integers(-5, 10**12)),
        max_size=12,
    )
)
def test_whatever_the_spans_are_each_one_is_drawn_once(parts: list[tuple[int, int, int, int]]) -> None:
    spans = [
        SpanRow(ONE, f"{number:x}", f"{parent:x}", "s", "consumer" if parent % 3 else "producer", begin, begin + took,
                "unset", "", {}, (), (), {})  # rings, orphans, negative times
        for number, parent, begin, took in parts
    ]  # fmt: skip
    traces = arrange(spans)
    found = [row.span.span_id for trace in traces for row in trace.rows if row.span]
    assert sorted(found) == sorted({span.span_id for span in spans})
    for line in draw(traces, width=80):
        assert cells(str(line)) <= 80


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 ms"), (0.00042, "0.42 ms"), (0.0032, "3.2 ms"), (0.302, "302 ms"), (0.9996, "1.00 s"),
        (1.02, "1.02 s"), (59.999, "1 min 00 s"), (125, "2 min 05 s"), (3720, "1 h 02 min"),
    ],
)  # fmt: skip
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_text_is_cut_by_columns_not_by_characters() -> None:
    assert fit("画像画像画像", 7) == "画像画…"
    assert fit("two\nlines", 20) == "two lines"
