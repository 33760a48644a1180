"""The composition root: the one place that builds engines, clients and providers from Settings.

`App` opens each thing on first use and closes all of them at its end. Commands take what they need from it; nothing else in
the toolkit builds a connection.
"""

from __future__ import annotations

import dataclasses
import os
import random
import socket
from collections.abc import Collection
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from toolkit.errors import DependencyUnreachable
from toolkit.jobspec import Registry
from toolkit.settings import Settings

if TYPE_CHECKING:
    import redis

    from toolkit.broker.dead import DeadJob
    from toolkit.inline import LedgerSink
    from toolkit.ledger.database import Database
    from toolkit.perform import Performer, Sink
    from toolkit.replay.dry import DryRunner
    from toolkit.replay.execute import Replays
    from toolkit.replay.pace import Load
    from toolkit.telemetry.export import OtlpExporter
    from toolkit.telemetry.logs import Log
    from toolkit.telemetry.metrics import Metrics
    from toolkit.telemetry.traces import Tracing
    from toolkit.toggle.flip import Flipper
    from toolkit.toggle.switch import Switch
    from toolkit.toggle.watch import Kind, Watcher


class App:
    """What a command works with. Use it as a context manager."""

    def __init__(self, settings: Settings, *, flush: float = 1.0) -> None:
        """`flush`: seconds, at most, that the last spans may take at the end: somebody waits for a command."""
        self.settings = settings
        self._flush = flush
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @cached_property
    def host(self) -> str:
        """This machine's name, as runs carry it."""
        return socket.gethostname()

    @cached_property
    def registry(self) -> Registry:
        """The jobs that may run."""
        from toolkit.verify import control

        return dataclasses.replace(Registry.named(self.settings.jobs), own={control.SPEC.name: control.SPEC})

    def unread_settings(self) -> dict[str, str]:
        """Misspelt variables, each with the one that was meant. Raises SettingError for a job's setting that cannot be used."""
        return self.settings.unread(spec.settings for spec in self.registry if spec.settings)

    @cached_property
    def database_url(self) -> str:
        """DATABASE_URL, or the embedded PostgreSQL's. Raises DependencyUnreachable when there is neither, SettingError for a
        URL that cannot be used."""
        from toolkit.ledger.url import libpq_url

        return libpq_url(self.settings.database_url or self._embedded("postgres", "DATABASE_URL"))

    @cached_property
    def redis_url(self) -> str:
        """REDIS_URL, or the embedded Valkey's. Raises DependencyUnreachable when there is neither."""
        return self.settings.redis_url or self._embedded("valkey", "REDIS_URL")

    def _embedded(self, server: str, variable: str) -> str:
        from toolkit.embedded import servers

        found = getattr(servers.find(self.settings.home), server)
        if found is None:
            raise servers.silent(self.settings.home, server) or DependencyUnreachable(
                f"{variable} is not set and no embedded server runs in {self.settings.home}",
                remedy=f"run `toolkit up`, or set {variable}",
            )
        return str(found.url)

    def rehearsal_server(self, *, elsewhere: bool) -> tuple[str, Path | None]:
        """The PostgreSQL for throw-away databases, and its log: the embedded one; DATABASE_URL's, whose log is not known,
        only when `elsewhere` was said aloud. Raises DependencyUnreachable."""
        from toolkit.embedded import servers

        if elsewhere:
            if self.settings.database_url is None:
                raise DependencyUnreachable(
                    "DATABASE_URL is not set", remedy="set it, or rehearse on the embedded server"
                )
            return self.database_url, None
        found = servers.find(self.settings.home).postgres
        if found is None:
            raise servers.silent(self.settings.home, "postgres") or DependencyUnreachable(
                f"no embedded PostgreSQL runs in {self.settings.home}",
                remedy="run `toolkit up`, or allow throw-away databases beside your own: --on-database-url",
            )
        return found.url, found.log

    @cached_property
    def server_log(self) -> Path | None:
        """The embedded PostgreSQL's log, where that is the one in use."""
        from toolkit.embedded import servers

        if self.settings.database_url is not None:
            return None
        found = servers.find(self.settings.home).postgres
        return found.log if found else None

    @cached_property
    def database(self) -> Database:
        """The way to PostgreSQL."""
        from toolkit.ledger.database import Database

        database = Database(self.database_url, prepared_statements=self.settings.prepared_statements)
        self._stack.callback(database.close)
        return database

    def brief(self) -> Database:
        """The way to PostgreSQL for a command that asks once and ends: without SQLAlchemy."""
        from toolkit.ledger.database import Brief

        return Brief(self.database_url, prepared_statements=self.settings.prepared_statements)

    @cached_property
    def single(self) -> Database:
        """The way to PostgreSQL for a command that does one thing after the other: one connection, without SQLAlchemy."""
        from toolkit.ledger.database import Pinned

        database = Pinned(self.brief())
        self._stack.callback(database.close)
        return database

    @cached_property
    def broker(self) -> redis.Redis:
        """The way to Redis or Valkey."""
        from toolkit.broker.connection import connect

        broker = connect(self.redis_url)
        self._stack.callback(broker.close)
        return broker

    @cached_property
    def log(self) -> Log:
        """The process's logger; logs go to standard error from here on."""
        from toolkit.telemetry import logs

        colour = None if not self.settings.no_color else False
        logs.configure(style=self.settings.log_format, release=self.settings.release, colour=colour)
        return logs.get_logger()

    @cached_property
    def tracing(self) -> Tracing:
        """The process's tracer."""
        from toolkit.telemetry.traces import Tracing

        return Tracing(self.settings.service_name, self.settings.release, {"host.name": self.host})

    def create_catalog(self) -> bool:
        """Create the jobs' own tables, on the embedded database only; True when it did."""
        if self.settings.database_url is not None:
            return False
        with self.database.begin() as connection:
            for spec in self.registry:
                if spec.create_schema is not None:
                    spec.create_schema(connection)
        return True

    def require_schema(self) -> None:
        """Raise NotInitialised unless schema `toolkit` is at this release's revision."""
        from toolkit.ledger.migrate import require

        require(self.brief())

    def performer(self, *, worker: str, sink: Sink, queue: str | None = None) -> Performer:
        """A performer with the opened resources of every job (of `queue`, when given)."""
        from toolkit.broker.worker import TIMEOUTS, time_limit
        from toolkit.perform import Performer

        opened: dict[str, Any] = {
            spec.name: self._stack.enter_context(spec.resources(self.settings, self.tracing.tracer))
            for spec in self.registry
            if queue in (None, spec.queue)
        }
        return Performer(
            registry=self.registry,
            database=self.database,
            tracing=self.tracing,
            log=self.log,
            sink=sink,
            resources=opened,
            worker=worker,
            host=self.host,
            release=self.settings.release,
            lease=self.settings.lease,
            random=random.random,
            time_limit=time_limit,
            timeouts=TIMEOUTS,
        )

    @cached_property
    def exporter(self) -> OtlpExporter | None:
        """The OTLP exporter, when a collector is configured; it counts what it drops in `metrics`."""
        if not self.settings.otlp_endpoint:
            return None
        from toolkit.telemetry.export import OtlpExporter, headers

        exporter = OtlpExporter(
            self.settings.otlp_endpoint,
            headers(self.settings.otlp_headers),
            on_drop=self.metrics.dropped,
            compress=self.settings.otlp_gzip,
        )
        exporter.start()
        self._stack.callback(exporter.close, self._flush)
        return exporter

    @cached_property
    def metrics(self) -> Metrics:
        """The host's one metrics registry."""
        from toolkit.telemetry.metrics import Metrics

        return Metrics(self.registry, release=self.settings.release)

    def export(self, data: bytes, count: int) -> None:
        """Send spans on, where a collector is configured."""
        if self.exporter is not None:
            self.exporter.put(data, count)

    def inline_sink(self, database: Database | None = None) -> LedgerSink:
        """Where an inline run tells of itself."""
        from toolkit.inline import LedgerSink

        return LedgerSink(database or self.database, self.export)

    def inline_performer(self, sink: Sink) -> Performer:
        """A performer for this process. Nobody renews an inline run's lease, so it lasts as long as the run may."""
        name = f"{self.host}.{os.getpid()}.inline"
        longest = max((spec.timeout for spec in self.registry), default=0.0)
        performer = self.performer(worker=name, sink=sink)
        return dataclasses.replace(performer, lease=longest + self.settings.lease)

    @cached_property
    def replays(self) -> Replays:
        """Plans and carries out replays, in the operator's name."""
        from toolkit.replay.execute import Replays

        return Replays(self.single, self.registry, self.settings.release, self.settings.operator, self._load)

    def adopt_dead(self, only: Collection[str] | None = None) -> list[DeadJob]:
        """Take failed jobs that RQ has and the ledger does not (of `only`, when given) into the ledger, unpickling nothing, with
        a line in the audit; returns those whose ids cannot be had. Raises DependencyUnreachable when the broker is away."""
        from toolkit.broker import connection, dead
        from toolkit.ledger import audit

        connection.check(self.redis_url)
        with self.single.session() as session:
            taken, refused = dead.adopt_all(
                self.broker, self.registry, session, now=datetime.now(UTC), only=only
            )
            if taken:
                audit.write(
                    session, who=self.settings.operator, action="adopt", subject=f"{len(taken)} failed jobs of RQ",
                    reason="toolkit replay", detail={"jobs": taken[:200]},
                )  # fmt: skip
        return refused

    def _load(self) -> Load:
        """What the live system feels; a broker that is away feels nothing, and its jobs wait in the ledger."""
        from toolkit.broker import view
        from toolkit.broker.connection import BROKER_AWAY
        from toolkit.ledger import replays
        from toolkit.replay.pace import Load

        now = datetime.now(UTC)
        try:
            oldest = max(
                (view.queue_view(self.broker, queue, now).oldest_age for queue in self.registry.queues),
                default=0.0,
            )
        except BROKER_AWAY:
            oldest = 0.0
        with self.single.session() as session:
            return Load(oldest, replays.lock_waits(session))

    def dry_runner(self) -> DryRunner:
        """Runs job bodies in this process and rolls back what they write."""
        from toolkit.inline import LedgerSink
        from toolkit.replay.dry import DryRunner

        performer = self.performer(
            worker="dry-run", sink=LedgerSink(self.database, lambda _data, _count: None)
        )
        return DryRunner(
            registry=self.registry,
            database=self.database,
            tracing=self.tracing,
            log=self.log,
            resources=performer.resources,
            release=self.settings.release,
            host=self.host,
            time_limit=performer.time_limit,
            timeouts=performer.timeouts,
        )

    @cached_property
    def inline(self) -> Performer:
        """The performer of synchronous mode: it tells the ledger, and lives as long as the app."""
        return self.inline_performer(self.inline_sink())

    def watch(self, kind: Kind, name: str = "") -> Watcher:
        """A watcher of the registered jobs' toggles, for `name` (default: this process). Start it; it ends with the app."""
        from toolkit.broker.supervisor import identity
        from toolkit.toggle.watch import Process, Watcher

        watcher = Watcher(
            url=self.database_url,
            names=self.registry.toggles,
            process=Process(name or identity(self.host), kind, self.host, os.getpid(), self.settings.release),
            switched_off=self.settings.switched_off,
            direct=self.settings.prepared_statements,
        )
        self._stack.callback(watcher.close)
        return watcher

    @cached_property
    def switch(self) -> Switch:
        """What an importer asks for each order's mode: an OpenFeature client, on the ledger's provider unless the shop has
        set its own."""
        from toolkit.toggle.switch import Switch

        return Switch.open(self.watch("importer"), self.log)

    @cached_property
    def flipper(self) -> Flipper:
        """Flips toggles in this operator's name."""
        from toolkit.toggle.flip import Flipper

        return Flipper(self.single, self.tracing.tracer, self.log, self.settings.operator)
