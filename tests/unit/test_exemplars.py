"""A run's exemplar is found by its trace; when it is gone, why."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from tests.unit.test_metrics import OPEN_METRICS, RECORD, changed, metrics
from toolkit.errors import ToolkitError
from toolkit.ledger.views import RunView
from toolkit.telemetry.exemplars import read_exemplars
from toolkit.tracecheck import State, exemplar

NOW = datetime(2025, 10, 11, 17, 5, tzinfo=UTC)
RUN = RunView(
    run_id="r1", number=1, outcome="processed", reason="", counts={}, mode="async", release="1", worker="w", host="h",
    queue_wait=0.3, started_at=NOW, finished_at=NOW, duration=0.02, lease_until=None, error_type=None, error_message=None,
    sqlstate=None, constraint=None, fingerprint=None, traceback=None, retry_at=None, replay_of=None, trace_id=RECORD.trace_id,
    span_id="00f067aa0ba902b7",
)  # fmt: skip


def exposed(*records: object) -> str:
    registry = metrics()
    for record in records:
        registry.observe(record)  # type: ignore[arg-type]
    return registry.exposition(OPEN_METRICS)[1].decode()


def test_a_runs_exemplar_is_found_in_its_bucket() -> None:
    trail = exemplar(RUN, read_exemplars(exposed(RECORD)))
    assert trail.state is State.FOUND
    assert "le=0.025" in trail.evidence


def test_an_exemplar_whose_bucket_a_later_run_took_is_missing_and_why() -> None:
    trail = exemplar(RUN, read_exemplars(exposed(RECORD, changed(trace_id="ab" * 16))))
    assert trail.state is State.MISSING
    assert "newest only" in trail.evidence


@pytest.mark.parametrize(
    ("run", "word"), [(RUN, "restarted"), (dataclasses.replace(RUN, mode="sync"), "inline")]
)
def test_without_any_exemplar_the_reason_is_told(run: RunView, word: str) -> None:
    trail = exemplar(run, read_exemplars(exposed()))
    assert trail.state is State.MISSING
    assert word in trail.evidence


def test_what_is_no_exposition_is_refused() -> None:
    with pytest.raises(ToolkitError, match="no OpenMetrics"):
        read_exemplars("<html>")
