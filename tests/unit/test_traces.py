"""Traces: the SDK's spans are kept, and encoded byte for byte as the OTLP exporter would have."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import context as context_api
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
)

from toolkit.telemetry import catalog
from toolkit.telemetry.encode import Encoder
from toolkit.telemetry.otlp import MalformedSpans, SpanRow, read_spans
from toolkit.telemetry.traces import Tracing, context_from, inject, link_to

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
VALUES: dict[str, Any] = {
    "text": "Ünïcödé 🖼️", "empty": "", "true": True, "false": False, "one": 1, "zero": 0, "one.float": 1.0,
    "negative": -1, "big": 2**63 - 1, "small": -(2**63), "pi": 3.14159, "bytes": b"\x00\xff", "none": None,
    "list": ["a", "b", ""], "mixed": (1, 2.5, True, None, "x"), "nested": {"a": {"b": [1, {"c": "d"}]}},
    "long": "x" * 300,
}  # fmt: skip


class _Kept(SpanProcessor):
    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


def recorder(attributes: dict[str, Any] | None = None) -> tuple[Tracer, list[ReadableSpan]]:
    provider, kept = TracerProvider(resource=Resource(attributes or {}), shutdown_on_exit=False), _Kept()
    provider.add_span_processor(kept)
    return provider.get_tracer("freshfetch", "1.2"), kept.ended


def some_of_everything(attributes: dict[str, Any]) -> list[ReadableSpan]:
    tracer, ended = recorder(attributes)
    remote = context_from(TRACEPARENT, "vendor=value,other=1")
    assert remote is not None
    links = [Link(remote.span_context, {"why": "asked"}), Link(SpanContext(1, 2, is_remote=False))]
    with tracer.start_as_current_span(
        "perform images", remote.context, SpanKind.CONSUMER, VALUES, links
    ) as root:
        for kind in SpanKind:
            with tracer.start_as_current_span(f"of kind {kind.name}", kind=kind) as span:
                span.set_attributes({"a": 1, "b": True, "c": 1.0})
                span.add_event("seen", VALUES, timestamp=1_700_000_000_000_000_000)
        with pytest.raises(ValueError, match="boom"), tracer.start_as_current_span("fails"):
            raise ValueError("boom")
        tracer.start_span("fine").set_status(StatusCode.OK)
        root.set_status(StatusCode.ERROR, "described")
    return ended


def test_the_encoder_writes_what_the_otlp_exporter_writes() -> None:
    attributes = {"service.name": "freshfetch", "service.version": "1.2", "process.pid": 7}
    spans = some_of_everything(attributes)
    assert len(spans) > len(SpanKind)
    mine = Encoder(attributes, "freshfetch", "1.2")
    theirs = encode_spans(spans).SerializeToString()
    assert mine.request(spans) == theirs
    assert mine.request(spans) == theirs, "the second time from memory"


def test_one_true_and_one_point_nought_stay_three_different_values() -> None:
    tracer, ended = recorder()
    for value in (True, 1, 1.0, "1"):
        tracer.start_span("s", attributes={"k": value}).end()
    encoder = Encoder({}, "s", "1")
    rows = read_spans(encoder.request(ended) + encoder.request(ended))
    kinds = [type(row.attributes["k"]) for row in rows]
    assert kinds == [bool, int, float, str] * 2


def test_batches_that_stand_one_after_the_other_are_one_request() -> None:
    tracing = Tracing("freshfetch", "1", {"service.instance.id": "h:1"})
    batches = []
    for name in ("first", "second"):
        tracing.tracer.start_span(name).end()
        batches.append(tracing.take())
    assert [count for _, count in batches] == [1, 1]
    rows = read_spans(b"".join(data for data, _ in batches))
    assert [row.name for row in rows] == ["first", "second"]
    assert rows[0].resource["service.instance.id"] == "h:1"
    assert tracing.take() == (b"", 0)


def test_torn_bytes_are_malformed_and_not_an_empty_trace() -> None:
    tracing = Tracing("freshfetch", "1")
    tracing.tracer.start_span("s").end()
    data, _ = tracing.take()
    with pytest.raises(MalformedSpans):
        read_spans(data[:-3])


def one_row(tracing: Tracing) -> SpanRow:
    (row,) = read_spans(tracing.take()[0])
    return row


def test_context_travels_as_w3c_headers() -> None:
    tracing = Tracing("freshfetch", "1")
    with tracing.tracer.start_as_current_span(
        catalog.span_enqueue("images"), kind=SpanKind.PRODUCER
    ) as asking:
        headers = inject(asking)
    asked = one_row(tracing)
    remote = context_from(**headers)
    assert remote is not None
    links = [link_to(remote.span_context, catalog.LINK_ASKED)]
    tracing.tracer.start_span(
        catalog.span_perform("images"), remote.context, SpanKind.CONSUMER, links=links
    ).end()
    performed = one_row(tracing)
    assert (performed.trace_id, performed.parent_id) == (asked.trace_id, asked.span_id)
    assert [(link.span_id, link.attributes) for link in performed.links] == [
        (asked.span_id, {"job.link": "asked_by"})
    ]
    assert headers["traceparent"].endswith("-03"), "sampled, and a random trace id"


@pytest.mark.parametrize(
    "header", [None, "", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 9999]
)
def test_a_malformed_header_starts_a_new_trace(header: str | None) -> None:
    assert context_from(header) is None


def test_a_parent_that_is_not_sampled_is_obeyed_and_its_trace_goes_on() -> None:
    tracing = Tracing("freshfetch", "1")
    remote = context_from(TRACEPARENT[:-1] + "0", "vendor=value")
    assert remote is not None
    with tracing.tracer.start_as_current_span("root", remote.context) as root:
        with tracing.tracer.start_as_current_span("child") as child:
            assert not child.is_recording()
        headers = inject(root)
    assert tracing.take() == (b"", 0)
    assert headers["traceparent"].startswith(TRACEPARENT[:36])
    assert headers["traceparent"].endswith("-00")
    assert headers["tracestate"] == "vendor=value"


def test_no_parent_starts_a_trace_of_its_own_inside_of_another() -> None:
    tracing = Tracing("freshfetch", "1")
    with tracing.tracer.start_as_current_span("outer"):
        tracing.tracer.start_span("inner", tracing.no_parent).end()
    inner, outer = read_spans(tracing.take()[0])
    assert inner.trace_id != outer.trace_id
    assert inner.parent_id == ""


def test_what_an_exception_quotes_leaves_without_its_password() -> None:
    tracing = Tracing("freshfetch", "1")
    with pytest.raises(ConnectionError), tracing.tracer.start_as_current_span("s"):
        raise ConnectionError("cannot reach redis://user:hunter2@host")
    row = one_row(tracing)
    assert row.status == "error"
    assert "raise ConnectionError" in row.events[0].attributes["exception.stacktrace"]
    assert "hunter2" not in repr(row)


def test_more_spans_than_the_buffer_holds_are_dropped_and_counted() -> None:
    tracing = Tracing("freshfetch", "1", limit=10)
    for _ in range(13):
        tracing.tracer.start_span("s").end()
    assert tracing.take()[1] == 10
    assert tracing.take_dropped() == 3
    assert tracing.take_dropped() == 0


def test_no_span_is_lost_between_threads_that_end_them_and_one_that_takes() -> None:
    tracing = Tracing("freshfetch", "1", limit=10**6)
    threads, each = 4, 500
    taken: list[SpanRow] = []
    done = threading.Event()

    def search(context: context_api.Context) -> None:
        for n in range(each):
            tracing.tracer.start_span("search", context, attributes={"n": n}).end()

    def take_all() -> None:
        while not done.is_set():
            taken.extend(read_spans(tracing.take()[0]))

    with tracing.tracer.start_as_current_span("root"), ThreadPoolExecutor(threads + 1) as pool:
        taking = pool.submit(take_all)
        for searching in [pool.submit(search, context_api.get_current()) for _ in range(threads)]:
            searching.result()
        done.set()
        taking.result()
    taken += read_spans(tracing.take()[0])
    assert len(taken) == threads * each + 1
    assert len({row.span_id for row in taken}) == threads * each + 1
    assert len({row.trace_id for row in taken}) == 1
