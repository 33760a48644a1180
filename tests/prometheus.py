"""A real Prometheus that scrapes what the test names, every half second, with exemplars."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.eventually import eventually

_ROOT = Path(__file__).parent.parent
JOB = "freshfetch"
_CONFIG = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}
scrape_configs:
  - job_name: {job}
    file_sd_configs: [{{files: ["{targets}"], refresh_interval: 1s}}]
"""


@dataclass
class Prometheus:
    """The server, and its HTTP API."""

    client: httpx.Client
    targets: Path

    def scrape(self, urls: Sequence[str]) -> None:
        """Scrape these from now on, and no others."""
        places = [url.removeprefix("http://") for url in urls]
        written = self.targets.with_suffix(".new")
        written.write_text(json.dumps([{"targets": places}]))
        written.rename(self.targets)

    def get(self, path: str, **values: str | float) -> Any:
        """`data` of an answer of the API; AssertionError with its own words when it refuses."""
        answer = self.client.get(f"/api/v1/{path}", params=values).json()
        assert answer["status"] == "success", f"{values}: {answer.get('error')}"
        return answer["data"]

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """The series of an instant query: labels and value."""
        found = self.get("query", query=expr)["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def value(self, expr: str) -> float:
        """The sum of what the query gives."""
        return sum(value for _, value in self.query(expr))


def tools() -> Path:
    """The folder of Prometheus's binaries; skips the test where there are none, and fails it in CI."""
    told = subprocess.run([_ROOT / "scripts" / "tools"], capture_output=True, text=True, check=False)
    if told.returncode == 3 and "CI" not in os.environ:
        pytest.skip(told.stderr.strip())
    assert told.returncode == 0, told.stderr
    return Path(told.stdout.strip())


@contextmanager
def prometheus(folder: Path) -> Iterator[Prometheus]:
    """A server with an empty store below `folder`."""
    targets = folder / "targets.json"
    targets.write_text("[]")
    (folder / "prometheus.yml").write_text(_CONFIG.format(job=JOB, targets=targets))
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "prometheus.log").open("ab") as log:
        process = subprocess.Popen(
            [
                tools() / "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address={place}",
                f"--storage.tsdb.path={folder / 'data'}", "--enable-feature=exemplar-storage", "--log.level=warn",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip

    def ready() -> bool:
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        try:
            return client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    try:
        with httpx.Client(base_url=f"http://{place}", timeout=10) as client:
            eventually(ready, within=20)
            yield Prometheus(client, targets)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
