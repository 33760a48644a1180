"""Where the alerts arrive: a webhook receiver that remembers what came when, and a collector that refuses on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Told:
    """One alert of one notification: when it came (monotonic), to which path, `firing` or `resolved`."""

    at: float
    path: str
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def alert(self) -> str:
        return self.labels["alertname"]


@dataclass(slots=True)
class Receiver:
    """`told` grows; any thread may read it."""

    address: str = ""
    told: list[Told] = field(default_factory=list)

    def last(self, alert: str, status: str, since: float) -> Told | None:
        """The newest notification of that alert and status that came after `since`."""
        found = [
            one for one in list(self.told) if one.alert == alert and one.status == status and one.at > since
        ]
        return found[-1] if found else None

    def take(self, path: str, body: bytes) -> None:
        """A notification came."""
        now = time.monotonic()
        for alert in json.loads(body)["alerts"]:
            self.told.append(Told(now, path, alert["status"], alert["labels"], alert["annotations"]))


@dataclass(slots=True)
class Collector:
    """An OTLP collector's HTTP port: answers `status` to whatever comes, and counts it."""

    address: str = ""
    status: int = 200
    asked: int = 0


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A receiver on loopback."""
    one = Receiver()

    def answer(path: str, body: bytes) -> int:
        one.take(path, body)
        return 200

    with _listening(answer) as one.address:
        yield one


@contextmanager
def collector() -> Iterator[Collector]:
    """A collector on loopback that takes what comes until its status says otherwise."""
    one = Collector()

    def answer(_path: str, _body: bytes) -> int:
        one.asked += 1
        return one.status

    with _listening(answer) as one.address:
        yield one


@contextmanager
def _listening(answer: Callable[[str, bytes], int]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status = answer(self.path, self.rfile.read(int(self.headers.get("Content-Length") or 0)))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def until(look: Callable[[], T], *, within: float, what: str) -> T:
    """Call `look` until its answer is true, and return it. TimeoutError after `within` seconds without."""
    deadline = time.monotonic() + within
    while not (answer := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within:.0f} s")
        # alerts come in by HTTP on another thread
        time.sleep(0.05)
    return answer
