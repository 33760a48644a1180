"""Drill every alert: cause, page, the runbook's commands, resolution. Prints a table; `--write` puts it into the runbooks.

    scripts/drill [ALERT …] [--lanes N] [--write] [--verbose]

Exit code: 0 every drill went as its runbook says, 1 one did not.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import yaml

from scripts.drilling import runbook
from scripts.drilling.receiver import until
from scripts.drilling.scenarios import SCENARIOS, Scenario
from scripts.drilling.stack import DASHBOARDS, ROOT, Stack, stack

PATHS: Final = {"critical": "/pager", "warning": "/tickets", "none": "/heartbeat"}
SILENCE: Final = 3.0
"""Seconds without a heartbeat after which the dead man's switch would complain: three of its intervals."""
OVER: Final = 120.0
"""Seconds within which an alert must resolve after its mitigation."""


@dataclass(slots=True)
class Drilled:
    """How one drill went; times in seconds since the cause."""

    alert: str
    severity: str
    paged: float = 0.0
    mitigated: float = 0.0
    resolved: float = 0.0
    commands: int = 0
    problem: str = ""
    outputs: list[tuple[str, str]] = field(default_factory=list)


def drill(alert: str, scenario: Scenario, folder: Path) -> Drilled:
    """One drill, on a stack of its own."""
    drilled = Drilled(alert, severities()[alert])
    page = (ROOT / "runbooks" / f"{alert}.md").read_text()
    try:
        with stack(folder) as one:
            _go_through(one, scenario, drilled, list(runbook.blocks(page)))
    except Exception as error:  # noqa: BLE001  whatever goes wrong is the drill's outcome
        drilled.problem = "".join(traceback.format_exception_only(error)).strip()
        if not isinstance(error, runbook.BlockFailed | TimeoutError):
            drilled.problem = traceback.format_exc()
    return drilled


def _go_through(one: Stack, scenario: Scenario, drilled: Drilled, blocks: Sequence[runbook.Block]) -> None:
    one.start_worker(**scenario.environ)
    one.start_monitor()
    until(lambda: "Watchdog" in one.firing(), within=20, what="the first evaluation")
    until(lambda: one.receiver.last("Watchdog", "firing", 0.0), within=20, what="a heartbeat")
    # Every counter has been scraped at 0 for as long as the shortest window.
    time.sleep(6)
    scenario.prepare(one)
    if drilled.alert in one.firing() - {"Watchdog"}:
        raise TimeoutError("it fires before its cause")
    began = time.monotonic()
    scenario.cause(one)
    drilled.paged = _page(one, drilled, began, scenario.seconds)
    for block in [block for block in blocks if block.section == "Diagnosis"]:
        _run(one, block, drilled)
    mitigation = [block for block in blocks if block.section == "Mitigation"]
    for block in mitigation[:1]:
        _run(one, block, drilled)
    scenario.relieve(one)
    for block in mitigation[1:]:
        _run(one, block, drilled)
    mended = time.monotonic()
    drilled.mitigated = mended - began
    if drilled.alert == "Watchdog":
        until(lambda: one.receiver.last("Watchdog", "firing", mended), within=OVER, what="a heartbeat again")
    else:
        until(lambda: drilled.alert not in one.firing(), within=OVER, what=f"end of {drilled.alert}")
        until(
            lambda: one.receiver.last(drilled.alert, "resolved", began),
            within=20,
            what="word that it is over",
        )
    drilled.resolved = time.monotonic() - began


def _page(one: Stack, drilled: Drilled, began: float, within: float) -> float:
    """Wait for the page; seconds since the cause."""
    if drilled.alert == "Watchdog":
        until(
            lambda: time.monotonic() - max(told.at for told in one.receiver.told if told.alert == "Watchdog") > SILENCE,
            within=within, what="silence of the heartbeat",
        )  # fmt: skip
        return time.monotonic() - began
    told = until(
        lambda: one.receiver.last(drilled.alert, "firing", began),
        within=within,
        what=f"page for {drilled.alert}",
    )
    assert told is not None
    if told.path != PATHS[drilled.severity]:
        raise TimeoutError(f"it came to {told.path}, not to {PATHS[drilled.severity]}")
    first = min(each.at for each in one.receiver.told if each.alert == drilled.alert and each.at > began)
    return first - began


def _run(one: Stack, block: runbook.Block, drilled: Drilled) -> None:
    drilled.outputs.append((f"[{block.section}, {block.kind}] {block.text}", runbook.run(block, one.place)))
    drilled.commands += 1


def severities() -> dict[str, str]:
    """Every alert's severity, as committed."""
    return {
        rule["alert"]: rule["labels"]["severity"]
        for path in sorted((DASHBOARDS / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }


def last_drill(drills: Sequence[Drilled], day: str) -> str:
    """The section's text: what was measured, in seconds."""
    head = (
        f"{day}, `scripts/drill` on {platform.system()}, Python {platform.python_version()}; a minute of the rules was a second:",
        "",
        "| alert | cause to page | cause to mitigated | cause to resolved | commands run as written |",
        "|---|---|---|---|---|",
    )
    rows = (
        f"| {one.alert} | {one.paged:.1f} s | {one.mitigated:.1f} s | {one.resolved:.1f} s | {one.commands} |"
        for one in drills
    )
    return "\n".join((*head, *rows))


def main() -> int:
    """Parse, drill, tell."""
    parser = argparse.ArgumentParser(prog="scripts/drill", description="Drill the alerts on the real stack.")
    parser.add_argument("alerts", nargs="*", metavar="ALERT", help="only these")
    parser.add_argument("--lanes", type=int, default=3, help="drills side by side [3]")
    parser.add_argument("--write", action="store_true", help="write Last drill into each runbook")
    parser.add_argument("--verbose", action="store_true", help="print what the commands said")
    options = parser.parse_args()
    if unknown := set(options.alerts) - SCENARIOS.keys():
        parser.error(f"no such alert: {', '.join(sorted(unknown))}")
    if missing := severities().keys() - SCENARIOS.keys():
        parser.error(f"alerts without a drill: {', '.join(sorted(missing))}")
    wanted = [alert for alert in SCENARIOS if not options.alerts or alert in options.alerts]
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="freshfetch-drill-") as folder,
        ThreadPoolExecutor(options.lanes) as lanes,
    ):

        def one(alert: str) -> Drilled:
            drilled = drill(alert, SCENARIOS[alert], Path(folder) / alert)
            print(_line(drilled), flush=True)
            for text, output in drilled.outputs if options.verbose else []:
                print(f"$ {text}\n{output}", flush=True)
            return drilled

        print(
            f"{'alert':26}{'severity':>9}{'to page':>10}{'mitigated':>11}{'resolved':>10}{'commands':>10}",
            flush=True,
        )
        drills = list(lanes.map(one, wanted))
    failed = [drilled for drilled in drills if drilled.problem]
    for drilled in failed:
        print(f"\n{drilled.alert}: {drilled.problem}", file=sys.stderr)
    print(
        f"\n{len(drills) - len(failed)} of {len(drills)} drills as written, in {time.monotonic() - began:.0f} s"
    )
    if options.write:
        _write(drills)
    return 1 if failed else 0


def _write(drills: Sequence[Drilled]) -> None:
    """Last drill of each page, and of the index when every alert was drilled."""
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    good = [drilled for drilled in drills if not drilled.problem]
    sections = {drilled.alert: last_drill([drilled], day) for drilled in good}
    if len(good) == len(SCENARIOS):
        sections["README"] = last_drill(sorted(good, key=lambda drilled: drilled.alert), day)
    for name, section in sections.items():
        page = ROOT / "runbooks" / f"{name}.md"
        page.write_text(runbook.with_last_drill(page.read_text(), section))


def _line(drilled: Drilled) -> str:
    if drilled.problem:
        return f"{drilled.alert:26}{drilled.severity:>9}   FAILED"
    times = f"{drilled.paged:>8.1f} s{drilled.mitigated:>9.1f} s{drilled.resolved:>8.1f} s"
    return f"{drilled.alert:26}{drilled.severity:>9}{times}{drilled.commands:>10}"


if __name__ == "__main__":
    sys.exit(main())
