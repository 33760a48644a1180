"""A worker process: `python -m toolkit.worker_process PARENT FD QUEUE NAME`, started by the supervisor, never by hand.

It dies with its supervisor (PR_SET_PDEATHSIG on Linux; elsewhere when its socket closes), so that no orphan runs a job
beside its retry.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys

from toolkit.app import App
from toolkit.broker.worker import FreshWorker
from toolkit.settings import Settings
from toolkit.telemetry.wire import Sender

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel end this process with its parent; exit now if the parent is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main(arguments: list[str]) -> None:
    """Work until told to stop."""
    parent, fd, queue, name = arguments
    die_with(int(parent))  # as the supervisor knew itself: it may be dead by now, and this process an orphan
    sender = Sender(socket.socket(fileno=int(fd)))
    with App(Settings.from_env()) as app:
        app.watch("worker", name).start(wait=False)
        worker = FreshWorker(
            queue,
            name=name,
            connection=app.broker,
            performer=app.performer(worker=name, sink=sender, queue=queue),
        )
        sender.ready(os.getpid())
        worker.work(logging_level="WARNING")
    sender.close()
    if not worker.told_to_stop:  # RQ has logged why
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
