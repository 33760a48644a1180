"""(3) Replay and repair: what failed, what was made good, what still waits."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.board import BLUE, OUTCOMES, PURPLE, RED, YELLOW, Panel, Query, Row, board
from dashboards.promql import FK_ERRORS, RANGE, TARGET, increase, selector

FAILED = selector("job_runs_total", 'outcome="failed"')
LOST = selector("job_runs_total", 'outcome="lost"')
REGISTRY = selector("job_queue_depth", 'state="failed"')

NOW = Row("Now", (
    Panel(
        title="Failed backlog", number=True, width=6, height=5, unit="short", steps={1: YELLOW, 50: RED},
        alerts=["FailedBacklogUnresolved"],
        description="Jobs given up in the last 7 days that no replay has resolved. `toolkit jobs failed` groups them by "
        "fingerprint, `toolkit replay` runs them again.",
        queries=[Query(f"sum(max by (job_name) (job_failed_backlog{{{TARGET}}}))", "jobs")],
    ),
    Panel(
        title="Intents not pushed", number=True, width=6, height=5, unit="short", steps={100: YELLOW},
        alerts=["IntentsNotPushed"],
        description="Jobs that were asked for and that the broker does not have yet. They wait in the ledger; nothing is lost.",
        queries=[Query(f"max(job_intents_unpushed{{{TARGET}}})", "intents")],
    ),
    Panel(
        title="Runs lost", number=True, width=6, height=5, unit="short", steps={0.5: YELLOW, 5: RED}, alerts=["RunsLost"],
        description="In the time shown: the worker died under the run (killed, crashed, out of memory). The job runs again, "
        "three times at most.",
        queries=[Query(increase(LOST, window=RANGE), "runs")],
    ),
    Panel(
        title="Ledger and counters disagree", number=True, width=6, height=5, unit="short", steps={0.5: RED},
        alerts=["LedgerCountersDisagree"],
        description="Runs in the time shown that one side has and the other lacks.",
        queries=[Query(increase(f"job_runs_unaccounted_total{{{TARGET}}}", window=RANGE), "runs")],
    ),
))  # fmt: skip

BACKLOG = Row("What failed", (
    Panel(
        title="Failed backlog by job", unit="short", stacked=True, alerts=["FailedBacklogUnresolved"],
        description="Jobs given up in the last 7 days that no replay has resolved. Fingerprints have no bounds and are no "
        "label: `toolkit jobs failed` groups by them.",
        queries=[Query(f"max by (job_name) (job_failed_backlog{{{TARGET}}})", "{{job_name}}")],
    ),
    Panel(
        title="Failures by class", unit="short", stacked=True, alerts=["ForeignKeyErrors", "RunsLost", "ErrorBudgetBurnFast"],
        description="Runs that failed in each step of the graph: on a foreign key, by constraint; otherwise; lost with their "
        "worker. The fingerprints of each class: `toolkit jobs failed`.",
        queries=[
            Query(increase(FK_ERRORS, "constraint"), "{{constraint}}"),
            Query(f"clamp_min({increase(FAILED)} - {increase(FK_ERRORS)}, 0)", "other failures"),
            Query(increase(LOST), "lost"),
        ],
        colours={"lost": PURPLE, "other failures": RED},
    ),
    Panel(
        title="Retries", unit="short", alerts=["ErrorBudgetBurnFast"],
        description="Runs that failed in passing and will be tried again by themselves, in each step of the graph.",
        queries=[Query(increase(selector("job_retries_total"), "job_name"), "{{job_name}}")],
    ),
))  # fmt: skip

REPAIR = Row("What was made good", (
    Panel(
        title="Replays by outcome", unit="short", stacked=True, colours=OUTCOMES, alerts=["FailedBacklogUnresolved"],
        description="Failed jobs that were run again on live data, in each step of the graph. Skipped: gone meanwhile, which "
        "resolves them too.",
        queries=[Query(increase(f"job_replays_total{{{TARGET}}}", "outcome"), "{{outcome}}")],
    ),
    Panel(
        title="Runs lost", unit="short", steps={0.5: YELLOW}, alerts=["RunsLost"],
        description="Runs whose worker died, in each step of the graph, by job. Which signal: `toolkit jobs failed`.",
        queries=[Query(increase(LOST, "job_name"), "{{job_name}}")],
    ),
    Panel(
        title="Failed, in the broker", unit="short", alerts=["FailedBacklogUnresolved"],
        description="What stands in RQ's own failed registry. `toolkit doctor` tells which of it the ledger does not know.",
        queries=[Query(f"max by (queue) ({REGISTRY})", "{{queue}}")],
    ),
))  # fmt: skip

INTENTS = Row("What still waits", (
    Panel(
        title="Intents not pushed", width=12, unit="short", alerts=["IntentsNotPushed"], colours={"intents": BLUE},
        description="Jobs that the broker does not have yet: it is away, or no supervisor runs.",
        queries=[Query(f"max(job_intents_unpushed{{{TARGET}}})", "intents")],
    ),
    Panel(
        title="Oldest intent not pushed", width=12, unit="s", steps={60: YELLOW}, alerts=["IntentsNotPushed"],
        description="How long the oldest of them has waited; 0: none.",
        queries=[Query(f"max(job_intent_oldest_age_seconds{{{TARGET}}})", "age")],
    ),
))  # fmt: skip


def dashboard() -> Dashboard:
    """What failed, what was made good, what still waits."""
    return board(
        "freshfetch-replay", "Replay and repair",
        "What failed, what was made good by replays, and what still waits in the ledger.",
        (NOW, BACKLOG, REPAIR, INTENTS), hours=24,
    )  # fmt: skip
