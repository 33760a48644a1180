"""OtelTap, an OTLP receiver from a package, as a process of its own: it prints every span as a line of JSON."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.soaking.waiting import until


@dataclass(frozen=True, slots=True)
class SpanReceiver:
    """Where it listens, and the file that it writes."""

    url: str
    file: Path

    def roots(self) -> Counter[str]:
        """Root spans of runs received so far, by run."""
        found: Counter[str] = Counter()
        for line in self.file.read_bytes().splitlines():
            if b'"perform images"' in line:
                span = json.loads(line)
                found.update(
                    attribute["value"]["stringValue"]
                    for attribute in span["attributes"]
                    if attribute["key"] == "job.run.id"
                )
        return found


@contextmanager
def receiving(folder: Path) -> Iterator[SpanReceiver]:
    """A receiver on loopback, as long as the block lasts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = folder / "spans.ndjson"
    with file.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "oteltap", "--port", str(port)], stdout=out)
    try:
        until(lambda: _listens(port), within=20, what="the OTLP receiver")
        yield SpanReceiver(f"http://127.0.0.1:{port}", file)
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
