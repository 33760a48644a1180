"""`toolkit trace ID --check`: the last run's exemplar, spans and log lines, each with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.cli import render
from toolkit.errors import NotFound, UsageError

if TYPE_CHECKING:
    from toolkit.ledger.views import JobView
    from toolkit.settings import Settings
    from toolkit.telemetry.otlp import SpanRow


def check_last_run(
    settings: Settings, views: Sequence[JobView], spans: Sequence[SpanRow], *,
    metrics: Sequence[str], log: str, receiver: str, as_json: bool,
) -> int:  # fmt: skip
    """Say which trails are there; 0: all, 1: one is missing, 3: one was not looked for."""
    from toolkit import tracecheck
    from toolkit.tracecheck import State

    if len(views) != 1:
        raise UsageError(f"--check is for one job, and these are {len(views)}", remedy="give a job id")
    job_id, run = views[0].line.job_id, views[0].last
    if run is None or run.outcome is None:
        raise NotFound(f"no run of job {job_id} has ended", remedy=f"toolkit jobs show {job_id}")
    if not metrics and not settings.metrics_url:
        raise UsageError(
            "TOOLKIT_METRICS_PORT is 0: any port", remedy="name the address: --metrics http://…/metrics"
        )
    trails = tracecheck.check(
        run, job_id, spans=spans, metrics=metrics or [settings.metrics_url], log=log, receiver=receiver,
        exported_to=settings.otlp_endpoint or "",
    )  # fmt: skip
    if as_json:
        render.as_json({
            "job_id": job_id, "run_id": run.run_id, "trace_id": run.trace_id, "outcome": run.outcome, "trails": trails,
        })  # fmt: skip
    else:
        render.say(f"job {job_id}, run {run.number} ({run.outcome}), trace {run.trace_id}")
        render.table(
            ["trail", "state", "evidence"],
            [(trail.name, trail.state.value, trail.evidence) for trail in trails],
        )
    states = {trail.state for trail in trails}
    return 1 if State.MISSING in states else 3 if State.UNASKED in states else 0
