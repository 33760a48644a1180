"""Performing image jobs in the test's own process, with a search that the test controls."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from jobs.images.job import ImageResources
from jobs.images.search.protocol import Candidate, Product, SearchOutcome, SearchResult
from jobs.images.spec import SPEC
from toolkit.broker.worker import TIMEOUTS, time_limit
from toolkit.errors import TransientError
from toolkit.jobspec import JobSpec, Registry
from toolkit.ledger.database import Database, Session
from toolkit.perform import Performer
from toolkit.run import Run, RunRecord
from toolkit.telemetry import logs
from toolkit.telemetry.traces import Tracing

Search = Callable[[Product], SearchResult]


def found(product: Product, images: int = 2) -> SearchResult:
    """So many images for the draft, always the same."""
    return SearchResult(
        tuple(
            Candidate(f"https://images.test/{product.draft_id}/{n}.png", "memory", 640, 480, "image/png")
            for n in range(images)
        ),
        SearchOutcome.FOUND if images else SearchOutcome.NOTHING_FOUND,
        "memory",
    )


@dataclass
class Heard:
    """A sink that keeps what it is told."""

    uncounted: bool = False
    begun: list[Run] = field(default_factory=list)
    records: list[RunRecord] = field(default_factory=list)
    told: list[tuple[str, str, bytes, int]] = field(default_factory=list)
    lost: list[tuple[str, str, int]] = field(default_factory=list)

    def began(self, run: Run, timeout: float, trace_id: str) -> None:  # noqa: ARG002  Sink's words
        self.begun.append(run)

    def ended(self, ended: RunRecord) -> None:
        self.records.append(ended)

    def spans(self, trace_id: str, job_id: str, run_id: str, data: bytes, count: int) -> None:  # noqa: ARG002
        self.told.append((trace_id, job_id, data, count))

    def dropped(self, signal: str, reason: str, count: int = 1) -> None:
        self.lost.append((signal, reason, count))


class CountingDatabase(Database):
    """Counts the sessions that were opened: a job that meets a held lock opens one after another."""

    opened = 0

    @contextmanager
    def session(self) -> Iterator[Session]:
        """As Database."""
        self.opened += 1
        with super().session() as session:
            yield session


def no_limit(_seconds: float) -> AbstractContextManager[object]:
    """For performing in a thread, where no alarm rings."""
    return nullcontext()


@contextmanager
def performing(
    url: str,
    search: Search = found,
    *,
    spec: JobSpec = SPEC,
    sink: Heard | None = None,
    lease: float = 30.0,
    limited: bool = True,
    environ: Mapping[str, Any] | None = None,
) -> Iterator[Performer]:
    """A performer with this search, on this database."""
    database = CountingDatabase(url)
    pool = ThreadPoolExecutor(8, thread_name_prefix="search")
    try:
        yield Performer(
            registry=Registry.of([spec]),
            database=database,
            tracing=Tracing("freshfetch", "test", {}),
            log=logs.get_logger(),
            sink=sink or Heard(),
            resources={spec.name: ImageResources(search=search, pool=pool)},
            worker="test-worker",
            host="test-host",
            release="test",
            lease=lease,
            random=lambda: 0.5,
            time_limit=time_limit if limited else no_limit,
            timeouts=TIMEOUTS,
            now=lambda: datetime.now(UTC),
        )
    finally:
        pool.shutdown()
        database.close()


def spec_with(**changes: Any) -> JobSpec:
    """The image job's spec, with some of it changed."""
    return dataclasses.replace(SPEC, **changes)


@dataclass
class Scripted:
    """A search that does what the test wrote beside a product's name first, and remembers what it was asked for."""

    actions: Mapping[str, Callable[[Product], SearchResult | None]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __call__(self, product: Product) -> SearchResult:
        self.asked.append(product.draft_id)
        action = self.actions.get(product.name)
        return (action(product) if action else None) or found(product)


class Once:
    """An action for several searches: the first one does it, and the others wait until it is done."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action
        self._lock = threading.Lock()
        self._done = False

    def __call__(self, _product: Product) -> None:
        with self._lock:
            if not self._done:
                self._action()
                self._done = True


def failing(kind: str = "timeout") -> Callable[[Product], SearchResult]:
    """A search that fails in a way that passes."""

    def action(_product: Product) -> SearchResult:
        raise TransientError("the shop does not answer", kind=kind)

    return action


@contextmanager
def in_memory(_settings: object, _tracer: object) -> Iterator[ImageResources]:
    """JobSpec.resources: a search that needs nobody."""
    with ThreadPoolExecutor(8, thread_name_prefix="search") as pool:
        yield ImageResources(search=found, pool=pool)
