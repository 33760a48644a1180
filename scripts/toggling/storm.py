"""Flips while orders come in and worker processes are killed, and the account of it afterwards.

Importers (long-lived programs on the library) import orders; a supervisor's workers do the asynchronous ones. Every flip waits
for its receipt; every third flip off takes the queued jobs back, in turn to do them here and to hold them until the next
flip on. Kills hit a random worker process.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg

from jobs.images.words import TOGGLE
from scripts.benchmarks.memory import IMAGES
from tests.hosts import Host, worker_host
from tests.importers import Importer, importer
from toolkit.app import App
from toolkit.ledger import toggles
from toolkit.settings import Settings
from toolkit.toggle import in_flight
from toolkit.toggle.plan import InFlight, Plan, Request, plan

DRAFTS = 2
SEARCH = {"TOOLKIT_JOBS": "scripts.benchmarks.memory:SPEC", "TOOLKIT_BENCH_WAIT": "0.1"}
"""Searches take a while, so that there is something in flight."""
PATIENCE = 120.0


@dataclass(slots=True)
class Storm:
    """What happened: seconds from each flip to its receipt, laggards named, workers killed, jobs taken back and done here."""

    orders: int
    receipts: list[float] = field(default_factory=list)
    laggards: int = 0
    kills: int = 0
    taken_back: int = 0
    reclaimed: int = 0
    seconds: float = 0.0


def storm(
    servers: tuple[str, str],
    folder: Path,
    *,
    orders: int,
    flips: int,
    kills: int,
    importers: int = 4,
    seed: int = 4,
) -> Storm:
    """Flip `flips` times, spread over `orders` orders, with `kills` kills of workers in between."""
    with psycopg.connect(servers[0]) as connection:
        connection.execute(
            """INSERT INTO "Merchant" (id, name) VALUES ('m-own', 'own') ON CONFLICT DO NOTHING"""
        )
    dice, each = random.Random(seed), orders // importers  # noqa: S311  reproducible, not secret
    came = Storm(each * importers)
    began = time.monotonic()
    with (
        worker_host(*servers, folder / "host", processes=2, **SEARCH) as host,
        _importing(servers, folder, importers, each) as programs,
        _operator(servers) as app,
    ):
        kill_at = set(dice.sample(range(flips), kills))
        for number in range(flips):
            _wait(lambda at=number: _made(programs) >= at * came.orders / flips)  # type: ignore[misc]
            _flip(app, number, came)
            if number in kill_at:
                came.kills += _kill(host, dice)
        _flip(app, 0, came, to="on")  # whatever is held goes to the workers
        _wait(lambda: _made(programs) == came.orders)
        _wait(lambda: _open(servers[0]) == 0)
    came.seconds = time.monotonic() - began
    return came


@contextmanager
def _importing(servers: tuple[str, str], folder: Path, importers: int, each: int) -> Iterator[list[Importer]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(importer(servers, folder, f"i{n}", count=each, drafts=DRAFTS, **SEARCH))
            for n in range(importers)
        ]


@contextmanager
def _operator(servers: tuple[str, str]) -> Iterator[App]:
    """An app as the command has it."""
    environ = {
        "DATABASE_URL": servers[0], "REDIS_URL": servers[1], "TOOLKIT_OPERATOR": "storm",
    } | SEARCH  # fmt: skip
    with App(Settings.from_env(environ)) as app:
        yield app


def _flip(app: App, number: int, came: Storm, to: str = "") -> None:
    to = to or ("off" if number % 2 == 0 else "on")
    way = InFlight.FINISH
    if to == "off" and number % 3 == 0:
        way = InFlight.RECLAIM if number % 12 else InFlight.HOLD
    with app.database.session() as session:
        standing = toggles.read(session, [TOGGLE]).get(TOGGLE)
    wanted: Plan = plan(
        TOGGLE, standing, Request(on=to == "on", reason=f"flip {number}", in_flight=way), switched_off=False, reclaim_hold=30.0
    )  # fmt: skip
    began = time.monotonic()
    flipped = app.flipper.flip(TOGGLE, wanted, jobs=app.registry.governed(TOGGLE), reason=f"flip {number}")
    seen = app.flipper.await_receipt(flipped, within=10)
    came.receipts.append(time.monotonic() - began)
    came.laggards += len(seen.laggards)
    if way is not InFlight.FINISH:
        came.taken_back += in_flight.take_back(
            app.database, app.broker, flipped, log=app.log, tracer=app.tracing.tracer
        )
    if way is InFlight.RECLAIM:
        came.reclaimed += in_flight.reclaim(app.database, app.inline, flipped, app.log, lambda *_: None).done


def _kill(host: Host, dice: random.Random) -> int:
    workers = host.workers()
    if not workers:
        return 0
    try:
        dice.choice(workers).kill()
    except psutil.NoSuchProcess:
        return 0
    return 1


def _made(programs: list[Importer]) -> int:
    return sum(len(one.said("order")) for one in programs)


def _open(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM toolkit.intent WHERE done_at IS NULL").fetchone()
    assert row is not None
    return int(row[0])


def _wait(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE:.0f} s")
        # importers are other processes
        time.sleep(0.02)


_ACCOUNT = """
SELECT (SELECT count(*) FROM "PurchaseOrder") AS orders,
       (SELECT count(*) FROM toolkit.intent) AS asked,
       (SELECT count(*) FROM toolkit.intent WHERE done_at IS NULL) AS open,
       (SELECT count(*) FROM toolkit.intent WHERE outcome IS DISTINCT FROM 'processed') AS not_processed,
       (SELECT count(*) FROM (SELECT FROM toolkit.run WHERE outcome = 'processed'
                              GROUP BY job_id HAVING count(*) > 1) twice) AS done_twice,
       (SELECT count(*) FROM toolkit.run WHERE sqlstate = '23503') AS fk_errors,
       (SELECT count(*) FROM "ProductDraft" d
         WHERE (SELECT count(*) FROM "ProductImage" i WHERE i."productDraftId" = d.id) <> %s) AS wrong_drafts,
       (SELECT count(*) FROM toolkit.intent WHERE mode = 'sync') AS sync,
       (SELECT count(*) FROM toolkit.intent WHERE mode = 'async') AS async,
       (SELECT count(*) FROM toolkit.run WHERE outcome = 'lost') AS lost_runs,
       (SELECT count(*) FROM toolkit.toggle_history) AS versions
"""


def account(url: str) -> dict[str, Any]:
    """What stands in the catalog and the ledger afterwards."""
    with psycopg.connect(url) as connection:
        cursor = connection.execute(_ACCOUNT, (IMAGES,))
        row = cursor.fetchone()
        assert row is not None
        assert cursor.description is not None
        return {column.name: value for column, value in zip(cursor.description, row, strict=True)}


def wrong(came: Storm, found: dict[str, Any], flips: int) -> list[str]:
    """What is not as it must be; empty when all is well."""
    must = {
        "orders": came.orders, "asked": came.orders, "open": 0, "not_processed": 0, "done_twice": 0, "fk_errors": 0,
        "wrong_drafts": 0, "versions": flips + 1,
    }  # fmt: skip
    return [
        f"{name}: {found[name]}, must be {value}" for name, value in must.items() if found[name] != value
    ] + ([f"{came.laggards} laggards"] if came.laggards else [])
