"""A verification as a trace: each check's last look as long as it took, inside the whole."""

from __future__ import annotations

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from tests import receipts
from toolkit.verify.publish import spans


def test_a_span_lasts_as_long_as_its_look_and_the_root_as_long_as_the_verification() -> None:
    kept, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    receipt = receipts.regression()
    spans(provider.get_tracer("test"), receipt)
    *looks, root = kept.get_finished_spans()
    assert [span.name for span in looks] == [f"verify {one.check}" for one in receipt.findings]
    for span, one in zip(looks, receipt.findings, strict=True):
        assert ((span.end_time or 0) - (span.start_time or 0)) / 1e9 == one.took > 0
        assert span.parent is not None
        assert span.parent.span_id == root.context.span_id
        assert (span.status.status_code is StatusCode.ERROR) == (one.verdict.exit_code == 1)
    assert root.start_time == receipt.started_at.timestamp() * 1e9
    assert looks[0].start_time == receipt.looked_at.timestamp() * 1e9
    assert root.end_time == looks[-1].end_time
