"""Dashboards: the committed JSON is the generator's, no rule of the lint finds anything, and every rule can."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards.__main__ import FOLDER, files
from tests.dashboard_lint import RULES, lint, panels, queries, targets, texts
from tests.promql import FOREIGN, nodes, specs

ROOT = FOLDER.parent.parent
RULES_TEXT = "".join(path.read_text() for path in sorted((ROOT / "dashboards" / "rules").glob("*.yml")))
BOARDS: dict[str, Any] = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
NAMES = sorted(BOARDS)


def test_the_committed_json_is_the_generators_byte_for_byte() -> None:
    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()} == files()


@pytest.mark.parametrize("name", NAMES)
def test_no_rule_finds_anything(name: str) -> None:
    assert lint(BOARDS[name]) == []


def test_every_metric_of_the_catalog_is_on_a_dashboard() -> None:
    shown = {
        node.name for board in BOARDS.values() for _, expr in queries(board) for node, _ in nodes(expr) if hasattr(node, "name")
    }  # fmt: skip
    missing = [name for name in specs() if not {name, f"{name}_bucket"} & shown]
    assert missing == []
    assert set(FOREIGN) <= shown, "the list of foreign metrics has one that nobody shows"


def test_every_panel_of_an_alerts_symptom_links_to_a_runbook_that_there_is() -> None:
    linked = {
        link["url"].removeprefix("${runbooks}/").removesuffix(".md")
        for board in BOARDS.values() for panel in panels(board) for link in panel.get("links", ())
    }  # fmt: skip
    alerts = {line.split()[-1] for line in RULES_TEXT.splitlines() if line.strip().startswith("- alert:")}
    assert linked == alerts, "every alert has a panel that shows its symptom, and no link leads nowhere"


def test_what_the_alerts_link_to_is_there() -> None:
    wanted = {part.split("?")[0].split('"')[0].split()[0] for part in RULES_TEXT.split("/d/")[1:]}
    assert wanted <= {board["uid"] for board in BOARDS.values()}


@pytest.mark.parametrize("name", NAMES)
def test_deployments_and_flips_are_marked_on_every_dashboard(name: str) -> None:
    told = {one["name"]: one["expr"] for one in BOARDS[name]["annotations"]["list"]}
    assert "toolkit_build_info" in told["Deployments"]
    assert "toggle_info" in told["Flips"]


def test_histograms_have_exemplars_on_the_first_look() -> None:
    asked = [
        target["expr"]
        for _, target in targets(BOARDS["freshfetch-image-jobs.json"])
        if target.get("exemplar")
    ]
    assert {name for name, spec in specs().items() if spec.kind == "histogram" and name != "dependency_round_trip_seconds"} == {
        name for name in specs() if any(f"{name}_bucket" in expr for expr in asked)
    }  # fmt: skip


# Sabotage: every rule can find something


def _panel(board: Any) -> Any:
    return panels(board)[0]


def _set_query(expr: str) -> Callable[[Any], None]:
    def sabotage(board: Any) -> None:
        _panel(board)["targets"][0]["expr"] = expr

    return sabotage


def _set_variable(name: str, key: str, value: object) -> Callable[[Any], None]:
    def sabotage(board: Any) -> None:
        next(one for one in board["templating"]["list"] if one["name"] == name)[key] = value

    return sabotage


TARGET = 'job=~"$job", instance=~"$instance"'
QUEUE = f'{TARGET}, queue=~"$queue"'
SABOTAGE: dict[str, Callable[[Any], None]] = {
    "unique-ids": lambda board: _panel(board).update(id=3),
    "no-overlap": lambda board: _panel(board)["gridPos"].update(w=9),
    "thresholds": lambda board: _panel(board)["fieldConfig"]["defaults"].pop("thresholds"),
    "queue-matcher": _set_query(f"sum(rate(job_runs_total{{{TARGET}}}[$__rate_interval]))"),
    "labels": _set_query(f'sum(job_workers{{{TARGET}, status="idle"}})'),
    "rate-interval": _set_query(f"sum(increase(job_runs_total{{{QUEUE}}}[1h]))"),
    "template-datasource-rule": _set_variable("datasource", "name", "source"),
    "template-job-rule": _set_variable("job", "allValue", ".*"),
    "template-instance-rule": _set_variable("instance", "label", "Host"),
    "template-queue-rule": _set_variable("queue", "multi", value=False),
    "template-label-promql-rule": _set_variable("queue", "query", "label_values(job_queue_depth{, queue)"),
    "template-on-time-change-reload-rule": _set_variable("job", "refresh", 1),
    "panel-datasource-rule": lambda board: _panel(board)["datasource"].update(uid="prometheus"),
    "panel-title-description-rule": lambda board: _panel(board).update(description="FK errors"),
    "panel-units-rule": lambda board: _panel(board)["fieldConfig"]["defaults"].update(unit="seconds"),
    "panel-no-targets-rule": lambda board: _panel(board).update(targets=[]),
    "target-promql-rule": _set_query("sum("),
    "target-rate-interval-rule": _set_query(f"sum(rate(job_runs_total{{{QUEUE}}}[5m]))"),
    "target-job-rule": _set_query('job_workers{instance=~"$instance"}'),
    "target-instance-rule": _set_query('job_workers{job=~"$job", instance="$instance"}'),
    "target-counter-agg-rule": _set_query(f"sum(job_runs_total{{{QUEUE}}})"),
    "uneditable-dashboard": lambda board: board.update(editable=True),
    "promql/rate": _set_query(f"sum(rate(job_workers{{{TARGET}}}[$__rate_interval]))"),
    "promql/regexp": _set_query(f'sum(job_workers{{{TARGET}, state=~"idle"}})'),
    "promql/impossible": _set_query(f"sum by (release) (job_workers{{{TARGET}}})"),
    "promql/nan": _set_query(f"sum(job_workers{{{TARGET}}}) / sum(toggle_enabled{{{TARGET}}})"),
    "promql/features": _set_query(f"sort_by_label(job_workers{{{TARGET}}}, \"state\")"),
    "promql/offset": _set_query(f"sum(job_workers{{{TARGET}}} offset 30d)"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_can_find_something(name: str) -> None:
    board = copy.deepcopy(BOARDS["freshfetch-image-jobs.json"])
    SABOTAGE[name](board)
    assert lint(board, name), "the rule did not see its sabotage"


@pytest.mark.parametrize(
    "query",
    [
        f"job_workers{{{TARGET}}} + toggle_enabled{{{TARGET}}}",
        f"job_workers{{{TARGET}}} * on (release) toggle_enabled{{{TARGET}}}",
        f"job_workers{{{TARGET}}} * on (job) group_left (release) toggle_enabled{{{TARGET}}}",
        f"histogram_quantile(0.9, sum(rate(job_queue_wait_seconds_bucket{{{QUEUE}}}[$__rate_interval])))",
        f"job_wrokers{{{TARGET}}}",
    ],
)
def test_a_join_on_labels_that_are_not_there_is_found(query: str) -> None:
    board = copy.deepcopy(BOARDS["freshfetch-image-jobs.json"])
    _set_query(query)(board)
    assert lint(board, "promql/impossible")


def test_no_query_says_the_same_twice_within_a_panel() -> None:
    for board in BOARDS.values():
        for panel in panels(board):
            exprs = [target["expr"] for target in panel["targets"]]
            assert len(set(exprs)) == len(exprs), panel["title"]
        assert len(list(texts(board))) > len(panels(board))


def test_the_dashboards_are_where_provisioning_mounts_them() -> None:
    provider = (
        ROOT / "dashboards" / "grafana" / "provisioning" / "dashboards" / "freshfetch.yml"
    ).read_text()
    assert "folderUid: freshfetch" in provider
    assert Path(ROOT / "dashboards" / "grafana" / "provisioning" / "datasources" / "freshfetch.yml").exists()
