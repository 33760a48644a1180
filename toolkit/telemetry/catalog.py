"""The catalog: every core metric, span name, attribute key and log event, in one place.

A job brings its own metrics and log events with its JobSpec; `Metrics` and `logs` take both alike. An empty
label list in a MetricSpec is open: `job_name`, `queue`, `reason` and `constraint` are closed by the registry,
the others (`toggle`, `variant`, `version`, `release`, `python`) by whoever sets the gauge. Units: seconds,
unless the name says so.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from opentelemetry.semconv._incubating.attributes import feature_flag_attributes as _flag
from opentelemetry.semconv._incubating.attributes import messaging_attributes as _messaging
from opentelemetry.semconv.attributes import db_attributes as _db
from opentelemetry.semconv.attributes import error_attributes as _error
from opentelemetry.semconv.attributes import http_attributes as _http
from opentelemetry.semconv.attributes import server_attributes as _server
from opentelemetry.semconv.attributes import url_attributes as _url

from toolkit.jobspec import LogEvent, MetricSpec
from toolkit.run import Mode, Outcome

# Closed lists of label values

OTHER: Final = "other"
"""What any value outside a closed list becomes."""
OUTCOMES: Final = tuple(str(outcome) for outcome in Outcome)
MODES: Final = tuple(str(mode) for mode in Mode)
QUEUE_STATES: Final = ("queued", "intermediate", "started", "scheduled", "deferred", "failed")
"""Where RQ keeps a job: its list, the list between pop and start, and the registries."""
WORKER_STATES: Final = ("starting", "idle", "busy", "stopping")
VERIFY_CHECKS: Final = {
    "immediate": ("deployment-live", "no-foreign-key-errors", "queue-processing", "no-new-errors"),
    "short-term": ("end-to-end", "no-foreign-key-errors-hour"),
    "long-term": ("success-rate", "skips", "user-satisfaction", "performance-kept"),
}
"""The checks of `toolkit verify-deploy`, by phase: each is in one only."""
VERIFY_UNKNOWN: Final = 3
"""verify_verdict before a check was made: nothing known is inconclusive, and never proven (0)."""
SIGNALS: Final = ("spans", "records", "samples")
DROP_REASONS: Final = (
    "buffer_full",  # more spans in the worker's memory than it may keep
    "socket_full",  # the supervisor did not read fast enough
    "socket_closed",  # the supervisor is gone
    "malformed",  # a message or sample that cannot be understood
    "queue_full",  # the exporter's queue is full: the collector is dead, hanging or slow
    "export_failed",  # refused by the collector, or retried in vain
    "rejected",  # the collector's partial success
    "shutdown",  # not sent when time was up
    OTHER,
)

# Metrics

RUN_DURATION_BUCKETS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0,
)  # fmt: skip
QUEUE_WAIT_BUCKETS: Final = (
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1800.0,
)  # fmt: skip
ROUND_TRIP_BUCKETS: Final = (0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
DEPENDENCIES: Final = ("database", "broker")

RUNS = MetricSpec(
    "job_runs_total", "counter", "Runs that ended, by outcome.",
    {"job_name": (), "queue": (), "mode": MODES, "outcome": OUTCOMES},
)  # fmt: skip
SKIPS = MetricSpec(
    "job_skips_total", "counter", "Runs that had nothing to do, by reason.",
    {"job_name": (), "queue": (), "reason": ()},
)  # fmt: skip
FK_ERRORS = MetricSpec(
    "job_fk_errors_total", "counter",
    "Runs that failed on a foreign key (SQLSTATE 23503), by constraint; job_name freshfetch-control: planted ones.",
    {"job_name": (), "queue": (), "constraint": ()},
)  # fmt: skip
RETRIES = MetricSpec(
    "job_retries_total", "counter", "Runs that failed and will be tried again.",
    {"job_name": (), "queue": ()},
)  # fmt: skip
REPLAYS = MetricSpec(
    "job_replays_total", "counter", "Runs that replayed a failed job, by outcome.",
    {"job_name": (), "outcome": OUTCOMES},
)  # fmt: skip
RUN_DURATION = MetricSpec(
    "job_run_duration_seconds", "histogram", "How long a run took, from its begin to its end.",
    {"job_name": (), "queue": (), "mode": MODES, "outcome": OUTCOMES}, RUN_DURATION_BUCKETS,
)  # fmt: skip
QUEUE_WAIT = MetricSpec(
    "job_queue_wait_seconds", "histogram", "How long a job waited from being due to its run's begin.",
    {"job_name": (), "queue": ()}, QUEUE_WAIT_BUCKETS,
)  # fmt: skip
QUEUE_DEPTH = MetricSpec(
    "job_queue_depth", "gauge", "Jobs in the broker, by state.",
    {"queue": (), "state": QUEUE_STATES},
)  # fmt: skip
QUEUE_OLDEST = MetricSpec(
    "job_queue_oldest_age_seconds", "gauge", "Age of the oldest job that waits in the queue; 0: none waits.",
    {"queue": ()},
)  # fmt: skip
INTENTS_UNPUSHED = MetricSpec(
    "job_intents_unpushed", "gauge", "Committed intents that the broker does not have yet.", {},
)  # fmt: skip
INTENT_OLDEST = MetricSpec(
    "job_intent_oldest_age_seconds", "gauge", "Age of the oldest intent not pushed yet; 0: none.", {},
)  # fmt: skip
WORKERS = MetricSpec(
    "job_workers", "gauge", "Worker processes of this supervisor, by state.", {"state": WORKER_STATES},
)  # fmt: skip
FAILED_BACKLOG = MetricSpec(
    "job_failed_backlog", "gauge", "Jobs given up in the last 7 days that no replay has resolved.", {"job_name": ()},
)  # fmt: skip
UNACCOUNTED = MetricSpec(
    "job_runs_unaccounted_total", "counter",
    "Runs of this supervisor's workers that the ledger has and the counters lack, or the other way round.",
    {"missing_in": ("counters", "ledger")},
)  # fmt: skip
LAST_SUCCESS = MetricSpec(
    "job_last_success_timestamp_seconds", "gauge",
    "When a run was last processed or skipped, seconds since 1970; 0: not since this start.",
    {"job_name": ()},
)  # fmt: skip
TOGGLE_INFO = MetricSpec(
    "toggle_info", "gauge", "1 for the variant and version of a toggle that is in force here.",
    {"toggle": (), "variant": (), "version": ()},
)  # fmt: skip
TOGGLE_ENABLED = MetricSpec("toggle_enabled", "gauge", "1 when the toggle is on, 0 when off.", {"toggle": ()})
TOGGLE_STALE = MetricSpec(
    "toggle_stale", "gauge", "1 while the ledger is away and the toggle's last known value is in force.",
    {"toggle": ()},
)  # fmt: skip
TOGGLE_OVERDUE = MetricSpec(
    "toggle_lease_overdue_seconds", "gauge", "How long a toggle's lease has been over; 0: it has none, or time is left.",
    {"toggle": ()},
)  # fmt: skip
TOGGLE_HELD = MetricSpec(
    "toggle_held", "gauge", "1 while the jobs of a toggle are held back in the ledger.", {"toggle": ()},
)  # fmt: skip
DROPPED = MetricSpec(
    "telemetry_dropped_total", "counter", "Spans, run records and samples lost on their way, by reason.",
    {"signal": SIGNALS, "reason": DROP_REASONS},
)  # fmt: skip
ROUND_TRIP = MetricSpec(
    "dependency_round_trip_seconds", "histogram",
    "How long the smallest question to PostgreSQL and the broker took; what is not answered is not counted.",
    {"dependency": DEPENDENCIES}, ROUND_TRIP_BUCKETS,
)  # fmt: skip
VERIFY_VERDICT = MetricSpec(
    "verify_verdict", "gauge",
    "What the newest verify-deploy found, as its exit codes: 0 proven, 1 regression, 3 inconclusive or not looked at, 8 pending.",
    {"phase": (), "check": ()},
)  # fmt: skip
BUILD_INFO = MetricSpec(
    "toolkit_build_info", "gauge", "Always 1; what runs, in its labels.", {"release": (), "python": ()},
)  # fmt: skip

METRICS: Final = (
    RUNS, SKIPS, FK_ERRORS, RETRIES, REPLAYS, RUN_DURATION, QUEUE_WAIT, QUEUE_DEPTH, QUEUE_OLDEST,
    INTENTS_UNPUSHED, INTENT_OLDEST, FAILED_BACKLOG, UNACCOUNTED, WORKERS, LAST_SUCCESS, TOGGLE_INFO, TOGGLE_ENABLED,
    TOGGLE_STALE, TOGGLE_OVERDUE, TOGGLE_HELD, DROPPED, ROUND_TRIP, VERIFY_VERDICT, BUILD_INFO,
)  # fmt: skip

# Span names

SPAN_BEGIN: Final = "begin run"

# Attribute keys: semantic conventions where there are any, `job.…` otherwise

MESSAGING_SYSTEM: Final = _messaging.MESSAGING_SYSTEM
MESSAGING_SYSTEM_RQ: Final = "rq"
MESSAGING_OPERATION_NAME: Final = _messaging.MESSAGING_OPERATION_NAME
MESSAGING_OPERATION_TYPE: Final = _messaging.MESSAGING_OPERATION_TYPE
OPERATION_SEND: Final = _messaging.MessagingOperationTypeValues.SEND.value
OPERATION_PROCESS: Final = _messaging.MessagingOperationTypeValues.PROCESS.value
MESSAGING_DESTINATION: Final = _messaging.MESSAGING_DESTINATION_NAME
MESSAGING_MESSAGE_ID: Final = _messaging.MESSAGING_MESSAGE_ID
ATTR_ERROR_TYPE: Final = _error.ERROR_TYPE
DB_NAMESPACE: Final = _db.DB_NAMESPACE
DB_QUERY_SUMMARY: Final = _db.DB_QUERY_SUMMARY
DB_STATUS_CODE: Final = _db.DB_RESPONSE_STATUS_CODE
"""A failed statement's SQLSTATE; a foreign key error is 23503."""
HTTP_METHOD: Final = _http.HTTP_REQUEST_METHOD
HTTP_STATUS_CODE: Final = _http.HTTP_RESPONSE_STATUS_CODE
URL_FULL: Final = _url.URL_FULL
SERVER_ADDRESS: Final = _server.SERVER_ADDRESS
SERVER_PORT: Final = _server.SERVER_PORT

FLAG_KEY: Final = _flag.FEATURE_FLAG_KEY
FLAG_VARIANT: Final = _flag.FEATURE_FLAG_RESULT_VARIANT
FLAG_REASON: Final = _flag.FEATURE_FLAG_RESULT_REASON
FLAG_VERSION: Final = _flag.FEATURE_FLAG_VERSION
FLAG_PROVIDER: Final = _flag.FEATURE_FLAG_PROVIDER_NAME
FLAG_CONTEXT: Final = _flag.FEATURE_FLAG_CONTEXT_ID
FLAG_ERROR: Final = "error.message"
"""Superseded names are still in the incubating module; these are the convention's present ones."""
SPAN_FLIP: Final = "flip toggle"
SPAN_RECEIPT: Final = "wait for receipt"
SPAN_HOLD: Final = "take jobs back"

JOB_NAME: Final = "job.name"
JOB_MODE: Final = "job.mode"
JOB_OUTCOME: Final = "job.outcome"
JOB_REASON: Final = "job.reason"
JOB_QUEUE_WAIT: Final = "job.queue_wait_seconds"
JOB_COUNT: Final = "job.count."
"""Prefix of a result's counts: `job.count.attached`."""
JOB_CONSTRAINT: Final = "job.error.constraint"
JOB_FINGERPRINT: Final = "job.error.fingerprint"
JOB_RETRY_IN: Final = "job.retry_in_seconds"
JOB_REPLAY_OF: Final = "job.replay_of"
RUN_ID: Final = "job.run.id"
RUN_NUMBER: Final = "job.run.number"
WORKER: Final = "job.worker"

LINK: Final = "job.link"
"""Attribute of a link: what the linked span is to this one; one of the three below."""
LINK_ASKED: Final = "asked_by"
LINK_RETRY: Final = "retry_of"
LINK_REPLAY: Final = "replay_of"

# Log events: the name is what JSON carries, the line what a person reads

RUN_STARTED = LogEvent("run.started", "▶️  {job_name} run {number} started", "debug")
RUN_PROCESSED = LogEvent("run.processed", "✅ {job_name} processed in {duration:.2f} s")
RUN_SKIPPED = LogEvent("run.skipped", "⚠️  {job_name} skipped: {reason}")
RUN_FAILED = LogEvent("run.failed", "❌ {job_name} failed: {error_type}: {error_message}", "error")
RUN_RETRY = LogEvent("run.retry", "🔁 {job_name} failed ({error_type}), again in {retry_in:.0f} s", "warning")
RUN_NOT_NEEDED = LogEvent("run.not_needed", "⚠️  {job_name} not needed: {reason}", "debug")
RUN_SUPERSEDED = LogEvent(
    "run.superseded", "⚠️  run {number} was given up as lost meanwhile; another run has the job", "warning"
)
RUN_LOST = LogEvent("run.lost", "💀 {job_name} lost: {error_type}; it will run again", "error")
JOB_REFUSED = LogEvent("job.refused", "❌ {job_name} refused: {error_message}", "error")
SUPERVISOR_STARTED = LogEvent("supervisor.started", "🚀 {processes} worker processes on {queues}")
SUPERVISOR_STOPPING = LogEvent("supervisor.stopping", "🛑 stopping on {signal}, running jobs finish first")
SUPERVISOR_STOPPED = LogEvent("supervisor.stopped", "👋 stopped")
SETTING_UNREAD = LogEvent("setting.unread", "⚠️  nothing reads {variable}: is {meant} meant?", "warning")
METRICS_SERVED = LogEvent("metrics.served", "📈 metrics at {url}")
WORKER_STARTED = LogEvent("worker.started", "👷 worker {worker} ready (pid {pid})")
WORKER_DIED = LogEvent("worker.died", "💥 worker {worker} (pid {pid}) died: {error_type}; replaced", "error")
RELAY_PUSHED = LogEvent("relay.pushed", "📤 {count} jobs pushed to {queue}", "debug")
RELAY_PUSHED_AGAIN = LogEvent(
    "relay.pushed_again", "📤 {count} jobs that the broker forgot pushed again", "warning"
)
BROKER_UNREACHABLE = LogEvent("broker.unreachable", "🔌 broker does not answer: {error_message}", "warning")
BROKER_REACHED = LogEvent("broker.reached", "🔌 broker answers again")
DATABASE_UNREACHABLE = LogEvent(
    "database.unreachable", "🔌 PostgreSQL does not answer: {error_message}", "warning"
)
DATABASE_REACHED = LogEvent("database.reached", "🔌 PostgreSQL answers again")
FLAG_EVALUATED = LogEvent("feature_flag.evaluation", "🔀 {toggle} → {variant} ({why})")
"""Named by the semantic convention for feature flags; its attributes stand under their own names."""
TOGGLE_FLIPPED = LogEvent(
    "toggle.flipped", "🔀 {toggle} is {variant} from version {version}: {reason} ({who})"
)
TOGGLE_RECEIPT = LogEvent(
    "toggle.receipt",
    "🧾 {toggle} version {version}: {acknowledged} processes acknowledged in {duration:.2f} s",
)
TOGGLE_LAGGARDS = LogEvent(
    "toggle.laggards", "⚠️  {toggle} version {version}: not acknowledged by {laggards}", "warning"
)
TOGGLE_CHANGED = LogEvent("toggle.changed", "🔀 {toggle} is {variant} here (version {version}, {layer})")
TOGGLE_STORE_AWAY = LogEvent(
    "toggle.stale", "🔀 {toggle} stays {variant}: the ledger does not answer: {error_message}", "warning"
)
TOGGLE_LEASE_OVER = LogEvent(
    "toggle.lease_over",
    "⏰ {toggle} is still {variant}: its lease ended {overdue:.0f} s ago ({reason}, {who})",
    "warning",
)
TOGGLE_TAKEN_BACK = LogEvent("toggle.taken_back", "🔀 {toggle}: {count} queued jobs are back in the ledger")
TOGGLE_RECLAIMED = LogEvent(
    "toggle.reclaimed", "🔀 {toggle}: {count} jobs done here, {left} left to the workers"
)
FOREIGN = LogEvent("log.message", "{logger}: {message}", "warning")
"""What other libraries say through the standard library's logging, at WARNING and above."""


def span_enqueue(queue: str) -> str:
    """Name of the PRODUCER span of whoever asks for a job."""
    return f"enqueue {queue}"


def span_perform(queue: str) -> str:
    """Name of the CONSUMER span, the root of a run."""
    return f"perform {queue}"


def messaging_attributes(operation: str, queue: str, job_id: str) -> dict[str, str]:
    """The messaging attributes of both; `operation` is OPERATION_SEND or OPERATION_PROCESS."""
    return {
        MESSAGING_SYSTEM: MESSAGING_SYSTEM_RQ,
        MESSAGING_OPERATION_NAME: "enqueue" if operation == OPERATION_SEND else "perform",
        MESSAGING_OPERATION_TYPE: operation,
        MESSAGING_DESTINATION: queue,
        MESSAGING_MESSAGE_ID: job_id,
    }


class _Logger(Protocol):
    def debug(self, event: str, **fields: Any) -> Any: ...
    def info(self, event: str, **fields: Any) -> Any: ...
    def warning(self, event: str, **fields: Any) -> Any: ...
    def error(self, event: str, **fields: Any) -> Any: ...


def emit(log: _Logger, event: LogEvent, /, **fields: Any) -> None:
    """Say that `event` happened, at its level, with the fields its line names and any others."""
    getattr(log, event.level)(event.name, _line=event.line, **fields)
