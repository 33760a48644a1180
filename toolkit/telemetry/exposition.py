"""A supervisor's /metrics, read back: its samples, and the trace that a counter's newest count names. Pure.

Only the OpenMetrics format names traces: ask with `exemplars.ACCEPT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from toolkit.errors import ToolkitError


@dataclass(frozen=True, slots=True)
class Series:
    """One sample. `trace_id`, `traced_at`: of the newest run that was counted in it; '' and None where it names none."""

    name: str
    labels: Mapping[str, str]
    value: float
    trace_id: str = ""
    traced_at: datetime | None = None


def read_exposition(text: str) -> list[Series]:
    """Every sample of an OpenMetrics exposition. Raises ToolkitError when it is none."""
    try:
        return [
            _series(sample.name, sample.labels, sample.value, sample.exemplar)
            for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
            for sample in family.samples
        ]
    except (ValueError, KeyError, IndexError) as error:
        raise ToolkitError(
            f"that is no OpenMetrics exposition: {' '.join(str(error).split())[:200]}",
            remedy="name the /metrics of `toolkit worker`, with nothing between that changes it",
        ) from error


def _series(name: str, labels: Mapping[str, str], value: float, exemplar: object) -> Series:
    trace = str(getattr(exemplar, "labels", {}).get("trace_id", ""))
    at = getattr(exemplar, "timestamp", None)
    return Series(name, labels, value, trace, datetime.fromtimestamp(float(at), UTC) if at else None)
