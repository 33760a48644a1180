"""Committed intents reach the broker once, whatever becomes of relays and broker, and standard RQ tools see them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from threading import Event

import psycopg
import pytest
import redis
from redis.client import Pipeline
from rq import Queue
from rq.job import Job
from rq.registry import ScheduledJobRegistry
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from tests.brokering import new_relay, work
from tests.eventually import eventually
from tests.orders import ask, ended_runs, images, new_order, scalar
from tests.performing import Heard, Scripted, failing, performing, spec_with
from toolkit.broker.batch import Batch, Taken
from toolkit.broker.connection import connect
from toolkit.broker.place import Placer
from toolkit.broker.reconcile import PASSING, Reconciler
from toolkit.broker.relay import Doorbell, Relay
from toolkit.jobspec import RetryPolicy
from toolkit.ledger import intents
from toolkit.ledger.database import Database
from toolkit.run import Mode, RunRecord

Connection = psycopg.Connection
QUEUE = "rq:queue:images"


def queued(broker: redis.Redis) -> list[str]:
    return [job.decode() for job in broker.lrange(QUEUE, 0, -1)]


def asked(connection: Connection, jobs: int = 1) -> list[str]:
    order = new_order(connection, 1)
    return [ask(connection, order) for _ in range(jobs)]


def pushes(connection: Connection) -> set[int]:
    return {row[0] for row in connection.execute("SELECT pushes FROM toolkit.intent").fetchall()}


def test_an_intent_is_pushed_when_it_is_committed_and_not_before(
    database: Database, broker: redis.Redis, database_url: str, connection: Connection
) -> None:
    relay = new_relay(database, broker)
    with psycopg.connect(database_url) as importer:
        (job,) = asked(importer)
        assert relay.run_once() == 0
        importer.commit()
    assert relay.run_once() == 1
    assert relay.run_once() == 0
    assert queued(broker) == [job]


def test_two_relays_at_once_push_every_intent_once(
    database: Database, broker: redis.Redis, connection: Connection
) -> None:
    jobs = asked(connection, 300)

    def drain(relay: Relay) -> int:
        moved = 0
        while batch := relay.run_once():
            moved += batch
        return moved

    relays = [new_relay(database, broker, batch=7) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        moved = list(threads.map(drain, relays))
    assert sum(moved) == 300
    assert all(moved), "both had a part in it"
    assert sorted(queued(broker)) == sorted(jobs)
    assert pushes(connection) == {1}


def test_a_relay_that_dies_between_its_push_and_its_commit_doubles_nothing(
    database: Database, broker: redis.Redis, connection: Connection
) -> None:
    (job,) = asked(connection)
    relay = new_relay(database, broker)
    with database.session() as session:
        session.execute("BEGIN")
        assert relay.push(intents.claim_unpushed(session, tuple(relay.registry.specs), 10)) == 1
        session.execute("ROLLBACK")  # what PostgreSQL does for a client that is gone
    assert queued(broker) == [job]
    assert relay.run_once() == 1
    assert queued(broker) == [job]


def test_a_pushed_job_that_already_runs_is_not_put_beside_itself(
    database: Database, broker: redis.Redis, connection: Connection
) -> None:
    (job,) = asked(connection)
    relay = new_relay(database, broker)
    relay.run_once()
    broker.lpop(QUEUE)
    broker.hset(Job.key_for(job), "status", "started")
    connection.execute("UPDATE toolkit.intent SET pushed_at = NULL")
    relay.run_once()
    assert queued(broker) == []


def test_intents_wait_while_the_broker_is_down(
    database: Database, connection: Connection, broker: redis.Redis
) -> None:
    asked(connection, 3)
    with connect("redis://127.0.0.1:1") as nobody, pytest.raises(redis.ConnectionError):
        new_relay(database, nobody).run_once()
    assert scalar(connection, "SELECT count(*) FROM toolkit.intent WHERE pushed_at IS NULL") == 3
    assert new_relay(database, broker).run_once() == 3


def test_an_intent_of_a_job_that_this_release_does_not_know_holds_up_nobody(
    database: Database, broker: redis.Redis, connection: Connection
) -> None:
    connection.execute(
        "INSERT INTO toolkit.job_type (name, queue, fields, max_bytes) VALUES ('of-the-next-release', 'images', '{}', 99)"
    )
    connection.execute("SELECT toolkit.enqueue('of-the-next-release', '{}')")
    (job,) = asked(connection)
    relay = new_relay(database, broker)
    relay.run_once()
    assert queued(broker) == [job]
    assert scalar(connection, "SELECT count(*) FROM toolkit.intent WHERE pushed_at IS NULL") == 1
    broker.delete(QUEUE)
    connection.execute(
        "UPDATE toolkit.intent SET pushed_at = now() - interval '1 hour', due_at = now() - interval '1 hour'"
    )
    assert Reconciler(database, broker, relay, grace=0.0).run_once() == 1


def test_the_doorbell_rings_when_an_intent_is_committed(database_url: str, connection: Connection) -> None:
    with closing(Doorbell(database_url)) as doorbell, ThreadPoolExecutor(1) as thread:
        doorbell.wait(0.01, Event())  # it listens from here on
        waiting = thread.submit(doorbell.wait, 30, Event())
        asked(connection)
        waiting.result(10)


def test_a_job_carries_its_trace_in_the_broker_and_only_json(
    database: Database, broker: redis.Redis, connection: Connection
) -> None:
    order = new_order(connection, 1)
    parent = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    connection.execute(
        "SELECT toolkit.enqueue('background-image-processing', %s, %s, 'k=v')",
        (json.dumps(order.payload), parent),
    )
    new_relay(database, broker).run_once()
    (job_id,) = queued(broker)
    job = Job.fetch(job_id, connection=broker, serializer=JSONSerializer)
    assert job.meta == {"traceparent": parent, "tracestate": "k=v"}
    assert (job.func_name, job.kwargs, job.origin) == ("background-image-processing", order.payload, "images")


def test_a_retry_is_scheduled_in_rq_and_comes_back_to_its_queue(
    database: Database, broker: redis.Redis, database_url: str, connection: Connection
) -> None:
    order = new_order(connection, ["flaky"])
    job = ask(connection, order)
    new_relay(database, broker).run_once()
    spec = spec_with(retry=RetryPolicy(attempts=1, base=60.0))
    with performing(database_url, Scripted({"flaky": failing()}), spec=spec) as performer:
        work(broker, performer)
    assert ended_runs(connection, job) == [("failed", "transient")]
    scheduled = ScheduledJobRegistry("images", connection=broker, serializer=JSONSerializer)
    assert broker.zrange(scheduled.key, 0, -1) == [job.encode()]
    now = scalar(connection, "SELECT extract(epoch FROM now())::int")
    assert 55 <= (broker.zscore(scheduled.key, job) or 0) - now <= 65
    assert Reconciler(database, broker, new_relay(database, broker), grace=0.0).run_once() == 0
    broker.zadd(scheduled.key, {job: 1})
    scheduler = RQScheduler(["images"], connection=broker, serializer=JSONSerializer, logging_level="WARNING")
    scheduler.acquire_locks()
    scheduler.enqueue_scheduled_jobs()
    scheduler.release_locks()
    with performing(database_url, spec=spec) as performer:
        work(broker, performer)
    assert ended_runs(connection, job) == [("failed", "transient"), ("processed", "")]
    assert set(images(connection, order).values()) == {2}


def test_a_job_that_failed_for_good_lies_in_rqs_failed_registry(
    database: Database, broker: redis.Redis, database_url: str, connection: Connection
) -> None:
    job = ask(connection, new_order(connection, ["flaky"]))
    new_relay(database, broker).run_once()
    spec = spec_with(retry=RetryPolicy(attempts=0))
    with performing(database_url, Scripted({"flaky": failing()}), spec=spec) as performer:
        work(broker, performer)
    assert broker.zrange("rq:failed:images", 0, -1) == [job.encode()]
    failed = Job.fetch(job, connection=broker, serializer=JSONSerializer)
    assert "the shop does not answer" in (failed.latest_result().exc_string or "")  # type: ignore[union-attr]


# -- the tools that people have ------------------------------------------------------------------------------------


def rq(redis_url: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rq.cli", *arguments, "--url", redis_url],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return done.stdout


def test_rq_info_shows_queue_and_jobs(
    database: Database, broker: redis.Redis, redis_url: str, connection: Connection
) -> None:
    asked(connection, 2)
    new_relay(database, broker).run_once()
    told = rq(redis_url, "info", "--raw")
    assert "queue images 2" in told
    assert len(queued(broker)) == 2, "looking changes nothing"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # rq-dashboard's own
def test_rq_dashboard_shows_the_jobs(
    database: Database, broker: redis.Redis, redis_url: str, connection: Connection
) -> None:
    import rq_dashboard  # noqa: PLC0415  Flask loads only here
    from flask import Flask  # noqa: PLC0415

    (job,) = asked(connection)
    new_relay(database, broker).run_once()
    app = Flask(__name__)
    app.config.from_object(rq_dashboard.default_settings)
    app.config["RQ_DASHBOARD_REDIS_URL"] = redis_url
    rq_dashboard.web.setup_rq_connection(app)
    app.register_blueprint(rq_dashboard.blueprint)
    client = app.test_client()
    page = client.get("/0/data/jobs/images/queued/8/asc/1.json")
    assert page.status_code == 200
    assert [one["id"] for one in page.json["jobs"]] == [job]
    assert "background-image-processing" in page.json["jobs"][0]["description"]


def test_a_suspended_queue_is_left_alone(
    database: Database, broker: redis.Redis, database_url: str, connection: Connection
) -> None:
    jobs = asked(connection, 2)
    new_relay(database, broker).run_once()

    def suspend_now(_product: object) -> None:
        suspend(broker)

    with performing(database_url, Scripted({"Mug 0": suspend_now})) as performer:
        work(broker, performer)
        assert queued(broker) == jobs[1:], "the first one was in hand; the second waits"
        resume(broker)
        work(broker, performer)
    assert queued(broker) == []


@pytest.mark.parametrize("taking", [1, 2], ids=["while idle", "with the end of a job"])
def test_a_worker_that_is_told_to_stop_hands_back_what_it_took_and_did_not_begin(
    taking: int, database: Database, broker: redis.Redis, *, database_url: str, connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    jobs = asked(connection, 3)
    new_relay(database, broker).run_once()
    run, taken = Batch.run, []

    def stopped(batch: Batch, pipe: Pipeline, *, take: bool) -> Taken:
        answer = run(batch, pipe, take=take)
        taken.extend([answer.job_id] if answer.job_id else [])
        if take and len(taken) == taking:
            os.kill(os.getpid(), signal.SIGTERM)
        return answer

    monkeypatch.setattr(Batch, "run", stopped)
    sink = Heard()
    with performing(database_url, sink=sink) as performer:
        work(broker, performer)
    assert [record.job_id for record in sink.records] == jobs[: taking - 1]
    assert queued(broker) == jobs[taking - 1 :], "in their order"
    assert broker.llen(f"{QUEUE}:intermediate") == 0


def test_junk_in_the_queue_does_not_end_a_worker(
    database: Database, broker: redis.Redis, database_url: str, connection: Connection
) -> None:
    broker.rpush(QUEUE, b"\xff\x00", "no-such-job", "bad-date")
    broker.hset("rq:job:bad-date", mapping={"data": "{}", "created_at": "yesterday"})
    jobs = asked(connection, 2)
    new_relay(database, broker).run_once()
    sink = Heard()
    with performing(database_url, sink=sink) as performer:
        work(broker, performer)
    assert [record.job_id for record in sink.records] == jobs
    assert queued(broker) == []
    assert broker.llen(f"{QUEUE}:intermediate") == 0


def test_a_worker_that_cannot_tell_the_ledger_ends_and_calls_no_job_failed(
    database: Database, broker: redis.Redis, database_url: str, connection: Connection
) -> None:
    jobs = asked(connection, 2)
    new_relay(database, broker).run_once()

    class Away(Heard):
        def ended(self, ended: RunRecord) -> None:  # noqa: ARG002  Sink's words
            raise psycopg.OperationalError("the connection is lost")

    sink = Away()
    with performing(database_url, sink=sink) as performer:
        work(broker, performer)
    assert [run.job_id for run in sink.begun] == jobs[:1], "it goes on to no other job"
    assert broker.zrange("rq:failed:images", 0, -1) == []


# -- what the broker forgot ----------------------------------------------------------------------------------------


def test_jobs_of_an_emptied_broker_are_pushed_again_and_have_one_effect(
    database: Database, broker: redis.Redis, database_url: str, connection: Connection
) -> None:
    order = new_order(connection)
    job = ask(connection, order)
    relay = new_relay(database, broker)
    reconciler = Reconciler(database, broker, relay)
    assert reconciler.broker_was_emptied(), "a new broker counts as empty"
    relay.run_once()
    assert not reconciler.broker_was_emptied()
    broker.flushdb()
    assert reconciler.broker_was_emptied()
    assert reconciler.run_once(grace=0.0) == 1
    assert reconciler.run_once(grace=0.0) == 0
    assert queued(broker) == [job]
    sink = Heard()
    with performing(database_url, sink=sink) as performer:
        work(broker, performer)
    assert reconciler.run_once(grace=0.0) == 0
    assert set(images(connection, order).values()) == {2}
    assert len(sink.records) == 1


def test_a_job_that_runs_is_not_pushed_again_though_the_broker_forgot_it(
    database: Database, broker: redis.Redis, database_url: str, connection: Connection
) -> None:
    ask(connection, new_order(connection, ["x"]))
    relay = new_relay(database, broker)
    relay.run_once()
    pushed: list[int] = []

    def forget(_product: object) -> None:
        broker.flushdb()
        pushed.append(Reconciler(database, broker, relay).run_once(grace=0.0))

    with performing(database_url, Scripted({"x": forget})) as performer:
        work(broker, performer)
    assert pushed == [0]


def test_a_job_whose_worker_died_before_its_run_began_is_taken_back(
    database: Database, broker: redis.Redis, connection: Connection
) -> None:
    (job,) = asked(connection)
    relay = new_relay(database, broker)
    relay.run_once()
    broker.lmove(QUEUE, f"{QUEUE}:intermediate", "LEFT", "RIGHT")
    clock = iter((0.0, PASSING / 2, PASSING, PASSING + 1)).__next__
    reconciler = Reconciler(database, broker, relay, grace=0.0, clock=clock)
    assert [reconciler.run_once() for _ in range(4)] == [0, 0, 1, 0]
    assert queued(broker) == [job]
    assert broker.llen(f"{QUEUE}:intermediate") == 0


@pytest.mark.parametrize("state", ["began and failed in passing", "never began"])
def test_an_inline_job_whose_importer_went_away_is_done_by_a_worker(
    state: str, database: Database, broker: redis.Redis, database_url: str, connection: Connection
) -> None:
    order = new_order(connection, ["x"])
    job = ask(connection, order)
    connection.execute("UPDATE toolkit.intent SET mode = 'sync', created_at = created_at - interval '1 hour'")
    if state != "never began":
        with performing(database_url, Scripted({"x": failing()})) as performer:
            performer.perform(job, mode=Mode.SYNC)
    connection.execute("UPDATE toolkit.intent SET due_at = now() - interval '1 minute'")
    relay = new_relay(database, broker)
    assert relay.run_once() == 0, "an inline job is its importer's first of all"
    assert Reconciler(database, broker, relay, grace=0.0).run_once() == 1
    with performing(database_url) as performer:
        work(broker, performer)
    assert images(connection, order) == {order.drafts[0]: 2}


def test_an_inline_job_that_was_just_asked_for_is_left_to_its_importer(
    database: Database, broker: redis.Redis, connection: Connection
) -> None:
    asked(connection)
    connection.execute("UPDATE toolkit.intent SET mode = 'sync'")
    assert Reconciler(database, broker, new_relay(database, broker), grace=0.0).run_once() == 0


@contextmanager
def looking_all_the_time(reconciler: Reconciler) -> Iterator[list[int]]:
    """Reconcile without a pause, beside what the test does."""
    stop, looks = Event(), []

    def look() -> None:
        while not stop.is_set():
            looks.append(reconciler.run_once(grace=0.0))

    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(look)
        try:
            yield looks
        finally:
            stop.set()
            ended.result(10)


def test_reconciling_disturbs_nobody_who_is_at_work(
    database: Database, broker: redis.Redis, database_url: str, connection: Connection
) -> None:
    jobs = asked(connection, 150)
    relay = new_relay(database, broker, batch=10)
    with looking_all_the_time(Reconciler(database, broker, relay)) as looks:
        with performing(database_url, limited=True) as performer:
            while relay.run_once():
                work(broker, performer)
        eventually(lambda: len(looks) > 20)
    runs = scalar(connection, "SELECT count(*) FROM toolkit.run")
    assert (sum(looks), pushes(connection), runs) == (0, {1}, len(jobs))


def test_placing_again_takes_a_job_out_of_wherever_it_was(broker: redis.Redis) -> None:
    placer = Placer(broker)
    fields = {"status": "queued", "data": "{}"}
    assert placer.place("images", [("j1", fields)]) == [True]
    assert placer.place("images", [("j1", fields)]) == [False]
    for place in (f"{QUEUE}:intermediate",):
        broker.rpush(place, "j1")
    for registry in ("rq:scheduled:images", "rq:failed:images", "rq:finished:images"):
        broker.zadd(registry, {"j1": 1})
    assert placer.place("images", [("j1", fields)], again=True) == [True]
    assert queued(broker) == ["j1"]
    for registry in ("rq:scheduled:images", "rq:failed:images", "rq:finished:images"):
        assert broker.zrange(registry, 0, -1) == []
    assert Queue("images", connection=broker, serializer=JSONSerializer).get_job_ids() == ["j1"]
