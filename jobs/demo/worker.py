"""The demo's worker: `toolkit worker` as a process of its own, whose log lines are read as they come.

`python -m jobs.demo.worker …` is `toolkit worker …` that dies with the demo (Linux), so that a demo that is killed leaves
no worker behind that would take the next one's jobs.

Defaults: one worker process, /metrics on any free port; 30 s to start, 15 s to finish the job in hand at the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Self

from jobs.demo.told import Told
from toolkit.errors import ToolkitError
from toolkit.telemetry import catalog

START = 30.0
STOP = 15.0


@dataclass(slots=True)
class DemoWorker:
    """A running `toolkit worker`. `with DemoWorker.start(environment) as worker`; the end finishes the job in hand."""

    process: subprocess.Popen[str]
    metrics_url: str = ""
    _told: SimpleQueue[Told | None] = field(default_factory=SimpleQueue)
    _last: deque[str] = field(default_factory=lambda: deque(maxlen=12))
    """What it said last, to tell why it died."""

    @classmethod
    def start(cls, environment: Mapping[str, str]) -> Self:
        """Start it; `ready` waits for it."""
        worker = cls(
            subprocess.Popen(
                [sys.executable, "-m", "jobs.demo.worker", "worker", "--processes", "1"],
                env=dict(environment) | {"TOOLKIT_METRICS_PORT": "0", "TOOLKIT_LOG_FORMAT": "json"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C is the demo's: it lets the worker finish its job
            )
        )
        threading.Thread(target=worker._read, name="worker's log", daemon=True).start()
        return worker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()  # its worker process dies with it
            self.process.wait()

    def ready(self) -> str:
        """Wait until a worker process is ready; returns its name. Raises ToolkitError when it dies or takes too long."""
        for told in self._lines(START):
            if told.event == catalog.METRICS_SERVED.name:
                self.metrics_url = told.fields["url"]
            if told.event == catalog.WORKER_STARTED.name:
                return str(told.fields["worker"])
        raise AssertionError

    def lines(self, job_id: str, within: float) -> Iterator[Told]:
        """The job's log lines as they come, until its run has ended. Raises ToolkitError when that takes too long."""
        for told in self._lines(within):
            if told.fields.get("job_id") == job_id:
                yield told
                if told.ended:
                    return

    def _lines(self, within: float) -> Iterator[Told]:
        deadline = time.monotonic() + within
        while True:
            try:
                told = self._told.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise self._failed(f"nothing came from the worker for {within:.0f} s") from None
            if told is None:
                raise self._failed(f"the worker ended (exit code {self.process.wait()})")
            yield told

    def _failed(self, what: str) -> ToolkitError:
        said = "\n".join(self._last) or "(nothing)"
        return ToolkitError(f"{what}; its last words:\n{said}")

    def _read(self) -> None:
        assert self.process.stderr is not None  # noqa: S101  started with a pipe
        for line in self.process.stderr:
            self._last.append(line.rstrip())
            told = Told.read(line)
            if told is not None:
                self._told.put(told)
        self._told.put(None)


if __name__ == "__main__":
    from toolkit.cli import main
    from toolkit.worker_process import die_with

    die_with(os.getppid())
    main()
