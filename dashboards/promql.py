"""The forms of query that the dashboards use. Pure.

Counters are summed over supervisors. Gauges that every supervisor reads off the same ledger or broker are not: max. A query
answers in the quiet state too, with a number: a share of nothing is 0, a quantile of nothing is 0 (nothing real takes 0 s).
"""

from __future__ import annotations

from typing import Final

TARGET: Final = 'job=~"$job", instance=~"$instance"'
QUEUE: Final = f'{TARGET}, queue=~"$queue"'
WINDOW: Final = "$__rate_interval"
RANGE: Final = "$__range"

RELEASE: Final = (
    "* on (job, instance) group_left (release) "
    f"max by (job, instance, release) (toolkit_build_info{{{TARGET}}})"
)
"""Gives a series the release that its instance had at that time."""


def selector(metric: str, *matchers: str) -> str:
    """A metric of the chosen targets and queues, with more matchers."""
    return f"{metric}{{{', '.join((QUEUE, *matchers))}}}"


FK_ERRORS: Final = selector("job_fk_errors_total", 'job_name!="freshfetch-control"')
"""Without those that `toolkit verify-deploy` plants to try whether they are seen."""


def by(*labels: str) -> str:
    """`by (…) `, or nothing."""
    return f" by ({', '.join(labels)}) " if labels else ""


def rate(counter: str, *labels: str) -> str:
    """A second, by these labels."""
    return f"sum{by(*labels)}(rate({counter}[{WINDOW}]))"


def increase(counter: str, *labels: str, window: str = WINDOW) -> str:
    """How many in a step of the graph (or in the whole range), by these labels."""
    return f"sum{by(*labels)}(increase({counter}[{window}]))"


def share(part: str, whole: str) -> str:
    """One sum of rates as a share of another; 0 when both are 0."""
    return f"{part} / clamp_min({whole}, 1e-9)"


def quantile(q: float, histogram: str, *labels: str, matchers: str = QUEUE, release: bool = False) -> str:
    """A quantile of what was observed in a step; 0 when nothing was."""
    kept = ("release", *labels) if release else labels
    join = f" {RELEASE}" if release else ""
    buckets = f"sum by ({', '.join(('le', *kept))}) (rate({histogram}_bucket{{{matchers}}}[{WINDOW}]){join})"
    count = f"sum{by(*kept)}(rate({histogram}_count{{{matchers}}}[{WINDOW}]){join})"
    return f"histogram_quantile({q}, {buckets}) >= 0 or 0 * {count}"


def rate_by_release(counter: str, *labels: str) -> str:
    """A second, by the release that ran, and by these labels."""
    return f"sum by ({', '.join(('release', *labels))}) (rate({counter}[{WINDOW}]) {RELEASE})"


def total_by_release(counter: str, *labels: str) -> str:
    """How many in the whole range, by the release that ran, and by these labels; the newest $__interval may lack.

    An increase over the whole range cannot be split by release. So rates are summed up, in windows that overlap: increases
    of windows side by side would lose what happens between the last sample of one and the first of the next.
    """
    now = rate_by_release(counter, *labels)
    return f"sum_over_time(({now})[{RANGE}:$__interval]) * $__interval_ms / 1000 or 0 * {now}"
