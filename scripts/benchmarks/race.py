"""One measured run of one contender.

    start → warm up → idle → SIGSTOP → queue every job → SIGCONT → … → last job done → telemetry delivered → check → stop

The gate is the same for all: workers that wait for a job are stopped by signal while the jobs are queued, so that nothing is
timed but work, and both processes begin at once. Jobs a second run from SIGCONT to the last job done (polled every 5 ms).
CPU is of worker processes and supervisor, until the telemetry has been delivered; those of PostgreSQL, the broker and the
collector are apart.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import psycopg
import redis

from jobs.images.spec import SPEC
from scripts.benchmarks.contenders import PROCESSES, ROOT, Contender, Freshfetch, Place
from scripts.benchmarks.proxy import Proxy, proxies
from scripts.benchmarks.room import Room, check_effects, order_ids

DEADLINE = 180.0
"""Seconds for any one step, however loaded the machine."""


class RaceLost(RuntimeError):
    """A contender failed jobs, died, or did not come to an end."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run came to; everything but `jobs` and `seconds` is per job. CPU in milliseconds, user and system."""

    jobs: int
    seconds: float
    cpu_ms: float
    postgres_ms: float
    broker_ms: float
    broker_commands: float
    postgres_trips: float | None = None
    broker_trips: float | None = None
    spans: float = 0.0

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return self.jobs / self.seconds


def race(
    room: Room, contender: Contender, *, jobs: int, drafts: int = 5, count_trips: bool = False
) -> Measured:
    """Run `jobs` jobs of `contender` on fresh data. `count_trips` puts proxies between: then times mean nothing.

    Raises RaceLost, or WrongEffects when the work was not done."""
    total = jobs + contender.warm
    with ExitStack() as stack:
        url = stack.enter_context(room.database(orders=total, drafts=drafts))
        broker = stack.enter_context(room.broker())
        collector = stack.enter_context(_collector())
        postgres_proxy = broker_proxy = None
        place = Place(url, room.servers.valkey.url, collector.url, room.folder)
        if count_trips:
            postgres_proxy, broker_proxy, place = stack.enter_context(_counted(place))
        course = _Course(contender, broker, url, collector)
        orders = order_ids(url)
        started = stack.enter_context(_running(contender, place))
        course.until_idle(started)
        contender.ask(broker, url, orders[: contender.warm])
        course.until_done(contender.warm, started)
        course.until_told(contender.warm)
        course.until_idle(started)
        with _stopped(started):
            contender.ask(broker, url, orders[contender.warm :])
            course.until_queued(jobs)
            before = _Snapshot.take(room, started, broker, postgres_proxy, broker_proxy)
            spans = collector.seen()["spans"]
            begin = time.monotonic()
        polls = course.until_done(total, started)
        seconds = time.monotonic() - begin
        trips = _Snapshot.take(room, started, broker, postgres_proxy, broker_proxy)
        course.until_told(total)
        after = _Snapshot.take(room, started, broker, postgres_proxy, broker_proxy)
        if contender.attaches:
            check_effects(url, orders=total, drafts=drafts)
        return Measured(
            jobs=jobs,
            seconds=seconds,
            cpu_ms=1000 * (after.cpu - before.cpu) / jobs,
            postgres_ms=1000 * (after.postgres - before.postgres) / jobs,
            broker_ms=1000 * (after.broker - before.broker) / jobs,
            broker_commands=(trips.commands - before.commands - polls - 1) / jobs,
            postgres_trips=(trips.postgres_trips - before.postgres_trips) / jobs if count_trips else None,
            broker_trips=(trips.broker_trips - before.broker_trips) / jobs if count_trips else None,
            spans=(collector.seen()["spans"] - spans) / jobs,
        )


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """CPU seconds and counters, at one moment."""

    cpu: float
    postgres: float
    broker: float
    commands: int
    postgres_trips: int
    broker_trips: int

    @classmethod
    def take(
        cls, room: Room, started: Sequence[subprocess.Popen[bytes]], broker: redis.Redis,
        postgres_proxy: Proxy | None, broker_proxy: Proxy | None,
    ) -> _Snapshot:  # fmt: skip
        return cls(
            cpu=sum(cpu_seconds(one.pid) for one in started),
            postgres=cpu_seconds(room.servers.postgres.pid),
            broker=cpu_seconds(room.servers.valkey.pid),
            commands=broker.info("stats")["total_commands_processed"],
            postgres_trips=postgres_proxy.trips if postgres_proxy else 0,
            broker_trips=broker_proxy.trips if broker_proxy else 0,
        )


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its living descendants, and those that ended and were waited for."""
    total = 0.0
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


@dataclass(frozen=True, slots=True)
class _Course:
    """What a race waits for."""

    contender: Contender
    broker: redis.Redis
    database: str
    collector: _Collector

    def until_idle(self, started: Sequence[subprocess.Popen[bytes]]) -> None:
        """Until every worker process is blocked in the broker, waiting for a job."""

        def idle() -> bool:
            _living(started)
            blocked = sum("b" in one["flags"] for one in self.broker.client_list())
            return blocked == PROCESSES and not self.broker.llen(f"rq:queue:{SPEC.queue}")

        _until(idle, "workers that wait for a job", every=0.02)

    def until_queued(self, jobs: int) -> None:
        """Until the broker has every job; of those, stopped workers have been handed one each."""

        def queued() -> bool:
            waiting = self.broker.llen(f"rq:queue:{SPEC.queue}")
            handed = self.broker.llen(f"rq:queue:{SPEC.queue}:intermediate")
            return waiting + handed == jobs and self._unpushed() == 0

        _until(queued, f"{jobs} queued jobs", every=0.02)

    def _unpushed(self) -> int:
        with psycopg.connect(self.database) as connection:
            row = connection.execute("SELECT count(*) FROM toolkit.intent WHERE pushed_at IS NULL").fetchone()
        return row[0] if row else 0

    def until_done(self, total: int, started: Sequence[subprocess.Popen[bytes]]) -> int:
        """Until RQ's finished registry has them all; returns how many commands that took."""
        polls = 0

        def done() -> bool:
            nonlocal polls
            polls += 1
            if self.broker.zcard(f"rq:finished:{SPEC.queue}") == total:
                return True
            if polls % 100 == 0:
                _living(started)
                polls += 1
                if failed := self.broker.zcard(f"rq:failed:{SPEC.queue}"):
                    raise RaceLost(f"{self.contender.title}: {failed} jobs failed")
            return False

        _until(done, f"{total} finished jobs", every=0.005)
        return polls

    def until_told(self, total: int) -> None:
        """Until the telemetry of all runs is stored in the ledger and has come to the collector."""
        if not isinstance(self.contender, Freshfetch) or not self.contender.telemetry:
            return
        with psycopg.connect(self.database, autocommit=True) as connection:

            def told() -> bool:
                row = connection.execute("SELECT count(*) FROM toolkit.trace").fetchone()
                return row == (total,) and self.collector.seen()["runs"] == total

            _until(told, "the spans of all runs", every=0.05)


def _until(look: Callable[[], bool], what: str, *, every: float) -> None:
    deadline = time.monotonic() + DEADLINE
    while not look():
        if time.monotonic() > deadline:
            raise RaceLost(f"not within {DEADLINE:.0f} s: {what}")
        time.sleep(every)  # other processes do what is waited for, and give no signal


def _living(started: Sequence[subprocess.Popen[bytes]]) -> None:
    for one in started:
        if one.poll() is not None:
            raise RaceLost(f"{one.args!r} ended with {one.returncode}; its log is in the benchmark's folder")


@contextmanager
def _running(contender: Contender, place: Place) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The contender's processes, their output in a file; asked to stop at the end, and killed if they do not."""
    log = place.folder / f"{contender.key}.log"
    started: list[subprocess.Popen[bytes]] = []
    try:
        with log.open("wb") as file:
            for command, environment in contender.commands(place):
                started.append(
                    subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                     cwd=ROOT)
                )  # fmt: skip
        yield started
    except RaceLost as error:
        raise RaceLost(f"{error}\n{_last_lines(log)}") from error
    finally:
        for one in started:
            one.terminate()
        for one in started:
            try:
                one.wait(20)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


@contextmanager
def _stopped(started: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Worker processes stand still in the block: a supervisor's children, else the processes themselves."""
    workers: list[psutil.Process] = []
    for one in started:
        process = psutil.Process(one.pid)
        workers += process.children() or [process]
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class _Collector:
    """The OTLP receiver's process, from outside."""

    url: str

    def seen(self) -> dict[str, int]:
        """Spans and runs so far."""
        with urllib.request.urlopen(self.url, timeout=10) as answer:  # noqa: S310  http, on loopback
            found: dict[str, int] = json.load(answer)
        return found


@contextmanager
def _collector() -> Iterator[_Collector]:
    command = [sys.executable, "-m", "scripts.benchmarks.collector"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield _Collector(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


@contextmanager
def _counted(place: Place) -> Iterator[tuple[Proxy, Proxy, Place]]:
    """The same place, seen through proxies."""
    postgres, broker = urlsplit(place.database), urlsplit(place.broker)
    folder = parse_qs(postgres.query).get("host", [""])[0]
    socket = (
        f"{folder}/.s.PGSQL.{postgres.port}" if folder else (postgres.hostname or "", postgres.port or 5432)
    )
    with proxies(socket, (broker.hostname or "", broker.port or 6379)) as (first, second):
        yield (
            first,
            second,
            Place(
                postgres._replace(netloc=_at(postgres.netloc, first.port), query="").geturl(),
                broker._replace(netloc=_at(broker.netloc, second.port)).geturl(),
                place.collector,
                place.folder,
            ),
        )


def _at(netloc: str, port: int) -> str:
    return f"{netloc.rpartition('@')[0]}@127.0.0.1:{port}"
