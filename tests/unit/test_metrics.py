"""Metrics: every series from zero, closed label sets, and the record's truth."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from toolkit.errors import UsageError
from toolkit.jobspec import CONTROL, CONTROL_CONSTRAINT, JobSpec, MetricSpec, Payload, Registry
from toolkit.run import CORE_SKIP_REASONS, Failure, Mode, Outcome, Reason, Result, RunRecord, Sample
from toolkit.telemetry import catalog
from toolkit.telemetry.metrics import Metrics

JOB, QUEUE, CONSTRAINT = "background-image-processing", "images", "ProductImage_productDraftId_fkey"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
DRAFTS = MetricSpec(
    "image_drafts_total", "counter", "Drafts.", {"outcome": ("attached", "draft_deleted")},
    from_counts={"attached": ("attached",), "gone": ("draft_deleted",)},
)  # fmt: skip
SEARCH = MetricSpec(
    "image_search_duration_seconds", "histogram", "Searches.",
    {"source": ("page",), "outcome": ("found", "none")}, (0.1, 1.0),
)  # fmt: skip


def spec(**changes: Any) -> JobSpec:
    fields: dict[str, Any] = {
        "name": JOB, "queue": QUEUE, "payload": Payload, "body": lambda *_: Result(),
        "resources": lambda _: nullcontext(), "timeout": 60.0, "skip_reasons": frozenset({"no_drafts"}),
        "constraints": frozenset({CONSTRAINT}), "metrics": (DRAFTS, SEARCH),
    }  # fmt: skip
    return JobSpec(**(fields | changes))


def metrics(*specs: JobSpec) -> Metrics:
    return Metrics(Registry.of(specs or (spec(),)), release="1.2.3", python="3.11.7")


NOW = datetime(2025, 10, 11, 17, 5, tzinfo=UTC)
RECORD = RunRecord(
    run_id="r1", job_id="j1", job_name=JOB, queue=QUEUE, number=1, mode=Mode.ASYNC, release="1.2.3",
    worker="w1", host="h", outcome=Outcome.PROCESSED, asked_at=NOW, started_at=NOW, finished_at=NOW, duration=0.02,
    queue_wait=0.3, trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
)  # fmt: skip
FK_FAILURE = Failure(
    reason=Reason.INTEGRITY, error_type="ForeignKeyViolation", sqlstate="23503", constraint=CONSTRAINT
)


def changed(**changes: Any) -> RunRecord:
    return msgspec.structs.replace(RECORD, **changes)


def test_every_combination_is_there_at_zero_from_the_start() -> None:
    found = metrics()
    job = {"job_name": JOB, "queue": QUEUE}
    for outcome in Outcome:
        for mode in Mode:
            assert found.value("job_runs_total", **job, mode=mode, outcome=outcome) == 0
            assert found.value("job_run_duration_seconds_count", **job, mode=mode, outcome=outcome) == 0
        assert found.value("job_replays_total", job_name=JOB, outcome=outcome) == 0
    for reason in {*CORE_SKIP_REASONS, "no_drafts", "other"}:
        assert found.value("job_skips_total", **job, reason=reason) == 0
    for constraint in (CONSTRAINT, "other"):
        assert found.value("job_fk_errors_total", **job, constraint=constraint) == 0
    assert found.value("job_retries_total", **job) == 0
    assert found.value("job_queue_wait_seconds_count", **job) == 0
    for state in catalog.QUEUE_STATES:
        assert found.value("job_queue_depth", queue=QUEUE, state=state) == 0
    for signal in catalog.SIGNALS:
        for reason in catalog.DROP_REASONS:
            assert found.value("telemetry_dropped_total", signal=signal, reason=reason) == 0
    for outcome_ in ("attached", "draft_deleted", "other"):
        assert found.value("image_drafts_total", outcome=outcome_) == 0
        assert found.value("job_intents_unpushed") == 0
    assert found.value("image_search_duration_seconds_count", source="page", outcome="found") == 0
    assert found.value("toolkit_build_info", release="1.2.3", python="3.11.7") == 1


def test_a_job_has_its_own_reasons_and_queue_only() -> None:
    other = spec(name="mail", queue="mails", skip_reasons=frozenset({"unsubscribed"}), metrics=())
    found = metrics(spec(), other)
    assert found.value("job_skips_total", job_name="mail", queue="mails", reason="unsubscribed") == 0
    assert found.value("job_skips_total", job_name="mail", queue="mails", reason="no_drafts") is None
    assert found.value("job_retries_total", job_name="mail", queue=QUEUE) is None


def test_no_series_is_born_by_observing_whatever_comes() -> None:
    found = metrics()
    before = len(found.exposition()[1].splitlines())
    for record in (
        RECORD,
        changed(job_name="unknown", queue="elsewhere"),
        changed(outcome=Outcome.SKIPPED, reason="never heard of"),
        changed(
            outcome=Outcome.FAILED, failure=msgspec.structs.replace(FK_FAILURE, constraint="unheard_fkey")
        ),
        changed(samples=(Sample("image_search_duration_seconds", ("ftp://x", "found"), 1.0),)),
        changed(samples=(Sample("image_drafts_total", ("vanished",), 1.0),)),
    ):
        found.observe(record)
    assert len(found.exposition()[1].splitlines()) == before


def test_a_processed_run_is_counted_once_with_its_times() -> None:
    found = metrics()
    found.observe(changed(counts={"attached": 4, "gone": 1, "unrelated": 9}))
    key = {"job_name": JOB, "queue": QUEUE, "mode": "async", "outcome": "processed"}
    assert found.value("job_runs_total", **key) == 1
    assert found.value("job_run_duration_seconds_sum", **key) == 0.02
    assert found.value("job_queue_wait_seconds_sum", job_name=JOB, queue=QUEUE) == 0.3
    assert found.value("job_last_success_timestamp_seconds", job_name=JOB) == NOW.timestamp()
    assert found.value("image_drafts_total", outcome="attached") == 4
    assert found.value("image_drafts_total", outcome="draft_deleted") == 1


def test_an_inline_run_did_not_wait_in_a_queue() -> None:
    found = metrics()
    found.observe(changed(mode=Mode.SYNC))
    assert found.value("job_queue_wait_seconds_count", job_name=JOB, queue=QUEUE) == 0


@pytest.mark.parametrize(
    ("reason", "label"), [("no_drafts", "no_drafts"), ("already_done", "already_done"), ("?", "other")]
)
def test_a_skip_is_counted_by_its_reason(reason: str, label: str) -> None:
    found = metrics()
    found.observe(changed(outcome=Outcome.SKIPPED, reason=reason))
    assert found.value("job_skips_total", job_name=JOB, queue=QUEUE, reason=label) == 1
    assert found.value("job_last_success_timestamp_seconds", job_name=JOB) == NOW.timestamp()


@pytest.mark.parametrize(
    ("sqlstate", "constraint", "label", "count"),
    [
        ("23503", CONSTRAINT, CONSTRAINT, 1),
        ("23503", "x_fkey", "other", 1),
        ("23505", CONSTRAINT, CONSTRAINT, 0),
    ],
)
def test_only_23503_is_a_foreign_key_error(sqlstate: str, constraint: str, label: str, count: int) -> None:
    found = metrics()
    failure = msgspec.structs.replace(FK_FAILURE, sqlstate=sqlstate, constraint=constraint)
    found.observe(changed(outcome=Outcome.FAILED, failure=failure))
    assert found.value("job_fk_errors_total", job_name=JOB, queue=QUEUE, constraint=label) == count
    assert found.value("job_last_success_timestamp_seconds", job_name=JOB) == 0


def test_a_planted_violation_counts_in_its_own_series_and_nowhere_else() -> None:
    found = metrics()
    planted = {"job_name": CONTROL, "queue": QUEUE, "constraint": CONTROL_CONSTRAINT}
    assert found.value("job_fk_errors_total", **planted) == 0
    before = found.exposition()[1].decode().splitlines()
    failure = msgspec.structs.replace(FK_FAILURE, constraint=CONTROL_CONSTRAINT)
    found.observe(
        changed(job_name=CONTROL, outcome=Outcome.FAILED, failure=failure, retry_in=1.0, replay_of="r0")
    )
    assert found.value("job_fk_errors_total", **planted) == 1
    after = found.exposition()[1].decode().splitlines()
    changes = [line for line in after if line not in before and not line.startswith(("process_", "python_"))]
    assert changes == [
        f'job_fk_errors_total{{constraint="{CONTROL_CONSTRAINT}",job_name="{CONTROL}",queue="{QUEUE}"}} 1.0'
    ]


@pytest.mark.parametrize(
    "otherwise",
    [
        {"outcome": Outcome.PROCESSED},
        {"outcome": Outcome.SKIPPED, "reason": "already_done"},
        {"outcome": Outcome.FAILED, "failure": FK_FAILURE},
        {"outcome": Outcome.LOST, "failure": Failure(reason="killed", error_type="SIGKILL")},
    ],
)
def test_a_control_that_ends_otherwise_counts_nowhere(otherwise: dict[str, Any]) -> None:
    found = metrics()
    before = found.exposition()[1].decode().splitlines()
    found.observe(changed(job_name=CONTROL, **otherwise))
    after = found.exposition()[1].decode().splitlines()
    assert not [line for line in after if line not in before and not line.startswith(("process_", "python_"))]


def test_a_foreign_key_error_leads_to_its_trace() -> None:
    found = metrics()
    found.observe(changed(outcome=Outcome.FAILED, failure=FK_FAILURE))
    samples = [
        sample
        for family in open_metrics(found.exposition(OPEN_METRICS)[1].decode())
        for sample in family.samples
        if family.name == "job_fk_errors" and sample.exemplar
    ]
    assert [(one.labels["constraint"], one.exemplar.labels) for one in samples] == [
        (CONSTRAINT, {"trace_id": RECORD.trace_id})
    ]


def test_what_was_not_verified_is_inconclusive_and_never_proven() -> None:
    found = metrics()
    codes = {(phase, check): 3 for phase, checks in catalog.VERIFY_CHECKS.items() for check in checks}

    def shown() -> dict[tuple[str, str], float | None]:
        return {key: found.value("verify_verdict", phase=key[0], check=key[1]) for key in codes}

    assert shown() == codes
    found.set_verdicts({("immediate", "queue-processing"): 0, ("long-term", "skips"): 1})
    assert shown() == codes | {("immediate", "queue-processing"): 0, ("long-term", "skips"): 1}
    found.set_verdicts({("long-term", "skips"): 8, ("no such phase", "x"): 0})
    assert shown() == codes | {("long-term", "skips"): 8}


def test_retries_and_replays_are_counted() -> None:
    found = metrics()
    failure = Failure(reason=Reason.TRANSIENT, error_type="TimeoutError", retryable=True)
    found.observe(changed(outcome=Outcome.FAILED, failure=failure, retry_in=5.0, replay_of="j0"))
    assert found.value("job_retries_total", job_name=JOB, queue=QUEUE) == 1
    assert found.value("job_replays_total", job_name=JOB, outcome="failed") == 1


def test_samples_feed_the_jobs_own_metrics() -> None:
    found = metrics()
    found.observe(changed(samples=(Sample("image_search_duration_seconds", ("page", "found"), 0.5),)))
    key = {"source": "page", "outcome": "found"}
    assert found.value("image_search_duration_seconds_sum", **key) == 0.5
    assert found.value("image_search_duration_seconds_bucket", **key, le="1.0") == 1


@pytest.mark.parametrize(
    "sample",
    [
        Sample("no_such_metric", (), 1.0),
        Sample(DRAFTS.name, (), 1.0),
        Sample(DRAFTS.name, ("attached",), -1.0),
    ],
)
def test_a_sample_that_cannot_be_is_counted_as_dropped_and_does_no_harm(sample: Sample) -> None:
    found = metrics()
    found.observe(changed(samples=(sample,)))
    assert found.value("telemetry_dropped_total", signal="samples", reason="malformed") == 1


def test_two_jobs_may_share_a_metric_but_not_redefine_it() -> None:
    metrics(spec(), spec(name="b"))
    different = MetricSpec(DRAFTS.name, "counter", "Other.", {})
    with pytest.raises(UsageError, match="image_drafts_total"):
        metrics(spec(), spec(name="b", metrics=(different,)))


def test_exemplars_lead_to_the_trace_in_open_metrics() -> None:
    found = metrics()
    found.observe(RECORD)
    content_type, body = found.exposition(OPEN_METRICS)
    assert content_type.startswith("application/openmetrics-text")
    exemplars = {
        family.name: sample.exemplar.labels
        for family in open_metrics(body.decode())
        for sample in family.samples
        if sample.exemplar
    }
    assert exemplars["job_run_duration_seconds"] == {"trace_id": RECORD.trace_id}
    assert exemplars["job_queue_wait_seconds"] == {"trace_id": RECORD.trace_id}


def test_the_text_format_is_served_when_nothing_else_is_asked_for() -> None:
    content_type, body = metrics().exposition()
    assert content_type.startswith("text/plain")
    families = {family.name: family for family in plain_text(body.decode())}
    assert families["job_runs"].type == "counter"
    assert families["process_cpu_seconds"].samples
    assert not [name for name in families if name.endswith("_created")]


def test_gauges_say_how_things_stand_now() -> None:
    found = metrics()
    found.set_queue(QUEUE, {"queued": 7, "failed": 2}, 12.5)
    found.set_queue(QUEUE, {"queued": 3}, 1.5)
    found.set_intents(4, 2.5)
    found.set_workers({"idle": 1, "busy": 1})
    assert found.value("job_queue_depth", queue=QUEUE, state="queued") == 3
    assert found.value("job_queue_depth", queue=QUEUE, state="failed") == 0
    assert found.value("job_queue_oldest_age_seconds", queue=QUEUE) == 1.5
    assert found.value("job_intents_unpushed") == 4
    assert found.value("job_intent_oldest_age_seconds") == 2.5
    assert found.value("job_workers", state="busy") == 1


def test_a_toggle_shows_only_the_version_in_force() -> None:
    found = metrics()
    found.set_toggle("ASYNC", variant="on", version="1", enabled=True)
    found.set_toggle("ASYNC", variant="off", version="2", enabled=False)
    assert found.value("toggle_info", toggle="ASYNC", variant="on", version="1") is None
    assert found.value("toggle_info", toggle="ASYNC", variant="off", version="2") == 1
    assert found.value("toggle_enabled", toggle="ASYNC") == 0


def test_two_registries_know_nothing_of_each_other() -> None:
    one, two = metrics(), metrics()
    one.dropped("spans", "queue_full", 12)
    assert one.value("telemetry_dropped_total", signal="spans", reason="queue_full") == 12
    assert two.value("telemetry_dropped_total", signal="spans", reason="queue_full") == 0
