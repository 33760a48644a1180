"""`scripts/bench [image-job]`: the image job (5 drafts, 15 images, search in memory) against RQ and against plain SQL.

    a   Freshfetch, two worker processes, full telemetry      a'  the same without telemetry
    b   RQ's SimpleWorker, two of them, the plain job         c   RQ's default, forking worker, likewise
    d   RQ's SimpleWorker with an empty job: RQ's ceiling     e   one SQL statement an order, one connection
    a20, b20   as a and b, and every search waits 20 ms

Rounds are interleaved, every second one in reverse; figures are medians over the rounds with the lowest and the highest, and
a ratio is taken within each round. Round trips are counted in a pass of their own, through proxies, supervisor included.

Known weakness: load generator, servers, collector and contenders share the machine's cores, and so does whatever else runs:
jobs a second are worth something on an idle machine only, CPU a job always.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import click
import psutil

from scripts.benchmarks.contenders import Contender, Freshfetch, PlainRQ, scaled
from scripts.benchmarks.floor import Timed, database_part, floor
from scripts.benchmarks.race import Measured, race
from scripts.benchmarks.room import Room, own_room
from toolkit.cli import render

WAIT = 0.02
FEW, MANY = 5, 50
"""Drafts an order, for the round trips."""

CONTENDERS: tuple[Contender, ...] = (
    Freshfetch("a", "Freshfetch, full telemetry", jobs=800),
    Freshfetch("a'", "Freshfetch, no telemetry", jobs=800, telemetry=False),
    PlainRQ("b", "RQ SimpleWorker, plain ORM job", jobs=300),
    PlainRQ("c", "RQ default worker, plain ORM job", jobs=8, warm=2, worker_class="rq.Worker"),
    PlainRQ("d", "RQ SimpleWorker, empty job", jobs=1200, attaches=False),
    Freshfetch("a20", "Freshfetch, 20 ms a search", jobs=240, wait=WAIT),
    PlainRQ("b20", "RQ SimpleWorker, 20 ms a search", jobs=48, warm=4, wait=WAIT),
)
_COUNTED = {"a": 300, "b": 60, "d": 100}
"""Jobs of the pass that counts round trips; a tenth of them with many drafts."""
_ORDERS = 600
"""Orders of the SQL floor and of the database part."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How often, what part of the usual number of jobs, and whose round trips are counted."""

    rounds: int = 3
    scale: float = 1.0
    counted: tuple[str, ...] = tuple(_COUNTED)


@dataclass(frozen=True, slots=True)
class Round:
    """One turn of everything, by contender's key; milliseconds an order for the SQL."""

    raced: Mapping[str, Measured]
    floor: Timed
    database_part: Timed


@dataclass(frozen=True, slots=True)
class Counted:
    """Round trips of one contender, with few and with many drafts an order."""

    few: Measured
    many: Measured | None


@dataclass(frozen=True, slots=True)
class Ratio:
    """One line of the verdict: the median over the rounds, the extremes, and what was aimed at."""

    name: str
    median: float
    low: float
    high: float
    aim: str
    met: bool


def run(
    room: Room, plan: Plan, tell: Callable[[str], None] = lambda _: None
) -> tuple[list[Round], dict[str, Counted]]:
    """Race everybody. Raises RaceLost or WrongEffects when somebody did not do the work."""
    rounds: list[Round] = []
    for number in range(plan.rounds):
        raced: dict[str, Measured] = {}
        for contender in CONTENDERS[:: -1 if number % 2 else 1]:
            done = race(room, contender, jobs=scaled(contender.jobs, plan.scale))
            raced[contender.key] = done
            tell(
                f"round {number + 1}/{plan.rounds}  {contender.key:4} {contender.title:34} {done.rate:7.1f} jobs/s"
            )
        orders = scaled(_ORDERS, plan.scale)
        done_sql = floor(room, orders=orders), database_part(room, orders=orders)
        tell(
            f"round {number + 1}/{plan.rounds}  e    floor {done_sql[0].ms:.2f} ms, database part {done_sql[1].ms:.2f} ms"
        )
        rounds.append(Round(raced, *done_sql))
    counted = {one.key: _count(room, one, plan) for one in CONTENDERS if one.key in plan.counted}
    return rounds, counted


def _count(room: Room, contender: Contender, plan: Plan) -> Counted:
    jobs = _COUNTED[contender.key]
    few = race(room, contender, jobs=scaled(jobs, plan.scale), drafts=FEW, count_trips=True)
    if not contender.attaches:
        return Counted(few, None)
    return Counted(
        few, race(room, contender, jobs=scaled(jobs / 10, plan.scale), drafts=MANY, count_trips=True)
    )


def ratios(rounds: Sequence[Round]) -> list[Ratio]:
    """What the issue asks about. Pure."""

    def of(name: str, value: Callable[[Round], float], aim: str, met: Callable[[float], bool]) -> Ratio:
        values = [value(one) for one in rounds]
        middle = statistics.median(values)
        return Ratio(name, middle, min(values), max(values), aim, met(middle))

    def rate(one: Round, key: str) -> float:
        return one.raced[key].rate

    return [
        of("a / b  jobs/s", lambda r: rate(r, "a") / rate(r, "b"), "at least 2.5", lambda x: x >= 2.5),
        of("a / d  jobs/s", lambda r: rate(r, "a") / rate(r, "d"), "at least 0.8", lambda x: x >= 0.8),
        of("a20 / b20  jobs/s", lambda r: rate(r, "a20") / rate(r, "b20"), "at least 4", lambda x: x >= 4),
        of(
            "database part / e  time",
            lambda r: r.database_part.ms / r.floor.ms,
            "at most 2",
            lambda x: x <= 2,
        ),
        of(
            "database part / e  PostgreSQL's CPU",
            lambda r: r.database_part.postgres_ms / max(r.floor.postgres_ms, 0.001),
            "",
            lambda _: True,
        ),
        of(
            "b / a  CPU, all processes",
            lambda r: _all_cpu(r.raced["b"]) / max(_all_cpu(r.raced["a"]), 0.001),
            "",
            lambda _: True,
        ),
        of("a' / a  jobs/s", lambda r: rate(r, "a'") / rate(r, "a"), "at most 1.1", lambda x: x <= 1.1),
        of(
            "a / a'  CPU, all processes",
            lambda r: _all_cpu(r.raced["a"]) / max(_all_cpu(r.raced["a'"]), 0.001),
            "",
            lambda _: True,
        ),
    ]


def _all_cpu(one: Measured) -> float:
    return one.cpu_ms + one.postgres_ms + one.broker_ms


def machine() -> dict[str, str]:
    """Where it ran, on what, and how busy the machine was with other things before (1-minute load average)."""
    memory = psutil.virtual_memory().total / 2**30
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("freshfetch", "rq", "redis", "psycopg", "sqlalchemy")},
    }


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def _show(rounds: Sequence[Round], counted: Mapping[str, Counted]) -> None:
    columns = ("", "contender", "jobs/s", "CPU ms", "PostgreSQL ms", "broker ms", "commands")
    render.heading("Each job: CPU of workers and supervisor, of PostgreSQL, of the broker; broker commands")
    rows: list[Sequence[object]] = []
    for contender in CONTENDERS:
        runs = [one.raced[contender.key] for one in rounds]

        def middle(of: Callable[[Measured], float], runs: Sequence[Measured] = runs) -> str:
            return f"{statistics.median(map(of, runs)):.1f}"

        rows.append(
            (contender.key, contender.title, _spread([one.rate for one in runs]), middle(lambda m: m.cpu_ms),
             middle(lambda m: m.postgres_ms), middle(lambda m: m.broker_ms), middle(lambda m: m.broker_commands))
        )  # fmt: skip
    render.table(columns, rows, right=columns[2:])
    click.echo()
    render.heading("SQL from one connection, ms an order")
    render.table(
        ("", "", "time", "PostgreSQL ms"),
        [
            ("e", "one statement", _spread([one.floor.ms for one in rounds]),
             f"{statistics.median(one.floor.postgres_ms for one in rounds):.1f}"),
            ("", "database part of a", _spread([one.database_part.ms for one in rounds]),
             f"{statistics.median(one.database_part.postgres_ms for one in rounds):.1f}"),
        ],
        right=("time", "PostgreSQL ms"),
    )  # fmt: skip
    click.echo()
    render.heading(f"Round trips a job, with {FEW} and with {MANY} drafts (supervisor included)")
    render.table(
        ("", "PostgreSQL", f"at {MANY}", "broker", f"at {MANY} "),
        [
            (key, _trips(one.few.postgres_trips), _trips(one.many.postgres_trips if one.many else None),
             _trips(one.few.broker_trips), _trips(one.many.broker_trips if one.many else None))
            for key, one in counted.items()
        ],
        right=("PostgreSQL", f"at {MANY}", "broker", f"at {MANY} "),
    )  # fmt: skip
    click.echo()
    render.heading("Ratios")
    render.table(
        ("ratio", "median", "lowest", "highest", "aim", ""),
        [
            (one.name, f"{one.median:.2f}", f"{one.low:.2f}", f"{one.high:.2f}", one.aim,
             "" if not one.aim else "met" if one.met else "missed")
            for one in ratios(rounds)
        ],
        right=("median", "lowest", "highest"),
    )  # fmt: skip


def _trips(trips: float | None) -> str:
    return "" if trips is None else f"{trips:.1f}"


@click.command()
@click.option(
    "--quick", is_flag=True, help="One round with a quarter of the jobs: under a minute, and rough."
)
@click.option("--rounds", type=click.IntRange(1), help="Rounds  [default: 3]")
@click.option("--json", "as_json", is_flag=True, help="Print every figure of every round as JSON.")
def command(quick: bool, rounds: int | None, as_json: bool) -> None:
    """The image job against RQ and against plain SQL; about four minutes."""
    plan = Plan(rounds or 1, 0.25) if quick else Plan(rounds or 3)
    about = machine()
    click.echo(" · ".join(f"{value}" if key in {"date", "machine"} else f"{key} {value}" for key, value in about.items()),
               err=True)  # fmt: skip
    with own_room() as room:
        found, counted = run(room, plan, lambda line: click.echo(line, err=True))
    if as_json:
        render.as_json(
            {
                "about": about,
                "rounds": [asdict(one) for one in found],
                "round_trips": {key: asdict(one) for key, one in counted.items()},
                "ratios": [asdict(one) for one in ratios(found)],
            }
        )
        return
    sys.stderr.flush()
    _show(found, counted)
