"""Tracing of one process: a tracer, the spans that ended, and their way out as OTLP bytes. Nothing is
exported here.

    tracing = Tracing("freshfetch", settings.release, {"service.instance.id": "host:pid"})
    asked = context_from(intent.traceparent, intent.tracestate)
    with tracing.tracer.start_as_current_span("perform images", asked.context, SpanKind.CONSUMER) as span: …
    data, count = tracing.take()

A worker takes what ended after each job. At most `limit` spans (default 20,000) wait to be taken; more are
dropped and counted (`take_dropped`). Threads do not inherit the current span: give them `context=` or run
them in a copied context. Known weakness: a span that never ends is never seen; one that ends after its job's
take goes out with the next job's.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry import version as _version
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, Span, SpanContext, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from toolkit.telemetry import catalog
from toolkit.telemetry.encode import Encoder

SCOPE = "freshfetch"


@dataclass(frozen=True, slots=True)
class Remote:
    """A span of another process, as its W3C headers name it: to be linked to, or to be the parent of spans
    here.
    """

    span_context: SpanContext
    context: Context


class Tracing:
    """The tracer of a process and the spans it ended. Safe to use from many threads."""

    def __init__(
        self,
        service_name: str,
        release: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        limit: int = 20_000,
    ) -> None:
        resource = {
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": _version.__version__,
            "service.name": service_name,
            "service.version": release,
        }
        self._encoder = Encoder(resource | dict(attributes or ()), SCOPE, release)
        self._ended: deque[ReadableSpan] = deque()
        self._limit = limit
        self._dropped = 0
        provider = TracerProvider(
            resource=Resource(resource | dict(attributes or ())),
            id_generator=_SystemIds(),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(_Keeper(self._keep))
        self.tracer: Tracer = provider.get_tracer(SCOPE, release)
        self.no_parent = Context()
        """The context of a span that starts a trace of its own."""

    def _keep(self, span: ReadableSpan) -> None:
        if len(self._ended) < self._limit:
            self._ended.append(span)
        else:
            self._dropped += 1

    def take(self) -> tuple[bytes, int]:
        """The spans that ended since the last take, as an ExportTraceServiceRequest, and how many; b"" and 0
        for none.
        """
        # As many as there are now: popleft from many threads and appends meanwhile lose nothing.
        spans = [self._ended.popleft() for _ in range(len(self._ended))]
        return (self._encoder.request(spans), len(spans)) if spans else (b"", 0)

    def take_dropped(self) -> int:
        """How many spans were dropped since the last call, for want of room."""
        dropped, self._dropped = self._dropped, 0
        return dropped


class _Keeper(SpanProcessor):
    """Hands each span that ended to `keep`, and does nothing else: nothing is exported here."""

    def __init__(self, keep: Callable[[ReadableSpan], None]) -> None:
        self._keep = keep

    def on_end(self, span: ReadableSpan) -> None:
        """A span ended."""
        self._keep(span)


class _SystemIds(IdGenerator):
    """Ids from the system, not from `random`: a job may seed that, and a fork would share its state."""

    def generate_span_id(self) -> int:
        """64 random bits, not 0."""
        return int.from_bytes(os.urandom(8)) or 1

    def generate_trace_id(self) -> int:
        """128 random bits, not 0."""
        return int.from_bytes(os.urandom(16)) or 1

    def is_trace_id_random(self) -> bool:
        """W3C's flag: the trace id is random."""
        return True


_W3C = TraceContextTextMapPropagator()


def context_from(traceparent: str | None, tracestate: str | None = None) -> Remote | None:
    """The remote span that W3C headers name; None when they are missing or malformed."""
    if not traceparent:
        return None
    carrier = {"traceparent": traceparent} | ({"tracestate": tracestate} if tracestate else {})
    context = _W3C.extract(carrier, Context())
    span_context = get_current_span(context).get_span_context()
    return Remote(span_context, context) if span_context.is_valid else None


def inject(span: Span) -> dict[str, str]:
    """W3C headers that name this span: `traceparent`, and `tracestate` when there is one."""
    context = span.get_span_context()
    if not context.is_valid:
        return {}
    headers = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
    if context.trace_state:
        headers["tracestate"] = context.trace_state.to_header()
    return headers


def link_to(there: SpanContext, kind: str, run_id: str = "") -> Link:
    """A link for `start_span(links=…)`. `kind` is one of the catalog's LINK_ASKED, LINK_RETRY, LINK_REPLAY; `run_id` names the
    run that failed."""
    return Link(there, {catalog.LINK: kind} | ({catalog.RUN_ID: run_id} if run_id else {}))
