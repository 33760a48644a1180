"""Each role may do its own work, and nothing beside it: who asks for jobs cannot run them, and a worker needs no more than its
role."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import redis
import sqlalchemy as sa

from jobs.images.search.sample import Sampled
from jobs.images.spec import SPEC
from tests.brokering import new_relay, work
from tests.orders import ask, ended_runs, images, new_order, scalar
from tests.performing import Heard, performing
from toolkit.ledger import intents, runs
from toolkit.ledger.database import Database
from toolkit.ledger.migrate import require
from toolkit.run import Mode

Connection = psycopg.Connection


def as_role(url: str, role: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}options={quote(f'-c role={role}')}"


def test_an_application_asks_for_jobs_and_does_nothing_else(
    database_url: str, connection: Connection
) -> None:
    order = new_order(connection)
    with psycopg.connect(as_role(database_url, "toolkit_app"), autocommit=True) as app:
        assert ask(app, order)
        for forbidden in (
            "SELECT FROM toolkit.intent",
            "INSERT INTO toolkit.intent (job_name, queue, payload) VALUES ('x', 'x', '{}')",
            "UPDATE toolkit.run SET outcome = 'processed'",
            "SELECT FROM toolkit.trace",
            "DELETE FROM toolkit.trace",
            "SELECT toolkit.begin_run('j', 'w', 'h', 'r', 1, 'async')",
            "SELECT toolkit.reopen_jobs(1, 'x', '{}', '{}', '{}', '{}')",
            "UPDATE toolkit.toggle SET enabled = false",
            "INSERT INTO toolkit.audit (who, action, subject, reason) VALUES ('x', 'x', 'x', 'x')",
            'SELECT FROM "ProductDraft"',
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(forbidden)


def test_an_application_can_tell_that_the_schema_is_of_its_release(database_url: str) -> None:
    database = Database(as_role(database_url, "toolkit_app"))
    require(database)
    database.close()


def test_enqueue_goes_by_its_own_names_not_by_the_callers(database_url: str) -> None:
    with psycopg.connect(as_role(database_url, "toolkit_app"), autocommit=True) as app:
        app.execute("CREATE TEMP TABLE job_type (name text, queue text, fields jsonb, max_bytes integer)")
        app.execute("INSERT INTO job_type VALUES ('os.system', 'images', '{}', 1000000)")
        app.execute("SET search_path = pg_temp, toolkit, public")
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"os\.system"):
            app.execute("SELECT toolkit.enqueue('os.system', '{}')")


def test_a_worker_moves_runs_and_tells_with_its_role_alone(
    database_url: str, broker: redis.Redis, connection: Connection
) -> None:
    order = new_order(connection)
    job = ask(connection, order)
    url = as_role(database_url, "toolkit_worker")
    database = Database(url)
    assert new_relay(database, broker).run_once() == 1
    with performing(url, sink=Heard(uncounted=True)) as performer:
        work(broker, performer)
    assert ended_runs(connection, job) == [("processed", "")]
    assert set(images(connection, order).values()) == {2}
    with database.session() as session:
        assert [record.job_id for record in runs.take_uncounted(session)] == [job]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("DELETE FROM toolkit.run")
    database.close()


def test_an_operator_places_sees_and_cleans_test_orders_with_its_role_alone(
    database_url: str, connection: Connection
) -> None:
    assert SPEC.verify
    own, jobs = new_order(connection), []

    def place_job(asked_in: sa.Connection, payload: Mapping[str, Any]) -> str:
        jobs.append(intents.ask(asked_in, SPEC, payload))
        return jobs[-1]

    database = Database(as_role(database_url, "toolkit_operator"))
    with database.begin() as operator:
        order = SPEC.verify.place(operator, place_job, "v1-1", 2, datetime.now(UTC))
    with performing(database_url, Sampled(())) as performer:
        performer.perform(jobs[0], mode=Mode.ASYNC)
    with database.session() as session:
        assert [one.served for one in SPEC.verify.seen(session, [order])] == [2]
        rows = SPEC.verify.left(session)
        assert SPEC.verify.clean(session, [order]) == rows > 0
        assert SPEC.verify.left(session) == 0
    database.close()
    observer = Database(as_role(database_url, "toolkit_observer"))
    with observer.session() as session:
        assert SPEC.verify.seen(session, [order]) == []
        assert SPEC.verify.approved(session, datetime.min.replace(tzinfo=UTC), datetime.now(UTC)) == (0, 0)
    observer.close()
    assert images(connection, own) == dict.fromkeys(own.drafts, 0)


def test_an_observer_sees_the_orders_tables_and_no_other_of_the_shop(
    database_url: str, connection: Connection
) -> None:
    connection.execute('CREATE TABLE "Session" (id text PRIMARY KEY, token text NOT NULL)')
    connection.execute(SPEC.grants)
    with psycopg.connect(as_role(database_url, "toolkit_observer"), autocommit=True) as observer:
        assert scalar(observer, 'SELECT count(*) FROM "ProductDraft"') == 0
        assert scalar(observer, "SELECT count(*) FROM toolkit.run") == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            observer.execute('SELECT FROM "Session"')
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            observer.execute("UPDATE toolkit.intent SET done_at = now()")


def test_a_login_without_the_right_is_told_so_without_a_traceback(database_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "toolkit.cli", "toggle", "off", "--reason", "drill"],
        env=os.environ | {"DATABASE_URL": as_role(database_url, "toolkit_observer"), "REDIS_URL": "redis://127.0.0.1:1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "this login may not do that" in done.stderr
    assert "Traceback" not in done.stderr
