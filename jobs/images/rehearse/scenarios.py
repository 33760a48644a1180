"""Today's image job, whole and unmodified, against everything that may happen to its drafts meanwhile.

The job runs through the Performer, as a worker runs it: run, fence, fetch, guarded write, record. Only what is outside the
database is replaced: the search answers from memory, one product after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any, cast

from jobs.images.job import ImageResources
from jobs.images.rehearse import shop
from jobs.images.rehearse.bodies import changing, deleting
from jobs.images.search.protocol import Candidate, Product, SearchOutcome, SearchResult
from jobs.images.spec import SPEC
from toolkit.errors import NotFound
from toolkit.jobspec import JobSpec, Registry
from toolkit.ledger import runs
from toolkit.perform import Performer
from toolkit.rehearse.quiet import KeptRecord, QuietLog
from toolkit.rehearse.words import Actor, Options, Scenario, Seat
from toolkit.run import Mode
from toolkit.telemetry.logs import Log
from toolkit.telemetry.traces import Tracing

Act = Callable[[Seat], str]

JOB_SETTINGS = {"rehearse.tenant": shop.MERCHANT, "rehearse.fenced": "yes"}


class InlinePool(ThreadPoolExecutor):
    """A pool that searches at once, in the caller's thread: which searches are ready is not left to chance."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Done when it returns."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  the caller finds it in the future, as with any pool
            future.set_exception(error)
        return future


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


def deliver(seat: Seat, job: str, *, tracing: Tracing, resources: ImageResources | None = None) -> str:
    """One delivery of the job; how its run ended: `processed`, `skipped draft_deleted`, `failed transient 55P03`."""
    searched: list[str] = []

    def search(product: Product) -> SearchResult:
        searched.append(product.draft_id)
        return found_in_memory(product)

    chosen = resources or ImageResources(search=search, pool=InlinePool(1))
    try:
        ended = performer(seat, tracing=tracing, resources=chosen).perform(job, mode=Mode.ASYNC).record
    except NotFound:
        return "unknown job"
    if {shop.FOREIGN_DRAFT, shop.MIXED_UP_DRAFT}.intersection(searched):
        return "bug read another merchant's draft"
    if ended is None:
        return "superseded"
    state = ended.failure.sqlstate if ended.failure else ""
    return " ".join(word for word in (str(ended.outcome), ended.reason, state) if word)


class _Scenes:
    """Makes the scenarios for some options; one tracer for all."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.tracing = Tracing("rehearsal", "rehearsal", limit=1)
        self.made: dict[str, Scenario] = {}

    def job(self, name: str = "job", job: str = shop.JOB, *, act: Act | None = None) -> Actor:
        """An actor that is one delivery of the job."""
        return Actor(
            name=name,
            act=act or (lambda seat: deliver(seat, job, tracing=self.tracing)),
            job=True,
            settings=JOB_SETTINGS,
        )

    def other(self, name: str, *statements: str) -> Actor:
        """An actor that changes rows in one transaction, which ends as the options say."""
        return Actor(
            name=name,
            act=changing(*statements, delete=self.options.delete),
            held=self.options.delete == "held open",
        )

    def add(
        self, name: str, about: str, *actors: Actor, rows: str = shop.START, reduce: bool = False
    ) -> None:
        """One scenario more."""
        self.made[name] = Scenario(
            name=name,
            about=about,
            actors=actors,
            reset=shop.starting_from(rows),
            inspect=shop.look,
            schema=shop.key_schema(self.options),
            isolation=self.options.isolation,
            allowed=_ALLOWED,
            reduce=reduce,
        )

    def again_after_loss(self, *, crash: bool) -> Act:
        """A supervisor that gives the job's run up, after a crash or by mistake, and the delivery that follows."""

        def act(seat: Seat) -> str:
            if crash:
                seat.crash("job")
            with seat.database.session() as session:
                runs.lose(session, "job", "SIGKILL")
            return deliver(seat, shop.JOB, tracing=self.tracing)

        return act


_ALLOWED = frozenset({"55P03", "40001", "TK001"})
"""What the job deals with by itself: a lock that it gives way to, a run that it has lost."""


def scenarios(options: Options) -> Mapping[str, Scenario]:
    """Every scenario of the image job, by name."""
    scenes = _Scenes(options)
    job = scenes.job()
    drafts_of = f"""WHERE "purchaseOrderId" = '{shop.ORDER}'"""
    scenes.add("delete-draft", "a draft is deleted", job, scenes.other("deleter", *deleting(options)))
    scenes.add(
        "delete-rolled-back",
        "a draft is deleted, and the deletion rolled back",
        job,
        Actor(name="deleter", act=changing(*deleting(options), delete="rolled back")),
    )
    scenes.add(
        "delete-all-drafts",
        "all drafts of the order are deleted",
        job,
        scenes.other("deleter", f"""DELETE FROM "ProductDraft" {drafts_of}"""),
    )
    scenes.add(
        "delete-order",
        "the whole order is deleted",
        job,
        scenes.other("deleter", f"""DELETE FROM "PurchaseOrder" WHERE id = '{shop.ORDER}'"""),
    )
    scenes.add(
        "convert-draft",
        "a draft is converted to a product, and deleted",
        job,
        scenes.other(
            "converter",
            f"""INSERT INTO "Product" (id, "fromDraftId", title) SELECT 'product-1', id, title FROM "ProductDraft" """
            f"""WHERE id = '{shop.DRAFTS[0]}'""",
            *deleting(options)[:1],
        ),
    )
    scenes.add(
        "move-draft",
        "a draft is moved to another merchant",
        job,
        scenes.other(
            "mover",
            f"""UPDATE "ProductDraft" SET "merchantId" = '{shop.OTHER_MERCHANT}' WHERE id = '{shop.DRAFTS[0]}'""",
        ),
    )
    scenes.add(
        "move-order",
        "the order and its drafts are moved to another merchant",
        job,
        scenes.other(
            "mover",
            f"""UPDATE "PurchaseOrder" SET "merchantId" = '{shop.OTHER_MERCHANT}' WHERE id = '{shop.ORDER}'""",
            f"""UPDATE "ProductDraft" SET "merchantId" = '{shop.OTHER_MERCHANT}' {drafts_of}""",
        ),
    )
    scenes.add(
        "move-order-only",
        "the order is moved to another merchant, its drafts are not",
        job,
        scenes.other(
            "mover",
            f"""UPDATE "PurchaseOrder" SET "merchantId" = '{shop.OTHER_MERCHANT}' WHERE id = '{shop.ORDER}'""",
        ),
    )
    scenes.add(
        "tenant-mix-up",
        "one draft of the order belongs to another merchant, and another one is deleted",
        job,
        scenes.other("deleter", *deleting(options)),
        rows="\n".join((shop.START, shop.draft_row(shop.OTHER_MERCHANT, shop.ORDER, shop.MIXED_UP_DRAFT))),
    )
    scenes.add(
        "creation-rolled-back",
        "the creation of the order is rolled back, and the job was asked for outside of it",
        job,
        Actor(
            name="creator",
            act=changing(
                *(
                    one
                    for one in shop.order_rows(shop.MERCHANT, shop.ORDER, shop.DRAFTS).split(";")
                    if one.strip()
                ),
                delete="rolled back",
            ),
        ),
        rows="\n".join((shop.MERCHANTS, shop.asked(shop.JOB))),
    )
    scenes.add("second-delivery", "the same job is delivered twice at once", job, scenes.job("again"))
    scenes.add(
        "two-jobs",
        "two jobs for the same order run at once",
        job,
        scenes.job("other", shop.SECOND_JOB),
        rows="\n".join((shop.START, shop.asked(shop.SECOND_JOB))),
        reduce=True,
    )
    scenes.add(
        "given-up",
        "the run is given up as lost while its worker is only slow, and the job is delivered again",
        job,
        scenes.job("again", act=scenes.again_after_loss(crash=False)),
        reduce=True,
    )
    scenes.add(
        "crash",
        "the worker is killed in the middle, its run given up, and the job delivered again",
        job,
        scenes.job("again", act=scenes.again_after_loss(crash=True)),
    )
    scenes.add(
        "crash-and-delete",
        "the worker is killed in the middle, and a draft is deleted",
        job,
        scenes.job("again", act=scenes.again_after_loss(crash=True)),
        scenes.other("deleter", *deleting(options)),
        reduce=True,
    )
    return scenes.made
