"""The shop during a soak: orders come in, and other connections delete, sell and change their minds at random."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock

import psycopg
from psycopg.types.json import Jsonb

OWN, OTHER = "m-own", "m-other"
APPLICATION = "soak-shop"
"""application_name of the shop's connections, as PostgreSQL's log tells it."""

AHEAD = 120
"""Jobs asked for and not done, at most: enough that the queue is never empty, few enough that deletes meet jobs."""

ACTS = 1.5
"""Acts for each order, at most."""

_ORDER = """
INSERT INTO "PurchaseOrder" (id, "merchantId", number, status, "updatedAt")
VALUES (%(order)s, %(own)s, %(order)s, 'imported', now())
"""
_DRAFTS = """
INSERT INTO "ProductDraft" (id, "purchaseOrderId", "merchantId", title, status, "updatedAt")
SELECT id, %(order)s, %(own)s, title, 'draft', now() FROM unnest(%(ids)s::text[], %(titles)s::text[]) AS c (id, title)
"""


@dataclass
class Shop:
    """What the shop's connections have in common. `did` counts their acts."""

    url: str
    seed: int
    orders: list[tuple[str, list[str]]] = field(default_factory=list)
    did: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """SQLSTATEs that the shop met: there must be none."""
    _lock: Lock = field(default_factory=Lock)

    def connect(self) -> psycopg.Connection:
        """A connection of the shop, in transactions."""
        return psycopg.connect(self.url, application_name=APPLICATION)

    def sell(self, jobs: int, stop: Event) -> None:
        """Bring in `jobs` orders, each with its intent in one transaction, never more than AHEAD ahead of the workers."""
        dice = random.Random(self.seed)  # noqa: S311
        with self.connect() as connection:
            connection.execute('INSERT INTO "Merchant" VALUES (%s, %s), (%s, %s)', (OWN, OWN, OTHER, OTHER))
            for number in range(jobs):
                if stop.is_set():
                    return
                order = f"po{number:06}"
                drafts = [f"d{number:06}x{place}" for place in range(dice.randint(1, 8))]
                titles = [f"Product {dice.choice((0, 1, 2, 3, 5))}" for _ in drafts]
                values = {"order": order, "own": OWN, "ids": drafts, "titles": titles}
                connection.execute(_ORDER, values)
                connection.execute(_DRAFTS, values)
                payload = Jsonb({"purchaseOrderId": order, "merchantId": OWN})
                connection.execute("SELECT toolkit.enqueue('background-image-processing', %s)", (payload,))
                connection.commit()
                with self._lock:
                    self.orders.append((order, drafts))
                while number % 20 == 0 and not stop.is_set() and _open_jobs(connection) > AHEAD:
                    stop.wait(0.02)

    def disturb(self, number: int, stop: Event) -> None:
        """One connection that does one random act after another, mostly where a job is at work, until `stop`."""
        dice = random.Random(f"{self.seed}/{number}")  # noqa: S311
        acts = [act for act, weight in WEIGHTS.items() for _ in range(weight)]
        with self.connect() as connection:
            while not stop.is_set():
                chosen = self._choose(connection, dice) if self._in_step() else None
                if chosen is None:
                    stop.wait(0.05)
                    continue
                act = dice.choice(acts)
                try:
                    # Acts on one order come one after another: whoever deadlocks here, it is not two acts.
                    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (chosen[0],))
                    ends = act(connection, dice, *chosen)
                    connection.commit() if ends else connection.rollback()
                    self._count(self.did, act.__name__)
                except psycopg.Error as error:
                    connection.rollback()
                    self._count(self.refused, error.sqlstate or type(error).__name__)

    def _choose(self, connection: psycopg.Connection, dice: random.Random) -> tuple[str, list[str]] | None:
        with self._lock:
            latest = self.orders[-AHEAD:]
            if not latest:
                return None
            known = dict(latest)
        at_work = [
            row[0]
            for row in connection.execute(
                "SELECT i.payload ->> 'purchaseOrderId' FROM toolkit.run r JOIN toolkit.intent i USING (job_id)"
                " WHERE r.outcome IS NULL"
            ).fetchall()
            if row[0] in known
        ]
        connection.rollback()
        order = dice.choice(at_work) if at_work and dice.random() < 0.7 else dice.choice(list(known))
        return order, known[order]

    def _in_step(self) -> bool:
        """The shop does not outrun slow workers, or there would be nothing left to attach images to."""
        with self._lock:
            return sum(self.did.values()) < ACTS * len(self.orders)

    def _count(self, counter: Counter[str], name: str) -> None:
        with self._lock:
            counter[name] += 1


def _open_jobs(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(*) FROM toolkit.intent WHERE done_at IS NULL").fetchone()
    connection.rollback()
    return int(row[0]) if row else 0


Act = Callable[[psycopg.Connection, random.Random, str, list[str]], bool]
"""Does something to an order in a transaction; True: commit, False: roll back."""


def _delete(connection: psycopg.Connection, draft: str) -> None:
    connection.execute('DELETE FROM "ProductDraft" WHERE id = %s', (draft,))


def delete_draft(connection: psycopg.Connection, dice: random.Random, _order: str, drafts: list[str]) -> bool:
    """One draft goes."""
    _delete(connection, dice.choice(drafts))
    return True


def delete_some(connection: psycopg.Connection, dice: random.Random, _order: str, drafts: list[str]) -> bool:
    """Several go, one statement each, against the order in which the job locks."""
    for draft in sorted(dice.sample(drafts, dice.randint(1, len(drafts))), reverse=True):
        _delete(connection, draft)
        # the shop acts at random moments
        time.sleep(dice.random() * 0.01)
    return True


def delete_order(connection: psycopg.Connection, dice: random.Random, order: str, drafts: list[str]) -> bool:
    """The whole order goes, by the cascade or its drafts first."""
    if dice.random() < 0.5:
        for draft in reversed(drafts):
            _delete(connection, draft)
    connection.execute('DELETE FROM "PurchaseOrder" WHERE id = %s', (order,))
    return True


def change_merchant(
    connection: psycopg.Connection, dice: random.Random, order: str, drafts: list[str]
) -> bool:
    """The order and all its drafts, or one draft alone, go to another merchant."""
    moved = [dice.choice(drafts)]
    if dice.random() < 0.5:
        moved = drafts
        connection.execute('UPDATE "PurchaseOrder" SET "merchantId" = %s WHERE id = %s', (OTHER, order))
    connection.execute('UPDATE "ProductDraft" SET "merchantId" = %s WHERE id = ANY(%s)', (OTHER, moved))
    return True


def change_mind(connection: psycopg.Connection, dice: random.Random, order: str, drafts: list[str]) -> bool:
    """Deleted, and rolled back."""
    (delete_order if dice.random() < 0.3 else delete_some)(connection, dice, order, drafts)
    return False


def hold_open(connection: psycopg.Connection, dice: random.Random, _order: str, drafts: list[str]) -> bool:
    """Deleted, held open for up to two seconds, and then either."""
    _delete(connection, dice.choice(drafts))
    # a delete is held open for a while
    time.sleep(dice.random() * 2)
    return dice.random() < 0.5


WEIGHTS: dict[Act, int] = {
    delete_draft: 8, delete_some: 4, delete_order: 3, change_merchant: 3, change_mind: 4, hold_open: 1,
}  # fmt: skip
