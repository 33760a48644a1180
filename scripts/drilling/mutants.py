"""Ways to break a rule, one place at a time: `mutants(rule)` gives each broken rule with what was done to it. Pure.

Broken are thresholds and other numbers (half, double; 0 becomes 1), comparisons, label matchers (dropped, turned round, an
alternative dropped), aggregations and their labels, set operators, windows and offsets, `for` and `keep_firing_for` (dropped,
half, double), and the severity. Known weakness: it reads PromQL with regular expressions, which is enough for these rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

Rule = Mapping[str, Any]

_DURATION: Final = re.compile(r"(\d+)([smh])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_OTHER_WAY: Final = {"=~": "!~", "!~": "=~", "=": "!=", "!=": "="}
_COMPARISONS: Final = {">": ("<", ">=", "=="), "==": ("!=", ">", ">=")}


def scaled(duration: str, factor: float) -> str:
    """`5m` × 0.5 = `150000ms`."""
    found = _DURATION.fullmatch(duration)
    assert found, duration
    return f"{round(int(found[1]) * _SECONDS[found[2]] * factor * 1000)}ms"


def _matchers(text: str) -> list[str]:
    """A label matcher dropped, turned round, and without each of its alternatives."""
    found = re.fullmatch(r'(\w+)(=~|!~|=|!=)"([^"]*)"', text)
    assert found, text
    label, operator, values = found.groups()
    fewer = _without_one(values, "|") if "|" in values else []
    return ["", f'{label}{_OTHER_WAY[operator]}"{values}"', *(f'{label}{operator}"{left}"' for left in fewer)]


def _without_one(text: str, separator: str) -> list[str]:
    parts = text.split(separator)
    return [separator.join(parts[:at] + parts[at + 1 :]) for at in range(len(parts))]


_BREAKS: Final[tuple[tuple[str, Callable[[str], list[str]]], ...]] = (
    # a number after a comparison, or a quantile
    (
        r"(?<=[<>=] )\d+(?:\.\d+)?|(?<=quantile\()[\d.]+",
        lambda text: [f"{float(text) * factor:g}" for factor in (0.5, 2)] if float(text) else ["1"],
    ),
    (r"(?<= )(?:>|==)(?= )", lambda text: list(_COMPARISONS[text])),
    (r'\w+(?:=~|!~|=|!=)"[^"]*"', _matchers),
    (r"\b(?:sum|max)(?= by|\()", lambda text: [one for one in ("sum", "max", "min", "avg", "count") if one != text]),
    (r"(?<=\bby \()[^)]+(?=\))", lambda text: _without_one(text, ", ")),
    (r"\b(?:and|or|unless)\b", lambda text: [one for one in ("and", "or", "unless") if one != text]),
    (r"(?<=\[)\d+[smh](?=\])|(?<=offset )\d+[smh]", lambda text: [scaled(text, factor) for factor in (0.5, 2)]),
)  # fmt: skip
"""Where a PromQL expression can be broken, and what may stand there instead."""


def mutants(rule: Rule) -> Iterator[tuple[str, Rule]]:
    """(what was done, the broken rule)."""
    expression: str = rule["expr"]
    for pattern, instead in _BREAKS:
        for found in re.finditer(pattern, expression):
            for new in instead(found[0]):
                broken = expression[: found.start()] + new + expression[found.end() :]
                around = " ".join(broken[max(0, found.start() - 34) : found.start() + len(new) + 14].split())
                yield f"{found[0]} → {new or 'nothing'} in …{around}…", {**rule, "expr": broken}
    for name in ("for", "keep_firing_for"):
        if name in rule:
            yield f"{name} dropped", {key: value for key, value in rule.items() if key != name}
            for factor in (0.5, 2):
                yield f"{name} × {factor:g}", {**rule, name: scaled(rule[name], factor)}
    severity = rule.get("labels", {}).get("severity")
    if severity is not None:
        other = "warning" if severity == "critical" else "critical"
        yield f"severity {other}", {**rule, "labels": {**rule["labels"], "severity": other}}
