"""A minute becomes a second: rules, Prometheus and Alertmanager as committed, with every time divided by SPEED. Pure.

Divided are windows, offsets, `for`, `keep_firing_for` and the minutes of thresholds (written `3 * 60`), scrape and evaluation
intervals, and Alertmanager's waits. Nothing else is touched, so that what fires here is what is committed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

SPEED: Final = 60

_DURATION: Final = re.compile(r"(\d+)(ms|s|m|h)")
_MILLISECONDS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_IN_EXPRESSION: Final = re.compile(r"(?<=\[)\d+[smh](?=\])|(?<=offset )\d+[smh]")
_WAITS: Final = frozenset({"group_wait", "group_interval", "repeat_interval"})

Document = Mapping[str, Any]


def faster(duration: str) -> str:
    """`5m` → `5000ms`."""
    found = _DURATION.fullmatch(duration)
    assert found, duration
    return f"{int(found[1]) * _MILLISECONDS[found[2]] // SPEED}ms"


def fast_rules(document: Document) -> dict[str, Any]:
    """A rule file."""
    groups = [
        {**group, "rules": [_fast_rule(rule) for rule in group["rules"]]} for group in document["groups"]
    ]
    return {"groups": groups}


def _fast_rule(rule: Document) -> dict[str, Any]:
    expression = _IN_EXPRESSION.sub(lambda found: faster(found[0]), rule["expr"]).replace("* 60", "* 1")
    waits = {name: faster(rule[name]) for name in ("for", "keep_firing_for") if name in rule}
    return {**rule, **waits, "expr": expression}


def fast_prometheus(document: Document, *, target: str, manager: str, interval: str) -> dict[str, Any]:
    """Prometheus's configuration, scraping one host and telling one Alertmanager. `interval`: 250 ms keeps 5 s windows full."""
    (job,) = document["scrape_configs"]
    return {
        **document,
        "global": {**document["global"], "scrape_interval": interval, "evaluation_interval": interval},
        "scrape_configs": [{**job, "scrape_timeout": interval, "static_configs": [{"targets": [target]}]}],
        "alerting": {**document["alerting"], "alertmanagers": [{"static_configs": [{"targets": [manager]}]}]},
    }


def fast_manager(document: Document, receiver: str) -> dict[str, Any]:
    """Alertmanager's configuration; its webhooks go to `receiver` (host:port), by the same paths."""

    def change(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {key: change(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [change(inner) for inner in value]
        if name in _WAITS:
            return faster(value)
        return value.replace("127.0.0.1:9095", receiver) if name == "url" else value

    changed: dict[str, Any] = change(dict(document))
    return changed
