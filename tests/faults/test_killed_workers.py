"""Worker processes that are killed: their runs are closed with the signal's name, their jobs run again, and images, ledger
and metrics come out as if nothing had happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import psycopg
import pytest

from tests.conftest import TEMPLATE, with_database
from tests.eventually import eventually
from tests.hosts import Host, ledger_outcomes, worker_host
from tests.orders import Order, ask, ended_runs, images, new_order, scalar, sessions
from toolkit.embedded.servers import Servers

Connection = psycopg.Connection


@pytest.fixture(scope="module")
def database_url(servers: Servers, template_url: str) -> Iterator[str]:
    """One database for the file: its ledger and its host's metrics agree at the end of every test."""
    with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE test_killed TEMPLATE {TEMPLATE}")
        yield with_database(servers.postgres.url, "test_killed")
        connection.execute("DROP DATABASE test_killed WITH (FORCE)")


@pytest.fixture(scope="module")
def redis_url(servers: Servers) -> str:
    return servers.valkey.url


@pytest.fixture(scope="module")
def running(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with worker_host(database_url, redis_url, tmp_path_factory.mktemp("host"), TOOLKIT_LEASE="4") as started:
        yield started


@pytest.fixture
def host(running: Host) -> Host:
    """The file's host, with its one worker process in place."""
    eventually(lambda: running.ready() and len(running.workers()) == 1)
    return running


def killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def done(connection: Connection, job: str) -> bool:
    row = connection.execute("SELECT done_at FROM toolkit.intent WHERE job_id = %s", (job,)).fetchone()
    return row is not None and row[0] is not None


def agree(host: Host, connection: Connection) -> bool:
    """Ledger and metrics tell the same."""
    return host.outcomes() == ledger_outcomes(connection)


def whole(connection: Connection, order: Order) -> bool:
    return images(connection, order) == dict.fromkeys(order.drafts, 2) and sessions(connection, order) == 1


def test_a_worker_killed_in_mid_search(host: Host, connection: Connection) -> None:
    order = new_order(connection, ["wait:a", "Mug"])
    job = ask(connection, order)
    killed(host.reached("a")[0])
    host.reached("a", 2)
    row = connection.execute(
        "SELECT outcome, reason, error_type FROM toolkit.run WHERE job_id = %s AND number = 1", (job,)
    )
    assert row.fetchone() == ("lost", "killed", "SIGKILL")
    host.open("a")
    eventually(lambda: done(connection, job))
    connection.execute("DROP FUNCTION IF EXISTS public.gate CASCADE")
    assert whole(connection, order)
    eventually(lambda: agree(host, connection))
    assert [one for one, _ in ended_runs(connection, job)] == ["lost", "processed"]
    assert "SIGKILL" in host.log()


def test_a_worker_killed_before_its_run_began(host: Host, connection: Connection, database_url: str) -> None:
    order = new_order(connection, 2)
    with psycopg.connect(database_url) as holder, holder.transaction():
        job = ask(connection, order)
        holder.execute("LOCK TABLE toolkit.run IN SHARE MODE")
        eventually(lambda: beginning(connection))
        (worker,) = host.workers()
        worker.kill()
        eventually(lambda: worker.pid not in pids(host))
    eventually(lambda: done(connection, job), within=30)  # at the latest after the lease
    assert whole(connection, order)
    eventually(lambda: agree(host, connection))


def pids(host: Host) -> list[int]:
    return [worker.pid for worker in host.workers()]


def beginning(connection: Connection) -> bool:
    """Some worker waits in begin_run."""
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND query LIKE '%begin_run%'"
    ).fetchone()
    return row is not None and row[0] > 0


GATE = """
CREATE FUNCTION public.gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$;
CREATE TRIGGER gate AFTER INSERT ON "ProductImage" FOR EACH STATEMENT EXECUTE FUNCTION public.gate();
"""


def test_a_worker_killed_inside_the_guarded_write(
    host: Host, connection: Connection, database_url: str
) -> None:
    connection.execute(GATE)
    order = new_order(connection, 2)
    with psycopg.connect(database_url) as holder, holder.transaction():
        holder.execute("SELECT pg_advisory_xact_lock(7)")
        job = ask(connection, order)
        eventually(lambda: writing(connection))
        (worker,) = host.workers()
        worker.kill()
        eventually(lambda: worker.pid not in pids(host) and host.workers())
    eventually(lambda: done(connection, job))
    connection.execute("DROP FUNCTION IF EXISTS public.gate CASCADE")
    assert whole(connection, order)
    eventually(lambda: agree(host, connection))
    assert [one for one, _ in ended_runs(connection, job)] == ["lost", "processed"]


def writing(connection: Connection) -> bool:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
        " AND application_name = 'freshfetch'"
    ).fetchone()
    return row is not None and row[0] > 0


def test_a_worker_killed_after_a_first_write_keeps_it(host: Host, connection: Connection) -> None:
    order = new_order(connection, ["Mug", "wait:b"])
    job = ask(connection, order)
    pid = host.reached("b")[0]
    eventually(lambda: images(connection, order)[order.drafts[0]] == 2)
    killed(pid)
    host.reached("b", 2)
    host.open("b")
    eventually(lambda: done(connection, job))
    assert whole(connection, order)
    row = connection.execute(
        "SELECT counts FROM toolkit.run WHERE number = 2 AND job_id = %s", (job,)
    ).fetchone()
    assert row is not None
    assert row[0]["attached"] == 1, "what was written before is not searched again"
    eventually(lambda: agree(host, connection))


SLOW_COMMIT = """
CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON "ImageReviewSession" DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION public.slow();
"""


@pytest.fixture
def held_commits(connection: Connection) -> Iterator[Callable[[], object]]:
    """Commits that attach images wait until the test says so."""
    connection.execute(SLOW_COMMIT)
    connection.execute("SELECT pg_advisory_lock(7)")
    yield lambda: connection.execute("SELECT pg_advisory_unlock_all()")
    connection.execute("SELECT pg_advisory_unlock_all()")
    connection.execute("DROP FUNCTION public.slow CASCADE")


def test_a_worker_killed_between_its_commit_and_its_word_is_counted_once_as_what_it_did(
    host: Host, connection: Connection, held_commits: Callable[[], object]
) -> None:
    order = new_order(connection, ["wait:c"])
    job = ask(connection, order)
    host.reached("c")
    (worker,) = host.workers()
    host.open("c")
    eventually(lambda: writing(connection))  # COMMIT is under way
    worker.suspend()
    held_commits()
    eventually(lambda: done(connection, job))
    worker.kill()
    eventually(lambda: agree(host, connection))
    assert ended_runs(connection, job) == [("processed", "")]
    assert whole(connection, order)


def test_a_worker_killed_while_its_last_commit_is_under_way_is_counted_once_as_what_it_did(
    host: Host, connection: Connection, held_commits: Callable[[], object]
) -> None:
    order = new_order(connection, ["Mug"])
    deaths = host.log().count("worker.died")
    job = ask(connection, order)
    eventually(lambda: writing(connection))
    (worker,) = host.workers()
    worker.kill()
    eventually(lambda: host.log().count("worker.died") > deaths)
    eventually(lambda: burying(connection) or not writing(connection))
    held_commits()
    eventually(lambda: done(connection, job))
    eventually(lambda: agree(host, connection))
    assert whole(connection, order)


def burying(connection: Connection) -> bool:
    """The supervisor closes the dead worker's run, and waits for its commit to end."""
    return (
        scalar(
            connection,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND query LIKE '%%lose_run%%'",
        )
        > 0
    )


def test_a_job_that_kills_its_worker_three_times_is_given_up(host: Host, connection: Connection) -> None:
    job = ask(connection, new_order(connection, ["kill"]))
    fine = new_order(connection)
    eventually(lambda: done(connection, job), within=20)
    assert ended_runs(connection, job) == [("lost", "killed")] * 3
    row = connection.execute("SELECT outcome FROM toolkit.intent WHERE job_id = %s", (job,)).fetchone()
    assert row == ("lost",)
    other = ask(connection, fine)
    eventually(lambda: done(connection, other))
    eventually(lambda: agree(host, connection))


def test_rq_knows_nothing_of_the_dead(host: Host, connection: Connection, redis_url: str) -> None:
    import redis  # noqa: PLC0415

    job = ask(connection, new_order(connection, ["wait:d"]))
    host.open("d")
    eventually(lambda: done(connection, job))
    (before,) = host.workers()
    before.kill()
    with redis.Redis.from_url(redis_url) as broker:
        eventually(lambda: host.workers() and before.pid not in pids(host))
        eventually(lambda: broker.scard("rq:workers") == 1 and host.ready())
        (key,) = broker.smembers("rq:workers")
        assert broker.hget(key, "pid") == str(host.workers()[0].pid).encode()
        eventually(lambda: broker.zcard("rq:wip:images") == 0)
