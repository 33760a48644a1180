"""`toolkit doctor`: finds each fault between ledger and broker, mends it, and finds nothing in a healthy system."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from rq import Queue
from rq.serializers import PickleSerializer

from jobs.images.spec import SPEC
from tests.brokering import REGISTRY, new_relay, work
from tests.hosts import ledger_outcomes, worker_host
from tests.ledger_rows import begin
from tests.orders import Order, ask, ended_runs, images, new_order, scalar
from tests.performing import performing
from toolkit.doctor.findings import Finding
from toolkit.doctor.look import Doctor
from toolkit.doctor.repair import Surgeon
from toolkit.ledger import audit
from toolkit.ledger.database import Database

QUEUE = "rq:queue:images"
WIP = "rq:wip:images"


@dataclass
class Ward:
    """A catalog, a ledger, a broker, and the doctor."""

    url: str
    redis_url: str
    database: Database
    broker: redis.Redis
    connection: psycopg.Connection

    def job(self, *, pushed: bool = True) -> tuple[Order, str]:
        """A job that waits, asked for and pushed a minute ago."""
        order = new_order(self.connection, 1)
        job = ask(self.connection, order)
        if pushed:
            assert new_relay(self.database, self.broker).run_once() == 1
        self.connection.execute(
            "UPDATE toolkit.intent SET created_at = now() - interval '1 minute', due_at = now() - interval '1 minute',"
            " pushed_at = pushed_at - interval '1 minute' WHERE job_id = %s", (job,),
        )  # fmt: skip
        return order, job

    def work(self) -> None:
        with performing(self.url) as performer:
            work(self.broker, performer)

    def diagnose(self) -> list[Finding]:
        return Doctor(self.database, self.broker, REGISTRY, now).diagnose(lambda _seconds: None)

    def repair(self) -> dict[str, int]:
        relay = new_relay(self.database, self.broker)
        surgeon = Surgeon(self.database, self.broker, REGISTRY, relay, now)
        return surgeon.repair(self.diagnose(), who="ada", reason="test")


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def ward(
    database_url: str, redis_url: str, database: Database, broker: redis.Redis, connection: psycopg.Connection
) -> Ward:
    return Ward(database_url, redis_url, database, broker, connection)


def dead_pid() -> int:
    """A process id that nobody has."""
    return next(pid for pid in range(4_000_000, 1, -1) if not psutil.pid_exists(pid))


def register(ward: Ward, name: str, *, pid: int, job: str = "", **fields: str) -> None:
    """A worker in RQ's books, as RQ 3.0 writes one; with an execution of the job."""
    key = f"rq:worker:{name}"
    beat = now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    ward.broker.hset(key, mapping={"pid": pid, "hostname": socket.gethostname(), "last_heartbeat": beat, "state": "busy",
                                   "queues": "images"} | fields)  # fmt: skip
    ward.broker.sadd("rq:workers", key)
    ward.broker.sadd("rq:workers:images", key)
    if job:
        ward.broker.lrem(QUEUE, 0, job)
        ward.broker.hset(f"rq:job:{job}", "status", "started")
        ward.broker.zadd(WIP, {f"{job}:exec1": time.time() + 300})
        ward.broker.zadd(f"rq:executions:{job}", {"exec1": time.time() + 300})
        ward.broker.sadd(f"{key}:executions", f"{job}:exec1")


# Each fault: seeds it, and returns what the finding is about.


def nowhere(ward: Ward, job: str) -> str:
    ward.broker.lrem(QUEUE, 0, job)
    return job


def nowhere_but_failed(ward: Ward, job: str) -> str:
    ward.broker.lrem(QUEUE, 0, job)
    ward.broker.zadd("rq:failed:images", {job: 2e9})
    return job


def twice_in_the_queue(ward: Ward, job: str) -> str:
    ward.broker.rpush(QUEUE, job)
    return job


def twice_waiting_and_scheduled(ward: Ward, job: str) -> str:
    ward.broker.zadd("rq:scheduled:images", {job: 2e9})
    return job


def waiting_and_started_by_nobody(ward: Ward, job: str) -> str:
    ward.broker.zadd(WIP, {f"{job}:exec1": 2e9})
    return job


def past_lease(ward: Ward, job: str) -> str:
    with ward.database.session() as session:
        begin(session, job, worker="other.1.0", lease=-1)
    register(ward, "other.1.0", pid=1, job=job, hostname="elsewhere")
    return job


def expiring(ward: Ward, job: str) -> str:
    ward.broker.expire(f"rq:job:{job}", 3600)
    return job


def hash_gone(ward: Ward, job: str) -> str:
    ward.broker.delete(f"rq:job:{job}")
    return job


def between_queue_and_worker(ward: Ward, job: str) -> str:
    ward.broker.lmove(QUEUE, f"{QUEUE}:intermediate", "LEFT", "RIGHT")
    return job


def started_by_a_worker_that_is_gone(ward: Ward, job: str) -> str:
    ward.broker.lrem(QUEUE, 0, job)
    ward.broker.zadd(WIP, {f"{job}:exec1": 2e9})
    return job


def unpushed(ward: Ward, job: str) -> str:
    ward.broker.lrem(QUEUE, 0, job)
    ward.broker.delete(f"rq:job:{job}")
    ward.connection.execute("UPDATE toolkit.intent SET pushed_at = NULL WHERE job_id = %s", (job,))
    return job


def worker_killed(ward: Ward, job: str) -> str:
    name = f"{socket.gethostname()}.9.0"
    with ward.database.session() as session:
        begin(session, job, worker=name)
    register(ward, name, pid=dead_pid(), job=job)
    return name


def worker_expired(ward: Ward, _job: str) -> str:
    ward.broker.sadd("rq:workers:images", "rq:worker:old")
    ward.broker.sadd("rq:workers", "rq:worker:old")
    return "old"


FAULTS: Mapping[str, tuple[Callable[[Ward, str], str], str, str]] = {
    "in no list": (nowhere, "nowhere", "in no list"),
    "in no list but failed": (nowhere_but_failed, "nowhere", "among the failed"),
    "in the queue twice": (twice_in_the_queue, "twice", "waiting and in waiting"),
    "waiting and scheduled": (twice_waiting_and_scheduled, "twice", "waiting and in scheduled"),
    "waiting and started": (waiting_and_started_by_nobody, "twice", "waiting and in started"),
    "running past its lease": (past_lease, "past-lease", "elsewhere|host"),
    "waiting with an expiring hash": (expiring, "expiring", "expires in 3[56]"),
    "waiting without a hash": (hash_gone, "expiring", "is gone"),
    "between queue and worker": (between_queue_and_worker, "stranded", "between"),
    "started by nobody": (started_by_a_worker_that_is_gone, "stranded", "gone"),
    "never pushed": (unpushed, "unpushed", "no relay"),
    "a killed worker": (worker_killed, "residue", "no process"),
    "an expired worker": (worker_expired, "residue", "expired"),
}


@pytest.mark.parametrize(("seed", "kind", "told"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_is_found_by_name_and_mended(
    seed: Callable[[Ward, str], str], kind: str, told: str, ward: Ward
) -> None:
    bystander = ward.job()[1]
    order, job = ward.job()
    assert ward.diagnose() == []
    ward.broker.lrem(QUEUE, 0, bystander)
    ward.broker.rpush(QUEUE, bystander)  # the job in question is the first in the queue
    subject = seed(ward, job)

    (finding,) = ward.diagnose()
    assert (finding.kind, finding.subject, finding.repairable) == (kind, subject, True)
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(finding.detail)
    assert "toolkit" in finding.mend

    assert ward.repair() == {kind: 1}
    assert ward.diagnose() == []
    ward.work()
    assert [outcome for outcome, _ in ended_runs(ward.connection, job)][-1:] == ["processed"]
    assert [outcome for outcome, _ in ended_runs(ward.connection, job)].count("processed") == 1
    assert ended_runs(ward.connection, bystander) == [("processed", "")]
    assert images(ward.connection, order) == {order.drafts[0]: 2}
    assert ward.diagnose() == []
    assert ward.broker.zcard(WIP) == 0
    with ward.database.session() as session:
        (act,) = audit.history(session, "repair")
    assert (act.who, act.reason, act.detail["kinds"]) == ("ada", "test", {kind: 1})
    assert act.detail["findings"][0]["subject"] == subject


def test_a_job_that_ended_well_and_that_rq_calls_failed_is_marked_finished(ward: Ward) -> None:
    order, job = ward.job()
    ward.work()
    ward.broker.zrem("rq:finished:images", job)
    ward.broker.zadd("rq:failed:images", {job: 2e9})
    ward.broker.hset(f"rq:job:{job}", "status", "failed")
    (finding,) = ward.diagnose()
    assert (finding.kind, finding.subject) == ("abandoned", job)
    assert ward.repair() == {"abandoned": 1}
    assert ward.diagnose() == []
    assert ward.broker.hget(f"rq:job:{job}", "status") == b"finished"
    assert 0 < ward.broker.ttl(f"rq:job:{job}") <= 500
    assert ended_runs(ward.connection, job) == [("processed", "")]
    assert images(ward.connection, order) == {order.drafts[0]: 2}


def test_a_job_in_hand_that_waits_as_well_stays_in_hand(ward: Ward) -> None:
    _, job = ward.job()
    name = f"{socket.gethostname()}.9.0"
    with ward.database.session() as session:
        begin(session, job, worker=name)
    register(ward, name, pid=os.getpid(), job=job)
    assert ward.diagnose() == []
    ward.broker.rpush(QUEUE, job)
    (finding,) = ward.diagnose()
    assert finding.kind == "twice"
    ward.repair()
    assert ward.diagnose() == []
    assert ward.broker.llen(QUEUE) == 0
    assert ward.broker.zrange(WIP, 0, -1) == [f"{job}:exec1".encode()]


def test_a_failed_job_that_the_ledger_does_not_know_is_taken_in(ward: Ward) -> None:
    order = new_order(ward.connection, 1)
    queue = Queue("images", connection=ward.broker, serializer=PickleSerializer)
    jobs = [queue.enqueue(SPEC.name, kwargs=order.payload), queue.enqueue("os.system", "true")]
    for job in jobs:
        ward.broker.lrem(QUEUE, 0, job.id)
        queue.failed_job_registry.add(job, ttl=3600)
    good, bad = sorted(ward.diagnose(), key=lambda finding: not finding.repairable)
    assert (good.kind, good.subject, good.repairable) == ("unknown", jobs[0].id, True)
    assert f"toolkit replay --job {jobs[0].id}" in good.mend
    assert (bad.kind, bad.subject, bad.repairable) == ("unknown", jobs[1].id, False)
    assert "no registered job" in bad.detail
    assert ward.repair() == {"unknown": 1}
    assert [finding.subject for finding in ward.diagnose()] == [jobs[1].id]
    assert ended_runs(ward.connection, jobs[0].id) == [("failed", "error")]


def test_what_one_look_sees_and_the_next_does_not_is_no_finding(ward: Ward) -> None:
    _, job = ward.job()
    nowhere(ward, job)
    doctor = Doctor(ward.database, ward.broker, REGISTRY, now)
    assert doctor.diagnose(lambda _seconds: ward.broker.rpush(QUEUE, job)) == []


def test_looking_writes_nothing(ward: Ward) -> None:
    for seed in (nowhere, twice_in_the_queue, started_by_a_worker_that_is_gone, worker_killed):
        seed(ward, ward.job()[1])
    ward.broker.zadd(WIP, {"gone:exec": 1.0})  # RQ's own look would move it
    keys = sorted(ward.broker.keys())
    before = [ward.broker.dump(key) for key in keys]
    rows = scalar(
        ward.connection, "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_xact_user_tables"
    )
    assert len(ward.diagnose()) >= 4
    assert sorted(ward.broker.keys()) == keys
    assert [ward.broker.dump(key) for key in keys] == before
    assert scalar(ward.connection, "SELECT count(*) FROM toolkit.audit") == 0
    assert rows == scalar(
        ward.connection, "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_xact_user_tables"
    )


def test_repairing_twice_at_once_leaves_one_of_each(ward: Ward) -> None:
    jobs = [ward.job()[1] for _ in range(5)]
    for job in jobs:
        nowhere(ward, job)
    findings = ward.diagnose()
    relay = new_relay(ward.database, ward.broker)
    for _ in range(2):
        Surgeon(ward.database, ward.broker, REGISTRY, relay, now).repair(findings, who="ada", reason="test")
    assert sorted(job.decode() for job in ward.broker.lrange(QUEUE, 0, -1)) == sorted(jobs)


def test_nothing_is_found_while_300_jobs_run(ward: Ward, tmp_path: Path) -> None:
    doctor = Doctor(ward.database, ward.broker, REGISTRY, now, grace=2.0)
    looks = 0
    with worker_host(ward.url, ward.redis_url, tmp_path, processes=2) as host:
        with ward.connection.transaction():
            jobs = [ask(ward.connection, new_order(ward.connection, 1)) for _ in range(300)]
        while scalar(ward.connection, "SELECT count(*) FROM toolkit.intent WHERE done_at IS NULL"):
            assert doctor.diagnose(lambda _seconds: time.sleep(0.5)) == []
            looks += 1
        assert doctor.diagnose(lambda _seconds: time.sleep(0.5)) == []
        assert ledger_outcomes(ward.connection) == {"processed": len(jobs)}
        assert host.terminate() == 0
    assert looks > 0, "the jobs were done before the first look"
    assert doctor.diagnose(lambda _seconds: None) == []


# -- as it is called ----------------------------------------------------------------------------------------------


@pytest.fixture
def toolkit(ward: Ward) -> Callable[..., subprocess.CompletedProcess[str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOOLKIT_", "OTEL_"))}
    environ = kept | {"DATABASE_URL": ward.url, "REDIS_URL": ward.redis_url, "TOOLKIT_OPERATOR": "ada"}

    def run(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "toolkit.cli", "doctor", *arguments], env=environ | changed, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    return run


def test_the_command_tells_finds_and_repairs(
    ward: Ward, toolkit: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    _, job = ward.job()
    healthy = toolkit("--json")
    assert (healthy.returncode, json.loads(healthy.stdout)) == (0, {"healthy": True, "findings": []})

    nowhere(ward, job)
    found = toolkit()
    assert found.returncode == 1
    assert f"nowhere\t{job}\timages" in found.stdout
    unasked = toolkit("--repair")
    assert unasked.returncode == 2
    assert "plan: nowhere: 1" in unasked.stderr
    assert "--yes" in unasked.stderr
    assert ward.broker.llen(QUEUE) == 0

    done = toolkit("--repair", "--yes", "--json", "--reason", "the broker was restored")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["repaired"] == {"nowhere": 1}
    assert ward.broker.lrange(QUEUE, 0, -1) == [job.encode()]
    with ward.database.session() as session:
        (act,) = audit.history(session, "repair")
    assert (act.who, act.reason) == ("ada", "the broker was restored")


def test_what_cannot_be_taken_in_is_dropped_by_the_command_that_is_printed(
    ward: Ward, toolkit: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    queue = Queue("images", connection=ward.broker, serializer=PickleSerializer)
    job = queue.enqueue("os.system", "true")
    ward.broker.lrem(QUEUE, 0, job.id)
    queue.failed_job_registry.add(job, ttl=3600)
    (finding,) = json.loads(toolkit("--json").stdout)["findings"]
    program, command, *arguments = shlex.split(finding["mend"].partition("then ")[2])
    assert (program, command) == ("toolkit", "doctor")

    assert toolkit(*arguments).returncode == 2, "it asks first"
    assert toolkit("--drop", "another", "--yes").returncode == 2
    assert ward.broker.exists(job.key) == 1
    done = toolkit(*arguments, "--yes", "--reason", "asked for anew")
    assert done.returncode == 0, done.stderr
    assert toolkit().returncode == 0
    assert ward.broker.exists(job.key, "rq:failed:images") == 0
    with ward.database.session() as session:
        (act,) = audit.history(session, "drop")
    assert (act.who, act.subject, act.reason) == ("ada", job.id, "asked for anew")
    assert "os.system" in act.detail["detail"]


def test_a_job_that_can_be_taken_in_is_not_dropped(
    ward: Ward, toolkit: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    queue = Queue("images", connection=ward.broker, serializer=PickleSerializer)
    job = queue.enqueue(SPEC.name, kwargs=new_order(ward.connection, 1).payload)
    ward.broker.lrem(QUEUE, 0, job.id)
    queue.failed_job_registry.add(job, ttl=3600)
    assert toolkit("--drop", job.id, "--yes").returncode == 2
    assert ward.broker.exists(job.key) == 1


def test_a_server_that_is_away_is_told_as_such(
    toolkit: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    away = toolkit(REDIS_URL="redis://127.0.0.1:1/0")
    assert away.returncode == 4
    assert "does not answer" in away.stderr
