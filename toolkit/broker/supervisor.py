"""The supervisor of a host: starts, watches and replaces the worker processes, and owns what they have in common.

Workers export nothing and serve nothing. Each has a socket pair to here and tells what it runs, what ended and its finished
spans; this process keeps the one metrics registry, /metrics, the relay, the chores and the export. It is one loop over the
sockets, and a thread each for what may wait: relay, keeper, span store.

A worker that dies is replaced at once, its open run is closed as lost with the signal's name, and its job is queued again.
SIGTERM: workers finish the job in hand; a second one ends them. Emits: supervisor.*, worker.*.

Defaults: a worker that overruns its job's time limit by GRACE seconds is killed, and so is one that has closed its socket and
does not end. When several in a row die within 5 s of their start and before any run, the second is replaced after 1 s, doubling
up to 30 s. None is started while PostgreSQL or the broker is away.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from threading import Event, Thread

import redis

from toolkit.broker import burial
from toolkit.broker.account import Account
from toolkit.broker.keeper import Keeper, Outages
from toolkit.broker.relay import POLL, Doorbell, Relay
from toolkit.broker.span_store import SpanStore
from toolkit.ledger import runs
from toolkit.ledger.database import Database
from toolkit.ledger.traces import TraceChunk
from toolkit.run import RunRecord
from toolkit.telemetry import catalog
from toolkit.telemetry.logs import Log
from toolkit.telemetry.metrics import Metrics
from toolkit.telemetry.wire import Began, Dropped, Ended, Message, Ready, Receiver, Spans, socketpair

GRACE = 15.0
"""Seconds past a job's time limit (or once more the limit, if that is shorter) before its process is killed: Python's
alarm cannot end C code."""

TICK = 0.2
"""Seconds between looks at the clock when no socket has anything to say."""

_QUICK_DEATH = 5.0


@dataclass(slots=True)
class WorkerProcess:
    """A worker process and what is known of it."""

    name: str
    queue: str
    popen: subprocess.Popen[bytes]
    socket: socket.socket
    receiver: Receiver
    started: float
    ready: bool = False
    stopping: bool = False
    running: Began | None = None
    running_since: float = 0.0
    told: datetime | None = None
    """When the last run that it told the end of had started."""
    silent_since: float | None = None
    """Since when its socket is closed."""

    @property
    def state(self) -> str:
        """A state of the catalog's closed list."""
        if self.stopping:
            return "stopping"
        if not self.ready:
            return "starting"
        return "busy" if self.running else "idle"


@dataclass(slots=True)
class _Slot:
    """A place for one worker process; it outlives the processes in it."""

    queue: str
    worker: WorkerProcess | None = None
    next_start: float = 0.0
    wait: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """`run(stop)` works until `stop` is set. `command(fd, queue, name)` is the argument vector of a worker process."""

    command: Callable[[int, str, str], Sequence[str]]
    environment: Mapping[str, str]
    processes: int
    queues: Sequence[str]
    identity: str
    database: Database
    broker: redis.Redis
    relay: Relay
    doorbell: Doorbell
    keeper: Keeper
    outages: Outages
    metrics: Metrics
    account: Account
    spans: SpanStore
    export: Callable[[bytes, int], None]
    log: Log
    _slots: list[_Slot] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _unburied: list[tuple[WorkerProcess, str]] = field(default_factory=list)
    _born: int = 0
    _beat: float = 0.0
    _threads: list[Thread] = field(default_factory=list)

    def workers(self) -> list[str]:
        """Names of the living worker processes."""
        return [worker.name for slot in list(self._slots) if (worker := slot.worker) is not None]

    def alive(self) -> bool:
        """True while the loop turns and its threads live."""
        return time.monotonic() - self._beat < 10.0 and all(thread.is_alive() for thread in self._threads)

    def not_ready(self) -> list[str]:
        """Why this host cannot do its work right now; empty when it can."""
        reasons = [
            f"{name} does not answer: {message}" for name, message in sorted(self.outages.away.items())
        ]
        if not any((worker := slot.worker) is not None and worker.ready for slot in self._slots):
            reasons.append("no worker process is ready")
        return reasons

    def run(self, stop: Event, kill: Event) -> None:
        """Supervise until `stop`; then let the workers finish what they have in hand, or end them when `kill` is set."""
        self._slots = [_Slot(self.queues[place % len(self.queues)]) for place in range(self.processes)]
        self._beat = time.monotonic()
        catalog.emit(
            self.log, catalog.SUPERVISOR_STARTED, processes=self.processes, queues=", ".join(self.queues)
        )
        ended = Event()
        self._threads = [
            Thread(target=loop, args=(ended,), name=name, daemon=True)
            for name, loop in (
                ("relay", self._relay_loop),
                ("keeper", self._keeper_loop),
                ("spans", self._spans_loop),
            )
        ]
        for thread in self._threads:
            thread.start()
        try:
            while not stop.is_set():
                self.run_once(TICK)
            self._drain(kill)
        finally:
            ended.set()
            for thread in self._threads:
                thread.join(timeout=5)
            self.outages.guard(self._write_spans, by="spans")
            self.keeper.release()
            self.doorbell.close()
            catalog.emit(self.log, catalog.SUPERVISOR_STOPPED)

    def run_once(self, timeout: float) -> None:
        """One turn: what the workers say, who died, who overran, who is missing."""
        now = time.monotonic()
        self._beat = now
        for slot in self._slots:
            if slot.worker is None and now >= slot.next_start and not self.outages.away:
                self._start(slot)
        for key, _ in self._selector.select(timeout):
            self._listen(key.data)
        now = time.monotonic()
        for slot in self._slots:
            worker = slot.worker
            if worker is not None and worker.popen.poll() is not None:
                self._died(slot, worker)
            elif worker is not None and worker.running:
                limit = worker.running.timeout
                if now - worker.running_since > limit + min(GRACE, limit):
                    worker.popen.kill()
            elif worker is not None and worker.silent_since is not None and now > worker.silent_since + GRACE:
                worker.popen.kill()
        self._bury()
        states = Counter(slot.worker.state for slot in self._slots if slot.worker is not None)
        self.metrics.set_workers(states)

    # -- processes -----------------------------------------------------------------------------------------------

    def _start(self, slot: _Slot) -> None:
        ours, theirs = socketpair()
        self._born += 1
        name = f"{self.identity}.{self._born}"
        popen = subprocess.Popen(
            self.command(theirs.fileno(), slot.queue, name),
            pass_fds=(theirs.fileno(),),
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the supervisor's to hand on
        )
        theirs.close()
        slot.worker = WorkerProcess(name, slot.queue, popen, ours, Receiver(ours), time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, slot.worker)

    def _listen(self, worker: WorkerProcess) -> None:
        for message in worker.receiver.read():
            self._hear(worker, message)
        if worker.receiver.eof:
            self._hang_up(worker)
            with suppress(subprocess.TimeoutExpired):  # it is about to end; nobody else waits long for that
                worker.popen.wait(TICK)

    def _hang_up(self, worker: WorkerProcess) -> None:
        worker.silent_since = time.monotonic()
        if worker.socket.fileno() >= 0:
            self._selector.unregister(worker.socket)
            worker.socket.close()

    def _hear(self, worker: WorkerProcess, message: Message) -> None:
        if isinstance(message, Ready):
            worker.ready = True
            catalog.emit(self.log, catalog.WORKER_STARTED, worker=worker.name, pid=message.pid)
        elif isinstance(message, Began):
            worker.running, worker.running_since = message, time.monotonic()
        elif isinstance(message, Ended):
            worker.running, worker.told = None, message.record.started_at
            self._count(message.record)
        elif isinstance(message, Spans):
            self.spans.add(TraceChunk(message.trace_id, message.job_id, message.data), message.count)
            self.export(message.data, message.count)
        elif isinstance(message, Dropped):
            self.metrics.dropped(message.signal, message.reason, message.count)

    def _count(self, record: RunRecord) -> None:
        self.metrics.observe(record)
        self.account.told(record)

    def _died(self, slot: _Slot, worker: WorkerProcess) -> None:
        """Read what it still had to say, replace it, and see to what it left behind."""
        if worker.socket.fileno() >= 0:
            for message in worker.receiver.read():
                self._hear(worker, message)
            self._hang_up(worker)
        code = worker.popen.returncode
        error_type = _ending(code)
        slot.worker = None
        lived = time.monotonic() - worker.started
        if lived < _QUICK_DEATH and worker.running is None and worker.told is None:
            slot.next_start = max(slot.next_start, time.monotonic() + slot.wait)
            slot.wait = min(30.0, max(1.0, slot.wait * 2))
        else:
            slot.wait = 0.0
        if not (worker.stopping and code in {0, -signal.SIGTERM}):
            catalog.emit(
                self.log, catalog.WORKER_DIED, worker=worker.name, pid=worker.popen.pid, error_type=error_type
            )
        self._unburied.append((worker, error_type))
        self.keeper.look_soon()

    def _bury(self) -> None:
        """See to the dead, again and again until PostgreSQL and the broker have both taken it."""
        while self._unburied:
            worker, error_type = self._unburied[0]
            bury = partial(self._bury_one, worker, error_type)
            if not self.outages.guard(bury, "database", "broker", by="burial"):
                return
            self._unburied.pop(0)

    def _bury_one(self, worker: WorkerProcess, error_type: str) -> None:
        burial.close_runs(self.database, self.relay, worker.name, error_type)
        # It may have died between its commit and its word to us: then the ledger knows how the run ended. Only now, since
        # its last commit may still have been under way, and closing its runs has waited for that.
        with self.database.session() as session:
            untold = runs.ended_after(session, worker.name, worker.told)
        for record in untold:
            self._count(record)
            worker.told = record.started_at
        burial.unregister(self.broker, worker.name, worker.queue)

    def _drain(self, kill: Event) -> None:
        """Tell the workers to stop after the job in hand, and wait for them as long as a job may take."""
        catalog.emit(self.log, catalog.SUPERVISOR_STOPPING, signal="request")
        for slot in self._slots:
            slot.next_start = float("inf")
            if slot.worker is not None:
                slot.worker.stopping = True
                slot.worker.popen.terminate()
        while any(slot.worker is not None for slot in self._slots) or self._unburied:
            if kill.is_set():
                for slot in self._slots:
                    if slot.worker is not None:
                        slot.worker.popen.kill()
            self.run_once(TICK)
            if self.outages.away and not any(slot.worker for slot in self._slots):
                return  # they cannot be buried now: the leases will tell another host

    # -- threads -------------------------------------------------------------------------------------------------

    def _relay_loop(self, ended: Event) -> None:
        while not ended.is_set():
            moved = 0

            def move() -> None:
                nonlocal moved
                moved = self.relay.run_once()

            if not self.outages.guard(move, "database", "broker", by="relay"):
                ended.wait(POLL)
            elif not moved:
                self.doorbell.wait(POLL, ended)

    def _keeper_loop(self, ended: Event) -> None:
        while not ended.is_set():
            self.keeper.run_once(time.monotonic())
            ended.wait(0.25)

    def _spans_loop(self, ended: Event) -> None:
        while not ended.wait(0.3):
            self.outages.guard(self._write_spans, "database", by="spans")

    def _write_spans(self) -> None:
        while self.spans.run_once():
            pass


def _ending(code: int) -> str:
    """How a process ended: the signal's name, or its exit code."""
    try:
        return signal.Signals(-code).name if code < 0 else f"EXIT_{code}"
    except ValueError:
        return f"SIGNAL_{-code}"


def identity(host: str) -> str:
    """A name for this supervisor's workers that no other process has: host, pid and a random part."""
    return f"{host}.{os.getpid()}.{os.urandom(3).hex()}"
