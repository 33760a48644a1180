"""The shop in the sealed room: its tables, the rows that every schedule starts from, and what is looked at afterwards.

Two merchants. The first has one order with two drafts, `draft-1` and `draft-2`; the second has an order of its own with one
draft, which no job here may touch. A witness, which no real database has, writes down at the moment of each insert what
can no longer be told from the rows at the end: that a draft belonged to another merchant by then, or that the writer had
lost its run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jobs import catalog
from jobs.images.words import NAME, QUEUE
from toolkit.jobspec import Registry
from toolkit.ledger.database import Database, Session, run_script
from toolkit.ledger.migrate import migrate
from toolkit.rehearse.words import Options

MERCHANT, OTHER_MERCHANT = "merchant-a", "merchant-b"
ORDER, OTHER_ORDER = "order-a", "order-b"
DRAFTS = ("draft-1", "draft-2")
FOREIGN_DRAFT = "draft-b"
MIXED_UP_DRAFT = "draft-0"
"""In some scenarios: another merchant's draft below the first merchant's order."""
IMAGES_PER_DRAFT = 1
JOB, SECOND_JOB = "job-1", "job-2"

KEY = "ProductImage_productDraftId_fkey"

_WITNESS = """
CREATE SCHEMA rehearse;
CREATE TABLE rehearse.witness (what text NOT NULL, who text);
CREATE TABLE rehearse.made (draft text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE "Product" (id text PRIMARY KEY, "fromDraftId" text, title text NOT NULL); -- a shop has more tables than we use
CREATE FUNCTION rehearse.look() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    actor text := current_setting('rehearse.actor', true);
    tenant text := current_setting('rehearse.tenant', true);
    owner text;
BEGIN
    IF tenant IS NULL THEN
        RETURN NULL;
    END IF;
    IF TG_TABLE_NAME = 'ProductImage' THEN
        SELECT "merchantId" INTO owner FROM public."ProductDraft" WHERE id = NEW."productDraftId";
    ELSE
        SELECT "merchantId" INTO owner FROM public."PurchaseOrder" WHERE id = NEW."purchaseOrderId";
    END IF;
    IF owner <> tenant THEN
        INSERT INTO rehearse.witness VALUES ('tenant leak', actor);
    END IF;
    IF current_setting('rehearse.fenced', true) = 'yes'
       AND NOT EXISTS (SELECT FROM toolkit.run WHERE worker = actor AND outcome IS NULL) THEN
        INSERT INTO rehearse.witness VALUES ('written without the run', actor);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION rehearse.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rehearse.made (draft) VALUES (NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT ON "ProductDraft" FOR EACH ROW EXECUTE FUNCTION rehearse.note();
CREATE TRIGGER witness AFTER INSERT ON "ProductImage" FOR EACH ROW EXECUTE FUNCTION rehearse.look();
CREATE TRIGGER witness AFTER INSERT ON "ImageReviewSession" FOR EACH ROW EXECUTE FUNCTION rehearse.look();
"""

_EMPTY = """
DELETE FROM rehearse.witness; DELETE FROM rehearse.made; DELETE FROM toolkit.run; DELETE FROM toolkit.intent;
DELETE FROM "ImageReviewItem"; DELETE FROM "ImageReviewSession"; DELETE FROM "ProductImage"; DELETE FROM "Product";
DELETE FROM "ProductDraft"; DELETE FROM "POLineItem"; DELETE FROM "WorkflowExecution"; DELETE FROM "PurchaseOrder";
DELETE FROM "Merchant";
"""

_TRUNCATE = """
TRUNCATE rehearse.witness, rehearse.made,
toolkit.run, toolkit.intent, "ImageReviewItem", "ImageReviewSession", "ProductImage", "Product",
"ProductDraft", "POLineItem", "WorkflowExecution", "PurchaseOrder", "Merchant" CASCADE;
"""

_TIME = "timestamp '2025-10-11 17:02:00'"


def draft_row(merchant: str, order: str, draft: str) -> str:
    """SQL that creates a draft."""
    return f"""INSERT INTO "ProductDraft" (id, "purchaseOrderId", "merchantId", title, status, "createdAt", "updatedAt")
VALUES ('{draft}', '{order}', '{merchant}', 'Product {draft}', 'draft', {_TIME}, {_TIME});"""


def order_rows(merchant: str, order: str, drafts: tuple[str, ...]) -> str:
    """SQL that creates an order and its drafts."""
    made = f"""INSERT INTO "PurchaseOrder" (id, "merchantId", number, status, "createdAt", "updatedAt")
VALUES ('{order}', '{merchant}', '{order}', 'imported', {_TIME}, {_TIME});"""
    return "\n".join((made, *(draft_row(merchant, order, draft) for draft in drafts)))


def asked(job: str, merchant: str = MERCHANT, order: str = ORDER) -> str:
    """SQL that asks for a job under an id of our choice."""
    return f"""INSERT INTO toolkit.intent (job_id, job_name, queue, payload) VALUES
('{job}', '{NAME}', '{QUEUE}', jsonb_build_object('purchaseOrderId', '{order}', 'merchantId', '{merchant}'));"""


MERCHANTS = f"""INSERT INTO "Merchant" (id, name) VALUES ('{MERCHANT}', 'A'), ('{OTHER_MERCHANT}', 'B');"""

START = "\n".join(
    (
        MERCHANTS,
        order_rows(MERCHANT, ORDER, DRAFTS),
        order_rows(OTHER_MERCHANT, OTHER_ORDER, (FOREIGN_DRAFT,)),
        asked(JOB),
    )
)


def starting_from(rows: str) -> Callable[[Session], None]:
    """A scenario's `reset`. Every 500th time the tables are truncated, so that dead rows do not pile up."""
    played = 0

    def reset(session: Session) -> None:
        nonlocal played
        played += 1
        session.execute(((_TRUNCATE if played % 500 == 0 else _EMPTY) + rows).encode())

    return reset


_LOOK = """
SELECT
  (SELECT count(*) FROM "ProductImage" i WHERE i."productDraftId" IS NOT NULL
     AND NOT EXISTS (SELECT FROM "ProductDraft" d WHERE d.id = i."productDraftId")),
  (SELECT count(*) FROM "ProductDraft" d WHERE d."merchantId" = %(merchant)s AND d."purchaseOrderId" = %(order)s
     AND NOT EXISTS (SELECT FROM "ProductImage" i WHERE i."productDraftId" = d.id)
     AND EXISTS (SELECT FROM "PurchaseOrder" o WHERE o.id = d."purchaseOrderId" AND o."merchantId" = %(merchant)s)
     AND (SELECT max(at) FROM rehearse.made WHERE draft = d.id) < (SELECT max(finished_at) FROM toolkit.run
         WHERE outcome IN ('processed', 'skipped') AND reason NOT IN ('already_done', 'already_running'))),
  (SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM "ProductImage" GROUP BY "productDraftId", url) x WHERE n > 1)
  + (SELECT greatest(0, count(*) - count(DISTINCT id)) FROM "ImageReviewSession")
  + (SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM "ImageReviewItem" GROUP BY "imageId") x WHERE n > 1),
  (SELECT count(*) FROM rehearse.witness WHERE what = 'tenant leak')
  + (SELECT count(*) FROM "ProductImage" WHERE "productDraftId" = ANY(%(foreign)s)),
  (SELECT count(*) FROM rehearse.witness WHERE what = 'written without the run'),
  (SELECT count(*) FROM "ImageReviewItem" x WHERE NOT EXISTS (SELECT FROM "ImageReviewSession" s WHERE s.id = x."sessionId")),
  (SELECT count(*) FROM toolkit.intent i WHERE done_at IS NULL
     AND NOT EXISTS (SELECT FROM toolkit.run r WHERE r.job_id = i.job_id AND r.retry_at IS NOT NULL)),
  (SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM toolkit.run WHERE outcome IN ('processed', 'skipped')
     AND reason NOT IN ('already_done', 'already_running') GROUP BY job_id) x WHERE n > 1),
  (SELECT count(*) FROM toolkit.run WHERE outcome = 'processed' AND coalesce((counts ->> 'attached')::int, 0)
     + coalesce((counts ->> 'already_has_images')::int, 0) + coalesce((counts ->> 'no_images_found')::int, 0) = 0),
  (SELECT count(*) FROM "ProductImage" WHERE "productDraftId" IS NOT NULL),
  (SELECT count(*) FROM "ProductImage" WHERE "productDraftId" IS NULL)
"""

FACTS = (
    "images without a draft",
    "images lost",
    "double effects",
    "tenant leaks",
    "written without the run",
    "items without a session",
    "jobs left open",
    "jobs completed twice",
    "processed nothing, and said so",
    "~images",
    "~images set adrift by the key",
)


def look(session: Session) -> Mapping[str, int]:
    """A scenario's `inspect`: what is wrong in the tables, by name.

    `images lost`: drafts of the order that were there when the job's last run ended, and have no images.
    `double effects`: an image of the same draft and URL twice, or in two reviews.
    """
    values = {"merchant": MERCHANT, "order": ORDER, "foreign": [FOREIGN_DRAFT, MIXED_UP_DRAFT]}
    row = session.execute(_LOOK, values).fetchone()
    assert row is not None  # noqa: S101  a SELECT without FROM has one row
    return dict(zip(FACTS, (int(number) for number in row), strict=True))


def key_schema(options: Options) -> str:
    """SQL that gives the image's foreign key the options' ON DELETE action and deferrability."""
    if options.on_delete == "CASCADE" and not options.deferrable:
        return ""
    deferrable = " DEFERRABLE INITIALLY DEFERRED" if options.deferrable else ""
    nullable = (
        'ALTER TABLE "ProductImage" ALTER "productDraftId" DROP NOT NULL;'
        if options.on_delete == "SET NULL"
        else ""
    )
    return f"""{nullable}
ALTER TABLE "ProductImage" DROP CONSTRAINT "{KEY}",
ADD CONSTRAINT "{KEY}" FOREIGN KEY ("productDraftId") REFERENCES "ProductDraft" (id)
ON UPDATE CASCADE ON DELETE {options.on_delete}{deferrable};"""


def prepare(url: str) -> None:
    """Fill a template: the shop's tables, schema toolkit, the witness."""
    database = Database(url)
    try:
        with database.begin() as connection:
            catalog.create(connection)
        migrate(database, Registry.installed())
        with database.begin() as connection:
            run_script(connection, _WITNESS)
    finally:
        database.close()
