"""The supervisors' own counters as a detector, read from their /metrics with nothing between.

A supervisor serves one release for its whole life, and counts from its start. One that was started before the window has in it
what the ledger knows from before the window: that is taken off. A supervisor that serves another release is passed over. The
planted violation is known by its trace, which the counter names as its newest (an exemplar).

Defaults: 5 s an answer. Known weakness: of several supervisors that were started at different times before the window, too much
may be taken off; the ledger then shows what is missing here. Two violations planted on one supervisor within the same look
hide one another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import httpx

from toolkit.errors import DependencyUnreachable, ToolkitError
from toolkit.jobspec import CONTROL
from toolkit.ledger import integrity
from toolkit.ledger.database import Database
from toolkit.ledger.reading import reading
from toolkit.ledger.trouble import TROUBLE
from toolkit.telemetry import catalog
from toolkit.telemetry.exemplars import ACCEPT
from toolkit.telemetry.exposition import Series, read_exposition
from toolkit.telemetry.metrics import FK_VIOLATION
from toolkit.verify.adapters.sight import judged
from toolkit.verify.detect import Planted, Sight, Sighting

TIMEOUT: Final = 5.0
_STARTED: Final = "process_start_time_seconds"


class NotCounted(ToolkitError):
    """An exposition that cannot tell of foreign key errors."""


@dataclass(frozen=True, slots=True)
class View:
    """What one supervisor counts: foreign key errors by constraint, and the series of the planted ones."""

    release: str
    started_at: datetime
    errors: Counter[str]
    constraints: frozenset[str]
    traces: tuple[str, ...]
    controls: tuple[Series, ...]


def view(series: Sequence[Series]) -> View:
    """One supervisor's. Pure. Raises NotCounted naming the series that is missing."""
    builds = [one.labels.get("release", "") for one in series if one.name == catalog.BUILD_INFO.name]
    started = [one.value for one in series if one.name == _STARTED]
    errors = [one for one in series if one.name == catalog.FK_ERRORS.name]
    controls = tuple(one for one in errors if one.labels.get("job_name") == CONTROL)
    real = [one for one in errors if one.labels.get("job_name") != CONTROL]
    for there, name in (
        (builds, catalog.BUILD_INFO.name), (started, _STARTED), (real, catalog.FK_ERRORS.name),
        (controls, f'{catalog.FK_ERRORS.name}{{job_name="{CONTROL}"}}'),
    ):  # fmt: skip
        if not there:
            raise NotCounted(f"{name} is missing", remedy="see that it is the /metrics of `toolkit worker`")
    counted: Counter[str] = Counter()
    for one in real:
        counted[one.labels.get("constraint", catalog.OTHER)] += int(one.value)
    return View(
        builds[0],
        datetime.fromtimestamp(started[0], UTC),
        +counted,
        frozenset(counted),
        tuple(one.trace_id for one in real if one.trace_id),
        controls,
    )


@dataclass(frozen=True, slots=True)
class Counters:
    """All supervisors of the release: any of them that is away or cannot tell makes the whole of it so."""

    urls: tuple[str, ...]
    database: Database
    source: str = "counters"

    @property
    def where(self) -> str:
        """See Detector."""
        return ", ".join(self.urls)

    def look(
        self, release: str, since: datetime, planted: Planted | None, now: datetime, lag: float
    ) -> Sighting:
        """See Detector."""
        views, blind, away = [], [], []
        for url in self.urls:
            try:
                views.append(view(_asked(url)))
            except DependencyUnreachable as error:
                away.append(f"{error}; {error.remedy}")
            except ToolkitError as error:
                blind.append(f"{url}: {error}; {error.remedy}")
        ours = [one for one in views if one.release == release]
        if not ours and not blind and not away:
            others = ", ".join(sorted({one.release for one in views}))
            blind.append(f"no supervisor of release {release} at {', '.join(self.urls)}: they run {others}")
        errors = sum((one.errors for one in ours), Counter[str]())
        if errors and (first := min(one.started_at for one in ours)) < since:
            try:
                errors -= self._before(release, first, since, ours[0].constraints)
            except (ToolkitError, *TROUBLE) as error:
                away.append(" ".join(str(error).split()))
        control = _newest(ours, planted)
        sight, detail = judged(planted, seen=control is not None, now=now, lag=lag)
        if sight is Sight.BLIND and planted is not None and planted.run_at:
            detail += "; if another host's worker met it, name its /metrics, too: TOOLKIT_VERIFY_METRICS"
        if blind or away:
            sight, detail = (Sight.AWAY, "; ".join(away)) if away else (Sight.BLIND, "; ".join(blind))
        seen_at = control.traced_at if control else None
        return Sighting(
            source=self.source, sight=sight, errors=dict(errors),
            planted=sum(int(series.value) for one in ours for series in one.controls),
            after=max(0.0, (seen_at - planted.at).total_seconds()) if planted and seen_at else None,
            traces=tuple(trace for one in ours for trace in one.traces) if errors else (), detail=detail,
        )  # fmt: skip

    def _before(
        self, release: str, first: datetime, since: datetime, constraints: frozenset[str]
    ) -> Counter[str]:
        """Foreign key errors between the first start and the window, as the ledger has them."""
        found: Counter[str] = Counter()
        with reading(self.database) as session:
            for one in integrity.violations(session, release, first, since):
                if one.sqlstate == FK_VIOLATION and one.job_name != CONTROL:
                    found[one.constraint if one.constraint in constraints else catalog.OTHER] += one.runs
        return found


def _newest(ours: Sequence[View], planted: Planted | None) -> Series | None:
    """The series that names the planted violation's trace."""
    if planted is None or not planted.trace_id:
        return None
    series = (series for one in ours for series in one.controls)
    return next((one for one in series if one.trace_id == planted.trace_id), None)


def _asked(url: str) -> list[Series]:
    try:
        answer = httpx.get(url, headers={"Accept": ACCEPT}, timeout=TIMEOUT)
    except httpx.HTTPError as error:
        raise DependencyUnreachable(
            f"{url} does not answer: {error}", remedy="see that `toolkit worker` runs there, and TOOLKIT_VERIFY_METRICS"
        ) from error  # fmt: skip
    if answer.status_code >= 500:
        raise DependencyUnreachable(
            f"{url} answers {answer.status_code}", remedy="see the log of `toolkit worker` there"
        )
    if not answer.is_success:
        raise NotCounted(
            f"it answers {answer.status_code}", remedy="the path is /metrics: TOOLKIT_VERIFY_METRICS"
        )
    return read_exposition(answer.text)
