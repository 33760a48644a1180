"""A failed job becomes one redacted file, and the file brings the same error back in a throw-away database, or shows that it
is gone. Every file of `tests/cases/` is run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from jobs.images.payload import ImagePayload
from jobs.images.spec import SPEC
from tests.brokering import REGISTRY
from tests.orders import Order, ask, new_order, scalar
from tests.performing import Heard, Scripted, Search, failing, found, performing, spec_with
from toolkit.embedded import servers as embedded
from toolkit.errors import InputFileError, NotFound
from toolkit.jobspec import Registry, RetryPolicy
from toolkit.ledger import traces
from toolkit.ledger.database import Database
from toolkit.ledger.reading import reading
from toolkit.ledger.traces import TraceChunk
from toolkit.perform import JobContext
from toolkit.rehearse.capture import capture
from toolkit.rehearse.case import CURRENT, Rehearsed, case_room, rehearse
from toolkit.rehearse.case_file import Case, Ending, encode, read
from toolkit.rehearse.room import Room
from toolkit.run import Mode, Result
from toolkit.telemetry import logs

CASES = sorted(Path(__file__).parent.parent.joinpath("cases").glob("*.json"))
NO_RETRY = spec_with(retry=RetryPolicy(attempts=0))
SHOP_INDEX = (
    'CREATE UNIQUE INDEX "ProductImage_draft_source_key" ON "ProductImage" ("productDraftId", source)'
)


@pytest.fixture(scope="module")
def room(servers: embedded.Servers) -> Iterator[Room]:
    with case_room(REGISTRY, servers.postgres.url) as opened:
        yield opened


def again(case: Case, room: Room, registry: Registry = REGISTRY, *, body: str = CURRENT) -> Rehearsed:
    return rehearse(case, registry, room, release="test", log=logs.get_logger(), body=body)


def run(database: Database, url: str, job: str, search: Search) -> None:
    """One run of the job, its spans kept."""
    heard = Heard()
    with performing(url, search, spec=NO_RETRY, sink=heard) as performer:
        performer.perform(job, mode=Mode.ASYNC)
    with database.session() as session:
        traces.store(session, [TraceChunk(trace, owner, data) for trace, owner, data, _ in heard.told])


def captured(database: Database, job: str, *, raw: bool = False) -> Case:
    with reading(database) as session:
        return capture(session, REGISTRY, job, now=datetime.now(UTC), raw=raw)


def failed_by_the_image_host(
    connection: psycopg.Connection, database: Database, url: str
) -> tuple[Order, str]:
    """Three drafts: one searched well, one's host does not answer, one has no images."""
    order = new_order(connection, ["Blue mug", "Red mug", "Green mug"])
    job = ask(connection, order)
    answers = {"Red mug": failing("http_5xx"), "Green mug": lambda product: found(product, 0)}
    run(database, url, job, Scripted(answers))
    return order, job


def failed_by_the_database(connection: psycopg.Connection, database: Database, url: str) -> str:
    """The shop allows one image a source and draft; the job has found two."""
    connection.execute(SHOP_INDEX)
    job = ask(connection, new_order(connection, ["Blue mug"]))
    run(database, url, job, found)
    return job


def test_a_transient_failure_comes_again(
    connection: psycopg.Connection, database: Database, database_url: str, room: Room
) -> None:
    order, job = failed_by_the_image_host(connection, database, database_url)
    case = captured(database, job)
    assert case.error == Ending(outcome="failed", reason="transient", error_type="http_5xx")
    assert sorted((one.get("error", ""), one.get("candidates")) for one in case.answers) == [
        ("", 0), ("", 2), ("http_5xx", None),
    ]  # fmt: skip
    before = scalar(connection, "SELECT count(*) FROM pg_database")
    done = again(case, room)
    assert (done.same, done.same_kind, done.as_expected) == (
        True,
        False,
        False,
    )  # the message has the product's host in it
    assert scalar(connection, "SELECT count(*) FROM pg_database") == before, (
        "the throw-away database is still there"
    )
    assert scalar(connection, 'SELECT count(*) FROM "ProductImage"') == 2, "a rehearsal wrote to the catalog"
    assert order.id not in encode(case).decode()


def test_an_integrity_error_of_the_shops_own_constraint_comes_again(
    connection: psycopg.Connection, database: Database, database_url: str, room: Room
) -> None:
    job = failed_by_the_database(connection, database, database_url)
    case = captured(database, job)
    assert (case.error.sqlstate, case.error.constraint) == ("23505", "ProductImage_draft_source_key")
    assert again(case, room).same
    # Sabotage: without the constraint there is no error to come.
    done = again(msgspec.structs.replace(case, unique=()), room)
    assert (done.same, done.ending.outcome) == (False, "processed")


def test_the_incident_comes_again_with_the_body_that_caused_it(room: Room) -> None:
    case = next(read(path) for path in CASES if "incident" in path.name)
    assert again(case, room, body="stale").same
    assert not again(case, room).same


def test_a_case_is_redacted_and_its_foreign_keys_still_fit(
    connection: psycopg.Connection, database: Database, database_url: str, room: Room
) -> None:
    order, job = failed_by_the_image_host(connection, database, database_url)
    connection.execute('UPDATE "POLineItem" SET "productUrl" = \'https://secret-shop.test/p/\' || sku')
    connection.execute("UPDATE \"Merchant\" SET name = 'Secret & Sons'")
    text = encode(captured(database, job)).decode()
    for secret in (
        *order.drafts,
        order.id,
        order.merchant,
        "Secret",
        "mug",
        "sku-",
        "secret-shop",
        "images.test",
        job,
    ):
        assert secret not in text
    case = msgspec.json.decode(text, type=Case)
    tables = {
        one.table: [dict(zip(one.columns, row, strict=True)) for row in one.rows] for one in case.tables
    }
    (bought,) = tables["PurchaseOrder"]
    assert case.payload["purchaseOrderId"] == bought["id"]
    assert case.payload["merchantId"] == bought["merchantId"] == tables["Merchant"][0]["id"]
    assert {draft["lineItemId"] for draft in tables["ProductDraft"]} == {
        item["id"] for item in tables["POLineItem"]
    }
    assert {one["draft"] for one in case.answers} == {draft["id"] for draft in tables["ProductDraft"]}
    assert again(case, room).same

    raw = encode(captured(database, job, raw=True)).decode()
    assert all(secret in raw for secret in (*order.drafts, "Secret & Sons", "secret-shop"))


def test_rows_of_another_merchant_are_not_captured(
    connection: psycopg.Connection, database: Database, database_url: str, room: Room
) -> None:
    order, job = failed_by_the_image_host(connection, database, database_url)
    new_order(connection, ["Theirs"], merchant="m-other")
    connection.execute("INSERT INTO \"Merchant\" (id, name) VALUES ('m-third', 'x')")
    connection.execute(
        'UPDATE "ProductDraft" SET "merchantId" = \'m-other\' WHERE id = %s', (order.drafts[0],)
    )
    case = captured(database, job, raw=True)
    assert b"m-other" not in encode(case)
    assert again(case, room).same


def test_without_spans_the_case_says_that_answers_are_not_known(
    connection: psycopg.Connection, database: Database, database_url: str, room: Room
) -> None:
    _, job = failed_by_the_image_host(connection, database, database_url)
    connection.execute("TRUNCATE toolkit.trace")
    case = captured(database, job)
    assert case.answers == ()
    assert any("is not known" in note for note in case.notes)
    assert not again(case, room).same


def test_a_job_that_did_not_fail_has_no_case(
    connection: psycopg.Connection, database: Database, database_url: str
) -> None:
    job = ask(connection, new_order(connection, 1))
    run(database, database_url, job, found)
    with pytest.raises(NotFound, match="no failed run"):
        captured(database, job)


def test_the_clock_is_the_recorded_one(
    connection: psycopg.Connection, database: Database, database_url: str, room: Room
) -> None:
    _, job = failed_by_the_image_host(connection, database, database_url)
    moments: list[datetime] = []

    def watching(context: JobContext, payload: ImagePayload) -> Result:
        moments.append(context.now())
        return SPEC.body(context, payload)

    case = captured(database, job)
    again(case, room, Registry.of([dataclasses.replace(SPEC, body=watching)]))
    assert moments == [case.ran_at]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_case_of_the_museum_ends_as_it_says(path: Path, room: Room) -> None:
    case = read(path)
    assert case.redacted
    done = again(case, room)
    assert done.as_expected, done


def test_the_museum_holds_what_once_broke() -> None:
    kinds = {(read(path).error.reason, read(path).error.sqlstate) for path in CASES}
    assert {("integrity", "23503"), ("integrity", "23505"), ("transient", "")} <= kinds


def test_a_case_that_expects_something_else_turns_red(room: Room) -> None:
    case = read(CASES[0])
    wrong = msgspec.structs.replace(case, expected=Ending(outcome="processed", reason="never"))
    assert not again(wrong, room).as_expected


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text[:100], "is not a case"),
        (lambda _text: "[]", "is not a case"),
        (lambda text: text.replace("freshfetch-case/1", "freshfetch-case/9"), "of format"),
        (lambda text: text.replace('"job_name"', '"drop_table"'), "is not a case"),
    ],
    ids=["half", "a list", "another format", "an unknown field"],
)
def test_a_file_that_is_no_case_is_refused_in_words(change: Any, told: str, tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_text(change(CASES[0].read_text()))
    with pytest.raises(InputFileError, match=told):
        read(path)


def test_rows_that_do_not_fit_are_told(room: Room) -> None:
    case = read(CASES[0])
    changed = msgspec.structs.replace
    (first, *_) = case.tables
    with pytest.raises(InputFileError, match="do not fit"):
        again(changed(case, tables=(changed(first, table='No"Such"; DROP TABLE x'),)), room)


def test_the_commands_capture_and_rehearse(
    connection: psycopg.Connection, database: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    _, job = failed_by_the_image_host(connection, database, database_url)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOOLKIT_", "OTEL_"))}

    def toolkit(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "toolkit.cli", *arguments], env=kept | {"DATABASE_URL": database_url, "REDIS_URL": redis_url},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    path = tmp_path / "case.json"
    done = toolkit("capture", job[:8], "-o", str(path))
    assert done.returncode == 0, done.stderr
    assert f"toolkit rehearse case {path}" in done.stderr
    assert toolkit("capture", job, "-o", str(path)).returncode == 5
    assert path.stat().st_mode & 0o077 == 0
    told = toolkit("rehearse", "case", str(path), "--on-database-url", "--json")
    assert told.returncode == 1, told.stderr
    assert json.loads(told.stdout)["result"]["same"] is True
    shown = toolkit("rehearse", "case", str(path), "--on-database-url")
    assert re.search(r"same error +yes", shown.stdout)
