"""OTLP protobuf bytes → plain frozen SpanRows, for the waterfall and the tests. Pure.

Requests that stand one after the other are one request: protobuf merges repeated fields, so the batches of a
job are kept and sent as they are. A torn end (a worker that was killed) raises MalformedSpans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from toolkit.errors import ToolkitError


class MalformedSpans(ToolkitError):
    """Bytes that are not an OTLP request for traces."""


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened in a span, at a time in ns since 1970."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SpanLink:
    """Another span that this one points to; ids in hex."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SpanRow:
    """One span: ids in hex ("" = no parent), times in ns since 1970, kind and status in small letters."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    status: str
    status_message: str
    attributes: Mapping[str, Any]
    events: tuple[SpanEvent, ...]
    links: tuple[SpanLink, ...]
    resource: Mapping[str, Any]


_KINDS = {number: name.removeprefix("SPAN_KIND_").lower() for name, number in Span.SpanKind.items()}
_STATUSES = {0: "unset", 1: "ok", 2: "error"}


def read_spans(data: bytes) -> list[SpanRow]:
    """The spans of one or several concatenated ExportTraceServiceRequests. Raises MalformedSpans."""
    try:
        request = ExportTraceServiceRequest.FromString(data)
    except DecodeError as error:
        raise MalformedSpans(f"{len(data):,} bytes are not OTLP spans: {error}") from error
    return [
        _row(span, _attributes(group.resource.attributes))
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _row(span: Span, resource: Mapping[str, Any]) -> SpanRow:
    return SpanRow(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        kind=_KINDS.get(span.kind, "unspecified"),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        status=_STATUSES.get(span.status.code, "unset"),
        status_message=span.status.message,
        attributes=_attributes(span.attributes),
        events=tuple(SpanEvent(e.name, e.time_unix_nano, _attributes(e.attributes)) for e in span.events),
        links=tuple(
            SpanLink(k.trace_id.hex(), k.span_id.hex(), _attributes(k.attributes)) for k in span.links
        ),
        resource=resource,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(part) for part in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind)
