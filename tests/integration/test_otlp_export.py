"""OTLP export over real HTTP on loopback: whatever the collector does, the caller waits for nothing and
nothing is lost uncounted.
"""

from __future__ import annotations

import gzip
import queue
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from toolkit.telemetry.export import (
    BATCH_BYTES,
    GIVE_UP,
    LAST_WAIT,
    Exported,
    OtlpExporter,
    headers,
    retry_after,
)
from toolkit.telemetry.otlp import read_spans
from toolkit.telemetry.traces import Tracing

WITHIN = 10.0


@dataclass
class Collector:
    """A collector that answers as it is told; without orders it accepts everything."""

    url: str = ""
    requests: queue.Queue[tuple[str, dict[str, str], bytes]] = field(default_factory=queue.Queue)
    orders: queue.Queue[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=queue.Queue)
    released: threading.Event = field(default_factory=threading.Event)

    def spans(self, names: int) -> list[str]:
        """The names of the first `names` spans that arrive."""
        found: list[str] = []
        while len(found) < names:
            _, _, body = self.requests.get(timeout=WITHIN)
            found += [row.name for row in read_spans(body)]
        return found

    def answer(self, status: int, body: bytes = b"", **more: str) -> Callable[[BaseHTTPRequestHandler], None]:
        def order(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in more.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("content-length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        return order

    def hang(self, _: BaseHTTPRequestHandler) -> None:
        """Say nothing until the test is over."""
        self.released.wait(WITHIN)


@pytest.fixture
def collector() -> Iterator[Collector]:
    here = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = gzip.decompress(self.rfile.read(int(self.headers["content-length"])))
            here.requests.put((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            try:
                order = here.orders.get_nowait()
            except queue.Empty:
                order = here.answer(200)
            order(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        here.url = f"http://127.0.0.1:{server.server_address[1]}"
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        yield here
        here.released.set()
        server.shutdown()
        serving.join(WITHIN)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Drops(Counter[tuple[str, str]]):
    def __call__(self, signal: str, reason: str, n: int) -> None:
        self[signal, reason] += n


def exporter(url: str, drops: Drops, **options: object) -> OtlpExporter:
    return OtlpExporter(url, on_drop=drops, **{"uniform": lambda: 0.5, **options})  # type: ignore[arg-type]


def spans(*names: str) -> tuple[bytes, int]:
    tracing = Tracing("freshfetch", "1")
    for name in names:
        tracing.tracer.start_span(name).end()
    return tracing.take()


@pytest.fixture
def drops() -> Drops:
    return Drops()


@pytest.fixture
def dead() -> str:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_batches_are_joined_into_one_request(collector: Collector, drops: Drops) -> None:
    sending = exporter(f"{collector.url}/", drops, headers={"x-key": "secret"})
    sending.put(*spans("a", "b"))
    sending.put(*spans("c"))
    sending.put(b"", 0)
    assert sending.run_once() == Exported("sent", 3)
    path, sent, body = collector.requests.get(timeout=WITHIN)
    assert path == "/v1/traces"
    assert (sent["content-type"], sent["content-encoding"]) == ("application/x-protobuf", "gzip")
    assert sent["x-key"] == "secret"
    assert [row.name for row in read_spans(body)] == ["a", "b", "c"]
    assert sending.run_once() == Exported("idle")
    sending.close(0)
    assert not drops


def test_a_request_is_at_most_a_batch_long(collector: Collector, drops: Drops) -> None:
    sending = exporter(collector.url, drops)
    data, _ = spans(*(f"s{n}" for n in range(1000)))
    for _ in range(2 * BATCH_BYTES // len(data) + 1):
        sending.put(data, 1000)
    while sending.run_once().did == "sent":
        pass
    sizes = [len(collector.requests.get_nowait()[2]) for _ in range(collector.requests.qsize())]
    assert len(sizes) == 3
    assert max(sizes) <= BATCH_BYTES
    sending.close(0)


def test_the_thread_sends_without_being_asked_and_close_sends_the_rest(
    collector: Collector, drops: Drops
) -> None:
    sending = exporter(collector.url, drops)
    sending.start()
    sending.put(*spans("first"))
    assert collector.spans(1) == ["first"]
    sending.put(*spans("last"))
    sending.close(WITHIN)
    assert collector.spans(1) == ["last"]
    sending.put(*spans("too late"))
    assert drops == {("spans", "shutdown"): 1}


def test_429_waits_as_long_as_the_collector_asks_and_sends_again(collector: Collector, drops: Drops) -> None:
    clock = Clock()
    sending = exporter(collector.url, drops, clock=clock)
    collector.orders.put(collector.answer(429, retry_after="7"))
    sending.put(*spans("a"))
    assert sending.run_once() == Exported("waiting", 1)
    assert sending._batch is not None
    assert sending._batch.not_before == clock.now + 7
    assert sending.run_once() == Exported("sent", 1)
    assert collector.spans(2) == ["a", "a"]
    assert not drops
    sending.close(0)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_collector_in_trouble_is_tried_with_backoff_until_a_minute_is_over(
    collector: Collector, drops: Drops, status: int
) -> None:
    clock = Clock()
    sending = exporter(collector.url, drops, clock=clock)
    sending.put(*spans("a", "b"))
    waits = []
    for _ in range(20):
        collector.orders.put(collector.answer(status))
        if sending.run_once().did != "waiting":
            break
        assert sending._batch is not None
        waits.append(sending._batch.not_before - clock.now)
        clock.now = sending._batch.not_before
    assert waits == [1, 2, 4, 8, 16]
    assert sum(waits) <= GIVE_UP
    assert drops == {("spans", "export_failed"): 2}
    sending.close(0)


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_a_refusal_is_final_and_counted(collector: Collector, drops: Drops, status: int) -> None:
    sending = exporter(collector.url, drops)
    collector.orders.put(collector.answer(status))
    sending.put(*spans("a", "b", "c"))
    assert sending.run_once() == Exported("dropped", 3)
    assert drops == {("spans", "export_failed"): 3}
    sending.close(0)


def test_spans_that_the_collector_rejected_are_counted(collector: Collector, drops: Drops) -> None:
    body = ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=2)
    ).SerializeToString()
    sending = exporter(collector.url, drops)
    collector.orders.put(collector.answer(200, body))
    sending.put(*spans("a", "b", "c"))
    assert sending.run_once() == Exported("sent", 1)
    assert drops == {("spans", "rejected"): 2}
    sending.close(0)


def test_an_answer_that_is_no_protobuf_is_still_an_acceptance(collector: Collector, drops: Drops) -> None:
    sending = exporter(collector.url, drops)
    collector.orders.put(collector.answer(200, b"\xff\xff OK"))
    sending.put(*spans("a"))
    assert sending.run_once() == Exported("sent", 1)
    sending.close(0)
    assert not drops


def test_a_dead_collector_costs_the_caller_nothing_and_is_counted_at_the_end(dead: str, drops: Drops) -> None:
    sending = exporter(dead, drops)
    sending.start()
    for _ in range(50):
        sending.put(*spans("a", "b"))
    sending.close(0.2)
    assert drops == {("spans", "shutdown"): 100}


def test_a_command_does_not_wait_for_a_collector_that_has_refused(dead: str, drops: Drops) -> None:
    """Its clock stands still, so that a thread that waits for its next try is seen by its being alive."""
    sending = exporter(dead, drops, clock=Clock())
    sending.start()
    sending.put(*spans("a"))
    sending.close(LAST_WAIT)
    assert not sending._thread.is_alive()
    assert drops == {("spans", "shutdown"): 1}


def test_a_worker_tries_again_while_it_closes(collector: Collector, drops: Drops) -> None:
    collector.orders.put(collector.answer(503))
    sending = exporter(collector.url, drops)
    sending.start()
    sending.put(*spans("a"))
    sending.close(5 * LAST_WAIT)
    assert collector.spans(2) == ["a", "a"]
    assert not drops


def test_a_hanging_collector_holds_up_neither_put_nor_close(collector: Collector, drops: Drops) -> None:
    sending = exporter(collector.url, drops, timeout=WITHIN)
    collector.orders.put(collector.hang)
    sending.start()
    sending.put(*spans("a"))
    collector.requests.get(timeout=WITHIN)  # it hangs now
    for _ in range(9):
        sending.put(*spans("a"))
    sending.close(0.1)
    collector.released.set()
    sending._thread.join(WITHIN)
    assert not sending._thread.is_alive()
    assert drops == {("spans", "shutdown"): 10}, "once, though the request ended later"


def test_a_collector_that_hangs_too_long_is_tried_again(collector: Collector, drops: Drops) -> None:
    sending = exporter(collector.url, drops, timeout=0.1)
    collector.orders.put(collector.hang)
    sending.put(*spans("a"))
    assert sending.run_once() == Exported("waiting", 1)
    assert sending.run_once() == Exported("sent", 1)
    sending.close(0)
    assert not drops


def test_a_full_queue_loses_the_oldest_and_counts_them(dead: str, drops: Drops) -> None:
    data, _ = spans("a")
    sending = exporter(dead, drops, queue_bytes=3 * len(data))
    for n in range(10):
        sending.put(data, n + 1)
    assert [n for _, n in sending._queue] == [8, 9, 10]
    assert drops == {("spans", "queue_full"): sum(range(1, 8))}
    sending.close(0)
    assert sum(drops.values()) == sum(range(1, 11))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("Sat, 11 Oct 2025 17:05:30 GMT", 30), ("soon", None), ("", None), (None, None), ("-3", None)],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, datetime(2025, 10, 11, 17, 5, tzinfo=UTC)) == seconds


def test_headers_are_read_as_opentelemetry_writes_them() -> None:
    assert headers("Authorization=Basic%20abc,x-tenant=1") == {"authorization": "Basic abc", "x-tenant": "1"}
    assert headers("") == {}
