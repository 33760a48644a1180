"""One bounded HTTP client for all searches of a process: pooled, thread-safe, with a CLIENT span for each request.

Bounds: connect and read timeout for each step (settings), the thread's deadline over everything, redirects followed by
hand (at most `max_redirects`, each hop checked like the first), bodies decompressed in bounded pieces. It keeps no cookies
(products of one merchant must not be looked up with another's session) and uses no proxy from the environment (a proxy
would resolve names itself, past the address check). It sends no traceparent: the shops are strangers.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Self

import httpcore
import httpx
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer

from jobs.images.search.addresses import Clock, Deadline, GuardedBackend, is_public
from jobs.images.search.protocol import SearchOutcome, TransientKind, Unusable
from jobs.images.search.urls import normalise_url, redacted, resolved
from jobs.images.settings import ImageSettings
from toolkit.errors import TransientError

PIECE = 64 * 1024
"""Bytes that one step of decompression may yield: what a gzip bomb can make of us before the limit is looked at."""

KEEPALIVE = 30.0
"""Seconds that an idle connection is kept: the products of an order are often from one shop."""


class WebClient:
    """GET, bounded. One for a process; `close()` it, or use it as a context manager."""

    def __init__(
        self,
        settings: ImageSettings,
        *,
        release: str,
        tracer: Tracer | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._settings = settings
        self._tracer = tracer or trace.NoOpTracer()
        self._deadline = Deadline(clock)
        allowed = (lambda _address: True) if settings.allow_private else is_public
        # A search holds one connection at a time; twice as many leaves room for idle ones.
        connections = 2 * settings.search_concurrency
        self._client = httpx.Client(
            transport=_GuardedTransport(GuardedBackend(self._deadline, allowed), connections),
            timeout=httpx.Timeout(settings.read_timeout, connect=settings.connect_timeout),
            headers={"User-Agent": f"freshfetch/{release}"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all pooled connections."""
        self._client.close()

    def within(self, seconds: float) -> AbstractContextManager[None]:
        """Whatever this thread fetches inside is over in `seconds`, or ends in TransientError(kind=timeout)."""
        return self._deadline.within(seconds)

    @property
    def time_left(self) -> float:
        """Seconds left of this thread's deadline."""
        return self._deadline.left()

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """The answer to a GET after redirects, its body still unread (see `body`); only 200 and 206 come back.

        Raises Unusable (with the outcome) or TransientError, also for what happens while the caller reads the body.
        """
        try:
            url = normalise_url(url)
        except ValueError as error:
            raise Unusable(str(error), SearchOutcome.BAD_URL) from error
        for hop in range(self._settings.max_redirects + 1):
            with self._request(url, headers, hop) as response:
                if not response.has_redirect_location:
                    check_status(response.status_code, url)
                    yield response
                    return
                target = resolved(url, response.headers["Location"])
            if target is None:
                raise Unusable(f"{url} redirects to what is no web page", SearchOutcome.BAD_URL)
            url = target
        raise Unusable(f"{url} is one redirect too many", SearchOutcome.TOO_MANY_REDIRECTS)

    @contextmanager
    def _request(self, url: str, headers: Mapping[str, str], hop: int) -> Iterator[httpx.Response]:
        try:
            request = self._client.build_request("GET", url, headers=headers)
        except httpx.InvalidURL as error:
            raise Unusable(f"{url}: {error}", SearchOutcome.BAD_URL) from error
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        attributes: dict[str, str | int] = {
            "http.request.method": "GET",
            "url.full": redacted(url),
            "server.address": request.url.host,
            "server.port": port,
        }
        if hop:
            attributes["http.request.resend_count"] = hop
        with (
            self._tracer.start_as_current_span(
                "GET",
                kind=SpanKind.CLIENT,
                attributes=attributes,
                record_exception=False,
                set_status_on_exception=False,
            ) as span,
            _failures(span, url),
        ):
            response = self._send(request, span)
            try:
                span.set_attribute("http.response.status_code", response.status_code)
                if response.status_code >= 400:
                    _failed(span, str(response.status_code))
                yield response
            finally:
                response.close()

    def _send(self, request: httpx.Request, span: Span) -> httpx.Response:
        try:
            return self._client.send(request, stream=True)
        except TransientError as error:  # the two that the address check raises
            _failed(span, error.kind)
            raise
        except Unusable as error:
            _failed(span, error.outcome)
            raise


class _GuardedTransport(httpx.HTTPTransport):
    """httpx's transport over a pool with our network backend, for which httpx itself has no parameter."""

    def __init__(self, backend: httpcore.NetworkBackend, connections: int) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=KEEPALIVE,
            network_backend=backend,
        )


def check_status(status: int, url: str) -> None:
    """Nothing for 200 and 206; Unusable or TransientError for every other status. Pure."""
    if status in {200, 206}:
        return
    message = f"{url} answered {status}"
    if status == 429:
        raise TransientError(message, kind=TransientKind.HTTP_429)
    if status >= 500:
        raise TransientError(message, kind=TransientKind.HTTP_5XX)
    if status == 408:
        raise TransientError(message, kind=TransientKind.TIMEOUT)
    raise Unusable(message, SearchOutcome.NOT_FOUND if status in {404, 410} else SearchOutcome.HTTP_ERROR)


def body(response: httpx.Response) -> Iterator[bytes]:
    """The decompressed body in pieces of at most 64 KiB, for a caller that counts and stops. Raises Unusable when it is
    in another encoding than gzip (the only one asked for) or broken."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in {"", "identity"}:
        yield from response.iter_raw(PIECE)
        return
    if encoding not in {"gzip", "x-gzip"}:
        raise Unusable(f"{response.url} is encoded as {encoding[:40]!r}", SearchOutcome.NOT_HTML)
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    for raw in response.iter_raw():
        data = raw
        while data and not inflate.eof:
            try:
                piece = inflate.decompress(data, PIECE)
            except zlib.error as error:
                raise Unusable(f"{response.url}: broken gzip", SearchOutcome.NOT_HTML) from error
            if piece:
                yield piece
            data = inflate.unconsumed_tail


@contextmanager
def _failures(span: Span, url: str) -> Iterator[None]:
    """Every way a request can fail, told on its span and raised as a TransientError."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise _transient(span, TransientKind.TIMEOUT, url) from error
    except httpx.ConnectError as error:
        raise _transient(span, TransientKind.CONNECT, url) from error
    except httpx.TransportError as error:
        raise _transient(span, TransientKind.DISCONNECT, url) from error


def _transient(span: Span, kind: TransientKind, url: str) -> TransientError:
    _failed(span, kind)
    return TransientError(f"{redacted(url)}: {kind}", kind=kind)


def _failed(span: Span, error_type: str) -> None:
    span.set_attribute("error.type", error_type)
    span.set_status(StatusCode.ERROR)
