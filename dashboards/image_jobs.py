"""(1) Image jobs: the on-call's first look."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.board import GREEN, OUTCOMES, PURPLE, RED, YELLOW, Panel, Query, Row, board
from dashboards.promql import FK_ERRORS, QUEUE, RANGE, TARGET, increase, quantile, rate, selector, share

BAD = selector("job_runs_total", 'outcome=~"failed|lost"')
ALL = selector("job_runs_total")
QUANTILES = (0.5, 0.95, 0.99)

NOW = Row("Now", (
    Panel(
        title="Foreign key errors", number=True, width=4, height=5, unit="short", steps={0.5: RED}, alerts=["ForeignKeyErrors"],
        description="Runs that failed on a foreign key (SQLSTATE 23503) in the time shown. It must be 0: the guarded write holds "
        "the drafts it writes for. Which jobs: `toolkit jobs failed`.",
        queries=[Query(increase(FK_ERRORS, window=RANGE), "errors")],
    ),
    Panel(
        title="Success", number=True, width=4, height=5, unit="percentunit", below=RED, steps={0.98: YELLOW, 0.99: GREEN},
        alerts=["ErrorBudgetBurnFast"],
        description="Share of the runs in the time shown that ended processed or skipped; the objective is 99 %. 100 % when "
        "nothing ran.",
        queries=[Query(f"1 - {share(increase(BAD, window=RANGE), increase(ALL, window=RANGE))}", "success")],
    ),
    Panel(
        title="Oldest job waits", number=True, width=4, height=5, unit="s", steps={120: YELLOW, 300: RED}, alerts=["QueueStuck"],
        description="Age of the oldest job that waits in the queue. Two to three minutes are as designed; what grows without "
        "end is stuck.",
        queries=[Query(f"max({selector('job_queue_oldest_age_seconds')})", "age")],
    ),
    Panel(
        title="Workers", number=True, width=4, height=5, unit="short", below=RED, steps={1: GREEN}, alerts=["WorkersAbsent"],
        description="Worker processes that are idle or busy, of all supervisors shown.",
        queries=[Query(f'sum(job_workers{{{TARGET}, state=~"idle|busy"}})', "workers")],
    ),
    Panel(
        title="Last success", number=True, width=4, height=5, unit="s", alerts=["NoSuccess"],
        words={"-1": ("none since the start", YELLOW)},
        description="How long ago a run was last processed or skipped. It says nothing by itself: without orders there are no "
        "runs.",
        queries=[Query(
            f"time() - (max(job_last_success_timestamp_seconds{{{TARGET}}}) > 0)"
            f" or -1 + 0 * max(job_last_success_timestamp_seconds{{{TARGET}}})", "ago",
        )],
    ),
    Panel(
        title="Toggle", number=True, width=4, height=5, unit="bool_on_off", alerts=["ToggleLeaseOver"], below=YELLOW,
        steps={1: GREEN},
        description="Whether images are processed asynchronously. Off on one supervisor shows as off: until all have "
        "acknowledged a flip both ways are in force. `toolkit toggle status` tells by whom and why.",
        queries=[Query(f"min by (toggle) (toggle_enabled{{{TARGET}}})", "{{toggle}}")],
    ),
))  # fmt: skip

OUTCOME = Row("What became of the jobs", (
    Panel(
        title="Runs by outcome", unit="cps", stacked=True, colours=OUTCOMES, alerts=["ErrorBudgetBurnFast", "RunsLost"],
        description="Runs that ended, a second. Skipped is no error: the drafts were gone, or the work was done. Lost: the "
        "worker died under the run, which runs again.",
        queries=[Query(rate(ALL, "outcome"), "{{outcome}}")],
    ),
    Panel(
        title="Foreign key errors by constraint", unit="short", steps={0.5: RED}, alerts=["ForeignKeyErrors"],
        description="Runs that failed with SQLSTATE 23503 in each step of the graph, by constraint. The incident of 2025-10-11 "
        "was ProductImage_productDraftId_fkey.",
        queries=[Query(increase(FK_ERRORS, "constraint"), "{{constraint}}")],
    ),
    Panel(
        title="Success ratio", unit="percentunit", highest=1, below=RED, steps={0.99: GREEN},
        alerts=["ErrorBudgetBurnSlow", "ErrorBudgetBurnFast"],
        description="Share of runs that ended processed or skipped, against the objective of 99 %. A run that is tried again "
        "counts as failed. 100 % while nothing runs.",
        queries=[Query(f"1 - {share(rate(BAD), rate(ALL))}", "success")],
    ),
    Panel(
        title="Skips by reason", unit="short", stacked=True, alerts=["SkipRatioHigh"],
        description="Runs that had nothing to do, by reason, in each step of the graph. draft_deleted, no_drafts and "
        "order_deleted: somebody deleted in time. wrong_merchant should not be there.",
        queries=[Query(increase(selector("job_skips_total"), "reason"), "{{reason}}")],
    ),
    Panel(
        title="Drafts by outcome", unit="short", stacked=True, alerts=["ImagesMissing"],
        colours={"attached": GREEN, "no_images_found": YELLOW, "wrong_merchant": RED},
        description="What became of each draft that the job looked at, in each step of the graph. Much no_images_found: the "
        "search or the shop's pages have changed.",
        queries=[Query(increase(f"image_drafts_total{{{TARGET}}}", "outcome"), "{{outcome}}")],
    ),
    Panel(
        title="Images attached", unit="short", stacked=True, alerts=["ImagesMissing"],
        description="Images attached to drafts, by the source that found them, in each step of the graph.",
        queries=[Query(increase(f"images_attached_total{{{TARGET}}}", "source"), "{{source}}")],
    ),
))  # fmt: skip


def _quantiles(histogram: str, matchers: str = QUEUE) -> list[Query]:
    return [
        Query(quantile(q, histogram, matchers=matchers), f"p{q * 100:.0f}", exemplars=q == QUANTILES[-1])
        for q in QUANTILES
    ]


LATENCY = Row("How long it took", (
    Panel(
        title="Queue wait", unit="s", steps={180: YELLOW}, alerts=["QueueWaitHigh"],
        description="From being due to the run's begin. A dot is the trace of one run. 0 while nothing runs.",
        queries=_quantiles("job_queue_wait_seconds"),
    ),
    Panel(
        title="Run duration", unit="s",
        description="From a run's begin to its end, both modes and all outcomes. A dot is the trace of one run. 0 while nothing "
        "runs.",
        queries=_quantiles("job_run_duration_seconds"),
    ),
    Panel(
        title="Image search", unit="s", alerts=["ImagesMissing"],
        description="The search for one product, all sources: fetch its page, check each candidate. A dot is the trace of one "
        "run. 0 while nothing runs.",
        queries=_quantiles("image_search_duration_seconds", TARGET),
    ),
))  # fmt: skip

QUEUES = Row("Queue, workers, toggle", (
    Panel(
        title="Queue depth", unit="short", stacked=True, alerts=["QueueStuck"], colours={"failed": RED},
        description="Jobs in the broker by state, as every supervisor sees them: the greatest is shown.",
        queries=[Query(f"max by (state) ({selector('job_queue_depth')})", "{{state}}")],
    ),
    Panel(
        title="Oldest waiting job", unit="s", steps={300: RED}, alerts=["QueueStuck", "QueueWaitHigh"],
        description="Age of the oldest job that waits, by queue; 0: none waits.",
        queries=[Query(f"max by (queue) ({selector('job_queue_oldest_age_seconds')})", "{{queue}}")],
    ),
    Panel(
        title="Workers by state", unit="short", stacked=True, alerts=["WorkersAbsent"],
        colours={"busy": "blue", "idle": GREEN, "starting": YELLOW, "stopping": PURPLE},
        description="Worker processes of all supervisors shown. Many that start mean that they die young.",
        queries=[Query(f"sum by (state) (job_workers{{{TARGET}}})", "{{state}}")],
    ),
    Panel(
        title="Toggle", unit="bool_on_off", width=12, alerts=["ToggleLeaseOver"],
        description="On: jobs go to the workers. held: jobs are kept back in the ledger. stale: the ledger does not answer, the "
        "last known value is in force.",
        queries=[
            Query(f"min by (toggle) (toggle_enabled{{{TARGET}}})", "{{toggle}}"),
            Query(f"max by (toggle) (toggle_held{{{TARGET}}})", "held"),
            Query(f"max by (toggle) (toggle_stale{{{TARGET}}})", "stale"),
        ],
    ),
    Panel(
        title="Toggle's lease is over since", unit="s", width=12, steps={1: YELLOW}, alerts=["ToggleLeaseOver"],
        description="A lease reminds and never flips: whoever switched it off wanted it on again by then.",
        queries=[Query(f"max by (toggle) (toggle_lease_overdue_seconds{{{TARGET}}})", "{{toggle}}")],
    ),
))  # fmt: skip


def dashboard() -> Dashboard:
    """The on-call's first look."""
    return board(
        "freshfetch-image-jobs", "Image jobs",
        "Is the image job well? Outcomes, foreign key errors, waits, queue and workers.",
        (NOW, OUTCOME, LATENCY, QUEUES), hours=3,
    )  # fmt: skip
