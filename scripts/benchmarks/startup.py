"""How fast commands start, beside `rq --help`: whole processes, from fork to end, in interleaved rounds."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from toolkit.cli import render

COMMANDS: Final = (
    "rq --help", "toolkit --help", "toolkit toggle status", "python -c import\tclick,psycopg", "toolkit verify-deploy --help",
    "toolkit status",
)  # fmt: skip
"""The fourth is what a command that asks PostgreSQL cannot do without."""
AIMED: Final = ("toolkit --help", "toolkit toggle status")
AIM: Final = 0.5
"""Of the time of `rq --help`."""


@dataclass(frozen=True, slots=True)
class Started:
    """A command's seconds, and the medians of all rounds in wall time and in its share of `rq --help` in the same round."""

    command: str
    seconds: tuple[float, ...]
    ratio: float

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def environ(url: str, broker: str) -> dict[str, str]:
    """The environment of commands that work on these servers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOOLKIT_", "OTEL_"))}
    return kept | {"DATABASE_URL": url, "REDIS_URL": broker, "TOOLKIT_OPERATOR": "bench"}


def once(call: Sequence[str], env: Mapping[str, str]) -> tuple[float, bytes]:
    """Seconds of a command, and its stdout."""
    program, *arguments = call
    path = str(Path(sys.executable).parent / program)
    began = time.monotonic()
    done = subprocess.run([path, *arguments], env=dict(env), capture_output=True, check=False)
    took = time.monotonic() - began
    assert done.returncode in {0, 1, 3}, done.stderr
    return took, done.stdout


def race(env: Mapping[str, str], rounds: int) -> list[Started]:
    """Every command, once before the clock counts and then in each round; every second round in reverse."""
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for name in COMMANDS:
        once(name.split(" "), env)
    for number in range(rounds):
        for name in COMMANDS if number % 2 == 0 else reversed(COMMANDS):
            took[name].append(once(name.split(" "), env)[0])
    rq = took["rq --help"]
    return [
        Started(
            name, tuple(some), statistics.median(mine / theirs for mine, theirs in zip(some, rq, strict=True))
        )
        for name, some in took.items()
    ]


def show(started: Sequence[Started]) -> None:
    """A table."""
    columns = ("command", "seconds", "lowest", "of rq --help", "aim", "")
    render.table(columns, [
        (one.command.expandtabs(1), f"{one.median:.3f}", f"{min(one.seconds):.3f}", f"{one.ratio:.2f}",
         *((f"at most {AIM}", "met" if one.ratio <= AIM else "missed") if one.command in AIMED else ("", "")))
        for one in started
    ], right=columns[1:4])  # fmt: skip
