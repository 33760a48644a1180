"""(4) Freshfetch itself: can what it tells be believed, and what does it cost?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.board import GREEN, RED, YELLOW, Panel, Query, Row, board
from dashboards.promql import RANGE, TARGET, increase, quantile, rate, share

NOW = Row("Can it be believed?", (
    Panel(
        title="Supervisors scraped", number=True, width=6, height=5, unit="short", below=RED, steps={1: GREEN},
        alerts=["WorkersAbsent", "Watchdog"],
        description="Supervisors that Prometheus reached at its last try.",
        queries=[Query(f"sum(up{{{TARGET}}})", "supervisors")],
    ),
    Panel(
        title="Scrape age", number=True, width=6, height=5, unit="s", steps={60: YELLOW, 180: RED}, alerts=["Watchdog"],
        description="Age of the oldest supervisor's newest sample: everything else here is as old.",
        queries=[Query(f"max(time() - timestamp(toolkit_build_info{{{TARGET}}}))", "age")],
    ),
    Panel(
        title="Telemetry dropped", number=True, width=6, height=5, unit="short", steps={0.5: YELLOW},
        alerts=["TelemetryDropping"],
        description="Spans, run records and samples lost on their way in the time shown. Jobs never wait for telemetry.",
        queries=[Query(increase(f"telemetry_dropped_total{{{TARGET}}}", window=RANGE), "lost")],
    ),
    Panel(
        title="Build", number=True, width=6, height=5, unit="short",
        description="Supervisors by release and Python.",
        queries=[Query(f"count by (release, python) (toolkit_build_info{{{TARGET}}})", "{{release}} on Python {{python}}")],
    ),
))  # fmt: skip

TELEMETRY = Row("Telemetry", (
    Panel(
        title="Telemetry dropped by reason", width=12, unit="short", stacked=True, alerts=["TelemetryDropping"],
        description="In each step of the graph. queue_full and export_failed: the collector is dead, hanging or slow; "
        "socket_full: the supervisor has no time.",
        queries=[Query(increase(f"telemetry_dropped_total{{{TARGET}}}", "signal", "reason"), "{{signal}}: {{reason}}")],
    ),
    Panel(
        title="Ledger and counters disagree", width=12, unit="short", steps={0.5: RED}, alerts=["LedgerCountersDisagree"],
        description="Runs that the ledger has and the counters lack, or the other way round, in each step of the graph.",
        queries=[Query(
            increase(f"job_runs_unaccounted_total{{{TARGET}}}", "missing_in"), "lacking in {{missing_in}}",
        )],
    ),
    Panel(
        title="Scrape age by supervisor", unit="s", steps={60: YELLOW}, alerts=["Watchdog"],
        description="Age of the newest sample of each supervisor.",
        queries=[Query(f"time() - timestamp(toolkit_build_info{{{TARGET}}})", "{{instance}}")],
    ),
    Panel(
        title="Scrape duration", unit="s",
        description="How long Prometheus waited for /metrics.",
        queries=[Query(f"max by (instance) (scrape_duration_seconds{{{TARGET}}})", "{{instance}}")],
    ),
    Panel(
        title="Series", unit="short", steps={1500: YELLOW},
        description="Samples in a scrape. Labels are closed sets: the number does not grow with jobs, time or processes, only "
        "with job kinds.",
        queries=[Query(f"max by (instance) (scrape_samples_scraped{{{TARGET}}})", "{{instance}}")],
    ),
))  # fmt: skip

SERVERS = Row("Its database and its broker", (
    Panel(
        title="Round trip (p95)", unit="s", alerts=["IntentsNotPushed", "QueueStuck"],
        description="The smallest question to each, asked every 5 s by each supervisor. 0: none was answered.",
        queries=[Query(
            quantile(0.95, "dependency_round_trip_seconds", "dependency", matchers=TARGET), "{{dependency}}",
        )],
    ),
    Panel(
        title="Round trip (mean)", unit="s",
        description="The mean of the same; 0: none was answered.",
        queries=[Query(
            share(
                rate(f"dependency_round_trip_seconds_sum{{{TARGET}}}", "dependency"),
                rate(f"dependency_round_trip_seconds_count{{{TARGET}}}", "dependency"),
            ),
            "{{dependency}}",
        )],
    ),
    Panel(
        title="Questions answered", unit="cps", alerts=["IntentsNotPushed", "WorkersAbsent"],
        description="0.2 a second for each supervisor and dependency; 0: it is away.",
        queries=[Query(rate(f"dependency_round_trip_seconds_count{{{TARGET}}}", "dependency"), "{{dependency}}")],
    ),
))  # fmt: skip

COST = Row("What it costs (supervisors, without their workers)", (
    Panel(
        title="CPU", unit="percentunit",
        description="Of one core, by supervisor.",
        queries=[Query(rate(f"process_cpu_seconds_total{{{TARGET}}}", "instance"), "{{instance}}")],
    ),
    Panel(
        title="Memory", unit="bytes",
        description="Resident, by supervisor. What grows without end is a leak.",
        queries=[Query(f"max by (instance) (process_resident_memory_bytes{{{TARGET}}})", "{{instance}}")],
    ),
    Panel(
        title="Open files", unit="short",
        description="File descriptors, by supervisor: a socket to each worker, the servers, the log.",
        queries=[Query(f"max by (instance) (process_open_fds{{{TARGET}}})", "{{instance}}")],
    ),
    Panel(
        title="Up since", unit="s", number=True, width=12, height=5,
        description="How long each supervisor has run.",
        queries=[Query(f"max by (instance) (time() - process_start_time_seconds{{{TARGET}}})", "{{instance}}")],
    ),
    Panel(
        title="Toggles in force", unit="short", number=True, width=12, height=5, alerts=["ToggleLeaseOver"],
        description="Supervisors by the toggle's variant and version: more than one line means that a flip is on its way.",
        queries=[Query(
            f"count by (toggle, variant, version) (toggle_info{{{TARGET}}})", "{{toggle}} {{variant}} (version {{version}})",
        )],
    ),
))  # fmt: skip


def dashboard() -> Dashboard:
    """Can what it tells be believed, and what does it cost?"""
    return board(
        "freshfetch-itself", "Freshfetch itself",
        "Can what Freshfetch tells be believed, and what does it cost? Telemetry, its two servers, its own process.",
        (NOW, TELEMETRY, SERVERS, COST), hours=6,
    )  # fmt: skip
