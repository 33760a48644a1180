"""`scripts/bench toggle`: how fast a flip takes effect and is acknowledged, and what each way back costs.

Ten importers (long-lived programs on the library) and ten worker processes under one supervisor look at the toggle. A flip is
timed from before its statement: to the effect (the last importer whose next order would go by it), and to the receipt (every
process has acknowledged). Then, once: the same with one process stopped, which must be named; `toolkit toggle off` as an
operator types it; and the other way back, `git revert` of a release and a restart of the workers.

Known weakness: everything shares this machine's cores.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from jobs.images.words import TOGGLE
from scripts.benchmarks.room import own_room
from tests.eventually import eventually
from tests.hosts import worker_host
from tests.importers import Importer, importer
from toolkit.app import App
from toolkit.cli import render
from toolkit.ledger import toggles
from toolkit.settings import Settings
from toolkit.toggle.plan import Plan
from toolkit.toggle.receipt import Receipt

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True)
class Flip:
    """Seconds from the flip to its effect in the last importer, and to the receipt."""

    effect: float
    receipt: float


@click.command()
@click.option("--flips", default=50, show_default=True)
@click.option("--processes", default=20, show_default=True, help="Half of them importers, half workers.")
@click.option("--json", "as_json", is_flag=True)
def command(flips: int, processes: int, as_json: bool) -> None:
    """Flip to effect and to receipt, over so many processes."""
    half = processes // 2
    with own_room() as room, room.database(orders=0, drafts=0) as url:
        servers = (url, room.servers.valkey.url)
        with _processes(servers, room.folder, half) as programs, _operator(servers) as app:
            measured = [_timed(app, programs, half * 2 + 1) for _ in range(flips)]
            stopped, named = _with_one_stopped(app, programs[0])
            typed = _typed(servers)
        reverted, restarted = _revert(room.folder), _restart(servers, room.folder)
    rows = [
        ("flip to effect in every importer", *_spread([one.effect for one in measured])),
        ("flip to receipt of every process", *_spread([one.receipt for one in measured])),
    ]
    if as_json:
        render.as_json(
            {
                "flips": flips, "processes": half * 2, "measured": measured, "stopped_named": named, "named_after": stopped,
                "typed": typed, "git_revert": reverted, "restart": restarted,
            }
        )  # fmt: skip
        return
    click.echo(
        f"{flips} flips; {half} importers, {half} workers, 1 supervisor; {os.cpu_count()} cores,"
        f" Python {platform.python_version()}"
    )
    render.table(("", "p50", "p99", "slowest"), rows, right=("p50", "p99", "slowest"))
    click.echo(
        f"one process stopped: {'named' if named else 'NOT NAMED'} after {render.seconds(stopped)} (--timeout 2)"
    )
    click.echo(f"toolkit toggle off, as typed: {render.seconds(typed)}")
    click.echo(
        f"git revert of a release: {render.seconds(reverted)}; workers stopped and ready again: {render.seconds(restarted)}"
    )


@contextmanager
def _processes(servers: tuple[str, str], folder: Path, half: int) -> Iterator[list[Importer]]:
    with ExitStack() as stack:
        stack.enter_context(worker_host(*servers, folder / "host", processes=half, TOOLKIT_LEASE="60"))
        programs = [stack.enter_context(importer(servers, folder, f"i{n}")) for n in range(half)]
        eventually(lambda: all(one.ready() for one in programs), within=60)
        yield programs


@contextmanager
def _operator(servers: tuple[str, str]) -> Iterator[App]:
    environ = {"DATABASE_URL": servers[0], "REDIS_URL": servers[1], "TOOLKIT_OPERATOR": "bench"}
    with App(Settings.from_env(environ)) as app:
        yield app


def _flip(app: App, within: float) -> tuple[toggles.Toggle, Receipt]:
    with app.database.session() as session:
        standing = toggles.read(session, [TOGGLE]).get(TOGGLE)
    on = not (standing.enabled if standing else True)
    plan = Plan(standing.version if standing else 0, on, 100, {}, None, None)
    flipped = app.flipper.flip(TOGGLE, plan, jobs=app.registry.governed(TOGGLE), reason="bench")
    return flipped, app.flipper.await_receipt(flipped, within=within)


def _timed(app: App, programs: Sequence[Importer], processes: int) -> Flip:
    began, at = time.monotonic(), time.time()
    flipped, seen = _flip(app, 10)
    receipt = time.monotonic() - began
    assert len(seen.acknowledged) == processes, f"{len(seen.acknowledged)} of {processes}"
    assert seen.complete
    moments = [_effect(one, flipped.version) for one in programs]
    return Flip(max(moments) - at, receipt)


def _effect(program: Importer, version: int) -> float:
    """When an order of this importer would have gone by that version."""

    def found() -> float:
        return next((float(one["at"]) for one in program.said("value") if one["version"] == version), 0.0)

    return eventually(found, within=5)


def _with_one_stopped(app: App, program: Importer) -> tuple[float, bool]:
    program.send(signal.SIGSTOP)
    began = time.monotonic()
    _, seen = _flip(app, 2)
    waited = time.monotonic() - began
    program.send(signal.SIGCONT)
    return waited, [one.pid for one in seen.laggards] == [program.process.pid]


def _typed(servers: tuple[str, str]) -> float:
    """The whole command, from the key to the prompt."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "toolkit.cli", "toggle", "off", TOGGLE, "--reason", "bench"],
        check=True, capture_output=True, cwd=ROOT, env=os.environ | {"DATABASE_URL": servers[0], "REDIS_URL": servers[1]},
    )  # fmt: skip
    return time.monotonic() - began


def _revert(folder: Path) -> float:
    """`git revert` of the newest commit, in a clone."""
    git = shutil.which("git")
    if git is None:
        return float("nan")
    clone = folder / "clone"
    subprocess.run([git, "clone", "--quiet", "--local", str(ROOT), str(clone)], check=True)
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@example.com")
    began = time.monotonic()
    subprocess.run(
        [git, *identity, "revert", "--no-edit", "HEAD"], check=True, cwd=clone, capture_output=True
    )
    return time.monotonic() - began


def _restart(servers: tuple[str, str], folder: Path) -> float:
    """From SIGTERM of one host to the next one's readiness, two worker processes."""
    with worker_host(*servers, folder / "before", processes=2) as host:
        began = time.monotonic()
        host.terminate()
    with worker_host(*servers, folder / "after", processes=2):
        return time.monotonic() - began


def _spread(values: Sequence[float]) -> tuple[str, str, str]:
    ranked = sorted(values)
    p50, p99 = (ranked[min(len(ranked) - 1, round(share * (len(ranked) - 1)))] for share in (0.5, 0.99))
    return render.seconds(p50), render.seconds(p99), render.seconds(ranked[-1])
