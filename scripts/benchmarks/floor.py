"""The SQL floor, and the database part of a run: both from one connection, without broker, worker or telemetry.

Floor: one prepared statement an order, autocommit, that locks the drafts and inserts images, review session and items; the
rows are made beforehand. Database part: what one run asks of PostgreSQL (begin, fetch, guarded write with the finish), by the
job's own functions, with their making of rows and ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import psycopg
import structlog

from jobs import catalog
from jobs.images.attach import attach
from jobs.images.fetch import fetch
from jobs.images.search.protocol import Candidate, Product
from jobs.images.spec import SPEC
from scripts.benchmarks.memory import search
from scripts.benchmarks.race import cpu_seconds
from scripts.benchmarks.room import MERCHANT, Room, check_effects, order_ids
from toolkit.ledger import runs
from toolkit.ledger.database import Database, Session
from toolkit.perform import GuardedWrite, JobContext
from toolkit.run import Mode, Result, RunRecord, record
from toolkit.telemetry.traces import Tracing

_FLOOR = """
WITH alive AS MATERIALIZED (
    SELECT id FROM "ProductDraft" WHERE id = ANY(%(drafts)s) ORDER BY id FOR KEY SHARE
), image AS (
    INSERT INTO "ProductImage" (id, "productDraftId", url, source, position, width, height, "createdAt")
    SELECT i.id, i.draft, i.url, 'memory', i.position, 800, 600, %(now)s
    FROM unnest(%(ids)s::text[], %(owners)s::text[], %(urls)s::text[], %(positions)s::int[]) AS i (id, draft, url, position)
    JOIN alive ON alive.id = i.draft
    RETURNING id
), review AS (
    INSERT INTO "ImageReviewSession" (id, "purchaseOrderId", "merchantId", status, "createdAt", "updatedAt")
    VALUES (%(session)s, %(order)s, %(merchant)s, 'pending', %(now)s, %(now)s)
)
INSERT INTO "ImageReviewItem" (id, "sessionId", "imageId") SELECT i.item, %(session)s, i.id
FROM unnest(%(ids)s::text[], %(items)s::text[]) AS i (id, item) JOIN image USING (id)
"""


@dataclass(frozen=True, slots=True)
class Timed:
    """Milliseconds an order: on the clock, and of PostgreSQL's CPU."""

    ms: float
    postgres_ms: float


def floor(room: Room, *, orders: int, drafts: int = 5) -> Timed:
    """The one-statement floor over so many orders."""
    with (
        room.database(orders=orders, drafts=drafts) as url,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        connection.prepare_threshold = 0
        rows = connection.execute(
            'SELECT "purchaseOrderId", array_agg(id) FROM "ProductDraft" GROUP BY 1 ORDER BY 1'
        ).fetchall()
        parameters = [_parameters(order, some) for order, some in rows]
        timed = _timed(room, [partial(connection.execute, _FLOOR, one) for one in parameters])
        check_effects(url, orders=orders, drafts=drafts)
        return timed


def _parameters(order: str, drafts: Sequence[str]) -> dict[str, object]:
    found = [
        (draft, position, candidate) for draft in drafts for position, candidate in enumerate(_search(draft))
    ]
    return {
        "drafts": list(drafts), "order": order, "merchant": MERCHANT, "session": str(uuid4()),
        "now": catalog.utc_ms(datetime.now(UTC)), "ids": [str(uuid4()) for _ in found], "owners": [one[0] for one in found],
        "urls": [one[2].url for one in found], "positions": [one[1] for one in found], "items": [str(uuid4()) for _ in found],
    }  # fmt: skip


def _search(draft: str) -> tuple[Candidate, ...]:
    return search(Product(draft, "", "", None), wait=0).candidates


def database_part(room: Room, *, orders: int, drafts: int = 5) -> Timed:
    """What the runs of so many orders ask of PostgreSQL."""
    with room.database(orders=orders, drafts=drafts) as url:
        database = Database(url)
        wanted = order_ids(url)
        with psycopg.connect(url) as connection:
            jobs = [
                connection.execute(
                    "SELECT toolkit.enqueue(%s, jsonb_build_object('purchaseOrderId', %s::text, 'merchantId', %s::text))",
                    (SPEC.name, order, MERCHANT),
                ).fetchone()
                for order in wanted
            ]
        try:
            timed = _timed(
                room,
                [
                    partial(_run, database, job[0], order)
                    for job, order in zip(jobs, wanted, strict=True)
                    if job
                ],
            )
        finally:
            database.close()
        check_effects(url, orders=orders, drafts=drafts)
        return timed


def _run(database: Database, job_id: str, order: str) -> None:
    with database.session() as session:
        begun = runs.begin(
            session, job_id, worker="bench", host="bench", release="bench", lease=30.0, mode=Mode.ASYNC
        )
    run = begun.run

    def finish(session: Session, result: Result) -> RunRecord:
        ended = record(
            run, result, failure=None, worker="bench", host="bench", finished_at=datetime.now(UTC), duration=0.0,
            trace_id="0" * 32, span_id="0" * 16, retry_in=None,
        )  # fmt: skip
        runs.finish_held(session, run, ended)
        return ended

    context = JobContext(
        spec=SPEC, run=run, database=database, resources=None, tracer=_TRACING.tracer, log=_LOG,
        now=lambda: datetime.now(UTC), _finish=finish,
    )  # fmt: skip
    with database.session() as session:
        page = fetch(session, order, MERCHANT)

    def action(write: GuardedWrite) -> None:
        found = {draft.id: _search(draft.id) for draft in page.drafts}
        done = attach(
            write.session,
            job_id=job_id,
            order_id=order,
            merchant_id=MERCHANT,
            found=found,
            now=datetime.now(UTC),
        )
        write.finish(Result(counts={"attached": len(done.by_draft)}))

    context.guarded_write(action)


_TRACING = Tracing("bench", "bench")
_LOG = structlog.get_logger()


def _timed(room: Room, actions: Sequence[Callable[[], object]]) -> Timed:
    """The first tenth warms up: plans are cached, statements prepared."""
    warm = max(1, len(actions) // 10)
    for action in actions[:warm]:
        action()
    cpu, begin = cpu_seconds(room.servers.postgres.pid), time.perf_counter()
    for action in actions[warm:]:
        action()
    seconds = time.perf_counter() - begin
    cpu = cpu_seconds(room.servers.postgres.pid) - cpu
    measured = max(1, len(actions) - warm)
    return Timed(1000 * seconds / measured, 1000 * cpu / measured)
