"""An OTLP/HTTP receiver on loopback that counts: `python -m scripts.benchmarks.collector` prints its port.

GET / answers {"spans": n, "runs": n}: spans received, and how many of them are the root of a run.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def main() -> None:
    """Serve until killed."""
    seen = Counter(spans=0, runs=0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            request = ExportTraceServiceRequest.FromString(gzip.decompress(body))
            names = [span.name for r in request.resource_spans for s in r.scope_spans for span in s.spans]
            seen.update(spans=len(names), runs=sum(name.startswith("perform ") for name in names))
            self._answer(b"")

        def do_GET(self) -> None:
            self._answer(json.dumps(seen).encode())

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
