"""Starting `tests.importer` processes, and what they said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent


@dataclass
class Importer:
    """A running importer; `said()` is everything that it has told."""

    process: subprocess.Popen[bytes]
    out: Path

    def said(self, event: str = "") -> list[dict[str, Any]]:
        """Its events, of one kind when named. A line that is still being written is left out."""
        whole = self.out.read_bytes().rpartition(b"\n")[0]
        events = [json.loads(line) for line in whole.splitlines()]
        return [one for one in events if event in ("", one["event"])]

    def ready(self) -> bool:
        """It has asked the toggle once."""
        assert self.process.poll() in (None, 0), self.out.with_suffix(".err").read_text()
        return bool(self.said("ready"))

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        self.process.send_signal(number)


@contextmanager
def importer(
    servers: tuple[str, str],
    folder: Path,
    name: str,
    *,
    count: int = 0,
    drafts: int = 1,
    **environ: str,
) -> Iterator[Importer]:
    """A long-running importer on `servers` (database and broker URLs); it is ended at the end."""
    out = folder / f"{name}.out"
    environment = os.environ | {
        "DATABASE_URL": servers[0],
        "REDIS_URL": servers[1],
        "TOOLKIT_JOBS": "tests.gates:SPEC",
        "TOOLKIT_TEST_GATES": str(folder),
        "TOOLKIT_LOG_FORMAT": "json",
    }
    with out.open("wb") as said, out.with_suffix(".err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.importer", name, str(count), str(drafts)],
            cwd=_ROOT, env=environment | environ, stdin=subprocess.PIPE, stdout=said, stderr=err,
        )  # fmt: skip
        try:
            yield Importer(process, out)
        finally:
            process.send_signal(signal.SIGCONT)
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
