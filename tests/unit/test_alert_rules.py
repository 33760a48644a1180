"""Alert rules and runbooks: complete, in agreement with the telemetry catalog and with each other. Each check can turn red."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from scripts.drilling import runbook
from scripts.drilling.mutants import mutants
from scripts.drilling.scenarios import SCENARIOS
from scripts.drilling.speed import fast_manager, fast_rules
from tests import alert_lint as lint
from toolkit.cli import COMMANDS

ALERTS = lint.alerts()
PAGES = {
    path.stem: path.read_text()
    for path in lint.RUNBOOKS.glob("*.md")
    if path.stem[0].isupper() and path.stem != "README"
}


def blocks() -> Iterator[tuple[str, runbook.Block]]:
    """Every runnable block of every alert's runbook."""
    for name, text in sorted(PAGES.items()):
        for block in runbook.blocks(text):
            yield name, block


def queries() -> Iterator[tuple[str, str]]:
    """Every PromQL expression of rules and runbooks, and where it is."""
    for path in sorted(lint.RULES.glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                yield rule.get("alert") or rule["record"], rule["expr"]
    for name, block in blocks():
        if block.kind == "promql":
            yield f"{name}.md", block.text


def dashboards() -> Iterator[str]:
    """Every query of the dashboards."""
    for path in (lint.ROOT / "dashboards" / "json").glob("*.json"):
        yield from re.findall(r'"expr": ("(?:[^"\\]|\\.)*")', path.read_text())


def test_every_alert_is_complete() -> None:
    assert [found for rule in ALERTS.values() for found in lint.form(rule)] == []


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"service": "freshfetch"}}, {"labels": {"severity": "critical"}}, {"annotations": {}},
        {"expr": "sum by (queue) (job_runs_total) > 0"},
    ],
)  # fmt: skip
def test_an_incomplete_alert_is_found(change: dict[str, Any]) -> None:
    assert lint.form({**ALERTS["ForeignKeyErrors"], **change})


def test_every_wait_has_its_reason() -> None:
    assert [found for path in lint.RULES.glob("*.yml") for found in lint.waits(path.read_text())] == []


def test_a_wait_without_a_reason_is_found() -> None:
    text = (lint.RULES / "progress.yml").read_text()
    assert lint.waits(re.sub(r"(?m)^ +# 1 hour.*\n", "", text)) == [
        "FailedBacklogUnresolved: no reason for how long it waits"
    ]


def test_rules_and_runbooks_ask_for_metrics_that_are_published() -> None:
    assert [found for where, text in queries() for found in lint.names(where, text)] == []


@pytest.mark.parametrize(
    "expression", ["job_runs > 0", "rate(job_gone_total[5m])", "sum(image_draft_total{a='b'})"]
)
def test_a_metric_that_nobody_publishes_is_found(expression: str) -> None:
    assert lint.names("here", expression)


def test_every_metric_of_the_catalog_is_looked_at() -> None:
    assert lint.unused([*(text for _, text in queries()), *map(json.loads, dashboards())]) == []


def test_a_metric_that_nobody_looks_at_is_found() -> None:
    assert lint.unused(text for _, text in queries() if "job_retries_total" not in text)


def test_every_alert_has_its_page_and_its_line() -> None:
    assert lint.pages(ALERTS, PAGES, (lint.RUNBOOKS / "README.md").read_text()) == []
    assert [found for name, text in PAGES.items() for found in lint.page(name, text)] == []


def test_a_page_too_many_or_too_few_or_incomplete_is_found() -> None:
    assert lint.pages(["A", "B"], ["B", "C"], "[A](A.md) [B](B.md)") == [
        "A: no runbook",
        "C: a runbook without an alert",
    ]
    assert lint.pages(["A"], ["A"], "") == ["A: not in the index"]
    assert lint.page("Watchdog", PAGES["Watchdog"].replace("## Impact", "## Effect"))


def test_every_link_of_the_runbooks_leads_somewhere() -> None:
    pages = [*lint.RUNBOOKS.rglob("*.md"), lint.ROOT / "dashboards" / "README.md", lint.RULES / "README.md"]
    dead = [
        f"{path.name}: {link}"
        for path in pages
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text())
        if not (path.parent / link).exists()
    ]
    assert dead == []


def test_diagnosis_begins_with_a_command_and_what_it_prints() -> None:
    for name, text in PAGES.items():
        first = next(iter(runbook.blocks(text)))
        assert (first.section, first.kind, bool(first.expected)) == ("Diagnosis", "sh", True), name
        assert [block for block in runbook.blocks(text) if block.section == "Mitigation"], name


def test_runbooks_call_commands_that_exist() -> None:
    for name, block in blocks():
        if block.kind == "sh":
            called = set(re.findall(r"\btoolkit ([a-z]+)", block.text))
            assert called <= COMMANDS.keys(), name


def test_a_block_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(runbook.BlockFailed, match="python"):
        list(runbook.blocks("## Mitigation\n\n```python\nprint()\n```\n"))


def test_a_block_carries_the_output_that_it_must_have() -> None:
    (block,) = runbook.blocks("## Diagnosis\n\n```sh\nls -l\n```\n\nprints\n\n```text\ntotal …\n```\n")
    assert block == runbook.Block("Diagnosis", "sh", "ls -l", "total …")


@pytest.mark.parametrize(
    ("line", "output", "found"),
    [
        ("ready", "not\nready\n", True), ("a … c", "a  b   c", True), ("a … c", "a\nc", False), ("a b", "a\tb", True),
        ("200 (", "x 200 ( y", True), ("gone", "here", False),
    ],
)  # fmt: skip
def test_expected_lines_may_leave_something_open(line: str, output: str, found: bool) -> None:
    assert runbook.appears(line, output) is found


def test_last_drill_is_replaced_and_nothing_else() -> None:
    page = "# A\n\n## Meaning\n\nm\n\n## Last drill\n\nold\n"
    assert runbook.with_last_drill(page, "new\n") == "# A\n\n## Meaning\n\nm\n\n## Last drill\n\nnew\n"


def test_every_alert_is_drilled() -> None:
    assert SCENARIOS.keys() == ALERTS.keys()


def test_a_minute_is_a_second_in_the_drill() -> None:
    rule = {
        "alert": "A",
        "expr": "max_over_time(a[5m]) > 3 * 60 and a offset 1h > 9.5",
        "for": "2m",
        "keep_firing_for": "15m",
    }
    (group,) = fast_rules({"groups": [{"name": "g", "rules": [rule]}]})["groups"]
    assert group["rules"] == [
        {"alert": "A", "expr": "max_over_time(a[5000ms]) > 3 * 1 and a offset 60000ms > 9.5", "for": "2000ms",
         "keep_firing_for": "15000ms"}
    ]  # fmt: skip
    told = fast_manager(
        {"route": {"group_wait": "30s", "receiver": "r"}, "receivers": [{"url": "http://127.0.0.1:9095/x"}]},
        "h:1",
    )
    assert told == {"route": {"group_wait": "500ms", "receiver": "r"}, "receivers": [{"url": "http://h:1/x"}]}


def test_mutants_reach_every_kind_of_place() -> None:
    rule = {
        "expr": 'sum by (a, b) (rate(x{c=~"d|e"}[5m] offset 1m)) > 3 and max(y) == 0', "for": "1m",
        "labels": {"severity": "critical"},
    }  # fmt: skip
    made = list(mutants(rule))
    assert all(broken != rule for _, broken in made)
    assert len({json.dumps(broken) for _, broken in made}) == len(made)
    expressions = {broken["expr"] for _, broken in made}
    for part in ("> 6", "> 1.5", "== 1", "< 3", "!= 0", "x{}", 'c!~"d|e"', 'c=~"e"', "max by (a, b)", "sum by (b)", "or max",
                 "[150000ms]", "offset 120000ms", "min(y)"):  # fmt: skip
        assert any(part in expression for expression in expressions), part


def test_a_scenario_says_what_it_does() -> None:
    assert all(dataclasses.is_dataclass(one) and callable(one.cause) for one in SCENARIOS.values())
