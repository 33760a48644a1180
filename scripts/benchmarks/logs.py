"""`scripts/bench logs`: `toolkit logs scan` beside `grep -c -F` on the same file, each as a process of its own.

Four logs of the same size: a text log with an error in ten thousand lines (the report's), PostgreSQL's stderr with as many, our
own JSON where every eighth line ends a run, and the text log as gzip (beside `zgrep`). They are read once before, so that all
come from the page cache. Rounds are interleaved; of each the best is told, in wall and in CPU seconds (user and system, children
included): on a machine with other work to do, compare the CPU.

Known weakness: grep looks for one string, and knows no time, no constraint, and no error on several lines.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from toolkit.cli import render

FKEY = "ProductImage_productDraftId_fkey"
REPORT = (
    "Oct 11 17:{m:02}:{s:02}\n❌ [RETRY] Create product image for draft cmgmrnwbw0007l804macxc3mm \n"
    "failed with non-retryable error: \nInvalid `prisma.productImage.create()` invocation: \n"
    f"Foreign key constraint violated on the constraint: `{FKEY}`\n"
)
CHUNK = 50_000
"""Lines that are made; the rest of a log is the same again."""


@dataclass(frozen=True, slots=True)
class Took:
    """Best wall and best CPU seconds of all rounds."""

    wall: float
    cpu: float


@click.command()
@click.option("--megabytes", default=1000, show_default=True, help="Size of each log, unpacked.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def command(megabytes: int, rounds: int, as_json: bool) -> None:
    """Scan logs, beside grep."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="freshfetch-bench-") as folder:
        for name, make in LOGS.items():
            path = Path(folder) / name
            _write(path, make(), megabytes * 1_000_000, packed=name.endswith(".gz"))
            grep = [
                "zgrep" if path.suffix == ".gz" else "grep",
                "-c",
                "-F",
                "oreign key constraint",
                str(path),
            ]
            scan = [sys.executable, "-m", "toolkit.cli", "logs", "scan", str(path), "--json"]
            told = _once(scan)[2]
            counted = json.loads(told)["fk_errors"].get(FKEY, 0)
            assert counted == int(_once(grep)[2] or 0), "both count the same errors"
            took = _race({"grep": grep, "scan": scan}, rounds)
            rows.append((name, counted, took["grep"], took["scan"]))
            path.unlink()
    if as_json:
        render.as_json(
            [{"log": name, "fk_errors": n, "grep": grep, "scan": scan} for name, n, grep, scan in rows]
        )
        return
    columns = ["log", "FK errors", "grep s", "scan s", "ratio", "grep CPU s", "scan CPU s", "ratio of CPU"]
    render.table(columns, [
        (name, n, f"{grep.wall:.2f}", f"{scan.wall:.2f}", f"{scan.wall / grep.wall:.1f}", f"{grep.cpu:.2f}",
         f"{scan.cpu:.2f}", f"{scan.cpu / grep.cpu:.1f}")
        for name, n, grep, scan in rows
    ], right=columns[1:])  # fmt: skip


def _race(commands: dict[str, Sequence[str]], rounds: int) -> dict[str, Took]:
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, call in commands.items():
            runs[name].append(_once(call)[:2])
    return {name: Took(min(w for w, _ in took), min(c for _, c in took)) for name, took in runs.items()}


def _once(call: Sequence[str]) -> tuple[float, float, bytes]:
    """Wall and CPU seconds, and stdout; both programs exit with 1 for what they count or do not."""
    before, began = os.times(), time.monotonic()
    told = subprocess.run(call, capture_output=True, check=False)
    wall, after = time.monotonic() - began, os.times()
    assert told.returncode in {0, 1}, told.stderr
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu, told.stdout


def _write(path: Path, chunk: bytes, size: int, *, packed: bool) -> None:
    """The chunk again and again, up to the size; gzip files are members one after the other."""
    part = gzip.compress(chunk, 6) if packed else chunk
    with path.open("wb") as file:
        for _ in range(max(1, size // len(chunk))):
            file.write(part)
    with path.open("rb") as file:
        shutil.copyfileobj(file, _Nowhere(), 1 << 20)  # into the page cache


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)


def _text() -> bytes:
    pick = random.Random(1)  # noqa: S311  a log, not a secret
    lines = []
    for n in range(CHUNK):
        m, s = divmod(n * 3600 // CHUNK, 60)
        lines.append(
            REPORT.format(m=m, s=s) if n % 10_000 == 0 else
            f"Oct 11 17:{m:02}:{s:02} 🔍 [{pick.randrange(9)}/9] Searching images for: product {pick.randrange(10**6)}, "
            f"merchant {pick.randrange(10**4)}\n"
        )  # fmt: skip
    return "".join(lines).encode()


def _postgres() -> bytes:
    pick = random.Random(2)  # noqa: S311
    lines = []
    for n in range(CHUNK):
        m, s = divmod(n * 3600 // CHUNK, 60)
        head = f"2025-10-11 17:{m:02}:{s:02}.123 UTC [{pick.randrange(9999)}]"
        lines.append(
            f'{head} ERROR:  insert or update on table "ProductImage" violates foreign key constraint "{FKEY}"\n'
            if n % 10_000 == 0
            else f"{head} LOG:  checkpoint complete: wrote {pick.randrange(9999)} buffers; write={pick.random():.3f} s\n"
        )
    return "".join(lines).encode()


def _own() -> bytes:
    pick = random.Random(3)  # noqa: S311
    lines = []
    for n in range(CHUNK):
        m, s = divmod(n * 3600 // CHUNK, 60)
        line = {
            "timestamp": f"2025-10-11T17:{m:02}:{s:02}.123456Z", "level": "info", "event": "images.found", "release": "r1",
            "trace_id": f"{pick.getrandbits(128):032x}", "span_id": f"{pick.getrandbits(64):016x}", "trace_flags": "01",
            "job_id": f"{pick.getrandbits(128):032x}", "job_name": "background-image-processing", "queue": "images",
        }  # fmt: skip
        if n % 10_000 == 0:
            line |= {"level": "error", "event": "run.failed", "sqlstate": "23503", "constraint": FKEY,
                     "error_message": f'violates foreign key constraint "{FKEY}"'}  # fmt: skip
        elif n % 8 == 0:
            line |= {"event": "run.processed", "outcome": "processed", "duration": pick.random()}
        lines.append(json.dumps(line, separators=(",", ":")) + "\n")
    return "".join(lines).encode()


LOGS: dict[str, Callable[[], bytes]] = {
    "report.log": _text, "postgres.log": _postgres, "own.json": _own, "report.log.gz": _text,
}  # fmt: skip
