"""Metrics of the whole host, in one registry that lives in the supervisor (or the importer, in synchronous
mode).

    metrics = Metrics(Registry.installed(), release=settings.release)
    metrics.observe(record)                       # once for each run that ended
    content_type, body = metrics.exposition(request.headers.get("accept", ""))

Every label combination exists at 0 from the start, because a counter that is born at 1 never fires
`increase() > 0`. A value outside a label's closed list is counted as `other`. No process-global state: each
Metrics has its own registry. Known weakness: with PROMETHEUS_MULTIPROC_DIR set, prometheus_client keeps
values in files and forgets exemplars.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from toolkit.errors import UsageError
from toolkit.jobspec import CONTROL, CONTROL_CONSTRAINT, JobSpec, MetricSpec, Registry
from toolkit.run import Mode, Outcome, RunRecord, Sample
from toolkit.telemetry import catalog
from toolkit.telemetry.catalog import OTHER

Child = Counter | Gauge | Histogram
C = TypeVar("C", Counter, Gauge, Histogram)
Children = dict[tuple[str, ...], Child]

FK_VIOLATION = "23503"
_REGISTERED = frozenset({"job_name", "queue", "reason", "constraint"})
"""Labels whose open lists are closed by the registered jobs."""


class Metrics:
    """One registry with the catalog's metrics and those of the registered jobs."""

    def __init__(self, registry: Registry, *, release: str, python: str | None = None) -> None:
        self._registry = CollectorRegistry()
        self._specs: dict[str, MetricSpec] = {}
        self._parents: dict[str, Child] = {}
        self._children: dict[str, Children] = {}
        self._toggles: dict[str, tuple[str, str, str]] = {}
        specs = tuple(registry)
        for metric in catalog.METRICS:
            self._create(metric, specs)
        for spec in specs:
            for metric in spec.metrics:
                self._create(_with_other(metric), [owner for owner in specs if metric in owner.metrics])
        self._counted = self._count_names()
        self._pairs = frozenset((spec.name, spec.queue) for spec in specs)
        self._runs = self._all(catalog.RUNS, Counter)
        self._skips = self._all(catalog.SKIPS, Counter)
        self._durations = self._all(catalog.RUN_DURATION, Histogram)
        self._waits = self._all(catalog.QUEUE_WAIT, Histogram)
        self._successes = self._all(catalog.LAST_SUCCESS, Gauge)
        self._round_trips = self._all(catalog.ROUND_TRIP, Histogram)
        self._backlog = self._all(catalog.FAILED_BACKLOG, Gauge)
        self._planted = {
            queue: self._parents[catalog.FK_ERRORS.name].labels(CONTROL, queue, CONTROL_CONSTRAINT)
            for queue in registry.queues
        }
        self.set_verdicts({})
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._gauge(catalog.BUILD_INFO, release, python or platform.python_version()).set(1)

    # What happened

    def observe(self, record: RunRecord) -> None:
        """Count a run that ended: its outcome, times, reason, errors, and the samples of the job's own
        metrics. A planted failure counts as a foreign key error of the control, and as nothing else.
        """
        if record.job_name == CONTROL:
            self._observe_planted(record)
            return
        job, queue = record.job_name, record.queue
        if (job, queue) not in self._pairs:
            job = queue = OTHER
        outcome = record.outcome.value
        exemplar = {"trace_id": record.trace_id} if record.trace_id else None
        key = (job, queue, record.mode.value, outcome)
        self._runs[key].inc()
        self._durations[key].observe(max(0.0, record.duration), exemplar)
        if record.mode is Mode.ASYNC:
            self._waits[job, queue].observe(max(0.0, record.queue_wait), exemplar)
        if record.outcome is Outcome.SKIPPED:
            (self._skips.get((job, queue, record.reason)) or self._skips[job, queue, OTHER]).inc()
        if record.outcome in {Outcome.PROCESSED, Outcome.SKIPPED}:
            self._successes[job,].set(record.finished_at.timestamp())
        else:
            self._unsuccessful(record, job, queue, exemplar)
        if record.replay_of is not None:
            self._counter(catalog.REPLAYS, job, outcome).inc()
        self._own(record, exemplar)

    def _observe_planted(self, record: RunRecord) -> None:
        failure, counter = record.failure, self._planted.get(record.queue)
        if failure is not None and failure.constraint == CONTROL_CONSTRAINT and isinstance(counter, Counter):
            counter.inc(1, {"trace_id": record.trace_id} if record.trace_id else None)

    def _unsuccessful(self, record: RunRecord, job: str, queue: str, exemplar: dict[str, str] | None) -> None:
        if record.failure is not None and record.failure.sqlstate == FK_VIOLATION:
            self._counter(catalog.FK_ERRORS, job, queue, record.failure.constraint).inc(1, exemplar)
        if record.retry_in is not None:
            self._counter(catalog.RETRIES, job, queue).inc()

    def _own(self, record: RunRecord, exemplar: dict[str, str] | None) -> None:
        """The job's own metrics: from the record's counts, and from its samples."""
        for name, count in record.counts.items():
            for child in self._counted.get(name, ()):
                child.inc(count)
        for sample in record.samples:
            self._sample(sample, exemplar)

    def dropped(self, signal: str, reason: str, n: int = 1) -> None:
        """Count `n` spans, records or samples that were lost."""
        self._counter(catalog.DROPPED, signal, reason).inc(n)

    def round_trip(self, dependency: str, seconds: float) -> None:
        """How long `database` or `broker` took to answer."""
        self._round_trips[dependency,].observe(seconds)

    def unaccounted(self, missing_in: str, n: int) -> None:
        """Count `n` runs that the ledger or the counters lack."""
        self._counter(catalog.UNACCOUNTED, missing_in).inc(n)

    # How things stand

    def set_queue(self, queue: str, depth: Mapping[str, int], oldest_age: float) -> None:
        """Jobs in the broker's queue by state (a missing state is 0), and the age in seconds of the oldest
        waiting.
        """
        for state in catalog.QUEUE_STATES:
            self._gauge(catalog.QUEUE_DEPTH, queue, state).set(depth.get(state, 0))
        self._gauge(catalog.QUEUE_OLDEST, queue).set(oldest_age)

    def set_intents(self, unpushed: int, oldest_age: float) -> None:
        """Committed intents that the broker does not have, and the age in seconds of the oldest."""
        self._gauge(catalog.INTENTS_UNPUSHED).set(unpushed)
        self._gauge(catalog.INTENT_OLDEST).set(oldest_age)

    def set_failed_backlog(self, by_job: Mapping[str, int]) -> None:
        """Jobs given up and not resolved, by job name; a missing job is 0, unknown ones are `other`."""
        backlog: dict[tuple[str, ...], int] = dict.fromkeys(self._backlog, 0)
        for job_name, jobs in by_job.items():
            backlog[(job_name,) if (job_name,) in backlog else (OTHER,)] += jobs
        for key, jobs in backlog.items():
            self._backlog[key].set(jobs)

    def set_workers(self, by_state: Mapping[str, int]) -> None:
        """Worker processes by state; a missing state is 0."""
        for state in catalog.WORKER_STATES:
            self._gauge(catalog.WORKERS, state).set(by_state.get(state, 0))

    def set_last_success(self, job_name: str, timestamp: float) -> None:
        """Seed the time of the last success, e.g. from the ledger at start."""
        self._gauge(catalog.LAST_SUCCESS, job_name).set(timestamp)

    def set_toggle(self, toggle: str, *, variant: str, version: str, enabled: bool) -> None:
        """The toggle's state in force here; the labels of the state before it go."""
        key = (toggle, variant, version)
        before = self._toggles.get(toggle)
        if before is not None and before != key:
            self._parents[catalog.TOGGLE_INFO.name].remove(*before)
            del self._children[catalog.TOGGLE_INFO.name][before]
        self._toggles[toggle] = key
        self._gauge(catalog.TOGGLE_INFO, *key).set(1)
        self._gauge(catalog.TOGGLE_ENABLED, toggle).set(enabled)

    def set_toggle_state(self, toggle: str, *, stale: bool, overdue: float, held: bool) -> None:
        """Whether the toggle's value is a stale one, how many seconds its lease has been over, and whether jobs are held."""
        self._gauge(catalog.TOGGLE_STALE, toggle).set(stale)
        self._gauge(catalog.TOGGLE_OVERDUE, toggle).set(overdue)
        self._gauge(catalog.TOGGLE_HELD, toggle).set(held)

    def set_verdicts(self, by_check: Mapping[tuple[str, str], int]) -> None:
        """What the newest verification found: (phase, check) → exit code; a check that is missing is inconclusive."""
        for phase, checks in catalog.VERIFY_CHECKS.items():
            for check in checks:
                code = by_check.get((phase, check), catalog.VERIFY_UNKNOWN)
                self._gauge(catalog.VERIFY_VERDICT, phase, check).set(code)

    # What is served

    def exposition(self, accept_header: str = "") -> tuple[str, bytes]:
        """(content type, body) for a scrape: OpenMetrics with exemplars when asked for, else the text
        format.
        """
        encode, content_type = choose_encoder(accept_header)
        return content_type, encode(_WithoutCreated(self._registry))

    def value(self, name: str, **labels: str) -> float | None:
        """A sample's present value, e.g. `value("job_runs_total", job_name=…, …)`; None when there is no such
        one.
        """
        return self._registry.get_sample_value(name, labels)

    # Within

    def _create(self, metric: MetricSpec, owners: Iterable[JobSpec]) -> None:
        known = self._specs.get(metric.name)
        if known is not None:
            if known == metric:
                return
            raise UsageError(
                f"two jobs define the metric {metric.name} differently",
                remedy="share one MetricSpec or rename one",
            )
        self._specs[metric.name] = metric
        parent: Child
        if metric.kind == "histogram":
            buckets = metric.buckets or Histogram.DEFAULT_BUCKETS
            parent = Histogram(
                metric.name, metric.help, metric.labels, registry=self._registry, buckets=buckets
            )
        else:
            kind = Counter if metric.kind == "counter" else Gauge
            parent = kind(metric.name, metric.help, metric.labels, registry=self._registry)
        self._parents[metric.name] = parent
        self._children[metric.name] = {
            labels: parent.labels(*labels) if labels else parent for labels in combinations(metric, owners)
        }

    def _count_names(self) -> dict[str, list[Counter]]:
        """The counters that are fed from a record's counts, by the count's name."""
        found: dict[str, list[Counter]] = {}
        for metric in self._specs.values():
            for name, labels in metric.from_counts.items():
                found.setdefault(name, []).append(self._counter(metric, *labels))
        return found

    def _child(self, metric: MetricSpec, labels: tuple[str, ...]) -> Child:
        """The child of these labels; values outside of closed lists become `other`."""
        children = self._children[metric.name]
        if (child := children.get(labels)) is not None:
            return child
        allowed = {
            name: values if values or name not in _REGISTERED else {key[at] for key in children}
            for at, (name, values) in enumerate(metric.values.items())
        }
        closed = tuple(
            text if not values or text in values else OTHER
            for text, values in zip(labels, allowed.values(), strict=True)
        )
        if closed not in children:
            children[closed] = self._parents[metric.name].labels(*closed)
        return children[closed]

    def _sample(self, sample: Sample, exemplar: dict[str, str] | None) -> None:
        metric = self._specs.get(sample.metric)
        if metric is None or len(sample.labels) != len(metric.labels):
            self.dropped("samples", "malformed")
            return
        child = self._child(metric, tuple(sample.labels))
        if isinstance(child, Histogram):
            child.observe(sample.value, exemplar)
        elif isinstance(child, Gauge):
            child.set(sample.value)
        elif sample.value >= 0:
            child.inc(sample.value)
        else:
            self.dropped("samples", "malformed")

    def _counter(self, metric: MetricSpec, *labels: str) -> Counter:
        child = self._child(metric, labels)
        assert isinstance(child, Counter)  # noqa: S101  the catalog says so
        return child

    def _gauge(self, metric: MetricSpec, *labels: str) -> Gauge:
        child = self._child(metric, labels)
        assert isinstance(child, Gauge)  # noqa: S101  the catalog says so
        return child

    def _all(self, metric: MetricSpec, kind: type[C]) -> dict[tuple[str, ...], C]:
        children = self._children[metric.name]
        return {labels: child for labels, child in children.items() if isinstance(child, kind)}


def combinations(metric: MetricSpec, owners: Iterable[JobSpec]) -> Iterator[tuple[str, ...]]:
    """Every label combination of a metric that exists from the start, given the jobs that it is about.

    A job's name goes with its own queue, reasons and constraints only. Metrics with an open label that the
    registry cannot close (a toggle's version) have none.
    """
    if any(not values and name not in _REGISTERED for name, values in metric.values.items()):
        return
    seen: set[tuple[str, ...]] = set()
    others: dict[str, tuple[str, ...]] = dict.fromkeys(_REGISTERED, (OTHER,))
    for closed in [*(_closed_by(owner) for owner in owners), others]:
        for labels in product(*(values or closed[name] for name, values in metric.values.items())):
            if labels not in seen:
                seen.add(labels)
                yield labels


def _with_other(metric: MetricSpec) -> MetricSpec:
    """A job's own metric with `other` in its closed lists (the core's lists are enumerations and need
    none).
    """
    values = {
        name: (*closed, OTHER) if closed and OTHER not in closed else closed
        for name, closed in metric.values.items()
    }
    return replace(metric, values=values)


def _closed_by(spec: JobSpec) -> dict[str, tuple[str, ...]]:
    return {
        "job_name": (spec.name,),
        "queue": (spec.queue,),
        "reason": (*sorted(map(str, spec.all_skip_reasons)), OTHER),
        "constraint": (*sorted(spec.constraints), OTHER),
    }


class _WithoutCreated(Collector):
    """The registry without `_created` series, which double the size of a scrape and which nobody here
    reads.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
