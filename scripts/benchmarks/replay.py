"""`scripts/bench replay`: failed jobs asked again, by `toolkit replay` and by `rq requeue --all`, on the same broker.

    ours   `toolkit replay --failed`: plan by live rows, judge again under lock, open, relay into RQ; until RQ's queue has all
    rq     `rq requeue --all` on the same jobs: until RQ's queue has all

Both are timed as commands, from the start of the process; a relay runs beside ours, as a supervisor does. Rounds are
interleaved, every second one in reverse; so are rounds of one single job, whose time is what starting a command costs: the
second ratio leaves it out. Then both are killed half way, several times, and what is in no list any more is
counted. With --full, 300,000 failed jobs, 500 of them undecodable or gone, for the command's memory.

Known weakness: commands, servers and the relay share the machine's cores, and so does whatever else runs.
"""

from __future__ import annotations

import logging
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import psycopg
import redis

from jobs.images.spec import SPEC
from scripts.benchmarks.room import Room, own_room
from toolkit.broker.codec import encode
from toolkit.broker.relay import Relay
from toolkit.cli import render
from toolkit.jobspec import Registry
from toolkit.ledger.database import Database
from toolkit.ledger.intents import open_among
from toolkit.telemetry import logs

_QUEUE, _FAILED = f"rq:queue:{SPEC.queue}", f"rq:failed:{SPEC.queue}"

_JOBS = f"""
INSERT INTO toolkit.intent (job_name, queue, payload, release, pushes)
SELECT '{SPEC.name}', '{SPEC.queue}', jsonb_build_object('purchaseOrderId', id, 'merchantId', "merchantId"), 'r0', 1
FROM "PurchaseOrder"
"""  # noqa: S608  every part is written here
_FAIL = """
UPDATE toolkit.intent SET done_at = now(), outcome = 'failed', pushed_at = now();
INSERT INTO toolkit.run (job_id, job_name, queue, number, mode, worker, host, release, queue_wait, finished_at, duration, outcome,
                         reason, error_type, error_message, fingerprint)
SELECT job_id, job_name, queue, 1, 'async', 'w', 'h', 'r0', 0, now(), 1, 'failed', 'transient', 'connect_timeout',
       'the shop does not answer', 'f00dfeed0001' FROM toolkit.intent;
ANALYZE toolkit.intent, toolkit.run
"""
_SPOIL = """
UPDATE toolkit.intent SET job_name = 'no-such-job' WHERE job_id IN (SELECT job_id FROM toolkit.intent ORDER BY job_id LIMIT 250);
DELETE FROM "PurchaseOrder" WHERE id IN
    (SELECT payload ->> 'purchaseOrderId' FROM toolkit.intent ORDER BY job_id DESC LIMIT 250)
"""


@dataclass(frozen=True, slots=True)
class Moved:
    """A contender's round: jobs, seconds, and jobs a second."""

    contender: str
    jobs: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.jobs / self.seconds


@dataclass(frozen=True, slots=True)
class Killed:
    """Kills half way: how often, of how many jobs each, and how many jobs were in no list after (and after going on)."""

    contender: str
    kills: int
    jobs: int
    lost: int


@dataclass(frozen=True, slots=True)
class Memory:
    """The command's memory at its highest, and its time, for so many failed jobs."""

    jobs: int
    moved: int
    megabytes: float
    seconds: float


@dataclass(slots=True)
class Yard:
    """A database with failed jobs, and the broker that has them in its failed job registry."""

    room: Room
    url: str
    broker: redis.Redis
    jobs: int

    def environ(self) -> dict[str, str]:
        """The environment of the commands."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("TOOLKIT_", "OTEL_"))
        }
        return kept | {
            "DATABASE_URL": self.url,
            "REDIS_URL": self.room.servers.valkey.url,
            "TOOLKIT_RELEASE": "r1",
            "TOOLKIT_OPERATOR": "bench",
        }

    def park(self) -> None:
        """Put every job into RQ's failed job registry, as a worker leaves it there."""
        database, number = Database(self.url), 0
        with database.session() as session, session.transaction():
            ids = [row[0] for row in session.execute("SELECT job_id FROM toolkit.intent").fetchall()]
            for start in range(0, len(ids), 1000):
                pipe = self.broker.pipeline(transaction=False)
                for intent in open_among(session, ids[start : start + 1000]):
                    fields = encode(intent, SPEC, self.broker) | {
                        "status": "failed",
                        "exc_info": "Traceback …",
                        "ended_at": "",
                    }
                    pipe.hset(f"rq:job:{intent.job_id}", mapping=fields)
                    pipe.zadd(_FAILED, {intent.job_id: 4_000_000_000 + number})
                    number += 1
                pipe.execute()
            session.execute(_FAIL)
        database.close()

    def toolkit(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command of ours, begun."""
        return self._popen([sys.executable, "-m", "toolkit.cli", *arguments])

    def replay(self) -> subprocess.Popen[bytes]:
        """Ours."""
        return self.toolkit("replay", "--failed", "--reason", "bench", "--yes")

    def requeue(self) -> subprocess.Popen[bytes]:
        """RQ's."""
        rq = str(Path(sys.executable).parent / "rq")
        return self._popen(
            [rq, "requeue", "--all", "--queue", SPEC.queue, "-S", "json", "-u", self.room.servers.valkey.url]
        )

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, env=self.environ(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def queued(self) -> int:
        """Jobs in RQ's queue."""
        return int(self.broker.llen(_QUEUE))

    def lost(self) -> int:
        """Jobs that RQ has in no list: neither queued nor failed."""
        here = set(self.broker.lrange(_QUEUE, 0, -1)) | set(self.broker.zrange(_FAILED, 0, -1))
        return self.jobs - len(here)

    def one_place(self) -> bool:
        """Every job is in RQ's queue exactly once and in its failed job registry not at all."""
        waiting = self.broker.lrange(_QUEUE, 0, -1)
        return len(waiting) == len(set(waiting)) == self.jobs and not self.broker.zcard(_FAILED)


@contextmanager
def yard(room: Room, jobs: int, *, broker: bool = True) -> Iterator[Yard]:
    """So many failed jobs, each of an order of one draft."""
    with room.database(orders=jobs, drafts=1) as url, room.broker() as client:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_JOBS)
            made = Yard(room, url, client, jobs)
            if broker:
                made.park()
            else:
                connection.execute(_FAIL)
        yield made


def _relay(place: Yard) -> Relay:
    return Relay(Database(place.url), place.broker, Registry.of([SPEC]), logs.get_logger())


def ours(place: Yard) -> float:
    """Seconds until RQ's queue has every job."""
    relay, started = _relay(place), time.monotonic()
    process = place.replay()
    while place.queued() < place.jobs:
        if not relay.run_once():
            if process.poll() not in {None, 0}:
                raise click.ClickException(f"toolkit replay ended with {process.returncode}")
            time.sleep(0.005)  # the relay's bell, without a thread for it
    took = time.monotonic() - started
    process.wait()
    relay.database.close()
    return took


def rqs(place: Yard) -> float:
    """Seconds until RQ's queue has every job."""
    started = time.monotonic()
    process = place.requeue()
    process.wait()
    return time.monotonic() - started


def race(room: Room, jobs: int, rounds: int) -> list[Moved]:
    """Interleaved rounds."""
    contenders: list[tuple[str, Callable[[Yard], float]]] = [("ours", ours), ("rq", rqs)]
    found = []
    for number in range(rounds):
        for name, run in contenders if number % 2 == 0 else reversed(contenders):
            with yard(room, jobs) as place:
                found.append(Moved(name, jobs, run(place)))
                if not place.one_place():
                    raise click.ClickException(f"{name} did not move every job exactly once")
    return found


def kill_rq(room: Room, jobs: int, kills: int) -> Killed:
    """RQ's command, killed half way; it cannot go on with a job that it has taken out of the registry."""
    lost = 0
    for _ in range(kills):
        with yard(room, jobs) as place:
            process = place.requeue()
            _kill_when(process, lambda place=place: place.queued() >= jobs // 2)  # type: ignore[misc]
            lost += place.lost()
    return Killed("rq", kills, jobs, lost)


def kill_ours(room: Room, jobs: int, kills: int) -> Killed:
    """Ours, killed when half of its jobs are asked again; then resumed."""
    lost = 0
    for _ in range(kills):
        with yard(room, jobs) as place, psycopg.connect(place.url, autocommit=True) as connection:

            def half(connection: psycopg.Connection = connection) -> bool:
                row = connection.execute("SELECT count(*) FROM toolkit.flight").fetchone()
                return row is not None and row[0] >= jobs // 2

            process = place.toolkit("replay", "--failed", "--reason", "bench", "--yes", "--rate", f"{jobs}/s")
            _kill_when(process, half)
            place.toolkit("replay", "--resume").wait()
            relay = _relay(place)
            while relay.run_once():
                pass
            relay.database.close()
            lost += jobs - place.queued() if place.queued() != jobs or not place.one_place() else 0
    return Killed("ours", kills, jobs, lost)


def _kill_when(process: subprocess.Popen[bytes], half: Callable[[], bool]) -> None:
    while process.poll() is None and not half():
        # rq's own command gives no signal
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()


def memory(room: Room, jobs: int, *, spoilt: bool) -> Memory:
    """The command's highest resident set while it plans and opens `jobs`."""
    with yard(room, jobs, broker=False) as place:
        if spoilt:
            with psycopg.connect(place.url, autocommit=True) as connection:
                connection.execute(_SPOIL)
        started = time.monotonic()
        process = place.replay()
        _, _, usage = os.wait4(process.pid, 0)
        took = time.monotonic() - started
        with psycopg.connect(place.url) as connection:
            row = connection.execute("SELECT count(*) FROM toolkit.flight").fetchone()
        return Memory(jobs, row[0] if row else 0, usage.ru_maxrss / 1024, took)


@click.command()
@click.option("--jobs", type=int, default=10_000, show_default=True, help="Failed jobs a round.")
@click.option("--rounds", type=int, default=3, show_default=True)
@click.option("--kills", type=int, default=8, show_default=True, help="Kills half way, of each.")
@click.option("--full", is_flag=True, help="Also the command's memory for 10,000 and 300,000 failed jobs.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(jobs: int, rounds: int, kills: int, *, full: bool, as_json: bool) -> None:
    """Failed jobs asked again: ours against `rq requeue --all`."""
    logs.configure(style="json", release="bench", level=logging.WARNING)
    with own_room() as room:
        told: dict[str, object] = {}
        moved, starts = race(room, jobs, rounds), race(room, 1, rounds)
        rates = {name: [one.rate for one in moved if one.contender == name] for name in ("ours", "rq")}
        ratios = [mine / theirs for mine, theirs in zip(rates["ours"], rates["rq"], strict=True)]
        bare = _without_start(moved, starts)
        told |= {
            "moved": [asdict(one) for one in (*moved, *starts)],
            "ratio": statistics.median(ratios),
            "ratio_without_start": bare,
        }
        if not as_json:
            _show_race(jobs, rates, ratios)
            click.echo(f"without the start of either command (ours {_seconds(starts, 'ours'):.2f} s, rq "
                       f"{_seconds(starts, 'rq'):.2f} s): {bare:.1f}")  # fmt: skip
        if kills:
            killed = [kill_rq(room, 500, kills), kill_ours(room, 500, kills)]
            told |= {"killed": [asdict(one) for one in killed]}
            if not as_json:
                columns = ("killed half way", "kills", "jobs each", "jobs in no list after")
                render.table(columns, [tuple(asdict(one).values()) for one in killed])
        if full:
            held = [memory(room, 10_000, spoilt=False), memory(room, 300_000, spoilt=True)]
            told |= {"memory": [asdict(one) for one in held]}
            if not as_json:
                rows = [
                    (f"{one.jobs:,}", f"{one.moved:,}", f"{one.megabytes:.0f}", f"{one.seconds:.1f}")
                    for one in held
                ]
                render.table(("failed jobs", "moved", "MB at most", "seconds"), rows)
    if as_json:
        render.as_json(told)


def _show_race(jobs: int, rates: dict[str, list[float]], ratios: list[float]) -> None:
    rows = [
        (name, jobs, *(f"{value:,.0f}" for value in (statistics.median(some), min(some), max(some))))
        for name, some in rates.items()
    ]
    render.table(("contender", "jobs", "jobs/s", "lowest", "highest"), rows)
    click.echo(f"ours / rq: {statistics.median(ratios):.1f} ({min(ratios):.1f} … {max(ratios):.1f})")


def _seconds(rounds: Sequence[Moved], contender: str) -> float:
    return statistics.median(one.seconds for one in rounds if one.contender == contender)


def _without_start(moved: Sequence[Moved], starts: Sequence[Moved]) -> float:
    ours, rq = (_seconds(moved, name) - _seconds(starts, name) for name in ("ours", "rq"))
    return rq / ours
