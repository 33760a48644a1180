"""background-image-processing: fetch the drafts fresh, search images for all of them at once, attach what is ready.

The payload is ids. No transaction is open during a search. A draft that goes while its images are searched is skipped at
the write, under its lock. When a search failed in a way that passes, what was found is written first and then the run
fails as transient: the next one searches only what is still missing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass
from typing import Protocol

from jobs.images import words
from jobs.images.attach import attach, review_session_id
from jobs.images.fetch import Draft, Page, fetch
from jobs.images.payload import ImagePayload
from jobs.images.search.protocol import Candidate, Product, SearchResult
from jobs.images.words import DraftOutcome, SkipReason
from toolkit.errors import TransientError
from toolkit.perform import GuardedWrite, JobContext
from toolkit.run import Outcome, Result, Sample
from toolkit.telemetry.catalog import emit

PAGE = 1000
"""Drafts fetched at once: a job's memory does not grow with its order."""

LINGER = (0.002, 0.1, 0.25)
"""After the first search is ready, wait for others at least 2 ms, else a tenth of the time it took, at most 250 ms."""


class Search(Protocol):
    """Finds images for one product; thread-safe; bounded in time by itself. Raises TransientError."""

    def __call__(self, product: Product) -> SearchResult:
        """Candidates, best first."""


@dataclass(frozen=True, slots=True)
class ImageResources:
    """What lives as long as the process: the search and the threads that run it."""

    search: Search
    pool: ThreadPoolExecutor


@dataclass(frozen=True, slots=True)
class Searched:
    """One draft's search: its result, or the transient error it ended in."""

    draft: Draft
    result: SearchResult | None
    error: TransientError | None
    seconds: float

    @property
    def candidates(self) -> Sequence[Candidate]:
        return self.result.candidates if self.result else ()


def process_images(context: JobContext, payload: ImagePayload) -> Result:
    """The body. Raises TransientError when some search is worth another attempt; everything found is written by then."""
    emit(context.log, words.STARTED, job_name=context.spec.name, mode=context.run.mode)
    work = _Work(context, payload)
    page = work.fetch("")
    if reason := nothing_to_do(page):
        emit(context.log, words.NO_DRAFTS, reason=reason)
        return Result(outcome=Outcome.SKIPPED, reason=reason, counts=dict(work.counts))
    while True:
        work.process(page)
        if page.last:
            break
        page = work.fetch(page.drafts[-1].id)
    if work.transient is not None:
        raise work.transient
    return work.result()


def nothing_to_do(page: Page) -> SkipReason | None:
    """Why the first page of drafts leaves nothing to do, or None. Pure."""
    if page.ours is None:
        return SkipReason.ORDER_DELETED
    if not page.ours or (page.foreign and not page.drafts):
        return SkipReason.WRONG_MERCHANT
    if not page.drafts:
        return SkipReason.NO_DRAFTS
    if page.last and all(draft.has_images for draft in page.drafts):
        return SkipReason.ALREADY_HAS_IMAGES
    return None


class _Work:
    """One run's work in hand: counts grow only by what is committed."""

    def __init__(self, context: JobContext, payload: ImagePayload) -> None:
        self.context = context
        self.payload = payload
        self.resources: ImageResources = context.resources
        self.counts: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.transient: TransientError | None = None
        self.drafts = 0

    def fetch(self, after: str) -> Page:
        emit(self.context.log, words.FETCHING)
        with self.context.span("images.fetch") as span, self.context.database.session() as session:
            page = fetch(
                session, self.payload.purchase_order_id, self.payload.merchant_id, after=after, limit=PAGE
            )
            span.set_attribute("images.drafts", len(page.drafts))
        if not after:
            self._count(DraftOutcome.WRONG_MERCHANT, page.foreign)
        self._count(DraftOutcome.ALREADY_HAS_IMAGES, sum(draft.has_images for draft in page.drafts))
        self.drafts += len(page.drafts)
        return page

    def process(self, page: Page) -> None:
        """Search for the page's drafts and write what is ready, until all are; the last write finishes the run."""
        wanted = [draft for draft in page.drafts if not draft.has_images]
        emit(self.context.log, words.PROCESSING, drafts=len(wanted))
        left = len(wanted)
        with closing(self._search(wanted)) as batches:
            for ready in batches:
                left -= len(ready)
                self._note(ready, len(wanted), len(wanted) - left)
                self._keep()  # what was searched is told even when nothing of it can be written
                self._write([one for one in ready if one.error is None], last=page.last and left == 0)

    def result(self) -> Result:
        """What the run comes to, by the counts."""
        done = dict(self.counts)
        survived = done.get(DraftOutcome.ATTACHED, 0) + done.get(DraftOutcome.NO_IMAGES_FOUND, 0)
        if not survived and done.get(DraftOutcome.DRAFT_DELETED, 0):
            return Result(
                outcome=Outcome.SKIPPED,
                reason=SkipReason.DRAFT_DELETED,
                counts=done,
                samples=tuple(self.samples),
            )
        return Result(counts=done, samples=tuple(self.samples))

    def _search(self, drafts: Sequence[Draft]) -> Generator[list[Searched]]:
        """Searches side by side; yields whenever some are ready, and all that are by then."""
        started = time.monotonic()
        pending: set[Future[Searched]] = {
            self.resources.pool.submit(copy_context().run, self._search_one, draft) for draft in drafts
        }
        try:
            while pending:
                ready, pending = wait(pending, return_when=FIRST_COMPLETED)
                if pending:
                    least, share, most = LINGER
                    more, pending = wait(
                        pending, timeout=min(most, max(least, share * (time.monotonic() - started)))
                    )
                    ready |= more
                yield [future.result() for future in ready]
        finally:
            for future in pending:
                future.cancel()

    def _search_one(self, draft: Draft) -> Searched:
        started = time.monotonic()
        with self.context.span("images.search", **{"product.sku": draft.sku or ""}) as span:
            product = Product(
                draft.id, draft.sku or "", draft.name, draft.product_url, self.payload.merchant_id
            )
            try:
                result = self.resources.search(product)
            except TransientError as error:
                span.set_attribute("error.type", error.kind)
                return Searched(draft, None, error, time.monotonic() - started)
            span.set_attributes(
                {
                    "images.source": result.source,
                    "images.outcome": result.outcome,
                    "images.candidates": len(result.candidates),
                }
            )
        return Searched(draft, result, None, time.monotonic() - started)

    def _note(self, ready: Sequence[Searched], drafts: int, number: int) -> None:
        for place, one in enumerate(ready, start=number - len(ready) + 1):
            told = {"number": place, "drafts": drafts, "product": one.draft.name}
            if one.error is not None:
                self.transient = one.error
                emit(self.context.log, words.SEARCH_FAILED, **told, error_type=one.error.kind)
                self._sample(words.SOURCES[0], words.TRANSIENT, one.seconds)
            elif one.result is not None:
                if one.candidates:
                    emit(
                        self.context.log,
                        words.FOUND,
                        **told,
                        images=len(one.candidates),
                        source=one.result.source,
                    )
                else:
                    emit(self.context.log, words.NOTHING_FOUND, **told, outcome=one.result.outcome)
                self._sample(one.result.source, one.result.outcome, one.seconds)

    def _sample(self, source: str, outcome: str, seconds: float) -> None:
        self.samples.append(Sample(words.SEARCH_DURATION.name, (source, outcome), seconds))

    def _write(self, ready: Sequence[Searched], *, last: bool) -> None:
        """One guarded write for what is ready. Also for drafts without images: whether they still exist is counted."""
        finishing = last and self.transient is None
        if not ready and not finishing:
            return
        found = {one.draft.id: one.candidates for one in ready}
        before = Counter(self.counts)

        def action(write: GuardedWrite) -> Counter[str]:
            attached = attach(
                write.session,
                job_id=self.context.run.job_id,
                order_id=self.payload.purchase_order_id,
                merchant_id=self.payload.merchant_id,
                found=found,
                now=self.context.now(),
            )
            added = tally(found, attached.by_draft, attached.by_source)
            if finishing:
                self.counts = before + added
                write.finish(self.result())
            return added

        with self.context.span("images.write") as span:
            added = self.context.guarded_write(action)
            span.set_attributes({f"images.{name}": number for name, number in added.items()})
        self.counts = before + added
        self._keep()
        self._tell(added, finishing=finishing)

    def _tell(self, added: Mapping[str, int], *, finishing: bool) -> None:
        log = self.context.log
        if added.get(DraftOutcome.ATTACHED):
            images = sum(number for name, number in added.items() if name.startswith("images_"))
            emit(log, words.SAVED, images=images, attached=added[DraftOutcome.ATTACHED])
        if added.get(DraftOutcome.DRAFT_DELETED):
            emit(log, words.DELETED, deleted=added[DraftOutcome.DRAFT_DELETED])
        if finishing:
            attached = self.counts[DraftOutcome.ATTACHED]
            emit(log, words.COMPLETED, seen=self.drafts, drafts=self.drafts, attached=attached)
            if attached:
                emit(log, words.SESSION, session_id=review_session_id(self.context.run.job_id))

    def _keep(self) -> None:
        """What the record says, should the run fail from here on."""
        self.context.so_far = Result(counts=dict(self.counts), samples=tuple(self.samples))

    def _count(self, outcome: DraftOutcome, number: int) -> None:
        if number:
            self.counts[outcome.value] += number


def tally(
    found: Mapping[str, Sequence[Candidate]], by_draft: Mapping[str, int], by_source: Mapping[str, int]
) -> Counter[str]:
    """Counts of one guarded write: each draft once, by what became of it, and the images by source. Pure."""
    counts: Counter[str] = Counter()
    for draft, candidates in found.items():
        if draft not in by_draft:
            counts[DraftOutcome.DRAFT_DELETED.value] += 1
        elif not candidates:
            counts[DraftOutcome.NO_IMAGES_FOUND.value] += 1
        elif by_draft[draft]:
            counts[DraftOutcome.ATTACHED.value] += 1
        else:
            counts[DraftOutcome.ALREADY_HAS_IMAGES.value] += 1
    counts.update({f"images_{source}": number for source, number in by_source.items()})
    return counts
