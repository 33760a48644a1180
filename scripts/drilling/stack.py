"""One real stack for one drill: embedded servers, a web shop, `toolkit worker`, Prometheus, Alertmanager and a receiver.

Everything is started here, listens on loopback, lives in one folder, and is ended by pid. A minute is a second (speed.py).
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, LiteralString

import httpx
import psutil
import psycopg
import yaml

from jobs.demo.shop import Shop
from scripts.drilling.receiver import Collector, Receiver, collector, receiver, until
from scripts.drilling.runbook import Place
from scripts.drilling.speed import fast_manager, fast_prometheus, fast_rules
from toolkit.embedded import servers

ROOT: Final = Path(__file__).parents[2]
DASHBOARDS: Final = ROOT / "dashboards"
TOOLS: Final = ROOT / ".venv" / "tools"
MERCHANT: Final = "drill-merchant"
_numbers = itertools.count(1)


@dataclass(slots=True)
class Stack:
    """What a scenario works with."""

    folder: Path
    environment: dict[str, str]
    found: servers.Servers
    shop: Shop
    receiver: Receiver
    collector: Collector
    prometheus: str
    manager: str
    supervisors: list[subprocess.Popen[bytes]] = field(default_factory=list)
    monitor: subprocess.Popen[bytes] | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _traffic: list[threading.Thread] = field(default_factory=list)

    @property
    def metrics(self) -> str:
        """Where the supervisor serves."""
        return f"http://127.0.0.1:{self.environment['TOOLKIT_METRICS_PORT']}"

    @property
    def place(self) -> Place:
        """Where this stack's runbook blocks run."""
        environment = self.environment | {
            "LOG": str(self.folder / "worker.log"), "METRICS": self.metrics, "PROMETHEUS": self.prometheus,
            "ALERTMANAGER": self.manager, "OTLP": self.environment["OTEL_EXPORTER_OTLP_ENDPOINT"],
        }  # fmt: skip
        return Place(self.folder, environment, self.found.postgres.url, self.prometheus)

    # Orders

    def order(self, skus: Sequence[str] = ("MUG-01", "LAMP-02"), *, delete: bool = False) -> dict[str, str]:
        """An order with a draft a sku, and the request for its job, in one transaction; the draft's id by sku. `delete`:
        something else deletes the drafts at once."""
        with psycopg.connect(self.found.postgres.url) as connection:
            return self._write(connection, skus, delete=delete)

    def orders(self, count: int) -> None:
        """So many orders of all that the shop has, committed in one moment."""
        with psycopg.connect(self.found.postgres.url) as connection, connection.pipeline():
            for _ in range(count):
                self._write(connection, tuple(self.shop.products))

    def _write(
        self, connection: psycopg.Connection, skus: Sequence[str], *, delete: bool = False
    ) -> dict[str, str]:
        stem = f"{next(_numbers):05}{uuid.uuid4().hex[:8]}"
        order = f"po{stem}"
        drafts = {sku: f"d{stem}{at}" for at, sku in enumerate(skus)}
        connection.execute(
            'INSERT INTO "Merchant" (id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING', (MERCHANT, "Drill")
        )
        connection.execute(
            'INSERT INTO "PurchaseOrder" (id, "merchantId", number, status, "updatedAt")'
            " VALUES (%s, %s, %s, 'imported', now())",
            (order, MERCHANT, stem),
        )
        for sku, draft in drafts.items():
            connection.execute(
                'INSERT INTO "POLineItem" (id, "purchaseOrderId", sku, "productName", quantity, "unitCost", "productUrl")'
                " VALUES (%s, %s, %s, %s, 1, 1, %s)",
                (f"l{draft}", order, sku, sku, self.shop.product_url(sku)),
            )
            connection.execute(
                'INSERT INTO "ProductDraft" (id, "purchaseOrderId", "lineItemId", "merchantId", title, status, "updatedAt")'
                " VALUES (%s, %s, %s, %s, %s, 'draft', now())",
                (draft, order, f"l{draft}", MERCHANT, sku),
            )
        connection.execute(
            "SELECT toolkit.enqueue('background-image-processing',"
            " jsonb_build_object('purchaseOrderId', %s::text, 'merchantId', %s::text))",
            (order, MERCHANT),
        )
        if delete:
            connection.execute('DELETE FROM "ProductDraft" WHERE "purchaseOrderId" = %s', (order,))
        return drafts

    def execute(self, statement: LiteralString, *values: str) -> None:
        """A statement of somebody with a psql."""
        with psycopg.connect(self.found.postgres.url, autocommit=True) as connection:
            connection.execute(statement, values or None)

    def traffic(self, step: Callable[[int], object], every: float) -> None:
        """Call `step(n)` every so many seconds in the background, until `calm`."""

        def go_on() -> None:
            for number in itertools.count():
                step(number)
                if self._ended.wait(every):
                    return

        self._ended.clear()
        thread = threading.Thread(target=go_on, daemon=True)
        self._traffic.append(thread)
        thread.start()

    def calm(self) -> None:
        """No more traffic."""
        self._ended.set()
        for thread in self._traffic:
            thread.join()
        self._traffic.clear()

    # Processes

    def start_worker(self, **environ: str) -> None:
        """A supervisor with two worker processes, ready."""
        with (self.folder / "worker.log").open("ab") as log:
            self.supervisors.append(
                subprocess.Popen(
                    [sys.executable, "-m", "toolkit.cli", "worker", "--processes", environ.pop("PROCESSES", "2")],
                    cwd=ROOT, env=self.environment | environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )
            )  # fmt: skip
        until(self.ready, within=90, what="a worker")

    def ready(self) -> bool:
        """The supervisor says that it can work."""
        try:
            return httpx.get(f"{self.metrics}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def stop_worker(self) -> None:
        """Its jobs in hand finish first."""
        for supervisor in self.supervisors:
            if supervisor.poll() is None:
                supervisor.terminate()
                supervisor.wait(30)
        self.supervisors.clear()

    def workers(self) -> list[psutil.Process]:
        """The worker processes."""
        return [
            child
            for one in self.supervisors
            if one.poll() is None
            for child in psutil.Process(one.pid).children()
        ]

    def value(self, metric: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels, as the supervisor serves it now."""
        total = 0.0
        for line in httpx.get(f"{self.metrics}/metrics", timeout=5).text.splitlines():
            name, _, rest = line.partition("{")
            if name == metric and all(f'{key}="{wanted}"' in rest for key, wanted in labels.items()):
                total += float(line.rpartition(" ")[2])
        return total

    def start_monitor(self) -> None:
        """Prometheus."""
        port = self.prometheus.rpartition(":")[2]
        with (self.folder / "prometheus.log").open("ab") as log:
            self.monitor = subprocess.Popen(
                [
                    TOOLS / "bin" / "prometheus", f"--config.file={self.folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self.folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}",
                    "--rules.alert.resend-delay=500ms", "--enable-feature=exemplar-storage",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        until(lambda: _answers(f"{self.prometheus}/-/ready"), within=20, what="Prometheus")

    def firing(self) -> set[str]:
        """Alerts that Prometheus calls firing."""
        found = httpx.get(f"{self.prometheus}/api/v1/alerts", timeout=5).json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}


@contextmanager
def stack(folder: Path) -> Iterator[Stack]:
    """A stack without workers yet. Whatever was started in it is ended, whatever happens."""
    folder.mkdir(parents=True)
    home = folder / "home"
    with ExitStack() as opened:
        opened.callback(servers.destroy, home)
        found = servers.up(home, extra_options={"fsync": "off"})
        told = opened.enter_context(receiver())
        collecting = opened.enter_context(collector())
        shop = opened.enter_context(Shop())
        metrics, prometheus, manager = _free_ports(3)
        environment = _environment(home, metrics, collecting.address)
        subprocess.run([sys.executable, "-m", "toolkit.cli", "init"], cwd=ROOT, env=environment, check=True,
                       capture_output=True)  # fmt: skip
        _configure(folder, metrics, manager, told.address)
        one = Stack(
            folder,
            environment,
            found,
            shop,
            told,
            collecting,
            f"http://127.0.0.1:{prometheus}",
            f"http://127.0.0.1:{manager}",
        )
        opened.callback(_end_all, one)
        managing = _start_manager(folder, manager)
        opened.callback(_end, managing)
        opened.callback(one.calm)
        until(lambda: _answers(f"{one.manager}/-/ready"), within=20, what="Alertmanager")
        yield one


def _environment(home: Path, metrics: int, collecting: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TOOLKIT_", "OTEL_", "ASYNC_"))
    }
    for name in ("DATABASE_URL", "REDIS_URL"):
        kept.pop(name, None)
    return kept | {
        "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "TOOLKIT_HOME": str(home),
        "TOOLKIT_METRICS_PORT": str(metrics),
        "TOOLKIT_LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collecting}",
        "TOOLKIT_OPERATOR": "drill",
        "TOOLKIT_IMAGES_ALLOW_PRIVATE": "true",
        "TOOLKIT_IMAGES_PER_DRAFT": "1",
    }


def _configure(folder: Path, metrics: int, manager: int, receiving: str) -> None:
    """Write the fast copies. JSON is YAML."""
    (folder / "rules").mkdir()
    for path in (DASHBOARDS / "rules").glob("*.yml"):
        (folder / "rules" / path.name).write_text(json.dumps(fast_rules(_yaml(path))))
    watching = fast_prometheus(
        _yaml(DASHBOARDS / "prometheus.yml"),
        target=f"127.0.0.1:{metrics}",
        manager=f"127.0.0.1:{manager}",
        interval="500ms",
    )
    (folder / "prometheus.yml").write_text(json.dumps(watching))
    telling = fast_manager(_yaml(DASHBOARDS / "alertmanager.yml"), receiving)
    (folder / "alertmanager.yml").write_text(json.dumps(telling))


def _yaml(path: Path) -> Mapping[str, object]:
    document: Mapping[str, object] = yaml.safe_load(path.read_text())
    return document


def _start_manager(folder: Path, port: int) -> subprocess.Popen[bytes]:
    with (folder / "alertmanager.log").open("ab") as log:
        return subprocess.Popen(
            [
                TOOLS / "bin" / "alertmanager", f"--config.file={folder / 'alertmanager.yml'}", "--cluster.listen-address=",
                f"--storage.path={folder / 'alertmanager'}", f"--web.listen-address=127.0.0.1:{port}",
            ],
            cwd=TOOLS / "templates", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip


def _end_all(one: Stack) -> None:
    """End Prometheus, the supervisors that were started here, and those that runbook commands started in this home."""
    if one.monitor is not None:
        _end(one.monitor)
    one.shop.heal()
    for supervisor in one.supervisors:
        supervisor.kill()  # its workers die with it, stopped ones too
        supervisor.wait(10)
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("TOOLKIT_HOME") == one.environment["TOOLKIT_HOME"]
        except (psutil.Error, OSError):
            continue
        if mine and "toolkit" in " ".join(process.cmdline()):
            process.kill()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    taken = [socket.socket() for _ in range(count)]
    try:
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]
    finally:
        for one in taken:
            one.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
