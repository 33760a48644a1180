"""Run every mutant of the alert rules against the alerts' own tests, several at a time. Exit code 1: one lived.

A mutant that promtool refuses counts as killed: it could not be deployed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from scripts.drilling.mutants import mutants

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "dashboards" / "rules"
PROMTOOL: Final = ROOT / ".venv" / "tools" / "bin" / "promtool"

SAME: Final = {
    # Of numbers that are never negative, sum, maximum and average are 0 together.
    ("QueueStuck", "sum → max"),
    ("QueueStuck", "sum → avg"),
    ("NoSuccess", "sum → max"),
    ("NoSuccess", "sum → avg"),
    ("NoSuccess", "max → sum"),
    ("NoSuccess", "max → avg"),
    ("WorkersAbsent", "sum → max"),
    ("WorkersAbsent", "sum → avg"),
    ("IntentsNotPushed", "sum(toggle_held"),
    ("IntentsNotPushed", "avg(toggle_held"),
    # A quantile knows shares only, and every host has the same buckets.
    ("QueueWaitHigh", "histogram_quantile(0.95, avg by"),
}
"""Mutants that mean the same as the rule: (alert, part of what was done). No test can tell them from it."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """What was done to which rule ('' nothing), the file's content with it, and the tests that should notice."""

    name: str
    what: str
    file: str
    content: str
    tests: tuple[str, ...]


def all_mutants(wanted: Sequence[str]) -> Iterator[Mutant]:
    """Every mutant of the wanted rules (all), and each file's tests with nothing broken."""
    for path in sorted(RULES.glob("*.yml")):
        (group,) = yaml.safe_load(path.read_text())["groups"]
        rules: list[dict[str, Any]] = group["rules"]
        alerts = [rule["alert"] for rule in rules if "alert" in rule]
        for rule in rules:
            name = rule.get("alert") or rule["record"]
            if wanted and name not in wanted:
                continue
            # A recording rule is tested by the alerts of its group; for an alert, the group's other alerts are left out.
            mine = [name] if "alert" in rule else alerts
            kept = [other for other in rules if "record" in other or other["alert"] in mine]
            tests = tuple(f"{alert}.yml" for alert in mine)
            for what, broken in [("", rule), *mutants(rule)]:
                changed = [broken if other is rule else other for other in kept]
                content = json.dumps({"groups": [{**group, "rules": changed}]})  # JSON is YAML
                yield Mutant(name, what, path.name, content, tests)


def lives(mutant: Mutant) -> bool:
    """True when its tests pass."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "tests").mkdir()
        (place / mutant.file).write_text(mutant.content)
        for name in mutant.tests:
            test = place / "tests" / name
            test.write_bytes((RULES / "tests" / name).read_bytes())
            if subprocess.run([PROMTOOL, "test", "rules", test], capture_output=True, check=False).returncode:
                return False
    return True


def same(mutant: Mutant) -> bool:
    """True for a mutant that means the same as its rule."""
    return any(mutant.name == name and what in mutant.what for name, what in SAME)


def main(wanted: Sequence[str]) -> int:
    """Print what lived, and the count."""
    began = time.monotonic()
    made = [mutant for mutant in all_mutants(wanted) if not same(mutant)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        alive = list(pool.map(lives, made))
    broken = [mutant for mutant in made if mutant.what]
    lived = [mutant for mutant, living in zip(made, alive, strict=True) if mutant.what and living]
    wrong = [mutant for mutant, living in zip(made, alive, strict=True) if not mutant.what and not living]
    for mutant in lived:
        print(f"lived   {mutant.name}: {mutant.what}")
    for mutant in wrong:
        print(f"wrong   {mutant.name}: its tests fail with nothing broken")
    print(f"{len(broken) - len(lived)} of {len(broken)} mutants killed in {time.monotonic() - began:.0f} s")
    return 1 if lived or wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
