"""(2) After a deployment: the checklist of `toolkit verify-deploy` as panels, this release beside the last.

A series has no release of its own: it gets that of its instance at that time, from toolkit_build_info.
"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.board import BLUE, GREEN, RED, YELLOW, Panel, Query, Row, board
from dashboards.promql import (
    FK_ERRORS,
    RELEASE,
    TARGET,
    quantile,
    rate_by_release,
    selector,
    share,
    total_by_release,
)

RUNS = selector("job_runs_total")
BAD = selector("job_runs_total", 'outcome=~"failed|lost"')

VERDICTS = {
    "0": ("proven", GREEN),
    "1": ("regression", RED),
    "3": ("inconclusive", YELLOW),
    "8": ("pending", BLUE),
}

CHECKLIST = Row("The checklist", (
    Panel(
        title="Verdicts of verify-deploy", number=True, width=24, height=6, unit="short", words=VERDICTS,
        steps={1: RED, 2: YELLOW, 8: BLUE},
        description="What the newest `toolkit verify-deploy` found, check by check; a check that it did not look at is "
        "inconclusive. Its evidence: `toolkit verify-deploy --list`.",
        queries=[Query(f"max by (phase, check) (verify_verdict{{{TARGET}}})", "{{phase}}: {{check}}")],
    ),
))  # fmt: skip

MINUTES = Row("Within 5 minutes", (
    Panel(
        title="Releases that run", width=6, unit="short", stacked=True, alerts=["WorkersAbsent"],
        description="Supervisors by release. The last one must come down to nothing: both at once mean that the deployment is "
        "not over.",
        queries=[Query(f"count by (release) (toolkit_build_info{{{TARGET}}})", "{{release}}")],
    ),
    Panel(
        title="Foreign key errors by release", number=True, width=6, unit="short", steps={0.5: RED}, alerts=["ForeignKeyErrors"],
        description="In the time shown, under each release. The new one must have none; if the last one had none either, "
        "nothing is proven by that: see `toolkit rehearse race`.",
        queries=[Query(total_by_release(FK_ERRORS), "{{release}}")],
    ),
    Panel(
        title="Runs by release", number=True, width=6, unit="short", below=YELLOW, steps={1: GREEN},
        alerts=["NoSuccess", "QueueStuck"],
        description="Runs that ended in the time shown, under each release. Without any the new release has proven nothing yet: "
        "`toolkit verify-deploy --top-up` sends test orders.",
        queries=[Query(total_by_release(RUNS), "{{release}}")],
    ),
    Panel(
        title="Queue is processed", width=6, unit="cps", alerts=["QueueStuck"],
        description="Runs that ended, a second, by release.",
        queries=[Query(rate_by_release(RUNS), "{{release}}")],
    ),
    Panel(
        title="Failures by release", width=12, unit="cps", totals=True, alerts=["ErrorBudgetBurnFast", "RunsLost"],
        description="Runs that failed or were lost, a second, by release and outcome: errors that the last release did not have.",
        queries=[Query(rate_by_release(BAD, "outcome"), "{{release}} {{outcome}}")],
    ),
    Panel(
        title="Foreign key errors over time", width=12, unit="cps", totals=True, alerts=["ForeignKeyErrors"],
        description="Runs that failed with SQLSTATE 23503, a second, by release and constraint.",
        queries=[Query(rate_by_release(FK_ERRORS, "constraint"), "{{release}} {{constraint}}")],
    ),
))  # fmt: skip

HOUR = Row("Within the hour", (
    Panel(
        title="Queue wait by release (p95)", unit="s", steps={180: YELLOW}, alerts=["QueueWaitHigh"],
        description="Images come two to three minutes after the order; more is a wait that merchants see. 0 while nothing runs.",
        queries=[Query(quantile(0.95, "job_queue_wait_seconds", release=True), "{{release}}", exemplars=True)],
    ),
    Panel(
        title="Run duration by release (p95)", unit="s",
        description="Whether the new release is slower than the last. 0 while nothing runs.",
        queries=[Query(quantile(0.95, "job_run_duration_seconds", release=True), "{{release}}", exemplars=True)],
    ),
    Panel(
        title="Images by release", unit="cps", totals=True, alerts=["ImagesMissing"],
        description="Images attached, a second, by release.",
        queries=[Query(rate_by_release(f"images_attached_total{{{TARGET}}}"), "{{release}}")],
    ),
))  # fmt: skip

DAY = Row("Within 24 hours", (
    Panel(
        title="Success ratio by release", unit="percentunit", highest=1, below=RED, steps={0.99: GREEN},
        alerts=["ErrorBudgetBurnSlow"],
        description="Share of runs that ended processed or skipped, against the objective of 99 %; 100 % while nothing runs.",
        queries=[Query(f"1 - {share(rate_by_release(BAD), rate_by_release(RUNS))}", "{{release}}")],
    ),
    Panel(
        title="Skip ratio by release", unit="percentunit", highest=1, steps={0.5: YELLOW}, alerts=["SkipRatioHigh"],
        description="Share of runs that had nothing to do. Now and then is as designed; much more than under the last release is "
        "not.",
        queries=[Query(
            share(rate_by_release(selector("job_skips_total")), rate_by_release(RUNS)), "{{release}}",
        )],
    ),
    Panel(
        title="Drafts without images by release", unit="percentunit", highest=1, steps={0.5: YELLOW}, alerts=["ImagesMissing"],
        description="Share of the drafts looked at for which no image was found.",
        queries=[Query(
            share(
                rate_by_release(f'image_drafts_total{{{TARGET}, outcome="no_images_found"}}'),
                rate_by_release(f"image_drafts_total{{{TARGET}}}"),
            ),
            "{{release}}",
        )],
    ),
))  # fmt: skip

EVIDENCE = Row("Can the above be believed?", (
    Panel(
        title="Telemetry dropped by release", width=12, unit="cps", steps={0.01: YELLOW}, alerts=["TelemetryDropping"],
        description="What was lost on its way is missing above.",
        queries=[Query(rate_by_release(f"telemetry_dropped_total{{{TARGET}}}", "signal"), "{{release}} {{signal}}")],
    ),
    Panel(
        title="Ledger and counters disagree", width=12, unit="cps", steps={0.001: RED}, alerts=["LedgerCountersDisagree"],
        description="Runs that the ledger has and the counters lack, or the other way round: believe the ledger.",
        queries=[Query(
            rate_by_release(f"job_runs_unaccounted_total{{{TARGET}}}", "missing_in"), "{{release}} lacking in {{missing_in}}",
        )],
    ),
    Panel(
        title="Toggle by release", width=12, unit="bool_on_off", alerts=["ToggleLeaseOver"],
        description="Asynchronous processing must be on for the queue to tell anything of the release.",
        queries=[Query(f"min by (release, toggle) (toggle_enabled{{{TARGET}}} {RELEASE})", "{{release}} {{toggle}}")],
    ),
    Panel(
        title="Workers by release", width=12, unit="short", stacked=True, alerts=["WorkersAbsent"],
        description="Worker processes by release and state; many that start mean that the new release's die young.",
        queries=[Query(f"sum by (release, state) (job_workers{{{TARGET}}} {RELEASE})", "{{release}} {{state}}")],
    ),
))  # fmt: skip


def dashboard() -> Dashboard:
    """This release beside the last."""
    return board(
        "freshfetch-deployment", "After a deployment",
        "The post-deployment checklist as panels, this release beside the last. `toolkit verify-deploy` decides it.",
        (CHECKLIST, MINUTES, HOUR, DAY, EVIDENCE), hours=24,
    )  # fmt: skip
