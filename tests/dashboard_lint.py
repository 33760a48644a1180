"""The lint of the dashboards. A rule takes a dashboard as JSON and yields what is wrong, a sentence each.

Three kinds: rules of our own; those that grafana/dashboard-linter publishes, under its names; those that cloudflare/pint
publishes for queries, under its names. Ported are the rules as documented, with what the linter's own code adds to them.
LogQL's have no subject here; pint's for alerts are held where the alerts are; its `series` is held by asking a real server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import promql_parser as promql

from tests.promql import Impossible, known, labels, nodes, parsed

Board = Mapping[str, Any]
Findings = Iterator[str]
RULES: dict[str, Callable[[Board], Findings]] = {}

UNITS = {"short", "percentunit", "s", "cps", "bool_on_off", "bytes"}
"""Of Grafana's list, the ones in use: a new one is added here when it has been looked up there."""
COUNTING = {"rate", "irate", "increase"}
_LEGEND = re.compile(r"\{\{(\w+)\}\}")


def rule(name: str) -> Callable[[Callable[[Board], Findings]], Callable[[Board], Findings]]:
    """Enter a rule in RULES."""

    def enter(check: Callable[[Board], Findings]) -> Callable[[Board], Findings]:
        RULES[name] = check
        return check

    return enter


def lint(board: Board, *names: str) -> list[str]:
    """Every finding, with its rule's name before it."""
    return [f"{name}: {found}" for name in names or RULES for found in RULES[name](board)]


def panels(board: Board) -> list[Board]:
    """The panels that are no rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def targets(board: Board) -> Iterator[tuple[Board, Board]]:
    """Every query with its panel."""
    for panel in panels(board):
        for target in panel.get("targets", ()):
            yield panel, target


def queries(board: Board) -> Iterator[tuple[str, promql.Expr]]:
    """Every query that is PromQL, those of annotations too, with where it stands."""
    for where, text in texts(board):
        try:
            yield where, parsed(text)
        except ValueError:
            continue  # another rule's finding


def texts(board: Board) -> Iterator[tuple[str, str]]:
    """Every query as written, with where it stands."""
    for panel, target in targets(board):
        yield f"{panel['title']!r} {target.get('refId')}", target.get("expr", "")
    for annotation in board["annotations"]["list"]:
        yield f"annotation {annotation['name']!r}", annotation.get("expr", "")


def variable(board: Board, name: str) -> Board:
    """A variable of the dashboard; {} when it has none of that name."""
    return next((one for one in board["templating"]["list"] if one["name"] == name), {})


# Ours


@rule("unique-ids")
def _(board: Board) -> Findings:
    ids = [panel.get("id") for panel in board["panels"]]
    if len(set(ids)) < len(ids) or None in ids:
        yield f"panels share an id or have none: {ids}"
    for panel in panels(board):
        refs = [target.get("refId") for target in panel.get("targets", ())]
        if len(set(refs)) < len(refs):
            yield f"{panel['title']!r}: queries share a refId"


@rule("no-overlap")
def _(board: Board) -> Findings:
    for one, other in combinations(board["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        if (
            a["x"] < b["x"] + b["w"]
            and b["x"] < a["x"] + a["w"]
            and a["y"] < b["y"] + b["h"]
            and b["y"] < a["y"] + a["h"]
        ):
            yield f"{one['title']!r} lies on {other['title']!r}"
    for panel in board["panels"]:
        if panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24:
            yield f"{panel['title']!r} is wider than the screen"


@rule("thresholds")
def _(board: Board) -> Findings:
    for panel in panels(board):
        if not panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps"):
            yield f"{panel['title']!r} has no thresholds"


@rule("queue-matcher")
def _(board: Board) -> Findings:
    metrics = known()
    for where, expr in queries(board):
        for selector in _selectors(expr):
            has_queue = selector.name in metrics and "queue" in metrics[selector.name].labels
            if has_queue and not _matches(selector, "queue", "$queue"):
                yield f'{where}: {selector.name} without queue=~"$queue"'


@rule("labels")
def _(board: Board) -> Findings:
    metrics = known()
    for where, expr in queries(board):
        for selector in _selectors(expr):
            own = metrics[selector.name].labels if selector.name in metrics else set()
            for matcher in selector.matchers.matchers:
                if matcher.name not in own:
                    yield f"{where}: {selector.name} has no label {matcher.name}"
    for panel, target in targets(board):
        try:
            found = labels(parsed(target["expr"]), metrics)
        except (ValueError, Impossible):
            continue
        if missing := set(_LEGEND.findall(target.get("legendFormat", ""))) - (found or set()):
            yield f"{panel['title']!r}: the legend names {sorted(missing)}, which the result has not"


@rule("rate-interval")
def _(board: Board) -> Findings:
    """Stricter than dashboard-linter's: no window is written out."""
    for where, text in texts(board):
        for window in re.findall(r"\[([^]]*)\]", text):
            if window not in {"$__rate_interval", "$__range", "$__range:$__interval"}:
                yield f"{where}: the window [{window}] is not Grafana's"
        if re.search(r"\brate\([^[]*\[\$__range", text):
            yield f"{where}: a rate over the whole range"


# grafana/dashboard-linter


@rule("template-datasource-rule")
def _(board: Board) -> Findings:
    sources = [one for one in board["templating"]["list"] if one["type"] == "datasource"]
    if [(one["name"], one.get("label"), one.get("query")) for one in sources] != [
        ("datasource", "Data source", "prometheus")
    ]:
        yield f"wants one variable `datasource`, labelled `Data source`, of prometheus: {sources}"


def _template(board: Board, name: str) -> Findings:
    found = variable(board, name)
    wanted = {"type": "query", "label": name.title(), "multi": True, "includeAll": True, "allValue": ".+"}
    for key, value in wanted.items():
        if found.get(key) != value:
            yield f"variable {name}: {key} is {found.get(key)!r} and not {value!r}"
    if found.get("datasource", {}).get("uid") not in {"$datasource", "${datasource}"}:
        yield f"variable {name} does not use $datasource"


@rule("template-job-rule")
def _(board: Board) -> Findings:
    yield from _template(board, "job")


@rule("template-instance-rule")
def _(board: Board) -> Findings:
    yield from _template(board, "instance")


@rule("template-queue-rule")
def _(board: Board) -> Findings:
    yield from _template(board, "queue")


@rule("template-label-promql-rule")
def _(board: Board) -> Findings:
    for one in board["templating"]["list"]:
        if one["type"] != "query":
            continue
        found = re.fullmatch(r"label_values\((?:(.+), )?(\w+)\)", one["query"])
        try:
            own = labels(parsed(found[1]), known()) if found and found[1] else None
        except (ValueError, Impossible):
            own = None
        if found is None or own is None or found[2] not in own:
            yield f"variable {one['name']}: {one['query']!r} gives no labels"


@rule("template-on-time-change-reload-rule")
def _(board: Board) -> Findings:
    for one in board["templating"]["list"]:
        if one["type"] == "query" and one.get("refresh") != 2:
            yield f"variable {one['name']} is not read again when the time range changes"


@rule("panel-datasource-rule")
def _(board: Board) -> Findings:
    for panel in panels(board):
        for one in (panel, *panel.get("targets", ())):
            if one.get("datasource", {}).get("uid") not in {"$datasource", "${datasource}"}:
                yield f"{panel['title']!r} does not use $datasource"
    for annotation in board["annotations"]["list"]:
        if annotation["datasource"]["uid"] not in {"$datasource", "${datasource}"}:
            yield f"annotation {annotation['name']!r} does not use $datasource"


@rule("panel-title-description-rule")
def _(board: Board) -> Findings:
    for panel in panels(board):
        if not panel.get("title") or len(panel.get("description", "")) < 20:
            yield f"panel {panel.get('id')} {panel.get('title')!r} lacks a title or a description"


@rule("panel-units-rule")
def _(board: Board) -> Findings:
    """Without the linter's exceptions for value mappings and texts."""
    for panel in panels(board):
        unit = panel["fieldConfig"]["defaults"].get("unit", "")
        if unit not in UNITS:
            yield f"{panel['title']!r}: no unit of Grafana's: {unit!r}"


@rule("panel-no-targets-rule")
def _(board: Board) -> Findings:
    for panel in panels(board):
        if not panel.get("targets"):
            yield f"{panel['title']!r} asks nothing"


@rule("target-promql-rule")
def _(board: Board) -> Findings:
    for where, text in texts(board):
        try:
            parsed(text)
        except ValueError as error:
            yield f"{where}: {error}"


@rule("target-rate-interval-rule")
def _(board: Board) -> Findings:
    for where, text in texts(board):
        if re.search(r"\bi?rate\([^[]*\[(?!\$__rate_interval\])", text):
            yield f"{where}: rate without $__rate_interval"


def _required(board: Board, name: str) -> Findings:
    for where, expr in queries(board):
        for selector in _selectors(expr):
            if not _matches(selector, name, f"${name}"):
                yield f'{where}: {selector.name} without {name}=~"${name}"'


@rule("target-job-rule")
def _(board: Board) -> Findings:
    yield from _required(board, "job")


@rule("target-instance-rule")
def _(board: Board) -> Findings:
    yield from _required(board, "instance")


@rule("target-counter-agg-rule")
def _(board: Board) -> Findings:
    """For every counter of the catalog, not only those that end in _total."""
    metrics = known()
    for where, expr in queries(board):
        for node, above in nodes(expr):
            if not isinstance(node, promql.VectorSelector) or not _counts(node, metrics):
                continue
            call = above[-2] if len(above) > 1 and isinstance(above[-1], promql.MatrixSelector) else None
            if not isinstance(call, promql.Call) or call.func.name not in COUNTING:
                yield f"{where}: the counter {node.name} is not under rate or increase"


@rule("uneditable-dashboard")
def _(board: Board) -> Findings:
    if board["editable"]:
        yield "can be edited in Grafana, and the next provisioning would undo it"


# cloudflare/pint


@rule("promql/rate")
def _(board: Board) -> Findings:
    metrics = known()
    for where, expr in queries(board):
        for node, _ in nodes(expr):
            if isinstance(node, promql.Call) and node.func.name in COUNTING:
                inner = node.args[0]
                if not isinstance(inner, promql.MatrixSelector):
                    yield f"{where}: {node.func.name} of something that has been calculated"
                elif not _counts(inner.vector_selector, metrics):
                    yield f"{where}: {node.func.name} of {inner.vector_selector.name}, which is no counter"


@rule("promql/regexp")
def _(board: Board) -> Findings:
    for where, expr in queries(board):
        for selector in _selectors(expr):
            for matcher in selector.matchers.matchers:
                text = matcher.value
                if str(matcher.op) not in {"MatchOp.Re", "MatchOp.NotRe"} or text.startswith("$"):
                    continue
                if not re.search(r"[|.*+?()\[\]]", text):
                    yield f"{where}: {matcher.name}=~{text!r} matches one value: use ="
                if text.startswith("^") or text.endswith("$"):
                    yield f"{where}: {matcher.name}=~{text!r} is anchored anyway"


@rule("promql/impossible")
def _(board: Board) -> Findings:
    """And promql/vector_matching: labels that both sides must have."""
    for where, expr in queries(board):
        try:
            labels(expr, known())
        except Impossible as error:
            yield f"{where}: {error}"


@rule("promql/nan")
def _(board: Board) -> Findings:
    """No division whose divisor may be 0, anywhere: a panel would show nothing."""
    for where, expr in queries(board):
        for node, _ in nodes(expr):
            if not isinstance(node, promql.BinaryExpr) or str(node.op) not in {"/", "%"}:
                continue
            safe = isinstance(node.rhs, promql.NumberLiteral) or (
                isinstance(node.rhs, promql.Call) and node.rhs.func.name == "clamp_min"
            )
            if not safe:
                yield f"{where}: divides by what may be 0"


@rule("promql/features")
def _(board: Board) -> Findings:
    for where, expr in queries(board):
        for node, _ in nodes(expr):
            if isinstance(node, promql.Call) and node.func.experimental:
                yield f"{where}: {node.func.name} must be switched on in Prometheus"


@rule("promql/offset")
def _(board: Board) -> Findings:
    """And promql/range_query: nothing older than Prometheus keeps by default."""
    for where, expr in queries(board):
        for node, _ in nodes(expr):
            back = node.offset if isinstance(node, promql.VectorSelector) else None
            if back is not None and abs(back.total_seconds()) > 86400:
                yield f"{where}: looks back {back}"


def _selectors(expr: promql.Expr) -> list[promql.VectorSelector]:
    return [node for node, _ in nodes(expr) if isinstance(node, promql.VectorSelector)]


def _matches(selector: promql.VectorSelector, name: str, value: str) -> bool:
    return any(
        (one.name, str(one.op), one.value) == (name, "MatchOp.Re", value)
        for one in selector.matchers.matchers
    )


def _counts(selector: promql.VectorSelector, metrics: Mapping[str, Any]) -> bool:
    return selector.name in metrics and metrics[selector.name].kind == "counter"
