"""PostgreSQL, the broker and the collector go away in mid-work, and come back: nothing is lost, nothing has two effects,
and /readyz says meanwhile what is missing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import psycopg
import pytest
import redis

from tests.eventually import eventually
from tests.hosts import Host, ledger_outcomes, worker_host
from tests.orders import Order, ask, images, new_order, scalar, sessions
from tests.template import prepare_template
from toolkit.embedded import servers as embedded
from toolkit.telemetry.otlp import read_spans


@dataclass
class Place:
    """Servers that a test may harm, and a host that works on them."""

    home: Path
    servers: embedded.Servers
    host: Host

    def connect(self) -> psycopg.Connection:
        """The test's own way in."""
        return psycopg.connect(self.servers.postgres.url, autocommit=True)

    def restart(self) -> None:
        """Bring back what is down, at the same addresses."""
        again = embedded.up(self.home)
        assert (again.postgres.url, again.valkey.url) == (self.servers.postgres.url, self.servers.valkey.url)
        self.servers = again

    def why_not_ready(self) -> str:
        answer = self.host.get("/readyz")
        return "" if answer.status_code == 200 else answer.text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Servers of this file's own."""
    folder = tmp_path_factory.mktemp("harmed")
    servers = embedded.up(folder)
    prepare_template(servers.postgres.url)
    yield folder
    embedded.destroy(folder)


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Iterator[Place]:
    servers = embedded.up(home)
    with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
        connection.execute('TRUNCATE toolkit.intent, "PurchaseOrder" CASCADE')
    with redis.Redis.from_url(servers.valkey.url) as broker:
        broker.flushall()
    with worker_host(servers.postgres.url, servers.valkey.url, tmp_path, processes=2) as host:
        yield Place(home, servers, host)


def all_done(connection: psycopg.Connection, orders: list[Order]) -> bool:
    return scalar(connection, "SELECT count(*) FROM toolkit.intent WHERE done_at IS NULL") == 0


def whole(connection: psycopg.Connection, orders: list[Order]) -> bool:
    return all(
        images(connection, order) == dict.fromkeys(order.drafts, 2) and sessions(connection, order) == 1
        for order in orders
    )


def one_effect_each(connection: psycopg.Connection, jobs: int) -> bool:
    return scalar(connection, "SELECT count(*) FROM toolkit.run WHERE outcome = 'processed'") == jobs


def ask_for(connection: psycopg.Connection, *names: str) -> Order:
    order = new_order(connection, names or ["Mug", "Cup"])
    ask(connection, order)
    return order


def test_postgresql_restarted_in_mid_work(place: Place) -> None:
    with place.connect() as connection:
        orders = [ask_for(connection, "Mug", "wait:a"), ask_for(connection, "wait:a", "Cup")]
        place.host.reached("a", 2)
        orders += [ask_for(connection) for _ in range(20)]
    psutil.Process(place.servers.postgres.pid).terminate()
    embedded.down(place.home)
    place.host.open("a")
    eventually(lambda: "database does not answer" in place.why_not_ready())
    assert place.host.get("/healthz").status_code == 200
    assert place.host.get("/metrics").status_code == 200
    place.restart()
    eventually(place.host.ready)
    with place.connect() as connection:
        eventually(lambda: all_done(connection, orders), within=30)
        assert whole(connection, orders)
        assert one_effect_each(connection, 22)
        eventually(lambda: place.host.outcomes() == ledger_outcomes(connection))


def test_the_broker_emptied_in_mid_work(place: Place) -> None:
    with place.connect() as connection:
        orders = [ask_for(connection, "wait:a"), ask_for(connection, "wait:a")]
        place.host.reached("a", 2)
        orders += [ask_for(connection) for _ in range(20)]
        eventually(
            lambda: scalar(connection, "SELECT count(*) FROM toolkit.intent WHERE pushed_at IS NULL") == 0
        )
        with redis.Redis.from_url(place.servers.valkey.url) as broker:
            broker.flushall()
        place.host.open("a")
        eventually(lambda: all_done(connection, orders), within=20)
        assert whole(connection, orders)
        assert one_effect_each(connection, 22)
        eventually(lambda: place.host.outcomes() == ledger_outcomes(connection))


def test_the_broker_killed_and_back_in_mid_work(place: Place) -> None:
    with place.connect() as connection:
        orders = [ask_for(connection, "wait:a"), ask_for(connection, "wait:a")]
        place.host.reached("a", 2)
        orders += [ask_for(connection) for _ in range(10)]
        psutil.Process(place.servers.valkey.pid).kill()
        eventually(lambda: "broker does not answer" in place.why_not_ready())
        orders += [ask_for(connection) for _ in range(10)]
        place.host.open("a")
        eventually(lambda: one_effect_each(connection, 2))  # a job in hand does not need the broker
        place.restart()
        eventually(place.host.ready, within=20)
        eventually(lambda: all_done(connection, orders), within=30)
        assert whole(connection, orders)
        assert one_effect_each(connection, 22)
        eventually(lambda: place.host.outcomes() == ledger_outcomes(connection))
    assert place.host.log().count('"worker.started"') < 12, "no storm of starts while the broker is away"


def test_a_broker_that_hangs_is_told_by_readyz(place: Place) -> None:
    broker = psutil.Process(place.servers.valkey.pid)
    broker.suspend()
    try:
        eventually(lambda: "broker does not answer" in place.why_not_ready(), within=15)
    finally:
        broker.resume()
    eventually(place.host.ready, within=20)
    with place.connect() as connection:
        orders = [ask_for(connection)]
        eventually(lambda: all_done(connection, orders), within=20)


@pytest.fixture
def hanging() -> Iterator[str]:
    """A collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_hanging_collector_costs_the_jobs_nothing_and_is_counted(
    hanging: str, database_url: str, redis_url: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with worker_host(database_url, redis_url, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=hanging) as host:
        orders = [ask_for(connection) for _ in range(10)]
        eventually(lambda: all_done(connection, orders))
        assert host.terminate() == 0
    assert whole(connection, orders)
    assert scalar(connection, "SELECT count(DISTINCT job_id) FROM toolkit.trace") == 10


def kept_jobs(connection: psycopg.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT job_id FROM toolkit.trace").fetchall()]


class Refuses(BaseHTTPRequestHandler):
    """A collector that will have none of it."""

    def do_POST(self) -> None:
        """Refuse for good."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_error(400)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's name
        """Say nothing."""


def test_what_a_collector_refuses_is_counted(
    database_url: str, redis_url: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as collector:
        Thread(target=collector.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{collector.server_address[1]}"
        with worker_host(database_url, redis_url, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=url) as host:
            orders = [ask_for(connection) for _ in range(3)]
            eventually(lambda: all_done(connection, orders))
            eventually(lambda: len({*kept_jobs(connection)}) == 3)
            made = sum(
                len(read_spans(data)) for (data,) in connection.execute("SELECT spans FROM toolkit.trace")
            )
            lost = {"signal": "spans", "reason": "export_failed"}
            eventually(lambda: host.metric("telemetry_dropped_total", **lost) == made)
        collector.shutdown()
    assert whole(connection, orders)
