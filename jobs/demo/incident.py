"""The incident of 2025-10-11, run again on a real PostgreSQL, beside the fix as first shipped and the job as it is.

Three orders alike, three drafts of each deleted in the same two moments: two while the job waits in the queue, one while
its images are searched. `stale_payload` and `fetch_again` are the bodies of that day, as plainly as the report has them;
they are called here and never registered. The report does not tell whether its job went on after an error; here it does,
so that every error is seen.

`tell` returns where what happened differs from what must happen.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from jobs.catalog import id_maker
from jobs.demo import shelf
from jobs.demo.checks import Checks
from jobs.demo.ordering import Order, order_from_shop, order_without_job, withdrawn_if_broken_off
from jobs.demo.products import CATALOGUE
from jobs.demo.screen import Screen
from jobs.demo.shelf import DraftRow
from jobs.demo.shop import Shop
from jobs.demo.stage import Stage, set_stage
from jobs.images import words
from jobs.images.job import ImageResources, Search
from jobs.images.search.protocol import Candidate, Product, SearchResult
from jobs.images.words import DraftOutcome
from toolkit.errors import PayloadRefused
from toolkit.inline import LedgerSink
from toolkit.ledger.database import Session
from toolkit.run import Mode, Outcome, RunRecord
from toolkit.settings import Settings

CONSTRAINT: Final = "ProductImage_productDraftId_fkey"
IMAGES = 2
WHILE_QUEUED = ("LAMP-02", "VASE-06")
WHILE_SEARCHED = "BOARD-04"
PRODUCTS = tuple(
    dataclasses.replace(product, shape="json_ld", images=IMAGES, ending="jpg") for product in CATALOGUE
)
"""As in the shop, but every page has pictures: each deleted draft is one that images are found for."""

Body = Callable[[Session, Mapping[str, Any], Search, Callable[[str, psycopg.Error], None]], None]


# The bodies of that day


def stale_payload(
    session: Session, payload: Mapping[str, Any], search: Search, failed: Callable[[str, psycopg.Error], None]
) -> None:
    """As deployed at 17:00: the drafts travel in the payload, and are minutes old when the job runs."""
    for draft in payload["productDrafts"]:
        _search_and_create(session, draft, search, failed)


def fetch_again(
    session: Session, payload: Mapping[str, Any], search: Search, failed: Callable[[str, psycopg.Error], None]
) -> None:
    """As fixed at 17:30: the drafts are fetched when the job runs; while it searches, they can still go."""
    with session.cursor(row_factory=dict_row) as cursor:
        drafts = cursor.execute(
            'SELECT d.id, d.title, l.sku, l."productUrl" FROM "ProductDraft" d'
            ' JOIN "POLineItem" l ON l.id = d."lineItemId" WHERE d."purchaseOrderId" = %s ORDER BY d.id',
            (payload["purchaseOrderId"],),
        ).fetchall()
    for draft in drafts:
        _search_and_create(session, draft, search, failed)


def _search_and_create(
    session: Session, draft: Mapping[str, Any], search: Search, failed: Callable[[str, psycopg.Error], None]
) -> None:
    found = search(Product(draft["id"], draft["sku"], draft["title"], draft["productUrl"]))
    try:
        for position, image in enumerate(found.candidates):
            _create_product_image(session, draft["id"], image, position)
    except psycopg.errors.ForeignKeyViolation as error:
        failed(draft["id"], error)


def _create_product_image(session: Session, draft_id: str, image: Candidate, position: int) -> None:
    """`prisma.productImage.create()`: one INSERT, one commit (the session is in autocommit)."""
    new_id = id_maker(lambda: datetime.now(UTC), os.urandom)()
    session.execute(
        'INSERT INTO "ProductImage" (id, "productDraftId", url, source, position) VALUES (%s, %s, %s, %s, %s)',
        (new_id, draft_id, image.url, image.source, position),
    )


# The comparison


@dataclass(frozen=True, slots=True)
class Came:
    """What came of one order: errors the job saw, errors in PostgreSQL's own log, and what is in the tables."""

    body: str
    errors: int
    in_server_log: int
    survivors: int
    survivors_with_images: int
    images_of_deleted: int

    def row(self, deleted: int) -> tuple[object, ...]:
        """A line of the table."""
        shown = f"{self.survivors_with_images} of {self.survivors}"
        return self.body, deleted, self.errors, self.in_server_log, shown


def tell(settings: Settings, screen: Screen, *, number: str) -> Checks:
    """Show it all. `number` is a purchase order number that is new on these servers (-STALE, -AGAIN and -FRESH are added)."""
    allowed = dict(settings.sections) | {"TOOLKIT_IMAGES_ALLOW_PRIVATE": "true"}
    with ExitStack() as stack:
        screen.act("Three orders alike, three ways to do the job")
        stage = stack.enter_context(set_stage(dataclasses.replace(settings, sections=allowed), screen))
        shop = stack.enter_context(Shop(PRODUCTS))
        screen.step(f"A small web shop opens at {shop.url}: {len(PRODUCTS)} products, {IMAGES} pictures each")
        screen.step(
            "Each order loses the same three drafts of its six, by another connection, in the same two moments:"
        )
        screen.note(
            f"{' and '.join(WHILE_QUEUED)} while the job waits in the queue, {WHILE_SEARCHED} while its images are searched"
        )
        incident = _Incident(stage, shop, screen)
        came, fresh, record = incident.play(number)
        checks = _compare(screen, came, record)
    screen.act("Go on from here; the servers stay up")
    screen.commands(
        [
            (stage.command(f"toolkit jobs show {fresh.job_id}"), "the job as it is, on the third order"),
            (stage.command(f"toolkit trace {fresh.job_id}"), "its trace"),
            (
                stage.command("toolkit jobs failed"),
                "what failed: the bodies of that day are no jobs, so they are not there",
            ),
            ("toolkit demo", "the job with a worker, a queue and its counters"),
            (stage.command("toolkit down"), "stop the servers; the data stay"),
        ]
    )
    return checks


class _Incident:
    """The three runs, on one stage."""

    def __init__(self, stage: Stage, shop: Shop, screen: Screen) -> None:
        self.stage, self.shop, self.screen = stage, shop, screen
        self.database = stage.app.database
        self.performer = stage.app.inline_performer(
            LedgerSink(self.database, stage.app.export, uncounted=False)
        )
        self.resources: ImageResources = self.performer.resources[words.NAME]

    def play(self, number: str) -> tuple[list[Came], Order, RunRecord | None]:
        """The bodies in the order of history; then the job of today, its order and its record."""
        screen = self.screen
        screen.act("17:00  drafts in the payload")
        order = order_without_job(self.stage.app, self.shop, f"{number}-STALE")
        payload = _payload_of_that_day(order)
        screen.step(f"The job is queued with {len(order.drafts)} draft objects in its payload:")
        screen.log(
            f'productDrafts: [{{"id": "{order.drafts[WHILE_QUEUED[0]].id}", "title": …}}, …]   ← stale when it is read',
            "debug",
        )
        came = [self._old("stale payload, the incident", order, stale_payload, payload)]
        screen.step("Today such a payload is refused when the job is asked for, and again at the worker:")
        screen.log(_refusal(self.stage, payload))

        screen.act("17:30  fetch again, then INSERT")
        order = order_without_job(self.stage.app, self.shop, f"{number}-AGAIN")
        screen.step(
            "The payload is ids, the drafts are read when the job runs; a draft can still go before its INSERT:"
        )
        came.append(self._old("fetch again, then INSERT", order, fetch_again, {"purchaseOrderId": order.id}))

        screen.act("Freshfetch  fetch again, search, then lock and write")
        order = order_from_shop(self.stage.app, self.shop, f"{number}-FRESH")
        screen.step("The registered job, with its run, its guarded write and its account in the ledger:")
        with withdrawn_if_broken_off(self.database, [order]):
            fresh, record = self._fresh(order)
        return [*came, fresh], order, record

    def _old(self, name: str, order: Order, body: Body, payload: Mapping[str, Any]) -> Came:
        errors: list[str] = []

        def failed(draft_id: str, error: psycopg.Error) -> None:
            errors.append(draft_id)
            self.screen.log(
                f"❌ [RETRY] Create product image for draft {draft_id} failed with non-retryable error:",
                "error",
            )
            self.screen.log(
                f"   Foreign key constraint violated on the constraint: `{error.diag.constraint_name}`  ({error.sqlstate})",
                "error",
            )

        shelf.delete_drafts(self.database, _ids(order, WHILE_QUEUED))
        log_size = self.stage.server_log.stat().st_size
        with self.database.session() as session:
            body(session, payload, self._while_searched(order.drafts[WHILE_SEARCHED]), failed)
        return self._came(name, order, len(errors), log_size)

    def _fresh(self, order: Order) -> tuple[Came, RunRecord | None]:
        search = self._while_searched(order.drafts[WHILE_SEARCHED])
        performer = dataclasses.replace(
            self.performer,
            resources={words.NAME: dataclasses.replace(self.resources, search=search)},
        )
        shelf.delete_drafts(self.database, _ids(order, WHILE_QUEUED))
        log_size = self.stage.server_log.stat().st_size
        record = performer.perform(order.job_id, mode=Mode.SYNC).record
        errors = int(record is None or record.failure is not None)
        return self._came("Freshfetch: lock, then write", order, errors, log_size), record

    def _while_searched(self, victim: DraftRow) -> Search:
        """The real search of the shop's pages; when the victim's images are found, another connection has deleted it."""

        def search(product: Product) -> SearchResult:
            found = self.resources.search(product)
            if product.draft_id == victim.id:
                shelf.delete_drafts(self.database, [victim.id])
            return found

        return search

    def _came(self, name: str, order: Order, errors: int, log_size: int) -> Came:
        left = shelf.drafts(self.database, order.id).values()
        gone = _ids(order, (*WHILE_QUEUED, WHILE_SEARCHED))
        return Came(
            name, errors, _violations(self.stage.server_log, log_size), len(left),
            sum(draft.images == IMAGES for draft in left), shelf.images_of(self.database, gone),
        )  # fmt: skip


def _compare(screen: Screen, came: list[Came], record: RunRecord | None) -> Checks:
    """The counts side by side, and whether they are what they must be."""
    deleted = len(WHILE_QUEUED) + 1
    screen.act("Side by side")
    screen.table(
        (
            "the job's body",
            "drafts deleted",
            "foreign key errors",
            "in PostgreSQL's log",
            "survivors with all images",
        ),
        [one.row(deleted) for one in came],
        right=("drafts deleted", "foreign key errors", "in PostgreSQL's log", "survivors with all images"),
    )
    screen.step(
        "Fetching again shortens the window, and leaves it open: from the read to the INSERT, a draft can still go."
    )
    screen.step(
        "Freshfetch's write locks the drafts that are left (FOR KEY SHARE) and inserts for those, in one statement."
    )
    checks = Checks()
    for one, errors in zip(came, (deleted, 1, 0), strict=True):
        checks.equal(f"foreign key errors of “{one.body}”", one.errors, errors)
        checks.equal(f"foreign key errors in PostgreSQL's log under “{one.body}”", one.in_server_log, errors)
        checks.equal(
            f"survivors with all their images under “{one.body}”", one.survivors_with_images, one.survivors
        )
        checks.equal(f"images of deleted drafts under “{one.body}”", one.images_of_deleted, 0)
    survivors = len(PRODUCTS) - deleted
    checks.equal("outcome of the registered job", record and record.outcome, Outcome.PROCESSED)
    checks.equal(
        "its counts",
        record and record.counts,
        {
            DraftOutcome.ATTACHED: survivors,
            DraftOutcome.DRAFT_DELETED: 1,
            "images_product_page": survivors * IMAGES,
        },
    )
    return checks


def _payload_of_that_day(order: Order) -> dict[str, Any]:
    return {
        "purchaseOrderId": order.id,
        "merchantId": order.merchant,
        "productDrafts": [
            {"id": draft.id, "title": draft.title, "sku": draft.sku, "productUrl": draft.product_url}
            for draft in order.drafts.values()
        ],
    }


def _refusal(stage: Stage, payload: Mapping[str, Any]) -> str:
    try:
        stage.app.registry.get(words.NAME).decode(payload)
    except PayloadRefused as refused:
        return f"PayloadRefused: {refused}"
    return "it was taken"


def _ids(order: Order, skus: Iterable[str]) -> list[str]:
    return [order.drafts[sku].id for sku in skus]


def _violations(log: Path, since: int) -> int:
    """Foreign key errors that PostgreSQL itself has written down since its log was of that size."""
    with log.open("rb") as file:
        file.seek(since)
        return file.read().count(f'violates foreign key constraint "{CONSTRAINT}"'.encode())
