"""`scripts/bench verify`: what the immediate phase of `toolkit verify-deploy` asks of a ledger with 1,000,000 runs, timed.

Two cases in one ledger (scripts/benchmarks/full_ledger.py): a release five minutes after its mark, and the one before it, whose
window holds a day with a quarter of all runs. Each look is the check's own; of each the first time and the median of all rounds
are told, how many statements it asked, and which of `toolkit.run` and `toolkit.intent` PostgreSQL reads whole for it: none may
be (exit code 1). `window` is what the command asks before the checks (deployments, the first run, the last release proven, its
test orders), `ledger` the detector of foreign key errors; the look of `toggle status` is beside them, in no sum. Then the
command as typed, and how fast commands start, beside `rq --help`.

Known weaknesses: a ledger that was just made lies in the page cache; no worker runs, so nobody acknowledges a toggle.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import click

from jobs.images.words import TOGGLE
from scripts.benchmarks import startup
from scripts.benchmarks.full_ledger import BUSY, NEW, fill
from scripts.benchmarks.room import own_room
from toolkit import verification
from toolkit.app import App
from toolkit.cli import render
from toolkit.ledger import verifications
from toolkit.ledger.database import Database
from toolkit.ledger.reading import reading
from toolkit.settings import Settings
from toolkit.toggle.look import look as toggle_look
from toolkit.verify.adapters.ledger import Ledger
from toolkit.verify.check import Check, Phase, Scene, Target
from toolkit.verify.checks import CHECKS
from toolkit.verify.dry import Heard
from toolkit.verify.rules import Rules

AIM: Final = 2.0
"""Seconds for all that the immediate phase asks of 1,000,000 runs."""
CASES: Final = {"5 minutes": NEW, "a day": BUSY}
"""The window's length → the release that has it."""
_LARGE: Final = {"run", "intent"}

Look = Callable[[Database], object]


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look cost: seconds of the first and of the median round, statements, and the large tables it reads whole."""

    case: str
    what: str
    first: float
    median: float
    statements: int
    scanned: tuple[str, ...]


@click.command()
@click.option(
    "--jobs", default=978_500, show_default=True, help="In the ledger; every fiftieth has two runs."
)
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def command(jobs: int, rounds: int, *, as_json: bool) -> None:
    """What verify-deploy asks of a full ledger, and how fast commands start."""
    load = os.getloadavg()[0]
    with own_room() as room, room.database(orders=0, drafts=0) as url:
        runs = fill(url, jobs)
        environ = startup.environ(url, room.servers.valkey.url)
        looked = [one for case in (*CASES, "") for one in measure(environ, case, rounds)]
        typed = [verify_deploy(environ) for _ in range(rounds)]
        started = startup.race(environ | {"TOOLKIT_HOME": str(room.folder / "home")}, rounds * 2)
    if as_json:
        render.as_json({"runs": runs, "looks": looked, "dry_run": typed, "started": started})
    else:
        _tell(runs, load, looked, typed, started)
    if any(one.scanned for one in looked):
        sys.exit(1)


def _tell(
    runs: int, load: float, looked: list[Looked], typed: list[float], started: list[startup.Started]
) -> None:
    click.echo(
        f"{runs:,} runs; {os.cpu_count()} cores, Python {platform.python_version()}; load average {load:.1f}"
    )
    show(looked)
    click.echo(
        f"toolkit verify-deploy --phase immediate --dry-run --json, as typed: {statistics.median(typed):.2f} s"
    )
    startup.show(started)


def measure(environ: Mapping[str, str], case: str, rounds: int) -> list[Looked]:
    """Every look at the case's release, on a connection that was never used; a case that is none of CASES: the toggle."""
    with App(Settings.from_env(dict(environ))) as app:
        found = []
        looks = _looks(app, CASES[case]) if case in CASES else {"toggle status": _toggle(app)}
        for what, look in looks.items():
            took = [_timed(look, app.database) for _ in range(rounds)]
            heard: list[str] = []
            look(Heard(app.database, heard))
            scanned = sorted({name for one in heard for name in read_whole(app.database, one)})
            found.append(Looked(case, what, took[0], statistics.median(took), len(heard), tuple(scanned)))
        return found


def _looks(app: App, release: str) -> dict[str, Look]:
    """The immediate phase's looks at this release, by name."""
    spec, rules = verification.spec_of(app), Rules()
    found, now = verification.window_of(app, release, None)
    with reading(app.database) as session:
        verified = next(one.verification_id for one in verifications.listed(session, release=release))
        orders = verifications.placed_orders(session, verified)
    target = Target(verified, release, found.since, now)

    def window(database: Database) -> None:
        with reading(database) as session:
            marked = verifications.deployments(session)
            assert marked
            verifications.first_run(session, release)
            verifications.last_proven(session, other_than=release)
            verifications.placed_orders(session, verified)

    def look(check: Check) -> Look:
        return lambda database: check.look(
            Scene(target=target, rules=rules, registry=app.registry, spec=spec, database=database, broker=app.broker,
                  orders=orders)
        )  # fmt: skip

    checks = {check.name: look(check) for check in CHECKS if check.phase is Phase.IMMEDIATE}
    return {"window": window} | checks | {
        "ledger": lambda database: Ledger(database).look(release, target.since, None, now, rules.lag)
    }  # fmt: skip


def _toggle(app: App) -> Look:
    return lambda database: toggle_look(database, app.registry, TOGGLE, switched_off=False)


def _timed(look: Look, database: Database) -> float:
    began = time.monotonic()
    look(database)
    return time.monotonic() - began


def read_whole(database: Database, statement: str) -> Iterator[str]:
    """The large tables that this statement reads whole."""
    with reading(database) as session:
        row: Any = session.execute(f"EXPLAIN (FORMAT JSON) {statement}".encode()).fetchone()
    for node in _nodes(row[0][0]["Plan"]):
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in _LARGE:
            yield f"toolkit.{node['Relation Name']}"


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def verify_deploy(environ: Mapping[str, str]) -> float:
    """Seconds of the whole command, from the key to the prompt."""
    took, told = startup.once(
        ["toolkit", "verify-deploy", "--phase", "immediate", "--dry-run", "--json"], environ
    )
    assert all(one["asks"] and not one["trouble"] for one in json.loads(told)), told
    return took


def show(looked: list[Looked]) -> None:
    """A table, and the sum of each case beside the aim."""
    columns = ("window", "check", "first s", "median s", "statements", "reads whole")
    render.table(columns, [
        (one.case, one.what, f"{one.first:.3f}", f"{one.median:.3f}", one.statements, ", ".join(one.scanned) or "nothing")
        for one in looked
    ], right=columns[2:5])  # fmt: skip
    for case in CASES:
        first, median = (
            sum(getattr(one, part) for one in looked if one.case == case) for part in ("first", "median")
        )
        kept = "met" if first <= AIM else "missed"
        click.echo(f"{case}: {first:.2f} s the first time, {median:.2f} s after; aim {AIM:g} s: {kept}")
