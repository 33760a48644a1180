"""`toolkit worker` as a process of its own: a host that a test starts, looks at, and harms."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import psycopg

from tests.eventually import eventually
from tests.gates import VARIABLE

_ROOT = Path(__file__).parent.parent
_SERVED = re.compile(r"http://127\.0\.0\.1:\d+(?=/metrics)")


@dataclass
class Host:
    """A supervisor and its worker processes."""

    process: subprocess.Popen[bytes]
    folder: Path

    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def url(self) -> str:
        """Where it serves."""
        assert self.process.poll() is None, self.log()
        found = _SERVED.search(self.log())
        return found.group() if found else ""

    def workers(self) -> list[psutil.Process]:
        """Its living worker processes."""
        return [
            child
            for child in psutil.Process(self.process.pid).children()
            if child.status() != psutil.STATUS_ZOMBIE
        ]

    def get(self, path: str) -> httpx.Response:
        """What its port answers."""
        return httpx.get(f"{self.url()}{path}", timeout=5)

    def ready(self) -> bool:
        """It says that it can work."""
        return bool(self.url()) and self.get("/readyz").status_code == 200

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sum(value for found, value in self.samples(name) if labels.items() <= found.items())

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """A metric's samples: labels and value."""
        lines = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return [(dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for labels, value in lines]

    def outcomes(self) -> dict[str, int]:
        """job_runs_total by outcome, those above 0."""
        counted: dict[str, int] = {}
        for labels, value in self.samples("job_runs_total"):
            counted[labels["outcome"]] = counted.get(labels["outcome"], 0) + int(value)
        return {outcome: count for outcome, count in counted.items() if count}

    # Gates

    def reached(self, name: str, times: int = 1) -> list[int]:
        """Wait until the search has come to this gate so often; the pids that did."""
        path = self.folder / f"{name}.reached"
        eventually(lambda: path.exists() and path.read_text().count("\n") >= times, within=20)
        return [int(line) for line in path.read_text().split()]

    def open(self, name: str) -> None:
        """Let the searches at this gate go on, now and later."""
        (self.folder / f"{name}.open").touch()

    # Harm

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(30)

    def kill(self) -> None:
        """SIGKILL the supervisor."""
        self.process.kill()
        self.process.wait(10)


@contextmanager
def worker_host(
    database_url: str, redis_url: str, folder: Path, *, processes: int = 1, spec: str = "SPEC", **environ: str
) -> Iterator[Host]:
    """A host with the gated image job, ready for work."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "TOOLKIT_JOBS": f"tests.gates:{spec}",
        VARIABLE: str(folder),
        "TOOLKIT_METRICS_PORT": "0",
        "TOOLKIT_LOG_FORMAT": "json",
        "TOOLKIT_LEASE": "6",
    }
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "toolkit.cli", "worker", "--processes", str(processes)],
            cwd=_ROOT, env=environment | environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    host = Host(process, folder)
    try:
        eventually(lambda: host.ready() and len(host.workers()) == processes, within=20)
        yield host
    finally:
        for child in [*host.workers(), process] if process.poll() is None else []:
            child.send_signal(signal.SIGKILL)
        process.wait(10)


def ledger_outcomes(connection: psycopg.Connection) -> dict[str, int]:
    """Runs that ended, by outcome."""
    return dict(
        connection.execute(
            "SELECT outcome, count(*)::int FROM toolkit.run WHERE outcome IS NOT NULL GROUP BY 1"
        ).fetchall()
    )
