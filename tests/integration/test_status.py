"""`toolkit status` beside the process table: workers that died or were stopped are known at once, and not shot at blindly."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from rq import Queue, SimpleWorker

from tests.eventually import eventually
from toolkit.app import App
from toolkit.ledger import toggles
from toolkit.look import look
from toolkit.settings import Settings

_ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def broker(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def stopped() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        yield process
        process.kill()


def status(*options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command."""
    return subprocess.run(
        [sys.executable, "-m", "toolkit.cli", "status", *options], env=os.environ | environ, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip


def ended() -> int:
    """The pid of a process that is no more."""
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    return process.pid


def register(broker: redis.Redis, name: str, pid: int, host: str = "") -> None:
    """A worker in RQ's books, its heartbeat fresh."""
    worker = SimpleWorker([Queue("images", connection=broker)], name=name, connection=broker)
    worker.register_birth()
    broker.hset(worker.key, mapping={"pid": pid, "hostname": host or socket.gethostname()})


def test_each_worker_of_this_host_is_looked_up_among_its_processes(
    database_url: str, redis_url: str, broker: redis.Redis, stopped: subprocess.Popen[bytes]
) -> None:
    gone = ended()
    register(broker, "alive", os.getpid())
    register(broker, "gone", gone)
    register(broker, "stopped", stopped.pid)
    register(broker, "elsewhere", gone, host="another")
    with App(Settings.from_env({"DATABASE_URL": database_url, "REDIS_URL": redis_url})) as app:
        seen = look(app, patience=10.0)
    states = {worker.name: seen.worker_state(worker) for worker in seen.workers or ()}
    assert states.pop("alive") == states.pop("elsewhere") not in {"dead", "stopped", "silent"}
    assert states == {"gone": "dead", "stopped": "stopped"}


def test_the_runbook_ends_a_stopped_worker_and_never_the_pid_of_a_dead_one(
    database_url: str, redis_url: str, broker: redis.Redis, stopped: subprocess.Popen[bytes]
) -> None:
    gone = ended()
    register(broker, "gone", gone)
    register(broker, "stopped", stopped.pid)
    page = (_ROOT / "runbooks" / "QueueStuck.md").read_text()
    look_at, end = re.findall(r"```sh\n(pids=.*?)```", page, re.DOTALL)
    environ = os.environ | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def run(block: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/bash", "-c", f"{block}\necho pids: $pids"], env=environ, capture_output=True, text=True, timeout=30,
            check=True,
        )  # fmt: skip

    for block in (look_at, end):
        assert run(block).stdout.splitlines()[-1] == f"pids: {stopped.pid}"
    assert stopped.wait(5) == -signal.SIGKILL


def test_settings_at_their_defaults_are_shown_when_asked_for(database_url: str, redis_url: str) -> None:
    servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "TOOLKIT_RELEASE": "r-7"}
    few, every = status(**servers), status("--settings", **servers)
    assert ("r-7" in few.stdout, "TOOLKIT_LEASE" in few.stdout, "--settings" in few.stderr) == (
        True,
        False,
        True,
    )
    assert ("r-7" in every.stdout, "TOOLKIT_LEASE" in every.stdout, "--settings" in every.stderr) == (
        True,
        True,
        False,
    )


def test_without_the_ledger_no_mode_is_claimed_for_orders_that_nobody_can_make(redis_url: str) -> None:
    done = status(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", REDIS_URL=redis_url)
    assert done.returncode == 4
    assert "ASYNC_IMAGE_PROCESSING: not known\nno order can be made" in done.stdout


def test_a_hold_is_told_with_its_end(database_url: str, redis_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as session:
        toggles.flip(
            session, "ASYNC_IMAGE_PROCESSING", version=0, enabled=False, percent=100, pins={}, jobs=[], hold=240.0, lease=None,
            who="ann", reason="23503",
        )  # fmt: skip
    done = status(DATABASE_URL=database_url, REDIS_URL=redis_url)
    assert "held in the ledger while they are reclaimed, until" in done.stdout
