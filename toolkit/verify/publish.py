"""A verification told to the outside, once however often it is told: a span a check, and one annotation in Grafana.

`verify_verdict{phase,check}` is the supervisors' (toolkit/verify/gauge.py): they read it from the ledger.
"""

from __future__ import annotations

from opentelemetry.trace import Status, StatusCode, Tracer

from toolkit.verify.verdict import Receipt, Verdict


def spans(tracer: Tracer, receipt: Receipt) -> str:
    """A span `verify-deploy` with one `verify {check}` for each finding; returns the trace's id."""
    with tracer.start_as_current_span(
        "verify-deploy",
        attributes={
            "verification.id": receipt.verification_id,
            "verification.verdict": receipt.verdict.value,
            "service.version": receipt.release,
        },
    ) as root:
        end = root.get_span_context()
        for finding in receipt.findings:
            # The check's last look, as long as it took, before this moment.
            span = tracer.start_span(
                f"verify {finding.check}",
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
            span.end()
    return f"{end.trace_id:032x}"
