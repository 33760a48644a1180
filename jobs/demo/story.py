"""The demo: the image job, shown once, on real servers, a real worker and a real (small) web shop.

Nothing is played: a purchase order comes in as `toolkit import` brings it in, a worker runs the job, another connection
deletes a draft in mid-job, and everything shown is read back from PostgreSQL, /metrics and the kept trace. The worker has
one process, so that the second order's job has to wait while the first is held; that is when it loses all its drafts.

`tell` returns where what happened differs from what must happen; empty when all is as it must be. An interrupted demo
deletes its orders, so that a job of theirs that still waits will skip.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from jobs.demo import shelf
from jobs.demo.checks import Checks
from jobs.demo.counters import growth, scrape
from jobs.demo.ordering import Order, order_from_shop, withdrawn_if_broken_off
from jobs.demo.products import ShopProduct
from jobs.demo.screen import Screen
from jobs.demo.shelf import DraftRow
from jobs.demo.shop import Held, Shop
from jobs.demo.stage import Stage, set_stage
from jobs.demo.worker import DemoWorker
from jobs.images import words
from jobs.images.words import DraftOutcome, SkipReason
from toolkit.errors import ToolkitError
from toolkit.ledger import traces
from toolkit.ledger.queries import job
from toolkit.ledger.reading import reading
from toolkit.ledger.views import RunView
from toolkit.run import Outcome
from toolkit.settings import Settings
from toolkit.telemetry import catalog
from toolkit.telemetry.draw import draw
from toolkit.telemetry.otlp import SpanRow, read_spans
from toolkit.telemetry.waterfall import arrange

T = TypeVar("T")

HELD = "BOARD-04"
"""The product whose page the shop holds back, and whose draft is deleted meanwhile."""

PATIENCE = 60.0
"""Seconds that anything may take; on a laptop the whole demo takes a tenth of it."""

_FAMILIES = ("job_runs_total", "job_skips_total", "image_drafts_total", "images_attached_total")
_MUST_STAND_STILL = ("job_fk_errors_total", "job_retries_total", "telemetry_dropped_total")


@dataclass(slots=True)
class Play:
    """What all scenes share."""

    stage: Stage
    shop: Shop
    screen: Screen
    checks: Checks
    orders: list[Order] = field(default_factory=list)

    def import_order(self, number: str) -> Order:
        """An order comes in; from here on it is withdrawn when the demo is broken off."""
        order = order_from_shop(self.stage.app, self.shop, number)
        self.orders.append(order)
        return order

    def last_run(self, order: Order) -> RunView:
        """The order's run, as the ledger has it."""
        with reading(self.stage.app.database) as session:
            run = job(session, order.job_id).last
        if run is None:
            raise ToolkitError(f"the ledger has no run of job {order.job_id}")
        return run


def tell(settings: Settings, screen: Screen, *, number: str) -> Checks:
    """Show it all. `number` is a purchase order number that is new on these servers (a second one adds `-B`)."""
    checks = Checks()
    with ExitStack() as stack:
        screen.act("The shop, the servers, the worker")
        stage = stack.enter_context(set_stage(settings, screen))
        shop = stack.enter_context(Shop())
        worker = stack.enter_context(DemoWorker.start(stage.worker_environment()))
        screen.step(
            f"A small web shop opens at {shop.url}: {len(shop.products)} products, their pages and pictures"
        )
        name = worker.ready()
        screen.step(f"`toolkit worker` is ready, one process: {name}")
        screen.note(f"it serves {worker.metrics_url}, and lives as long as this demo")
        before = scrape(worker.metrics_url)

        play = Play(stage, shop, screen, checks)
        with withdrawn_if_broken_off(stage.app.database, play.orders):
            first, second = _one_job_held(play, worker, number)
            _what_became_of_it(play, first)
            _nothing_left_to_do(play, worker, second)
            _counters(play, worker, before)
    _next(play, first)
    return checks


def _one_job_held(play: Play, worker: DemoWorker, number: str) -> tuple[Order, Order]:
    """The first order's job runs and is held in the middle; what happens meanwhile happens to both orders."""
    screen, database = play.screen, play.stage.app.database
    screen.act("A purchase order comes in, and loses a draft in mid-job")
    with play.shop.hold(HELD) as held:
        first = play.import_order(number)
        screen.step(
            f"toolkit import {number}.csv: {len(first.drafts)} drafts and the request for one job, in one transaction"
        )
        screen.note(f"order {first.id}   job {first.job_id}   (its payload: ids, nothing else)")
        screen.step("A worker process takes the job")
        _until_held(play, worker, first, held)
        victim = first.drafts[HELD]
        ready = sum(draft.images > 0 for draft in shelf.drafts(database, first.id).values())
        screen.step(
            f"The shop holds the page of “{victim.title}” back: that search is in flight, {ready} drafts have images already"
        )
        shelf.delete_drafts(database, [victim.id])
        screen.step(f"Another connection deletes that draft and commits: DELETE … WHERE id = '{victim.id}'")
        second = play.import_order(f"{number}-B")
        gone = shelf.delete_drafts(database, [draft.id for draft in second.drafts.values()])
        screen.step(
            f"A second order comes in, waits for the worker, and all its {gone} drafts are deleted while it waits"
        )
        held.release()
        screen.step(
            f"The shop lets go; the search finds {play.shop.products[HELD].images} images for a draft that is no more"
        )
        for told in worker.lines(first.job_id, PATIENCE):
            told.show(screen)
    return first, second


def _until_held(play: Play, worker: DemoWorker, order: Order, held: Held) -> None:
    """Show the job's lines until only the held search is left, and what the others found is written."""
    noted: Counter[str] = Counter()
    with_images = sum(product.images > 0 for product in play.shop.products.values() if product.sku != HELD)
    for told in worker.lines(order.job_id, PATIENCE):
        told.show(play.screen)
        if told.ended:
            raise ToolkitError(f"the job ended before the shop let it go: {told}")
        noted["searched"] += told.event in {words.FOUND.name, words.NOTHING_FOUND.name}
        noted["saved"] += told.fields["attached"] if told.event == words.SAVED.name else 0
        if noted["searched"] == len(order.drafts) - 1 and noted["saved"] == with_images:
            break
    if not held.reached.wait(PATIENCE):
        raise ToolkitError(f"the worker never asked for the page of {HELD}")


def _what_became_of_it(play: Play, order: Order) -> None:
    """What is attached, what is skipped and why, the review session, the trace; all read back."""
    screen, checks, database = play.screen, play.checks, play.stage.app.database
    run = play.last_run(order)
    spans = _spans(play, order)
    searched = {
        str(span.attributes.get("product.sku")): span.attributes
        for span in spans
        if span.name == "images.search"
    }
    left = shelf.drafts(database, order.id)
    screen.act("What came of it")
    screen.step(
        f"The job was {run.outcome} in {run.duration or 0:.2f} s; its drafts, read back from PostgreSQL:"
    )
    screen.table(
        ("product", "its page", "search", "images", "outcome"),
        [
            _row(play.shop.products[sku], searched.get(sku, {}), left.get(sku))
            for sku in order.drafts
        ],
        right=("images",),
    )  # fmt: skip
    reviews = shelf.reviews(database, order.id)
    for review in reviews:
        screen.step(f"Review session {review.id} asks the merchant about {review.items} images")
    screen.step("The whole way of the job, from the import to the last write:")
    screen.waterfall(draw(arrange(spans), width=screen.width))

    wanted = {sku: play.shop.products[sku].images for sku in order.drafts if sku != HELD}
    checks.equal("outcome of the job", run.outcome, Outcome.PROCESSED)
    checks.equal("images of the surviving drafts", {sku: draft.images for sku, draft in left.items()}, wanted)
    checks.equal("images of the deleted draft", shelf.images_of(database, [order.drafts[HELD].id]), 0)
    checks.equal(
        "review sessions and their images", [review.items for review in reviews], [sum(wanted.values())]
    )
    checks.equal("counts of the run", run.counts, _counts_wanted(wanted))
    checks.equal("searches in the trace", set(searched), set(order.drafts))


def _counts_wanted(images: Mapping[str, int]) -> dict[str, int]:
    return {
        DraftOutcome.ATTACHED: sum(count > 0 for count in images.values()),
        DraftOutcome.NO_IMAGES_FOUND: sum(count == 0 for count in images.values()),
        DraftOutcome.DRAFT_DELETED: 1,
        "images_product_page": sum(images.values()),
    }


_PAGES = {
    "json_ld": "JSON-LD",
    "graph": "JSON-LD @graph",
    "open_graph": "Open Graph",
    "no_image": "no picture",
    "missing": "404",
}


def _row(product: ShopProduct, search: Mapping[str, object], draft: DraftRow | None) -> tuple[object, ...]:
    """A line of the table: what the search said, what the database says, and so what became of the draft."""
    candidates = search.get("images.candidates")
    found = f"{candidates} images" if candidates else search.get("images.outcome", "?")
    images = draft.images if draft else 0
    why = DraftOutcome.NO_IMAGES_FOUND if draft else DraftOutcome.DRAFT_DELETED
    return product.name, _PAGES[product.shape], found, images, "attached" if images else f"skipped: {why}"


def _spans(play: Play, order: Order) -> list[SpanRow]:
    """The order's trace, once the worker has handed its part over."""

    def look() -> list[SpanRow]:
        with reading(play.stage.app.database) as session:
            found = read_spans(traces.load(session, [order.trace_id]))
        return found if any(span.name == catalog.span_perform(words.QUEUE) for span in found) else []

    return _until(look, "the worker's spans are not in the ledger")


def _nothing_left_to_do(play: Play, worker: DemoWorker, order: Order) -> None:
    """The second order: its job finds no drafts, and says so."""
    screen = play.screen
    screen.act("The order that had lost all its drafts")
    screen.step(f"Order {order.number}: job {order.job_id} now has its turn")
    for told in worker.lines(order.job_id, PATIENCE):
        told.show(screen)
    run = play.last_run(order)
    screen.step("No error, no retry; whoever asked for the job is told, and the ledger keeps it:")
    screen.log(json.dumps(run.answer()))
    play.checks.equal(
        "answer of the second job",
        run.answer(),
        {"success": True, "skipped": True, "reason": SkipReason.NO_DRAFTS},
    )


def _counters(play: Play, worker: DemoWorker, before: Mapping[str, float]) -> None:
    """What the worker's counters grew by; they must say what the ledger says."""

    def look() -> dict[str, float]:
        now = scrape(worker.metrics_url)
        return now if sum(growth(before, now, "job_runs_total").values()) >= len(play.orders) else {}

    now = _until(look, "the worker's counters have not moved")
    grown = growth(before, now, *_FAMILIES)
    others = sum(growth(before, now, "job_runs_total").values()) - len(play.orders)
    still = {
        f"{family} (all series)": sum(growth(before, now, family).values()) for family in _MUST_STAND_STILL
    }
    play.screen.act("The counters")
    play.screen.step(f"Scraped from {worker.metrics_url}; what they grew by:")
    play.screen.table(("counter", "+"), list((grown | still).items()), right=("+",))
    if others:
        play.screen.note(
            f"{others} of these runs were of jobs that had waited here before; nothing is compared"
        )
        return
    for family, by in still.items():
        play.checks.equal(family, by, 0)
    ledger: Counter[str] = Counter()
    for order in play.orders:
        ledger.update(play.last_run(order).counts)
    for outcome in DraftOutcome:
        counted = grown.get(f'image_drafts_total{{outcome="{outcome}"}}', 0)
        play.checks.equal(f"image_drafts_total of {outcome}, as the ledger has it", counted, ledger[outcome])


def _next(play: Play, order: Order) -> None:
    command = play.stage.command
    play.screen.act("Go on from here; the servers stay up")
    play.screen.commands(
        [
            (command(f"toolkit jobs show {order.job_id}"), "this job: what was asked, its run, its counts"),
            (command(f"toolkit trace {order.job_id}"), "the waterfall again"),
            (command("toolkit jobs"), "every job so far"),
            (command("toolkit status"), "servers, workers, queue, settings"),
            (
                command("toolkit worker"),
                "in another terminal; then toolkit verify-deploy --top-up: is this deployment good?",
            ),
            ("toolkit demo --incident", "the production incident, beside the fix"),
            (command("toolkit down"), "stop the servers; the data stay"),
        ]
    )


def _until(look: Callable[[], T], otherwise: str) -> T:
    """Look until there is something to see. Raises ToolkitError after PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise ToolkitError(f"{otherwise} after {PATIENCE:.0f} s", remedy="toolkit status")
        time.sleep(0.02)  # neither the trace's table nor /metrics gives a signal
    return seen
