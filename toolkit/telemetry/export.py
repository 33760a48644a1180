"""Export of spans by OTLP/HTTP, from a thread of its own in the supervisor: nobody ever waits for a
collector.

    exporter = OtlpExporter(settings.otlp_endpoint, headers(settings.otlp_headers), on_drop=metrics.dropped)
    exporter.start()
    exporter.put(spans.data, spans.count)         # a lock and an append
    exporter.close(5.0)

Defaults: a queue of 16 MiB, requests of up to 512 KiB or what came in 1 s, gzip unless told not to, 10 s a step of a request.
429, 502, 503, 504 and network errors are tried again for up to 60 s, with backoff (1, 2, 4 … 30 s ± 30 %) or
as Retry-After says; anything else is final. When the queue is full the oldest spans go, since the newest are
wanted after an outage. Every span that does not arrive is counted: `on_drop("spans", reason, n)`, reasons as
in the catalog. At the end a request is tried again once a second, where there is time for it: a command that closes
within 1 s waits for a collector that works, and not at all for one that has refused.

Known weakness: a request whose answer got lost is sent again, so a collector may see a batch twice.
"""

from __future__ import annotations

import gzip
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.util.re import parse_env_headers

QUEUE_BYTES = 16 * 1024 * 1024
BATCH_BYTES = 512 * 1024
BATCH_SECONDS = 1.0
TIMEOUT = 10.0
"""Seconds for each step of a request (connect, write, read), and for its answer's body as a whole."""
GIVE_UP = 60.0
"""Seconds after which a batch is no longer tried."""
MAX_WAIT = 30.0
"""Seconds between two tries, at most; a longer Retry-After is cut to GIVE_UP."""
LAST_WAIT = 1.0
"""Seconds between two tries while closing, whatever the collector asked for: time is short, but this is polite."""
MAX_ANSWER = 64 * 1024
_AGAIN = frozenset({429, 502, 503, 504})

OnDrop = Callable[[str, str, int], None]


@dataclass(frozen=True, slots=True)
class Exported:
    """What one `run_once` did: `sent`, `waiting` (to be tried again), `dropped`, or `idle`; and of how many
    spans.
    """

    did: Literal["sent", "waiting", "dropped", "idle"]
    spans: int = 0


@dataclass(slots=True)
class _Batch:
    data: bytes
    spans: int
    since: float
    tries: int = 0
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class _Answer:
    """What became of a request. `wait`: seconds as the collector wants them, None when it named none."""

    outcome: Literal["accepted", "again", "refused"]
    rejected: int = 0
    wait: float | None = None


def headers(text: str) -> dict[str, str]:
    """OTEL_EXPORTER_OTLP_HEADERS, `key=value,key=value` with URL-encoded values, as a mapping."""
    return dict(parse_env_headers(text, liberal=True))


class OtlpExporter:
    """Sends OTLP trace requests to `{endpoint}/v1/traces`."""

    def __init__(
        self,
        endpoint: str,
        headers: Mapping[str, str] | None = None,
        *,
        on_drop: OnDrop,
        compress: bool = True,
        timeout: float = TIMEOUT,
        queue_bytes: int = QUEUE_BYTES,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._url = f"{endpoint.rstrip('/')}/v1/traces"
        self._compress = compress
        encoding = {"content-encoding": "gzip"} if compress else {}
        self._headers = {**(headers or {}), "content-type": "application/x-protobuf", **encoding}
        self._timeout = timeout
        self._queue_bytes = queue_bytes
        self._clock = clock
        self._uniform = uniform
        self._on_drop = on_drop
        self._client = httpx.Client(timeout=timeout)
        self._changed = threading.Condition()
        self._queue: deque[tuple[bytes, int]] = deque()
        self._size = 0
        self._batch: _Batch | None = None
        self._closing = False
        self._close_by = float("inf")
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="otlp-export", daemon=True)

    def start(self) -> None:
        """Start the thread. After a fork there is none: start it in the process that exports."""
        self._thread.start()

    def put(self, data: bytes, spans: int) -> None:
        """Queue an ExportTraceServiceRequest of `spans` spans. Never waits; the oldest go when there is no
        room.
        """
        if not spans:
            return
        lost = 0
        with self._changed:
            if self._closing:
                lost, reason = spans, "shutdown"
            else:
                self._queue.append((data, spans))
                self._size += len(data)
                reason = "queue_full"
                while self._size > self._queue_bytes:
                    oldest, n = self._queue.popleft()
                    self._size -= len(oldest)
                    lost += n
                if self._size >= BATCH_BYTES > self._size - len(data):
                    self._changed.notify()
        if lost:
            self._on_drop("spans", reason, lost)

    def run_once(self) -> Exported:
        """Try the batch in hand, or the next one from the queue, once."""
        batch = self._next()
        if batch is None:
            return Exported("idle")
        answer = self._post(batch.data)
        batch.tries += 1
        with self._changed:
            if self._abandoned:  # `close` has counted it
                return Exported("dropped", batch.spans)
            now = self._clock()
            wait = self._wait(batch, answer)
            if answer.outcome == "again" and now + wait - batch.since <= GIVE_UP:
                batch.not_before = now + wait
                return Exported("waiting", batch.spans)
            self._batch = None
        if answer.outcome != "accepted":
            self._on_drop("spans", "export_failed", batch.spans)
            return Exported("dropped", batch.spans)
        if answer.rejected:
            self._on_drop("spans", "rejected", answer.rejected)
        return Exported("sent", batch.spans - answer.rejected)

    def close(self, deadline: float) -> None:
        """Send what is queued, for at most `deadline` seconds; what is left then is counted as lost."""
        with self._changed:
            self._closing = True
            self._close_by = self._clock() + deadline
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(deadline)
        with self._changed:
            self._abandoned = True
            lost = sum(n for _, n in self._queue) + (self._batch.spans if self._batch else 0)
            self._queue.clear()
            self._size = 0
            self._batch = None
            self._changed.notify()
        if lost:
            self._on_drop("spans", "shutdown", lost)
        if not self._thread.is_alive():
            self._client.close()

    # Within the thread

    def _run(self) -> None:
        while not self._abandoned and self._pause():
            did = self.run_once().did
            if self._closing and did == "idle":
                return

    def _pause(self) -> bool:
        """Until there is a full batch, or a second is over, or the batch in hand may be tried again, or we
        close. False when we close and have no time for another try.
        """
        with self._changed:
            if self._batch is not None:
                self._changed.wait_for(lambda: self._closing, self._batch.not_before - self._clock())
                if self._closing and self._batch.not_before > self._clock():
                    if self._clock() + LAST_WAIT >= self._close_by:
                        return False
                    self._changed.wait_for(lambda: self._abandoned, LAST_WAIT)
            elif not self._closing:
                self._changed.wait_for(lambda: self._closing or self._size >= BATCH_BYTES, BATCH_SECONDS)
        return True

    def _next(self) -> _Batch | None:
        with self._changed:
            if self._batch is None and self._queue:
                parts: list[bytes] = []
                size = spans = 0
                while self._queue and (not parts or size + len(self._queue[0][0]) <= BATCH_BYTES):
                    data, n = self._queue.popleft()
                    parts.append(data)
                    size += len(data)
                    spans += n
                self._size -= size
                self._batch = _Batch(b"".join(parts), spans, since=self._clock())
            return self._batch

    def _wait(self, batch: _Batch, answer: _Answer) -> float:
        if answer.wait is not None:
            return min(max(0.0, answer.wait), GIVE_UP)
        backoff = min(MAX_WAIT, 2.0 ** (batch.tries - 1))
        return backoff * (0.7 + 0.6 * self._uniform())

    def _post(self, data: bytes) -> _Answer:
        until = self._clock() + self._timeout
        body = bytearray()
        try:
            packed = gzip.compress(data, compresslevel=1) if self._compress else data
            with self._client.stream("POST", self._url, content=packed, headers=self._headers) as response:
                for part in response.iter_bytes():
                    body += part
                    if self._clock() > until or len(body) > MAX_ANSWER:
                        break
        except (httpx.TransportError, httpx.DecodingError):
            return _Answer("again")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            return _Answer("refused")
        if response.status_code in _AGAIN:
            return _Answer("again", wait=retry_after(response.headers.get("retry-after"), datetime.now(UTC)))
        if not response.is_success:
            return _Answer("refused")
        return _Answer("accepted", rejected=_rejected(bytes(body)))


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds of a Retry-After header, a number or a date; None when it is missing or malformed."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return (parsedate_to_datetime(value) - now).total_seconds()
    except (ValueError, TypeError):
        return None


def _rejected(body: bytes) -> int:
    try:
        return max(0, int(ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans))
    except DecodeError:
        return 0  # accepted all the same, as the status says
