"""A verification told to the outside, once however often it is told: a span a check, and one annotation in Grafana.

`verify_verdict{phase,check}` is the supervisors' (toolkit/verify/gauge.py): they read it from the ledger.
"""

from __future__ import annotations

from datetime import datetime

from opentelemetry.trace import Status, StatusCode, Tracer, set_span_in_context

from toolkit.verify.verdict import Receipt, Verdict


def spans(tracer: Tracer, receipt: Receipt) -> None:
    """A span `verify-deploy` from the verification's start, with one `verify {check}` for each finding: its last look, as long
    as it took. The checks look one after another."""
    root = tracer.start_span(
        "verify-deploy",
        start_time=_nanoseconds(receipt.started_at),
        attributes={
            "verification.id": receipt.verification_id,
            "verification.verdict": receipt.verdict.value,
            "service.version": receipt.release,
        },
    )
    inside, at = set_span_in_context(root), _nanoseconds(receipt.looked_at)
    for finding in receipt.findings:
        span = tracer.start_span(
            f"verify {finding.check}",
            context=inside,
            start_time=at,
            attributes={
                "verification.phase": finding.phase,
                "verification.verdict": finding.verdict.value,
                "verification.said": finding.judgement.said,
                "verification.took": finding.took,
            },
        )
        if finding.verdict is Verdict.REGRESSION:
            span.set_attribute("error.type", "regression")
            span.set_status(Status(StatusCode.ERROR, finding.judgement.said))
        at += round(finding.took * 1e9)
        span.end(end_time=at)
    root.end(end_time=at)


def _nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6) * 1000
