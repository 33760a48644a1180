"""A runbook as the drill reads it: its sections and their fenced blocks, run as they are written.

`sh` runs in a shell, `sql` on the ledger's database, `promql` on Prometheus; a `text` block after one of them is the output
that it must have: each of its lines somewhere in it, in any order, `…` for anything. Commands see what the README of the
runbooks says they may count on: DATABASE_URL or TOOLKIT_HOME, $LOG, $METRICS, $PROMETHEUS, $ALERTMANAGER, $OTLP.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg

from scripts.drilling.receiver import until

KINDS: Final = frozenset({"sh", "sql", "promql", "text"})
PATIENCE: Final = 150.0
"""Seconds for one block."""
WRONG: Final = frozenset({2, 126, 127})
"""Exit codes that no command of a runbook may end with: a wrong call, or no such program."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `expected` lines of its output ('' none)."""

    section: str
    kind: str
    text: str
    expected: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where blocks run."""

    folder: Path
    environment: Mapping[str, str]
    database_url: str
    prometheus: str


class BlockFailed(Exception):
    """A block did not do what the runbook says."""


def blocks(text: str) -> Iterator[Block]:
    """The runnable blocks, each with the output that follows it."""
    found: list[Block] = []
    section = ""
    for part in re.finditer(r"^## ([^\n]+)$|^```(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if part[1]:
            section = part[1]
            continue
        kind, content = part[2], part[3].strip()
        if kind not in KINDS:
            raise BlockFailed(f"a block is {kind or 'nothing'}: {', '.join(sorted(KINDS))}")
        if kind == "text":
            before = found.pop()
            found.append(Block(before.section, before.kind, before.text, content))
        else:
            found.append(Block(section, kind, content))
    yield from found


def run(block: Block, place: Place) -> str:
    """Run it, and return what it printed. Raises BlockFailed."""
    doing = {"sh": _shell, "sql": _sql, "promql": _promql}[block.kind]
    output = doing(block, place)
    missing = [line for line in block.expected.splitlines() if line.strip() and not appears(line, output)]
    if missing:
        raise BlockFailed(f"{block.text}\nlacks in its output: {missing}\noutput:\n{output}")
    return output


def appears(line: str, output: str) -> bool:
    """True when `line`, with … for anything and any blanks for blanks, is in one of the output's lines."""
    words = [r"\s+".join(map(re.escape, part.split())) for part in line.strip().split("…")]
    return re.search(".*".join(words), output) is not None


def _shell(block: Block, place: Place) -> str:
    ended = subprocess.run(
        ["/bin/bash", "-c", block.text], cwd=place.folder, env=dict(place.environment), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    # In a diagnosis a command may well say that something is wrong; what mends must end well.
    if ended.returncode in WRONG or (ended.returncode and block.section == "Mitigation"):
        raise BlockFailed(f"{block.text}\nended with {ended.returncode}:\n{ended.stdout}")
    return ended.stdout


def _sql(block: Block, place: Place) -> str:
    with psycopg.connect(place.database_url, autocommit=True) as connection:
        cursor = connection.execute(block.text.encode())
        rows = cursor.fetchall() if cursor.description else []
    return "\n".join("  ".join(map(str, row)) for row in rows)


def _promql(block: Block, place: Place) -> str:
    query = urllib.parse.urlencode({"query": block.text})

    def ask() -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{place.prometheus}/api/v1/query?{query}", timeout=10) as answer:  # noqa: S310  http
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found

    # A scrape that was missed on a busy machine leaves a gap of half a second.
    result = until(ask, within=5, what=f"data of {block.text}")
    return "\n".join(f"{one['metric']} {one['value'][1]}" for one in result)


def with_last_drill(text: str, lines: str) -> str:
    """The page with its section Last drill replaced."""
    head, _, _ = text.partition("## Last drill")
    return f"{head.rstrip()}\n\n## Last drill\n\n{lines.rstrip()}\n"
