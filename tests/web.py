"""A real HTTP server on loopback that answers each path as a test says, for what a decent shop never does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One connection; an Answer gets it for each request and writes what it likes."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self.server.web.seen.append((self.path, dict(self.headers)))
        answer = self.server.web.answers.get(self.path)
        if answer is None:
            self.answer(404, b"nothing here")
        else:
            answer(self)

    @property
    def ended(self) -> threading.Event:
        """Set when the test is over: what waits, waits for it."""
        return self.server.web.ended

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer with its length."""
        self.send_response(status)
        for name, value in ({"Content-Type": "text/html"} | dict(headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the parameter's name is inherited
        """Quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, web: Web) -> None:
        self.web = web
        super().__init__(("127.0.0.1", 0), Request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up early are what these tests are about."""


@dataclass
class Web:
    """What the server answers by path, and what it was asked."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def page(self, path: str, html: str, status: int = 200) -> str:
        """An HTML page; returns its URL."""
        return self.serve(path, html.encode(), status=status)

    def serve(self, path: str, body: bytes, *, status: int = 200, **headers: str) -> str:
        """A fixed answer; header names with underscores. Returns its URL."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.does(path, lambda request: request.answer(status, body, named))

    def does(self, path: str, answer: Answer) -> str:
        """Any answer; returns its URL."""
        self.answers[path] = answer
        return self.url + path

    @property
    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [path for path, _ in self.seen]


@contextmanager
def serving() -> Iterator[Web]:
    """The server, until the end of the context."""
    web = Web()
    with _Server(web) as server:
        web.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield web
        finally:
            web.ended.set()
            server.shutdown()
            thread.join()
