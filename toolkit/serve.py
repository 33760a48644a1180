"""A worker host, put together: supervisor, relay, keeper, /metrics; and the signals that end it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event

from toolkit.app import App
from toolkit.broker import connection, supervisor
from toolkit.broker.account import Account
from toolkit.broker.endpoint import Endpoint
from toolkit.broker.keeper import Keeper, Outages
from toolkit.broker.reconcile import Reconciler
from toolkit.broker.relay import Doorbell, Relay
from toolkit.broker.span_store import SpanStore
from toolkit.broker.supervisor import Supervisor
from toolkit.ledger import runs
from toolkit.telemetry import catalog
from toolkit.toggle.gauges import ToggleGauges
from toolkit.verify.gauge import VerdictGauge


def supervise(app: App, processes: int) -> int:
    """Run the supervisor of this host until SIGTERM or SIGINT; a second one ends the workers. Returns 0."""
    for variable, meant in app.unread_settings().items():
        catalog.emit(app.log, catalog.SETTING_UNREAD, variable=variable, meant=meant)
    app.require_schema()
    connection.check(app.redis_url)
    _remember_last_success(app)
    host = _supervisor(app, processes)
    endpoint = _endpoint(app, host)
    stop, kill = Event(), Event()
    with _stopping(stop, kill):
        endpoint.start()
        catalog.emit(app.log, catalog.METRICS_SERVED, url=f"{endpoint.url}/metrics")
        try:
            host.run(stop, kill)
        finally:
            endpoint.close()
    return 0


def _remember_last_success(app: App) -> None:
    """A host that starts has not forgotten when it last went well."""
    with app.database.session() as session:
        for spec in app.registry:
            if succeeded := runs.last_success(session, spec.name):
                app.metrics.set_last_success(spec.name, succeeded.timestamp())


def _supervisor(app: App, processes: int) -> Supervisor:
    """The supervisor, with all that it does between two looks at its processes; the toggle is watched from here on."""
    metrics = app.metrics
    identity = supervisor.identity(app.host)
    watcher = app.watch("supervisor", identity)
    gauges = ToggleGauges(watcher, metrics, app.log, lambda: datetime.now(UTC))
    watcher.listeners.append(gauges.heard)
    watcher.start()
    relay = Relay(app.database, app.broker, app.registry, app.log)
    outages = Outages(app.log)
    longest = max((spec.timeout for spec in app.registry), default=0.0) + supervisor.GRACE + 60.0
    account = Account(app.database, metrics, f"{identity}.", longest)
    host = Supervisor(
        command=lambda fd, queue, name: [
            sys.executable,
            "-m",
            "toolkit.worker_process",
            str(os.getpid()),
            str(fd),
            queue,
            name,
        ],
        environment=app.settings.for_child(database_url=app.database_url, redis_url=app.redis_url),
        processes=processes,
        queues=app.registry.queues,
        identity=identity,
        database=app.database,
        broker=app.broker,
        relay=relay,
        doorbell=Doorbell(app.database_url),
        keeper=Keeper(
            database=app.database,
            broker=app.broker,
            queues=app.registry.queues,
            reconciler=Reconciler(app.database, app.broker, relay),
            metrics=metrics,
            outages=outages,
            workers=lambda: host.workers(),  # noqa: PLW0108  `host` is bound below
            lease=app.settings.lease,
            now=lambda: datetime.now(UTC),
            more={
                "toggles": (1.0, gauges.run_once),
                "account": (10.0, account.run_once),
                "verdicts": (10.0, VerdictGauge(app.database, metrics).run_once),
            },
        ),
        outages=outages,
        metrics=metrics,
        account=account,
        spans=SpanStore(app.database, metrics.dropped),
        export=app.export,
        log=app.log,
    )
    return host


def _endpoint(app: App, host: Supervisor) -> Endpoint:
    """/metrics, /healthz (does the loop turn?) and /readyz (what is missing?)."""

    def health(_: str) -> tuple[int, str, bytes]:
        return (
            (200, "text/plain", b"ok\n") if host.alive() else (503, "text/plain", b"the loop stands still\n")
        )

    def readiness(_: str) -> tuple[int, str, bytes]:
        reasons = host.not_ready()
        return (
            (503, "text/plain", "".join(f"{one}\n" for one in reasons).encode())
            if reasons
            else (200, "text/plain", b"ready\n")
        )

    return Endpoint(
        app.settings.metrics_host,
        app.settings.metrics_port,
        {
            "/metrics": lambda accept: (200, *app.metrics.exposition(accept)),
            "/healthz": health,
            "/readyz": readiness,
        },
    )


@contextmanager
def _stopping(stop: Event, kill: Event) -> Iterator[None]:
    """SIGTERM and SIGINT ask to stop; the second one insists."""

    def asked(_signum: int, _frame: object) -> None:
        (kill if stop.is_set() else stop).set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
