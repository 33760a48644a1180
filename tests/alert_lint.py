"""The lint of alert rules and runbooks: each function gives findings, none when all is well. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from jobs.images import words
from toolkit.telemetry import catalog

ROOT = Path(__file__).parent.parent
RULES = ROOT / "dashboards" / "rules"
RUNBOOKS = ROOT / "runbooks"
SECTIONS = ("Meaning", "Impact", "Diagnosis", "Mitigation", "Behaviour", "Last drill")
Rule = Mapping[str, Any]

PROMETHEUS_OWN = frozenset({"up", "ALERTS", "process_resident_memory_bytes"})
"""Names that are not ours: Prometheus's, and prometheus_client's about its process."""
_FIRST = {
    name.partition("_")[0]
    for name in (*PROMETHEUS_OWN, *(one.name for one in (*catalog.METRICS, *words.METRICS)))
}
_NAME = re.compile(rf"\b(?:{'|'.join(sorted(_FIRST))})(?:_[a-z0-9_]+)?\b(?=[{{\[ )]|$)", re.MULTILINE)
"""Whatever begins as a metric does: nobody publishes a misspelt one."""
_LABELS = frozenset({"job", "job_name", "toggle", "queue"})


def alerts() -> dict[str, Rule]:
    """Every alerting rule, by name."""
    return {
        rule["alert"]: rule
        for path in sorted(RULES.glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }


def published() -> frozenset[str]:
    """The metrics of the catalog and of the image job."""
    return frozenset(metric.name for metric in (*catalog.METRICS, *words.METRICS))


def metrics_in(text: str) -> set[str]:
    """Names of metrics in PromQL, as the catalog has them: without a histogram's endings."""
    found = set()
    for name in _NAME.findall(re.sub(r'"[^"]*"|\b(?:by|on|without|group_left) \([^)]*\)', "", text)):
        stem = re.sub(r"_(?:bucket|count|sum)$", "", name)
        if name not in _LABELS:
            found.add(stem if stem in published() else name)
    return found


def names(where: str, expression: str) -> list[str]:
    """Metrics that nobody publishes."""
    unknown = metrics_in(expression) - published() - PROMETHEUS_OWN
    return [f"{where}: nobody publishes {name}" for name in sorted(unknown)]


def unused(texts: Iterable[str]) -> list[str]:
    """Metrics of the catalog that no rule, runbook or dashboard asks for."""
    asked = set().union(*(metrics_in(text) for text in texts))
    return [f"nobody looks at {name}" for name in sorted(published() - asked)]


def form(rule: Rule) -> list[str]:
    """What every alert must have."""
    name, found = rule["alert"], []
    labels, annotations = rule.get("labels", {}), rule.get("annotations", {})
    if labels.get("severity") not in {"critical", "warning", "none"}:
        found.append(f"{name}: severity {labels.get('severity')}")
    if labels.get("service") != "freshfetch":
        found.append(f"{name}: no service")
    found += [
        f"{name}: no {key}" for key in ("summary", "description") if not str(annotations.get(key, "")).strip()
    ]
    if annotations.get("runbook_url") != f"{{{{ $externalLabels.runbooks }}}}/{name}.md":
        found.append(f"{name}: runbook_url {annotations.get('runbook_url')}")
    if not str(annotations.get("dashboard_url", "")).startswith("{{ $externalLabels.grafana }}/d/"):
        found.append(f"{name}: dashboard_url {annotations.get('dashboard_url')}")
    return [*found, *_label_uses(rule)]


def _label_uses(rule: Rule) -> list[str]:
    """Labels that a text names and the expression does not give."""
    text = " ".join(rule.get("annotations", {}).values())
    given = {label.strip() for by in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for label in by.split(",")}
    if "job_name:" in rule["expr"]:
        given.add("job_name")
    return [
        f"{rule['alert']}: its text says {label}"
        for label in sorted(set(re.findall(r"\$labels\.(\w+)", text)) - given)
    ]


def waits(text: str) -> list[str]:
    """Alerts of a rule file whose `for` or `keep_firing_for`, or the lack of both, has no reason in a comment above it."""
    found = []
    for part in re.split(r"(?m)^ +- (?=alert: |record: )", text)[1:]:
        name = part.split("\n", 1)[0].removeprefix("alert: ")
        if not part.startswith("alert: "):
            continue
        lines = part.splitlines()
        timed = [at for at, line in enumerate(lines) if re.match(r" +(for|keep_firing_for):", line)]
        reasons = [lines[at - 1].lstrip().startswith("#") for at in timed]
        if not all(reasons) or (not timed and "# " not in part.partition("annotations:")[0]):
            found.append(f"{name}: no reason for how long it waits")
    return found


def pages(wanted: Iterable[str], found: Iterable[str], index: str) -> list[str]:
    """An alert without a page or a line in the index, or a page without an alert."""
    wanted, found = set(wanted), set(found)
    return [
        *(f"{name}: no runbook" for name in sorted(wanted - found)),
        *(f"{name}: a runbook without an alert" for name in sorted(found - wanted)),
        *(f"{name}: not in the index" for name in sorted(wanted) if f"[{name}]({name}.md)" not in index),
    ]


def page(name: str, text: str) -> list[str]:
    """What a runbook must have."""
    sections: Sequence[str] = re.findall(r"(?m)^## (.+)$", text)
    found = [] if tuple(sections) == SECTIONS else [f"{name}: sections {sections}"]
    if not text.startswith(f"# {name}\n"):
        found.append(f"{name}: title")
    if "It is over" not in text:
        found.append(f"{name}: does not say when it is over")
    if "Rollback" not in text:
        found.append(f"{name}: does not say how to take it back")
    return found
