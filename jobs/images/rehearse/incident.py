"""The cast of the image job's incidents: what the verbs of a timeline do in the shop, and the body of then.

verbs    create (order and drafts), enqueue, complete (the workflow), drafts go (for the reason of this run)
reasons  deletion, transformation, rollback, tenant mix-up: the four of the report
bodies   stale (the drafts come from the moment of enqueueing), current (today's job)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jobs.images import museum
from jobs.images.job import ImageResources
from jobs.images.payload import ImagePayload
from jobs.images.rehearse import shop
from jobs.images.rehearse.worker import InlinePool, found_in_memory, performer
from jobs.images.spec import SPEC
from toolkit.ledger.database import Database, Session
from toolkit.perform import JobContext
from toolkit.rehearse.incident import Scene
from toolkit.rehearse.quiet import KeptRecord, QuietLog
from toolkit.run import Mode, Result
from toolkit.telemetry.traces import Tracing

DRAFT = "cmgmrnwbw0007l804macxc3mm"
"""The draft of the report's log."""

_GO = {
    "deletion": f"""DELETE FROM "ProductDraft" WHERE id = '{DRAFT}'""",
    "transformation": f"""
        INSERT INTO "Product" (id, "fromDraftId", title) SELECT 'product-1', id, title FROM "ProductDraft" WHERE id = '{DRAFT}';
        DELETE FROM "ProductDraft" WHERE id = '{DRAFT}'""",
    "tenant mix-up": f"""UPDATE "ProductDraft" SET "merchantId" = '{shop.OTHER_MERCHANT}' WHERE id = '{DRAFT}'""",
}


@dataclass(slots=True)
class _Seat:
    """A place for the worker, which is not raced here."""

    name: str
    database: Database
    shared: dict[str, object] = dataclasses.field(default_factory=dict)

    def crash(self, actor: str) -> None:
        """Nobody is killed in an incident's timeline."""
        raise NotImplementedError(actor)

    def after_commit(self, call: Callable[[], object]) -> None:
        """Nobody waits for a commit here."""
        raise NotImplementedError(call)


class ImageCast:
    """See toolkit.rehearse.incident.Cast."""

    verbs = frozenset({"create", "enqueue", "complete", "drafts go"})
    reasons: Mapping[str, str] = MappingProxyType(
        {
            "deletion": "the draft is deleted",
            "transformation": "the draft is converted to a product, and deleted",
            "rollback": "the creation of the drafts is rolled back",
            "tenant mix-up": "the draft belongs to another merchant by then",
        }
    )
    bodies: Mapping[str, str] = MappingProxyType(
        {"stale": "the body of then: drafts from the payload", "current": "today's job: drafts fetched fresh"}
    )

    def play(self, verb: str, scene: Scene) -> None:
        """One verb."""
        getattr(self, f"_{verb.replace(' ', '_')}")(scene)

    def _create(self, scene: Scene) -> None:
        """The drafts' ids are known from here on, whether their transaction commits or not."""
        scene.memory["drafts"] = (DRAFT,)
        scene.control.execute(shop.MERCHANTS.encode())
        if scene.reason == "rollback":
            scene.tell(f"({self.reasons[scene.reason]})")
        else:
            scene.control.execute(shop.order_rows(shop.MERCHANT, shop.ORDER, (DRAFT,)).encode())

    def _enqueue(self, scene: Scene) -> None:
        scene.control.execute(shop.asked(shop.JOB).encode())
        at = scene.clock.now()
        scene.control.execute("UPDATE toolkit.intent SET created_at = %s, due_at = %s", (at, at))

    def _complete(self, scene: Scene) -> None:
        scene.control.execute(
            """INSERT INTO "WorkflowExecution" (id, "purchaseOrderId", status, mode, "startedAt", "completedAt")
               SELECT 'workflow-1', id, 'completed', 'async', "createdAt", %s FROM "PurchaseOrder" """,
            (scene.clock.now().replace(tzinfo=None),),
        )

    def _drafts_go(self, scene: Scene) -> None:
        if scene.reason in _GO:
            scene.control.execute(_GO[scene.reason].encode())
            scene.tell(f"({self.reasons[scene.reason]})")

    def is_write(self, sql: str) -> bool:
        """Both bodies insert images; today's counts as a write only when it has something to insert."""
        return 'INSERT INTO "ProductImage"' in sql

    def perform(self, scene: Scene) -> str:
        """Run the job as a worker does."""
        log, sink = QuietLog(tell=scene.tell), KeptRecord()
        drafts = [{"id": draft} for draft in scene.memory["drafts"]]
        then = {"purchaseOrderId": shop.ORDER, "merchantId": shop.MERCHANT, "productDrafts": drafts}

        def stale(context: JobContext, _payload: ImagePayload) -> Result:
            return museum.stale(context, then)

        spec = dataclasses.replace(SPEC, body=stale) if scene.body == "stale" else SPEC
        seat = _Seat("worker", scene.database)
        performer(
            seat,
            tracing=Tracing("rehearsal", "rehearsal", limit=1),
            spec=spec,
            log=log,
            sink=sink,
            resources=ImageResources(search=found_in_memory, pool=InlinePool(1)),
            now=scene.clock.now,
        ).perform(shop.JOB, mode=Mode.ASYNC)
        record = sink.record
        assert record is not None  # noqa: S101  nobody else holds this run
        scene.memory["waited"] = round(record.queue_wait)
        return f"{record.outcome} {record.reason}".strip()

    def harm(self, control: Session) -> list[str]:
        """Images in other merchants' drafts."""
        row = control.execute(
            """SELECT count(*) FROM "ProductImage" i JOIN "ProductDraft" d ON d.id = i."productDraftId"
               WHERE d."merchantId" <> %s""",
            (shop.MERCHANT,),
        ).fetchone()
        return [f"{row[0]} image in another merchant's draft"] if row and row[0] else []
