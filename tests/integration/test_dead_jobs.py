"""Failed jobs that reached RQ behind our back: found without being read by anything that runs, and taken into the ledger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from rq import Queue
from rq.results import Result as RQResult
from rq.serializers import JSONSerializer, PickleSerializer

from jobs.images.spec import SPEC
from tests.brokering import REGISTRY, new_relay, work
from tests.orders import Order, ended_runs, images, new_order, scalar
from tests.performing import performing
from toolkit.broker import dead
from toolkit.ledger import adoption
from toolkit.ledger.database import Database

OLD_FUNCTION = "shop.workers.process_background_image_processing"
OLD_ERROR = """Traceback (most recent call last):
  File "/app/shop/workers.py", line 1846, in process_background_image_processing
    session.flush()
sqlalchemy.exc.IntegrityError: (psycopg.errors.ForeignKeyViolation) insert on "ProductImage" violates foreign key constraint \
"ProductImage_productDraftId_fkey"
DETAIL:  Key (productDraftId)=(d1) is not present in table "ProductDraft".
[SQL: INSERT INTO ...]
"""


@dataclass
class OldDraft:
    """A row of the old version's ORM, as it went into the queue."""

    id: str
    purchase_order_id: str
    merchant_id: str


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


def fail(broker: redis.Redis, function: str, keywords: Mapping[str, Any], *args: Any, serializer: Any = PickleSerializer,
         error: str = OLD_ERROR) -> str:  # fmt: skip
    """A failed job, as plain RQ leaves one; its id."""
    queue = Queue("images", connection=broker, serializer=serializer)
    job = queue.enqueue(function, args=args, kwargs=dict(keywords), meta={"old": 1})
    broker.lrem(queue.key, 0, job.id)
    queue.failed_job_registry.add(job, ttl=3600)
    RQResult.create_failure(job, 3600, error)
    broker.hset(job.key, mapping={"status": "failed", "ended_at": "2025-10-11T17:15:22.000000Z"})
    return job.id


def whole_drafts(order: Order) -> list[OldDraft]:
    return [OldDraft(draft, order.id, order.merchant) for draft in order.drafts]


def found(broker: redis.Redis, database: Database) -> list[dead.DeadJob]:
    with database.session() as session:
        return list(dead.find(broker, REGISTRY, lambda ids: adoption.known(session, ids)))


def adopted(broker: redis.Redis, database: Database) -> int:
    there = found(broker, database)
    with database.session() as session:
        return sum(dead.adopt(session, REGISTRY, one, now=datetime.now(UTC)) for one in there)


def forms(order: Order) -> dict[str, tuple[str, dict[str, Any], tuple[Any, ...], Any]]:
    """Function, keywords, arguments and serializer of jobs that ask for the same."""
    drafts = whole_drafts(order)
    stale = {
        "purchaseOrderId": order.id,
        "productDrafts": drafts,
        "merchantId": order.merchant,
        "workflowId": "w1",
    }
    return {
        "pickled ids under our own name": (SPEC.name, order.payload, (), PickleSerializer),
        "JSON ids": (SPEC.name, order.payload, (), JSONSerializer),
        "the incident's payload": (OLD_FUNCTION, stale, (), PickleSerializer),
        "the incident's payload as one argument": (OLD_FUNCTION, {}, (stale,), PickleSerializer),
        "positional arguments": (OLD_FUNCTION, {}, (order.id, drafts, order.merchant), PickleSerializer),
        "only drafts": (OLD_FUNCTION, {"productDrafts": drafts}, (), PickleSerializer),
        "a JavaScript name": ("processBackgroundImageProcessing", order.payload, (), JSONSerializer),
    }


@pytest.mark.parametrize("form", list(forms(Order("", "", ()))))
def test_the_ids_are_taken_out_of_what_older_versions_queued(
    form: str, broker: redis.Redis, database: Database, connection: psycopg.Connection
) -> None:
    order = new_order(connection)
    function, keywords, args, serializer = forms(order)[form]
    job_id = fail(broker, function, keywords, *args, serializer=serializer)
    before = broker.zscore("rq:failed:images", job_id), broker.dump(f"rq:job:{job_id}")

    (one,) = found(broker, database)
    assert (one.asked.refused, one.asked.job_name, one.asked.function) == ("", SPEC.name, function)
    assert one.asked.payload is not None
    payload = SPEC.decode(one.asked.payload)
    assert (payload.purchase_order_id, payload.merchant_id) == (order.id, order.merchant)  # type: ignore[attr-defined]
    assert (broker.zscore("rq:failed:images", job_id), broker.dump(f"rq:job:{job_id}")) == before, (
        "looking wrote"
    )


def test_it_is_adopted_once_as_a_failed_job_with_its_error(
    broker: redis.Redis, database: Database, connection: psycopg.Connection
) -> None:
    order = new_order(connection)
    job_id = fail(broker, OLD_FUNCTION, order.payload | {"productDrafts": whole_drafts(order)})
    assert adopted(broker, database) == 1
    assert found(broker, database) == []
    row = connection.execute(
        "SELECT i.outcome, r.outcome, r.reason, r.error_type, r.sqlstate, r.constraint_name, r.error_message,"
        " r.fingerprint <> '', r.finished_at FROM toolkit.intent i JOIN toolkit.run r USING (job_id) WHERE job_id = %s",
        (job_id,),
    ).fetchone()  # fmt: skip
    assert row is not None
    assert row[:6] == (
        "failed", "failed", "integrity", "ForeignKeyViolation", "23503", "ProductImage_productDraftId_fkey",
    )  # fmt: skip
    assert row[6].startswith('insert on "ProductImage"')
    assert row[7:] == (True, datetime(2025, 10, 11, 17, 15, 22, tzinfo=UTC))


def test_the_error_that_an_older_rq_kept_in_the_hash_is_read(broker: redis.Redis, database: Database) -> None:
    job_id = fail(broker, SPEC.name, {})
    broker.delete(f"rq:results:{job_id}")
    broker.hset(
        f"rq:job:{job_id}",
        "exc_info",
        zlib.compress(b"Traceback:\n  File \"x\"\n    x()\nKeyError: 'images'\n"),
    )
    (one,) = found(broker, database)
    assert (one.failure.error_type, one.failure.message) == ("KeyError", "'images'")


def test_an_adopted_job_runs_to_success_in_its_fixed_form(
    broker: redis.Redis, database: Database, database_url: str, connection: psycopg.Connection
) -> None:
    order = new_order(connection)
    job_id = fail(broker, OLD_FUNCTION, order.payload | {"productDrafts": whole_drafts(order)})
    adopted(broker, database)
    connection.execute(
        "UPDATE toolkit.intent SET done_at = NULL, outcome = NULL, pushed_at = NULL, due_at = now() WHERE job_id = %s",
        (job_id,),
    )
    assert new_relay(database, broker).run_once() == 1
    with performing(database_url) as performer:
        work(broker, performer)
    assert ended_runs(connection, job_id) == [("failed", "integrity"), ("processed", "")]
    assert set(images(connection, order).values()) == {2}


def test_a_hostile_pickle_is_listed_with_its_reason_and_never_adopted(
    broker: redis.Redis, database: Database, connection: psycopg.Connection, tmp_path: Path
) -> None:
    proof = tmp_path / "it-ran"
    fail(broker, OLD_FUNCTION, {"productDrafts": [{"x": Bomb(proof)}]})
    (one,) = found(broker, database)
    assert "it names posix.system" in one.asked.refused
    assert one.asked.payload is None
    assert adopted(broker, database) == 0
    assert scalar(connection, "SELECT count(*) FROM toolkit.intent") == 0
    assert not proof.exists()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "its hash has expired"),
        (b"\x80\x04\x95", "malformed"),
        (b"\x80\x05N.", "is not RQ's function"),
        (b'["a", null, [], {}', "JSON is malformed|truncated"),
        (b"[" * 100_000, "malformed|recurs|nested|depth|truncated"),
        (zlib.compress(b"\0" * (17 * 2**20)), "inflates to more than"),
        (b"x" * (16 * 2**20 + 1), "at most"),
        (
            b'["shop.delete_images", null, [], {"purchaseOrderId": "po1", "merchantId": "m1"}]',
            "no registered job",
        ),
        (b'["background-image-processing", null, [], {"productDrafts": []}]', "purchaseOrderId"),
    ],
    ids=[
        "expired",
        "truncated",
        "not a call",
        "half of JSON",
        "deep JSON",
        "a zlib bomb",
        "too large",
        "another job",
        "no ids",
    ],
)
def test_what_cannot_be_decoded_is_listed_with_the_reason(
    data: bytes | None, told: str, broker: redis.Redis, database: Database
) -> None:
    job_id = fail(broker, SPEC.name, {})
    broker.hdel(f"rq:job:{job_id}", "data") if data is None else broker.hset(f"rq:job:{job_id}", "data", data)
    (one,) = found(broker, database)
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(one.asked.refused)
    assert one.asked.payload is None


def test_thousands_are_read_in_batches_and_known_ones_left_out(
    broker: redis.Redis, database: Database, connection: psycopg.Connection
) -> None:
    data = f'["{SPEC.name}", null, [], {{"purchaseOrderId": "po1", "merchantId": "m1"}}]'
    pipe = broker.pipeline()
    for number in range(1500):
        pipe.hset(f"rq:job:j{number}", mapping={"data": data, "status": "failed"})
        pipe.zadd("rq:failed:images", {f"j{number}": 1})
    pipe.execute()
    connection.execute(
        "INSERT INTO toolkit.intent (job_id, job_name, queue, payload) SELECT 'j' || n, 'x', 'images', '{}'"
        " FROM generate_series(0, 499) n"
    )
    there = found(broker, database)
    assert {one.job_id for one in there} == {f"j{number}" for number in range(500, 1500)}
    assert {one.failure.message for one in there} == {"RQ kept no error"}


def test_jobs_failed_lists_them(
    broker: redis.Redis, connection: psycopg.Connection, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    order = new_order(connection)
    good = fail(broker, OLD_FUNCTION, order.payload | {"productDrafts": whole_drafts(order)})
    bad = fail(broker, OLD_FUNCTION, {"x": Bomb(tmp_path / "it-ran")})
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOOLKIT_", "OTEL_"))}
    shown = subprocess.run(
        [sys.executable, "-m", "toolkit.cli", "jobs", "failed", "--json"],
        env=kept | {"DATABASE_URL": database_url, "REDIS_URL": redis_url}, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    strays = {one["job_id"]: one for one in json.loads(shown.stdout)["strays"]}
    assert strays.keys() == {good, bad}
    assert (strays[good]["refused"], strays[good]["error_type"]) == ("", "ForeignKeyViolation")
    assert "posix.system" in strays[bad]["refused"]
    assert not (tmp_path / "it-ran").exists()


def replay(database: Database, redis_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"DATABASE_URL": database.url, "REDIS_URL": redis_url, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "toolkit.cli", "replay", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_a_pickled_job_with_whole_drafts_is_replayed_by_its_id_to_success(
    broker: redis.Redis, database: Database, connection: psycopg.Connection, redis_url: str
) -> None:
    order = new_order(connection)
    job_id = fail(broker, OLD_FUNCTION, order.payload | {"productDrafts": whole_drafts(order)})
    done = replay(database, redis_url, "--job", job_id)
    assert done.returncode == 0, done.stderr
    taken = connection.execute("SELECT subject, detail FROM toolkit.audit WHERE action = 'adopt'").fetchall()
    assert taken == [("1 failed jobs of RQ", {"jobs": [job_id]})]
    assert new_relay(database, broker).run_once() == 1
    with performing(database.url) as performer:
        work(broker, performer)
    assert ended_runs(connection, job_id) == [("failed", "integrity"), ("processed", "")]
    assert set(images(connection, order).values()) == {2}


def test_a_hostile_pickle_is_undecodable_to_replay_and_nothing_of_it_runs(
    broker: redis.Redis, database: Database, redis_url: str, tmp_path: Path
) -> None:
    proof = tmp_path / "ran"
    old = fail(broker, OLD_FUNCTION, {"purchaseOrderId": Bomb(proof)})
    done = replay(database, redis_url, "--job", old)
    assert done.returncode == 1
    assert "UNDECODABLE" in done.stderr
    assert "system" in done.stderr
    assert not proof.exists()
