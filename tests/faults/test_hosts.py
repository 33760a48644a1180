"""A host and its workers: how they stop, what holds a job to its time, and who goes on when the whole host dies."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import psycopg

from tests.eventually import eventually
from tests.hosts import ledger_outcomes, worker_host
from tests.orders import ask, ended_runs, images, new_order

Connection = psycopg.Connection


def test_when_a_host_dies_another_one_takes_its_job_after_the_lease(
    database_url: str, redis_url: str, tmp_path: Path, connection: Connection
) -> None:
    lease = {"TOOLKIT_LEASE": "2"}
    order = new_order(connection, ["wait:a"])
    with worker_host(database_url, redis_url, tmp_path / "one", **lease) as one:
        job = ask(connection, order)
        (pid,) = one.reached("a")
        with worker_host(database_url, redis_url, tmp_path / "two", **lease) as two:
            one.kill()
            eventually(lambda: not psutil.pid_exists(pid))  # no orphan runs the job beside its next run
            two.reached("a")
            two.open("a")
            eventually(lambda: ended_runs(connection, job) == [("lost", "lease_expired"), ("processed", "")])
            eventually(lambda: two.outcomes() == ledger_outcomes(connection))
    assert images(connection, order) == {order.drafts[0]: 2}


def test_a_lease_is_renewed_for_as_long_as_the_job_runs(
    database_url: str, redis_url: str, tmp_path: Path, connection: Connection
) -> None:
    with worker_host(database_url, redis_url, tmp_path, TOOLKIT_LEASE="1") as host:
        job = ask(connection, new_order(connection, ["wait:a"]))
        host.reached("a")

        def lease() -> object:
            return connection.execute("SELECT lease_until FROM toolkit.run").fetchone()

        first = lease()
        eventually(lambda: lease() != first)
        eventually(  # well past the first lease
            lambda: connection.execute("SELECT now() > %s + interval '0.5 s'", first).fetchone() == (True,)
        )
        host.open("a")
        eventually(lambda: ended_runs(connection, job) == [("processed", "")])


def test_sigterm_lets_the_job_in_hand_finish_and_hands_back_the_rest(
    database_url: str, redis_url: str, tmp_path: Path, connection: Connection
) -> None:
    with worker_host(database_url, redis_url, tmp_path, processes=1) as host:
        order = new_order(connection, ["wait:a"])
        job = ask(connection, order)
        host.reached("a")
        rest = [ask(connection, new_order(connection)) for _ in range(3)]
        eventually(lambda: host.metric("job_queue_depth", state="queued") == 3)
        host.process.terminate()
        eventually(lambda: '"supervisor.stopping"' in host.log())
        host.open("a")
        assert host.process.wait(20) == 0
    assert ended_runs(connection, job) == [("processed", "")]
    assert images(connection, order) == {order.drafts[0]: 2}
    assert [ended_runs(connection, one) for one in rest] == [[], [], []]
    with worker_host(database_url, redis_url, tmp_path / "next"):
        for one in rest:
            eventually(lambda one=one: ended_runs(connection, one) == [("processed", "")])  # type: ignore[misc]


def test_ctrl_c_asks_the_supervisor_alone_and_a_second_request_ends_the_workers(
    database_url: str, redis_url: str, tmp_path: Path, connection: Connection
) -> None:
    with worker_host(database_url, redis_url, tmp_path) as host:
        job = ask(connection, new_order(connection, ["wait:a"]))
        host.reached("a")
        host.process.send_signal(signal.SIGINT)
        eventually(lambda: '"supervisor.stopping"' in host.log())
        host.process.terminate()
        assert host.process.wait(20) == 0
        assert ended_runs(connection, job) == [("lost", "killed")]
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "a.open").touch()
    with worker_host(database_url, redis_url, tmp_path / "next"):
        eventually(lambda: ended_runs(connection, job)[1:] == [("processed", "")])


def test_a_body_stuck_in_c_code_is_ended_by_the_supervisor(
    database_url: str, redis_url: str, tmp_path: Path, connection: Connection
) -> None:
    with worker_host(database_url, redis_url, tmp_path, spec="SHORT") as host:
        job = ask(connection, new_order(connection, ["stuck"]))
        eventually(lambda: ended_runs(connection, job)[:1] == [("lost", "killed")], within=15)
        assert host.metric("job_runs_total", outcome="lost") >= 0


def test_retries_come_when_they_are_due(
    database_url: str, redis_url: str, tmp_path: Path, connection: Connection
) -> None:
    with worker_host(database_url, redis_url, tmp_path) as host:
        job = ask(connection, new_order(connection, ["fail:http_5xx"]))
        eventually(lambda: len(ended_runs(connection, job)) == 2, within=15)
        eventually(lambda: host.metric("job_retries_total") >= 2)
        row = connection.execute(
            "SELECT extract(epoch FROM b.started_at - a.retry_at) FROM toolkit.run a JOIN toolkit.run b"
            " ON b.job_id = a.job_id AND b.number = 2 WHERE a.number = 1"
        ).fetchone()
        assert row is not None
        assert -1 < row[0] < 3


def test_a_host_that_starts_knows_when_the_job_last_went_well(
    database_url: str, redis_url: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with worker_host(database_url, redis_url, tmp_path / "first"):
        job = ask(connection, new_order(connection, 1))
        eventually(lambda: ended_runs(connection, job) == [("processed", "")])
    row = connection.execute("SELECT extract(epoch FROM finished_at)::float8 FROM toolkit.run").fetchone()
    with worker_host(database_url, redis_url, tmp_path / "second") as host:
        assert row == (host.metric("job_last_success_timestamp_seconds"),)
