"""`scripts/bench rehearse`: schedules a second, by the explorer and by a process for each schedule, on the same servers.

    ours     one theatre: connections, threads' code and the database stay; rows are put back between schedules
    plain    for each schedule a new process, a new copy of the template, new connections; the same schedules

Rounds are interleaved. A body of the table (14 schedules) and today's job against a delete. Times are wall clock; the
making of the template is in neither. Known weakness: the plain one pays for Python's imports, as any such script does.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec

from jobs.images.rehearse import REHEARSAL
from toolkit.cli import render
from toolkit.embedded import servers as embedded
from toolkit.rehearse import installed
from toolkit.rehearse.explorer import Follow, explore
from toolkit.rehearse.room import Room
from toolkit.rehearse.words import Options, Scenario

SCENARIOS = ("stale-payload", "fetch-then-insert", "delete-draft")
PLAIN = 6
"""Schedules that the plain version plays in a round: enough to divide by."""


class Order(msgspec.Struct):
    """What a process for one schedule is told."""

    url: str
    template: str
    mark: str
    scenario: str
    schedule: tuple[str, ...]


def ours(room: Room, scenario: Scenario) -> tuple[float, list[tuple[str, ...]]]:
    """Schedules a second, and the schedules."""
    started = time.perf_counter()
    with room.theatre(scenario) as theatre:
        found = explore(theatre.play)
    return found.schedules / (time.perf_counter() - started), found.seen


def plain(room: Room, scenario: Scenario, schedules: list[tuple[str, ...]], mark: str) -> float:
    """Schedules a second, each in a process of its own."""
    some = schedules[:: max(1, len(schedules) // PLAIN)]
    started = time.perf_counter()
    for number, schedule in enumerate(some):
        order = Order(room.server_url, room.name, f"{mark}_{number}_", scenario.name, schedule)
        subprocess.run(
            [sys.executable, "-m", "scripts.benchmarks.rehearse"],
            input=msgspec.json.encode(order),
            check=True,
        )
    return len(some) / (time.perf_counter() - started)


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
def command(rounds: int) -> None:
    """Schedules a second, beside a process for each schedule."""
    with TemporaryDirectory() as folder:
        home = Path(folder)
        try:
            url = embedded.up(home).postgres.url
            with Room.open(url, REHEARSAL.prepare) as room:
                rows = [_row(room, name, rounds) for name in SCENARIOS]
        finally:
            embedded.destroy(home)
    render.table(
        ("scenario", "schedules", "ours/s", "plain/s", "ratio"),
        rows,
        right=("schedules", "ours/s", "plain/s", "ratio"),
    )


def _row(room: Room, name: str, rounds: int) -> tuple[str, int, str, str, str]:
    scenario = installed.scenario(REHEARSAL, name, Options())
    fast, slow, seen = [], [], list[tuple[str, ...]]()
    for number in range(rounds):
        rate, seen = ours(room, scenario)
        fast.append(rate)
        slow.append(plain(room, scenario, seen, f"{name.replace('-', '')}{number}"))
    one, other = statistics.median(fast), statistics.median(slow)
    return name, len(seen), f"{one:.1f}", f"{other:.2f}", f"{one / other:.0f}"


def _play_one(order: Order) -> None:
    scenario = installed.scenario(REHEARSAL, order.scenario, Options())
    with Room.beside(order.url, order.template, order.mark) as room, room.theatre(scenario) as theatre:
        theatre.play(Follow(order.schedule))


if __name__ == "__main__":
    _play_one(msgspec.json.decode(sys.stdin.buffer.read(), type=Order))
