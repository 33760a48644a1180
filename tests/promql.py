"""PromQL as the lint of the dashboards sees it: the nodes of a query, and which labels its result has.

The labels are known because every metric's are closed by the telemetry catalog: so a query that joins, sums or names by a
label that is not there is found without any data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import promql_parser as promql

from toolkit.jobspec import MetricSpec, Registry
from toolkit.telemetry import catalog

TARGET = frozenset({"job", "instance"})
"""What Prometheus adds to every series."""
FOREIGN: Mapping[str, str] = {
    "up": "gauge", "scrape_duration_seconds": "gauge", "scrape_samples_scraped": "gauge",
    "process_cpu_seconds_total": "counter", "process_resident_memory_bytes": "gauge", "process_open_fds": "gauge",
    "process_start_time_seconds": "gauge",
}  # fmt: skip
"""Metrics of Prometheus itself and of prometheus_client, without labels of their own."""
GRAFANA = {"$__rate_interval": "4m", "$__interval_ms": "60000", "$__interval": "1m", "$__range": "3h"}
"""Grafana's variables for times, and what they may be; one that begins another's name comes after it."""
_SETS = {"and", "or", "unless"}


@dataclass(frozen=True, slots=True)
class Metric:
    """A series' type and its own labels."""

    kind: str
    labels: frozenset[str]


class Impossible(AssertionError):
    """A query that can never answer."""


def specs() -> dict[str, MetricSpec]:
    """The catalog's metrics and those of the installed jobs, by name."""
    owned = [metric for spec in Registry.installed() for metric in spec.metrics]
    return {metric.name: metric for metric in (*catalog.METRICS, *owned)}


def known() -> dict[str, Metric]:
    """Every series name that may stand in a query."""
    found = {name: Metric(kind, TARGET) for name, kind in FOREIGN.items()}
    for spec in specs().values():
        labels = TARGET | set(spec.labels)
        if spec.kind != "histogram":
            found[spec.name] = Metric(spec.kind, labels)
            continue
        found[f"{spec.name}_bucket"] = Metric("counter", labels | {"le"})
        found[f"{spec.name}_count"] = found[f"{spec.name}_sum"] = Metric("counter", labels)
    return found


def parsed(query: str) -> promql.Expr:
    """The query with Grafana's durations filled in; ValueError when it is not PromQL."""
    for name, value in GRAFANA.items():
        query = query.replace(name, value)
    return promql.parse(query)


def nodes(expr: promql.Expr, *above: promql.Expr) -> Iterator[tuple[promql.Expr, tuple[promql.Expr, ...]]]:
    """Every node with those above it, the nearest last."""
    yield expr, above
    for child in children(expr):
        yield from nodes(child, *above, expr)


def children(expr: promql.Expr) -> list[promql.Expr]:
    """The nodes right below."""
    match expr:
        case promql.BinaryExpr():
            return [expr.lhs, expr.rhs]
        case promql.Call():
            return list(expr.args)
        case promql.MatrixSelector():
            return [expr.vector_selector]
        case promql.AggregateExpr():
            return [expr.expr, *([expr.param] if expr.param is not None else [])]
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return [expr.expr]
    return []


def labels(expr: promql.Expr, metrics: Mapping[str, Metric]) -> frozenset[str] | None:
    """The labels of the result; None for a scalar. Raises Impossible."""
    match expr:
        case promql.NumberLiteral() | promql.StringLiteral():
            return None
        case promql.VectorSelector():
            if expr.name not in metrics:
                raise Impossible(f"{expr.name} is in no catalog")
            return metrics[expr.name].labels
        case promql.AggregateExpr():
            return _aggregated(expr, metrics)
        case promql.BinaryExpr():
            return _joined(expr, metrics)
        case promql.Call():
            return _called(expr, metrics)
    return labels(children(expr)[0], metrics)


def _aggregated(expr: promql.AggregateExpr, metrics: Mapping[str, Metric]) -> frozenset[str]:
    inner = labels(expr.expr, metrics)
    if inner is None:
        raise Impossible(f"{expr} aggregates a number")
    if expr.modifier is None:
        return frozenset()
    named = frozenset(expr.modifier.labels)
    if missing := named - inner:
        raise Impossible(f"{expr.prettify()}: no {sorted(missing)} to aggregate by")
    return named if expr.modifier.type == promql.AggModifierType.By else inner - named


def _called(expr: promql.Call, metrics: Mapping[str, Metric]) -> frozenset[str] | None:
    given = [found for found in (labels(arg, metrics) for arg in expr.args) if found is not None]
    if expr.func.name != "histogram_quantile":
        return given[0] if given else None
    if "le" not in given[0]:
        raise Impossible(f"{expr.prettify()}: no le to take a quantile of")
    return given[0] - {"le"}


def _joined(expr: promql.BinaryExpr, metrics: Mapping[str, Metric]) -> frozenset[str] | None:
    left, right = labels(expr.lhs, metrics), labels(expr.rhs, metrics)
    if left is None or right is None:
        return right if left is None else left
    matching = expr.modifier.matching if expr.modifier else None
    if matching is None:
        if left != right:
            raise Impossible(f"{expr.prettify()}: {sorted(left)} never match {sorted(right)}")
        return left
    wanted = frozenset(matching.labels)
    grouped = frozenset(expr.modifier.group_labels or ())
    if missing := (wanted - left) | (wanted - right) | (grouped - right):
        raise Impossible(f"{expr.prettify()}: no {sorted(missing)} to match by or to bring in")
    if str(expr.op) in _SETS:
        return left
    return (left if "ManyToOne" in str(expr.modifier.card) else wanted) | grouped
