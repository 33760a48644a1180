"""Today's image job, whole and unmodified, against everything that may happen to its drafts meanwhile.

The job runs through the Performer, as a worker runs it: run, fence, fetch, guarded write, record. Only what is outside the
database is replaced: the search answers from memory, one product after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jobs.images.rehearse import shop
from jobs.images.rehearse.bodies import changing, deleting
from jobs.images.rehearse.worker import deliver
from toolkit.ledger import runs
from toolkit.rehearse.words import Actor, Options, Scenario, Seat
from toolkit.telemetry.traces import Tracing

Act = Callable[[Seat], str]

_OF_ORDER = f"""WHERE "purchaseOrderId" = '{shop.ORDER}'"""
JOB_SETTINGS = {"rehearse.tenant": shop.MERCHANT, "rehearse.fenced": "yes"}


class _Scenes:
    """Makes the scenarios for some options; one tracer for all."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.tracing = Tracing("rehearsal", "rehearsal", limit=1)
        self.made: dict[str, Scenario] = {}

    def job(
        self, name: str = "job", job: str = shop.JOB, *, act: Act | None = None, paced: bool = False
    ) -> Actor:
        """An actor that is one delivery of the job."""
        return Actor(
            name=name,
            act=act or (lambda seat: deliver(seat, job, tracing=self.tracing, paced=paced)),
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

    def again_after_loss(self, *, crash: bool, paced: bool = False) -> Act:
        """A supervisor that gives the job's run up, after a crash or by mistake, and the delivery that follows."""

        def act(seat: Seat) -> str:
            if crash:
                seat.crash("job")
            with seat.database.session() as session:
                runs.lose(session, "job", "SIGKILL")
            return deliver(seat, shop.JOB, tracing=self.tracing, paced=paced)

        return act


_ALLOWED = frozenset({"55P03", "40001", "TK001"})
"""What the job deals with by itself: a lock that it gives way to, a run that it has lost."""


def scenarios(options: Options) -> Mapping[str, Scenario]:
    """Every scenario of the image job, by name."""
    scenes = _Scenes(options)
    for group in (_deletes, _moves, _roll_back, _deliveries, _two_writes):
        group(scenes)
    return scenes.made


def _deletes(scenes: _Scenes) -> None:
    """Drafts that go while the job runs."""
    job = scenes.job()
    deleting_one = deleting(scenes.options)
    scenes.add("delete-draft", "a draft is deleted", job, scenes.other("deleter", *deleting_one))
    scenes.add(
        "delete-rolled-back",
        "a draft is deleted, and the deletion rolled back",
        job,
        Actor(name="deleter", act=changing(*deleting_one, delete="rolled back")),
    )
    scenes.add(
        "delete-all-drafts",
        "all drafts of the order are deleted",
        job,
        scenes.other("deleter", f"""DELETE FROM "ProductDraft" {_OF_ORDER}"""),
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
            *deleting_one[:1],
        ),
    )


def _moves(scenes: _Scenes) -> None:
    """Drafts and orders that change or mix their merchants."""
    job = scenes.job()
    to_other = f"""SET "merchantId" = '{shop.OTHER_MERCHANT}'"""
    move_order = f"""UPDATE "PurchaseOrder" {to_other} WHERE id = '{shop.ORDER}'"""
    scenes.add(
        "move-draft",
        "a draft is moved to another merchant",
        job,
        scenes.other("mover", f"""UPDATE "ProductDraft" {to_other} WHERE id = '{shop.DRAFTS[0]}'"""),
    )
    scenes.add(
        "move-order",
        "the order and its drafts are moved to another merchant",
        job,
        scenes.other("mover", move_order, f"""UPDATE "ProductDraft" {to_other} {_OF_ORDER}"""),
    )
    scenes.add(
        "move-order-only",
        "the order is moved to another merchant, its drafts are not",
        job,
        scenes.other("mover", move_order),
    )
    scenes.add(
        "tenant-mix-up",
        "one draft of the order belongs to another merchant, and another one is deleted",
        job,
        scenes.other("deleter", *deleting(scenes.options)),
        rows="\n".join((shop.START, shop.draft_row(shop.OTHER_MERCHANT, shop.ORDER, shop.MIXED_UP_DRAFT))),
    )


def _roll_back(scenes: _Scenes) -> None:
    """An order that never came to be."""
    creating = shop.order_rows(shop.MERCHANT, shop.ORDER, shop.DRAFTS).split(";")
    scenes.add(
        "creation-rolled-back",
        "the creation of the order is rolled back, and the job was asked for outside of it",
        scenes.job(),
        Actor(name="creator", act=changing(*filter(str.strip, creating), delete="rolled back")),
        rows="\n".join((shop.MERCHANTS, shop.asked(shop.JOB))),
    )


def _deliveries(scenes: _Scenes) -> None:
    """The job beside itself: twice at once, or again after a loss."""
    job = scenes.job()
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


def _two_writes(scenes: _Scenes) -> None:
    """One draft's search is ready only when the other's images are committed: what may happen between the two writes."""
    job = scenes.job(paced=True)
    again = scenes.job("again", act=scenes.again_after_loss(crash=True, paced=True))
    deleter = scenes.other("deleter", *deleting(scenes.options, shop.DRAFTS[1]))
    scenes.add(
        "delete-between-writes",
        "two writes, and the second one's draft is deleted",
        job,
        deleter,
        reduce=True,
    )
    scenes.add(
        "crash-between-writes",
        "two writes, and the worker is killed at any moment, also between them",
        job,
        again,
    )
    scenes.add(
        "crash-and-delete",
        "two writes, the worker is killed in the middle, and the second one's draft is deleted",
        job,
        again,
        deleter,
        reduce=True,
    )
