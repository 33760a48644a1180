"""The exemplars on /metrics: which bucket of which histogram names which trace. Pure.

A bucket keeps the exemplar of its newest observation only, so a run's own is gone as soon as a later run falls into the same
buckets. Only the OpenMetrics format has them: ask with ACCEPT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from toolkit.errors import ToolkitError

ACCEPT: Final = "application/openmetrics-text; version=1.0.0"


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One observation (`value`, seconds) in a histogram's bucket, and its trace."""

    metric: str
    labels: Mapping[str, str]
    trace_id: str
    value: float


def read_exemplars(text: str) -> list[Exemplar]:
    """All exemplars with a trace of an OpenMetrics exposition. Raises ToolkitError when it is none."""
    try:
        return [
            Exemplar(family.name, sample.labels, sample.exemplar.labels["trace_id"], sample.exemplar.value)
            for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
            for sample in family.samples
            if sample.exemplar is not None and "trace_id" in sample.exemplar.labels
        ]
    except (ValueError, KeyError, IndexError) as error:
        raise ToolkitError(
            f"that is no OpenMetrics exposition: {error}", remedy="name the /metrics of `toolkit worker`"
        ) from error
