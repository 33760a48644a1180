"""A worker of the image job on the stage: the Performer whole and unmodified, with a search that answers from memory.

Which searches are ready when, is not left to chance: all at once (InlinePool), or one for each guarded write (PacedPool).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

from jobs.images.job import ImageResources
from jobs.images.rehearse import shop
from jobs.images.search.protocol import Candidate, Product, SearchOutcome, SearchResult
from jobs.images.spec import SPEC
from toolkit.errors import NotFound
from toolkit.jobspec import JobSpec, Registry
from toolkit.perform import Performer
from toolkit.rehearse.quiet import KeptRecord, QuietLog
from toolkit.rehearse.words import Seat
from toolkit.run import Mode
from toolkit.telemetry.logs import Log
from toolkit.telemetry.traces import Tracing


class InlinePool(ThreadPoolExecutor):
    """A pool that searches at once, in the caller's thread: which searches are ready is not left to chance."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Done when it returns."""
        future: Future[Any] = Future()
        _search(future, partial(fn, *args, **kwargs))
        return future


class PacedPool(ThreadPoolExecutor):
    """A pool whose first search is ready at once, and each further one when the job has committed what it had: so many
    guarded writes as there are drafts."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(1)
        self._later: list[Callable[[], None]] = []
        self._begun = False
        seat.after_commit(self._next)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Done when it returns only for the first."""
        future: Future[Any] = Future()
        self._later.append(partial(_search, future, partial(fn, *args, **kwargs)))
        if not self._begun:
            self._begun = True
            self._next()
        return future

    def _next(self) -> None:
        if self._later:
            self._later.pop(0)()


def _search(future: Future[Any], search: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return  # the job gave up before
    try:
        future.set_result(search())
    except BaseException as error:  # noqa: BLE001  the caller finds it in the future, as with any pool
        future.set_exception(error)


def found_in_memory(product: Product) -> SearchResult:
    """One image for each product, always the same."""
    url = f"https://shop.example/{product.draft_id}.jpg"
    return SearchResult((Candidate(url, "memory", 800, 800, "image/jpeg"),), SearchOutcome.FOUND, "memory")


def performer(
    seat: Seat,
    *,
    tracing: Tracing,
    spec: JobSpec = SPEC,
    log: object | None = None,
    sink: KeptRecord | None = None,
    resources: object = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Performer:
    """The Performer of a worker called as the seat, on the seat's database."""
    return Performer(
        registry=Registry.of([spec]),
        database=seat.database,
        tracing=tracing,
        log=cast("Log", log or QuietLog()),
        sink=sink or KeptRecord(),
        resources={spec.name: resources},
        worker=seat.name,
        host="rehearsal",
        release="rehearsal",
        lease=600.0,
        random=lambda: 0.5,
        time_limit=lambda _seconds: nullcontext(),
        timeouts=(),
        now=now,
    )


def deliver(seat: Seat, job: str, *, tracing: Tracing, paced: bool = False) -> str:
    """One delivery of the job; how its run ended: `processed`, `skipped draft_deleted`, `failed transient 55P03`. It writes
    once, or, `paced`, once for each draft."""
    searched: list[str] = []

    def search(product: Product) -> SearchResult:
        searched.append(product.draft_id)
        return found_in_memory(product)

    pool = PacedPool(seat) if paced else InlinePool(1)
    resources = ImageResources(search=search, pool=pool)
    try:
        ended = performer(seat, tracing=tracing, resources=resources).perform(job, mode=Mode.ASYNC).record
    except NotFound:
        return "unknown job"
    if {shop.FOREIGN_DRAFT, shop.MIXED_UP_DRAFT}.intersection(searched):
        return "bug read another merchant's draft"
    if ended is None:
        return "superseded"
    state = ended.failure.sqlstate if ended.failure else ""
    return " ".join(word for word in (str(ended.outcome), ended.reason, state) if word)
