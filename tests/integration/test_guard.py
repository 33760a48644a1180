"""Payloads are ids: whatever else is in one is refused by name, where the job is asked for and again at the worker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import redis
import sqlalchemy as sa
from psycopg.types.json import Jsonb
from rq import Queue
from rq.job import Job
from rq.results import Result as RQResult
from rq.serializers import JSONSerializer, PickleSerializer

from jobs import catalog
from jobs.images.payload import ImagePayload
from jobs.images.spec import SPEC
from tests.brokering import REGISTRY, work
from tests.orders import ask, ended_runs, images, new_order, scalar
from tests.performing import Heard, performing
from toolkit.errors import PayloadRefused, UnknownJob
from toolkit.ledger import intents
from toolkit.ledger.database import Database

IDS = {"purchaseOrderId": "po1", "merchantId": "m1"}


@dataclass
class Row:
    """Stands for an object of an ORM."""

    id: str = "po1"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "the incident's stale drafts": (IDS | {"productDrafts": [{"id": "d1"}]}, "productDrafts"),
    "an object where an id should be": (IDS | {"purchaseOrderId": {"id": "po1"}}, "purchaseOrderId"),
    "a list of ids": (IDS | {"purchaseOrderId": ["po1"]}, "purchaseOrderId"),
    "a number": (IDS | {"purchaseOrderId": 7}, "purchaseOrderId"),
    "null where an id is required": (IDS | {"merchantId": None}, "merchantId"),
    "a missing id": ({"merchantId": "m1"}, "purchaseOrderId"),
    "an empty id": (IDS | {"merchantId": ""}, "merchantId"),
    "an id that is too long": (IDS | {"merchantId": "m" * 65}, "merchantId"),
    "an id with a line end": (IDS | {"merchantId": "m1\n"}, "merchantId"),
    "a serialised object in an id": (IDS | {"purchaseOrderId": '{"id":"po1"}'}, "purchaseOrderId"),
    "a blob of 10 MB as an id": (IDS | {"purchaseOrderId": "x" * 10_000_000}, "purchaseOrderId"),
    "a blob of 10 MB beside the ids": (IDS | {"html": "x" * 10_000_000}, "html"),
}
CASES = pytest.mark.parametrize(("payload", "field"), REFUSED.values(), ids=REFUSED.keys())


@CASES
def test_what_is_not_an_id_is_refused_by_name_in_python(payload: dict[str, Any], field: str) -> None:
    with pytest.raises(PayloadRefused) as refused:
        SPEC.encode(payload)
    assert refused.value.field == field
    assert f"{field!r}" in str(refused.value)
    assert len(str(refused.value)) < 1000, "the blob itself is in the message"


@CASES
def test_what_is_not_an_id_is_refused_by_name_in_sql(
    payload: dict[str, Any], field: str, connection: psycopg.Connection
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=f'"{field}"') as refused:
        connection.execute("SELECT toolkit.enqueue(%s, %s)", (SPEC.name, Jsonb(payload)))
    assert len(str(refused.value)) < 1000
    assert scalar(connection, "SELECT count(*) FROM toolkit.intent") == 0


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (IDS | {"purchaseOrderId": Row()}, "purchaseOrderId"),
        (IDS | {"merchantId": sa.select(catalog.merchant)}, "merchantId"),
        (ImagePayload(purchase_order_id=Row(), merchant_id="m1"), "purchaseOrderId"),  # type: ignore[arg-type]
        (ImagePayload(purchase_order_id="po 1", merchant_id="m1"), "purchaseOrderId"),
        (Row(), ""),
    ],
    ids=["a row", "a query", "a typed payload made around a row", "a typed payload of no id", "only a row"],
)
def test_an_object_is_refused_before_the_database_is_asked(payload: Any, field: str) -> None:
    with pytest.raises(PayloadRefused) as refused:
        intents.ask(None, SPEC, payload)  # type: ignore[arg-type]  no connection: it must not come to that
    assert refused.value.field == field


@pytest.mark.parametrize("raw", [b"\x80\x04\x95", b"{", b"[]", b'"po1"', b"null"], ids=repr)
def test_raw_bytes_that_are_no_object_of_ids_are_refused(raw: bytes) -> None:
    with pytest.raises(PayloadRefused):
        SPEC.decode(raw)


@pytest.mark.parametrize("payload", [None, [], "po1", 7], ids=repr)
def test_sql_takes_only_an_object(payload: Any, connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="an object of ids is wanted"):
        connection.execute("SELECT toolkit.enqueue(%s, %s)", (SPEC.name, Jsonb(payload)))
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="an object of ids is wanted"):
        connection.execute("SELECT toolkit.enqueue(%s, NULL)", (SPEC.name,))


def test_a_name_that_nobody_registered_is_refused(connection: psycopg.Connection) -> None:
    with pytest.raises(UnknownJob, match=r"os\.system"):
        REGISTRY.get("os.system")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"os\.system"):
        connection.execute("SELECT toolkit.enqueue('os.system', %s)", (Jsonb(IDS),))


def test_both_guards_take_the_ids_and_the_optional_one(connection: psycopg.Connection) -> None:
    for payload in (IDS, IDS | {"workflowId": "w1"}, IDS | {"workflowId": None}):
        assert msgspec.json.decode(SPEC.encode(payload)) == {k: v for k, v in payload.items() if v}
        connection.execute("SELECT toolkit.enqueue(%s, %s)", (SPEC.name, Jsonb(payload)))


def test_a_job_that_is_asked_for_in_a_transaction_that_rolls_back_was_never_asked_for(
    connection: psycopg.Connection,
) -> None:
    with connection.transaction(force_rollback=True):
        ask(connection, new_order(connection))
    assert scalar(connection, "SELECT count(*) FROM toolkit.intent") == 0


# -- at the worker: what plain RQ put into the queue --------------------------------------------------------------


def why_it_failed(broker: redis.Redis, job_id: str) -> str:
    """What RQ's failed job registry tells of the job; it must be there and nowhere else."""
    assert broker.zscore("rq:failed:images", job_id) is not None
    assert broker.zrange("rq:wip:images", 0, -1) == []
    assert broker.llen("rq:queue:images") == broker.llen("rq:queue:images:intermediate") == 0
    job = Job(job_id, connection=broker, serializer=JSONSerializer)
    result = RQResult.fetch_latest(job)
    assert result is not None
    return result.exc_string or ""


def perform_queue(broker: redis.Redis, url: str) -> Heard:
    heard = Heard()
    with performing(url, sink=heard) as performer:
        work(broker, performer)
    return heard


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (IDS | {"productDrafts": [{"id": "d1"}]}, "productDrafts"),
        ({"purchaseOrderId": "po1"}, "merchantId"),
        (IDS | {"merchantId": 7}, "merchantId"),
    ],
    ids=["stale drafts", "a missing id", "a number"],
)
def test_a_bad_payload_that_plain_rq_carried_is_refused_at_the_worker(
    payload: dict[str, Any], told: str, broker: redis.Redis, database_url: str, connection: psycopg.Connection
) -> None:
    queue = Queue("images", connection=broker, serializer=JSONSerializer)
    job = queue.enqueue(SPEC.name, kwargs=payload)
    assert perform_queue(broker, database_url).begun == []
    assert told in why_it_failed(broker, job.id)
    assert scalar(connection, "SELECT count(*) FROM toolkit.run") == 0


def test_a_function_that_is_no_registered_job_does_not_run(
    broker: redis.Redis, database_url: str, tmp_path: Path
) -> None:
    queue = Queue("images", connection=broker, serializer=JSONSerializer)
    proof = tmp_path / "it-ran"
    job = queue.enqueue("os.system", args=(f"touch {proof}",))
    perform_queue(broker, database_url)
    assert not proof.exists()
    assert "no job named 'os.system' is registered" in why_it_failed(broker, job.id)


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("where", ["arguments", "meta"])
def test_a_pickle_is_never_read(where: str, broker: redis.Redis, database_url: str, tmp_path: Path) -> None:
    proof = tmp_path / "it-ran"
    queue = Queue("images", connection=broker, serializer=PickleSerializer)
    bomb = Bomb(proof)
    job = (
        queue.enqueue(SPEC.name, args=(bomb,))
        if where == "arguments"
        else queue.enqueue(SPEC.name, kwargs=IDS, meta={"x": bomb})
    )
    perform_queue(broker, database_url)
    assert not proof.exists()
    assert "is not JSON and was not decoded" in why_it_failed(broker, job.id)


def test_callbacks_that_a_job_names_are_not_imported(
    broker: redis.Redis, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = tmp_path / "it-ran"
    (tmp_path / "evil_module.py").write_text(f"open({str(proof)!r}, 'w').close()\ndef call(*a): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    queue = Queue("images", connection=broker, serializer=JSONSerializer)
    job = queue.enqueue(SPEC.name, kwargs={"purchaseOrderId": "po1"})
    fields = ("success_callback_name", "failure_callback_name", "stopped_callback_name")
    broker.hset(job.key, mapping=dict.fromkeys(fields, "evil_module.call"))
    perform_queue(broker, database_url)
    assert "merchantId" in why_it_failed(broker, job.id)
    assert not proof.exists()


def test_a_good_job_of_plain_rq_is_adopted_and_runs(
    broker: redis.Redis, database_url: str, connection: psycopg.Connection
) -> None:
    order = new_order(connection)
    job = Queue("images", connection=broker, serializer=JSONSerializer).enqueue(
        SPEC.name, kwargs=order.payload
    )
    heard = perform_queue(broker, database_url)
    assert [record.job_id for record in heard.records] == [job.id]
    assert ended_runs(connection, job.id) == [("processed", "")]
    assert set(images(connection, order).values()) == {2}
    assert Job.fetch(job.id, connection=broker, serializer=JSONSerializer).get_status() == "finished"


def test_adoption_checks_the_payload_that_it_writes(
    database: Database, connection: psycopg.Connection
) -> None:
    bad = ImagePayload(purchase_order_id={"id": 1}, merchant_id="m1")  # type: ignore[arg-type]
    with database.session() as session, pytest.raises(PayloadRefused):
        intents.adopt(session, SPEC, "j1", bad, datetime.now(UTC))
    assert scalar(connection, "SELECT count(*) FROM toolkit.intent") == 0
