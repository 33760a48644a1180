"""The supervisor's HTTP port: /metrics for Prometheus, /healthz (alive), /readyz (can do its work; says why not).

Loopback by default. GET and HEAD only; nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from toolkit.errors import UsageError

Answer = tuple[int, str, bytes]
"""Status, content type, body."""


class Endpoint:
    """Serves `routes` (path → function of the Accept header) on its own threads, from `start` to `close`."""

    def __init__(self, host: str, port: int, routes: dict[str, Callable[[str], Answer]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # seconds for a client that says nothing

            def do_GET(self) -> None:
                self._answer(body=True)

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def _answer(self, *, body: bool) -> None:
                route = routes.get(self.path.partition("?")[0])
                if route is None:
                    known = " ".join(sorted(routes))
                    status, kind, content = (
                        404,
                        "text/plain; charset=utf-8",
                        f"not here; try {known}\n".encode(),
                    )
                else:
                    status, kind, content = route(self.headers.get("Accept", ""))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's name
                """Scrapes are not worth a line."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {host}:{port}: {error.strerror}",
                remedy="is another `toolkit worker` running? set TOOLKIT_METRICS_PORT (0: any free port)",
            ) from error
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, name="endpoint", daemon=True, args=(0.2,))

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
