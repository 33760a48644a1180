"""`toolkit trace ID --check` walks from metric to trace to log on a real worker, and says which trail is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from scripts.soaking.receiver import receiving
from tests.conftest import TEMPLATE, with_database
from tests.eventually import eventually
from tests.hosts import Host, worker_host
from tests.orders import ask, new_order
from tests.web import serving
from toolkit.embedded.servers import Servers


@dataclass(frozen=True)
class Place:
    """A host that has run two jobs, and its receiver's file."""

    host: Host
    database_url: str
    redis_url: str
    received: Path
    first: str
    last: str

    def check(self, job: str, *arguments: str | Path, code: int) -> dict[str, Any]:
        """The trails by name."""
        told = self.run(job, "--metrics", f"{self.host.url()}/metrics", "--json", *arguments)
        assert told.returncode == code, told.stdout + told.stderr
        return {trail["name"]: trail for trail in json.loads(told.stdout)["trails"]}

    def run(self, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url} | environ
        return subprocess.run(
            [sys.executable, "-m", "toolkit.cli", "trace", "--check", *arguments],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    @property
    def log(self) -> Path:
        return self.host.folder / "log"


@pytest.fixture(scope="module")
def place(servers: Servers, template_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("check")
    url = with_database(servers.postgres.url, "test_trace_check")
    with redis.Redis.from_url(servers.valkey.url) as broker:
        broker.flushdb()  # what another module left there would be adopted, and traced
    with psycopg.connect(servers.postgres.url, autocommit=True) as admin, receiving(folder) as receiver:
        admin.execute(f"CREATE DATABASE test_trace_check TEMPLATE {TEMPLATE}")
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
        with (
            worker_host(url, servers.valkey.url, folder / "host", **endpoint) as host,
            psycopg.connect(url, autocommit=True) as connection,
        ):
            jobs = []
            for _ in range(2):
                jobs.append(ask(connection, new_order(connection, 1)))
                eventually(lambda: host.outcomes().get("processed", 0) == len(jobs), within=20)
            eventually(lambda: receiver.file.read_text().count('"perform images"') >= len(jobs), within=20)
            eventually(
                lambda: connection.execute("SELECT count(DISTINCT job_id) FROM toolkit.trace WHERE job_id <> ''").fetchone()
                == (len(jobs),)
            )  # fmt: skip
            yield Place(host, url, servers.valkey.url, receiver.file, jobs[0], jobs[-1])
        admin.execute("DROP DATABASE test_trace_check WITH (FORCE)")


def test_every_trail_of_the_newest_run_is_found(place: Place) -> None:
    trails = place.check(place.last, "--log", place.log, "--receiver", place.received, code=0)
    assert {name: trail["state"] for name, trail in trails.items()} == dict.fromkeys(
        ("exemplar", "spans", "receiver", "log"), "found"
    )
    assert "job_run_duration_seconds" in trails["exemplar"]["evidence"]
    assert "run.processed" in trails["log"]["evidence"]


def test_a_log_of_another_day_and_a_receiver_that_lost_it_are_missing(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other.log"
    other.write_text("another day\n")
    trails = place.check(place.last, "--log", other, "--receiver", other, code=1)
    assert [trails[name]["state"] for name in ("exemplar", "spans", "receiver", "log")] == [
        "found", "found", "missing", "missing",
    ]  # fmt: skip


def test_a_trail_that_nobody_said_where_to_look_for_is_no_success(place: Place) -> None:
    trails = place.check(place.last, code=3)
    assert trails["log"]["state"] == "not looked for"
    assert "receiver" not in trails, "no spans are sent anywhere, as far as this environment says"
    told = place.run(
        place.last, "--metrics", f"{place.host.url()}/metrics", "--log", place.log,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318",
    )  # fmt: skip
    assert told.returncode == 3
    assert "--receiver" in told.stdout


def test_a_receiver_is_asked_by_trace_id(place: Place) -> None:
    line = next(
        line
        for line in place.received.read_text().splitlines()
        if place.last in line and '"perform images"' in line
    )
    span = json.loads(line)
    path = f"/api/traces/{span['traceId']}"
    with serving() as web:
        web.serve(path, line.encode(), Content_Type="application/json")
        url = f"{web.url}/api/traces/{{trace_id}}"
        found = place.check(place.last, "--log", place.log, "--receiver", url, code=0)["receiver"]
        lost = place.check(place.first, "--log", place.log, "--receiver", url, code=1)["receiver"]
    assert found["state"] == "found"
    assert (lost["state"], "404" in lost["evidence"]) == ("missing", True)


def test_what_cannot_be_checked_is_said(place: Place) -> None:
    told = place.run(place.last, "--metrics", "http://127.0.0.1:9/metrics")
    assert told.returncode == 4
    assert "does not answer" in told.stderr
