"""A Prometheus as a detector, and for whoever has a question: its HTTP API, as published (/api/v1/query, /api/v1/query_range).

    prometheus = Prometheus("https://prometheus.example", token)
    for labels, value, at in prometheus.query("sum by (queue) (job_queue_depth)"): …

A series has no release of its own: it gets that of its instance at that time, from toolkit_build_info, as on the dashboards.
Increases are counted from the samples themselves: `increase()` extrapolates, and does not see an error that was there when a
supervisor was scraped for the first time. All times are told by Prometheus's own clock, and ages by the difference to it.

Defaults: 10 s an answer; a window is looked at in at most POINTS steps of at least a second. Known weakness: an error of a
supervisor that lived for less than one step may be missed; a supervisor that Prometheus was never told of is not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import msgspec

from toolkit.errors import DependencyUnreachable, ToolkitError
from toolkit.jobspec import CONTROL
from toolkit.telemetry import catalog
from toolkit.verify.adapters.sight import judged
from toolkit.verify.detect import Planted, Sight, Sighting

TIMEOUT: Final = 10.0
POINTS: Final = 500
MARGIN: Final = 10.0
"""Seconds before a worker met the violation from which an increase is the planted one's: the two clocks were not read at once."""

Labels = Mapping[str, str]
Point = tuple[float, float]
"""Seconds since 1970, and the value."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One server. `token`: a bearer token, '' for none."""

    url: str
    token: str = ""

    def query(self, expr: str) -> list[tuple[Labels, float, datetime]]:
        """An instant query: labels, value and time of each series; a scalar has no labels.

        Raises DependencyUnreachable (no answer, or it may not be asked), ToolkitError (it refuses the query)."""
        found = self._ask("query", {"query": expr})
        if found["resultType"] == "scalar":
            return [({}, *_reading(found["result"]))]
        return [(one["metric"], *_reading(one["value"])) for one in found["result"]]

    def range(self, expr: str, start: float, end: float, step: float) -> list[tuple[Labels, list[Point]]]:
        """A range query, times in seconds. Raises as `query`."""
        values = {"query": expr, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        found = self._ask("query_range", values)["result"]
        return [(one["metric"], [(float(at), float(value)) for at, value in one["values"]]) for one in found]

    def _ask(self, path: str, values: dict[str, str]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            answer = httpx.get(f"{self.url}/api/v1/{path}", params=values, headers=headers, timeout=TIMEOUT)
        except httpx.HTTPError as error:
            raise DependencyUnreachable(
                f"Prometheus at {self.url} does not answer: {error}", remedy="check TOOLKIT_PROMETHEUS_URL"
            ) from error
        if answer.status_code in {401, 403}:
            raise DependencyUnreachable(
                f"Prometheus at {self.url} wants other credentials: {answer.status_code}",
                remedy="check TOOLKIT_PROMETHEUS_TOKEN",
            )
        try:
            told = msgspec.json.decode(answer.content, type=dict[str, Any])
        except msgspec.DecodeError:
            told = {}
        if told.get("status") == "success" and isinstance(told.get("data"), dict):
            return dict(told["data"])
        said = str(told.get("error") or f"answers {answer.status_code} and no JSON of its API")[:300]
        if answer.status_code >= 500:
            raise DependencyUnreachable(
                f"Prometheus at {self.url}: {said}", remedy="it may be starting: try again, and see its log"
            )
        raise ToolkitError(
            f"Prometheus at {self.url}: {said}", remedy="see that TOOLKIT_PROMETHEUS_URL names a Prometheus"
        )


def _reading(value: Sequence[Any]) -> tuple[float, datetime]:
    return float(value[1]), datetime.fromtimestamp(float(value[0]), UTC)


def increased(points: Sequence[Point], start: float) -> list[Point]:
    """When a counter went up, and by how much. Pure. What it had at `start` is left out; a series that begins later begins at
    0, and so does one that was reset."""
    found = []
    before = points[0][1] if points and points[0][0] <= start + 0.001 else 0.0
    for at, value in points:
        if value != before:
            found.append((at, value - before if value > before else value))
        before = value
    return [(at, more) for at, more in found if more > 0]


def _of(release: str) -> str:
    """PromQL: brings in the instances of this release, at each time."""
    info = f"toolkit_build_info{{release={_quoted(release)}}}"
    return f"* on (job, instance) group_left (release) max by (job, instance, release) ({info})"


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


@dataclass(frozen=True, slots=True)
class PrometheusDetector:
    """What Prometheus has of the release's supervisors. `fresh`: seconds after which its newest sample is stale."""

    prometheus: Prometheus
    fresh: float = 60.0
    source: str = "prometheus"

    @property
    def where(self) -> str:
        """See Detector."""
        return self.prometheus.url

    def look(
        self, release: str, since: datetime, planted: Planted | None, now: datetime, lag: float
    ) -> Sighting:
        """See Detector."""
        try:
            return self._look(release, since, planted, now, lag)
        except DependencyUnreachable as error:
            sight, said = Sight.AWAY, f"{error}; {error.remedy}"
        except ToolkitError as error:
            sight, said = Sight.BLIND, f"{error}; {error.remedy}"
        return Sighting(source=self.source, sight=sight, errors={}, planted=0, detail=said)

    def _look(
        self, release: str, since: datetime, planted: Planted | None, now: datetime, lag: float
    ) -> Sighting:
        clock = self.prometheus.query("time()")[0][1]
        trouble = self._trouble(release)
        errors: Counter[str] = Counter()
        for labels, rises in self._rises(
            release, f'job_name!="{CONTROL}"', clock - (now - since).total_seconds(), clock
        ):
            errors[labels.get("constraint", catalog.OTHER)] += sum(round(more) for _, more in rises)
        seen: list[Point] = []
        asked = clock
        if planted is not None:
            asked = clock - (now - planted.at).total_seconds()
            met = clock - (now - (planted.run_at or planted.at)).total_seconds()
            series = self._rises(release, f'job_name="{CONTROL}"', met - MARGIN, clock)
            seen = sorted(point for _, rises in series for point in rises)
        sight, detail = judged(planted, seen=bool(seen), now=now, lag=lag)
        if trouble:
            sight, detail = Sight.BLIND, trouble
        return Sighting(
            source=self.source, sight=sight, errors=dict(+errors), planted=sum(round(more) for _, more in seen),
            after=max(0.0, seen[0][0] - asked) if sight is Sight.SEEN else None, detail=detail,
        )  # fmt: skip

    def _trouble(self, release: str) -> str:
        """Why it cannot be believed of this release, '' when it can."""
        info = f"toolkit_build_info{{release={_quoted(release)}}}"
        ages = {
            labels.get("instance", ""): (labels.get("job", ""), value)
            for labels, value, _ in self.prometheus.query(
                f"time() - max by (job, instance) (timestamp({info}))"
            )
        }
        if not ages:
            up = self.prometheus.query("up * on (job, instance) group_left () max by (job, instance) (last_over_time("
                                       "toolkit_build_info[1h]))")  # fmt: skip
            known = ", ".join(
                f"{labels.get('instance')} {'up' if value else 'down'}" for labels, value, _ in up
            )
            return f"it has no toolkit_build_info of release {release} now (supervisors of the last hour: {known or 'none'})"
        if stale := [f"{where} {age:.0f} s" for where, (_, age) in sorted(ages.items()) if age > self.fresh]:
            return f"its newest samples are old: {', '.join(stale)}"
        jobs = {job for job, _ in ages.values()}
        down = [labels.get("instance", "") for labels, _, _ in self.prometheus.query("up == 0")
                if labels.get("job") in jobs]  # fmt: skip
        if down:
            return f"it cannot scrape {', '.join(sorted(down))}"
        for matcher in (f'job_name="{CONTROL}"', f'job_name!="{CONTROL}"'):
            there = {
                labels.get("instance", "")
                for labels, _, _ in self.prometheus.query(
                    f"max by (instance) (job_fk_errors_total{{{matcher}}})"
                )
            }
            if lacking := sorted(ages.keys() - there):
                return f"job_fk_errors_total{{{matcher}}} is missing at {', '.join(lacking)}"
        return ""

    def _rises(
        self, release: str, matcher: str, start: float, end: float
    ) -> list[tuple[Labels, list[Point]]]:
        """The increases of foreign key errors, by series, of those that were ever above 0."""
        window = max(1.0, end - start)
        step = window / min(POINTS, int(window))  # so that the last step is the end
        series = f"job_fk_errors_total{{{matcher}}}"
        ever = f"max_over_time({series}[{round(window + step)}s] @ end()) > 0"
        found = self.prometheus.range(f"({series} and {ever}) {_of(release)}", start, end + 0.5, step)
        return [(labels, increased(points, start)) for labels, points in found]
