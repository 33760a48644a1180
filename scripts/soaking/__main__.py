"""`scripts/soak`: image jobs on two worker processes while the shop deletes their drafts at random; then every count is
compared. Exit code 1 with the differences when something does not agree.

    --kill   also kills a random worker process every second: a run that dies is counted as lost, in ledger and metrics alike,
             and only its spans may be missing
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import click
import httpx
import psutil
import psycopg

from jobs import catalog
from scripts.soaking import checks
from scripts.soaking.receiver import SpanReceiver, receiving
from scripts.soaking.search import SPEC
from scripts.soaking.shop import Shop
from scripts.soaking.waiting import until
from toolkit.embedded import servers as embedded
from toolkit.jobspec import Registry
from toolkit.ledger.database import Database
from toolkit.ledger.migrate import migrate

PROBE = "soak-probe"
"""application_name of the one deliberate foreign key error that proves that PostgreSQL's log tells them."""

STALLED = 60
"""Seconds in which no job gets done before the soak gives up."""


@dataclass
class Host:
    """`toolkit worker`, as a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path
    killed: int = 0

    def get(self, path: str) -> httpx.Response:
        """What its port answers."""
        served = re.search(r"http://127\.0\.0\.1:\d+(?=/metrics)", self.log.read_text())
        if served is None:
            raise click.ClickException(f"the worker host did not start:\n{self.log.read_text()[-2000:]}")
        return httpx.get(served.group() + path, timeout=10)

    def kill_workers(self, url: str, stop: Event, dice: random.Random) -> None:
        """SIGKILL a random worker process every second, one that has begun a run: all of them shall come to work."""
        with psycopg.connect(url, autocommit=True) as connection:
            while not stop.wait(1.0):
                known = set(checks.offenders(connection, checks.WORKERS))
                workers = [
                    child
                    for child in psutil.Process(self.process.pid).children()
                    if known & {*child.cmdline()}
                ]
                if workers:
                    dice.choice(workers).kill()
                    self.killed += 1


@dataclass
class Report:
    """Findings, told as they come."""

    wrong: list[str] = field(default_factory=list)

    def check(self, what: str, offenders: list[str], seen: str = "") -> None:
        """One line; what offends is told, the first five in full."""
        click.echo(f"{'ok   ' if not offenders else 'WRONG'} {what}{f': {seen}' if seen else ''}")
        for offender in offenders[:5]:
            click.echo(f"        {offender[:300]}")
        if len(offenders) > 5:
            click.echo(f"        … {len(offenders)} in all")
        if offenders:
            self.wrong.append(what)


@contextmanager
def working(
    servers: embedded.Servers, receiver: SpanReceiver, folder: Path, processes: int
) -> Iterator[Host]:
    """A worker host, ready; stopped as an operator stops it."""
    log = folder / "worker.log"
    environment = os.environ | {
        "DATABASE_URL": servers.postgres.url,
        "REDIS_URL": servers.valkey.url,
        "TOOLKIT_JOBS": "scripts.soaking.search:SPEC",
        "TOOLKIT_METRICS_PORT": "0",
        "TOOLKIT_LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",  # the receiver does not read gzip
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "toolkit.cli", "worker", "--processes", str(processes)],
            env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    host = Host(process, log)
    try:
        until(
            lambda: b"/metrics" in log.read_bytes() and host.get("/readyz").is_success,
            within=30,
            what="worker host",
        )
        yield host
    except TimeoutError as error:
        tail = log.read_text(errors="replace")[-3000:]
        raise click.ClickException(f"{error}; the worker host says at last:\n{tail}") from error
    finally:
        process.terminate()
        process.wait(60)


def prove_that_the_log_tells(url: str) -> None:
    """One foreign key error on purpose, under a name of its own."""
    with psycopg.connect(url, application_name=PROBE) as connection:
        try:
            connection.execute(
                'INSERT INTO "ProductImage" (id, "productDraftId", url, source, position)'
                " VALUES ('i', 'none', 'u', 's', 0)"
            )
        except psycopg.errors.ForeignKeyViolation:
            return
    raise click.ClickException("a foreign key error on purpose was no error")


def soak(servers: embedded.Servers, host: Host, jobs: int, seed: int, *, kill: bool) -> tuple[Shop, float]:
    """Sell, disturb and work until every job is done; the shop and the seconds that it took."""
    shop, stop = Shop(servers.postgres.url, seed), Event()
    started = time.monotonic()
    with ThreadPoolExecutor(6) as threads:
        selling = threads.submit(shop.sell, jobs, stop)
        beside = [threads.submit(shop.disturb, number, stop) for number in range(4)]
        if kill:
            beside.append(threads.submit(host.kill_workers, servers.postgres.url, stop, random.Random(seed)))  # noqa: S311
        try:
            with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
                done = 0
                while done < jobs and not any(one.done() for one in beside):
                    before = done

                    def moved(before: int = before) -> bool:
                        nonlocal done
                        done = checks.counted(connection, checks.DONE)["done"]
                        return done > before

                    until(moved, within=STALLED, what=f"another job done, after {done}", every=0.2)
            selling.result()
        finally:
            stop.set()
        for one in beside:
            one.result()
    return shop, time.monotonic() - started


def compare(report: Report, connection: psycopg.Connection, host: Host) -> None:
    """The ledger against /metrics, once both have come to rest."""
    pairs = (
        ("runs by outcome", checks.LEDGER_RUNS, "job_runs_total", "outcome"),
        ("skips by reason", checks.LEDGER_SKIPS, "job_skips_total", "reason"),
        ("drafts by outcome", checks.LEDGER_DRAFTS, "image_drafts_total", "outcome"),
        ("images by source", checks.LEDGER_IMAGES, "images_attached_total", "source"),
    )

    def apart(query: str, metric: str, label: str) -> list[str]:
        exposition = host.get("/metrics").text
        return checks.differences(
            checks.counted(connection, query), checks.scraped(exposition, metric, label)
        )

    try:
        until(
            lambda: not any(apart(*pair[1:]) for pair in pairs),
            within=15,
            what="ledger and metrics",
            every=0.5,
        )
    except TimeoutError:
        click.echo("ledger and metrics did not come to agree within 15 s")
    for what, query, metric, label in pairs:
        seen = ", ".join(
            f"{name} {number}" for name, number in sorted(checks.counted(connection, query).items())
        )
        report.check(f"ledger = /metrics, {what}", apart(query, metric, label), seen)
    exposition = host.get("/metrics").text
    fk = checks.scraped(exposition, "job_fk_errors_total", "constraint")
    report.check("no foreign key error on /metrics", [f"{name}: {number}" for name, number in fk.items()])
    dropped = checks.scraped(exposition, "telemetry_dropped_total", "reason")
    report.check("no telemetry dropped", [f"{name}: {number}" for name, number in dropped.items()])


@click.command()
@click.option("--jobs", default=2000, show_default=True, type=click.IntRange(1))
@click.option("--processes", default=2, show_default=True, type=click.IntRange(1))
@click.option("--kill", is_flag=True, help="SIGKILL a random worker process every second.")
@click.option("--seed", type=int, help="Of the dice; told at the start.")
def main(jobs: int, processes: int, *, kill: bool, seed: int | None) -> None:
    """Soak the image job: drafts, orders and merchants change at random beside it, and every count must agree after."""
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    click.echo(f"{jobs} jobs, {processes} processes, seed {seed}{', killing workers' if kill else ''}")
    report = Report()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        servers = embedded.up(folder / "home")
        try:
            _prepare(servers.postgres.url)
            with receiving(folder) as receiver:
                with working(servers, receiver, folder, processes) as host:
                    shop, seconds = soak(servers, host, jobs, seed, kill=kill)
                    with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
                        _tell(connection, shop, host, jobs, seconds)
                        compare(report, connection, host)
                _check(report, servers, receiver, shop, host)
        finally:
            embedded.destroy(folder / "home")
    if report.wrong:
        sys.exit(f"{len(report.wrong)} checks failed: {'; '.join(report.wrong)} (seed {seed})")
    click.echo("everything agrees")


def _prepare(url: str) -> None:
    database = Database(url)
    with database.begin() as connection:
        catalog.create(connection)
    migrate(database, Registry.of([SPEC]))
    database.close()
    prove_that_the_log_tells(url)


def _tell(connection: psycopg.Connection, shop: Shop, host: Host, jobs: int, seconds: float) -> None:
    drafts = checks.counted(connection, checks.LEDGER_DRAFTS)
    click.echo(
        f"{seconds:.1f} s, {jobs / seconds:.0f} jobs/s, {sum(shop.did.values())} acts of the shop beside them:"
    )
    click.echo("  " + ", ".join(f"{name} {number}" for name, number in sorted(shop.did.items())))
    click.echo(
        f"  {drafts['draft_deleted']} drafts went between a job's fetch and its write; {host.killed} workers killed"
    )


def _check(report: Report, servers: embedded.Servers, receiver: SpanReceiver, shop: Shop, host: Host) -> None:
    with psycopg.connect(servers.postgres.url, autocommit=True) as connection:

        def none(what: str, query: str) -> None:
            report.check(what, checks.offenders(connection, query))

        none("no foreign key error in a job", checks.FOREIGN_KEY_ERRORS)
        none("no failed run", checks.FAILED)
        none("no image without a draft", checks.ORPHANS)
        none("no image missing or doubled on a surviving draft", checks.MISSING)
        none("one review session for each order with images", checks.REVIEWS)
        none("each image in one review", checks.ITEMS)
        runs = checks.offenders(connection, checks.LEDGER_ROOTS)
    log = servers.postgres.log
    if not checks.logged(log, "23503"):
        report.check("PostgreSQL's log tells foreign key errors", ["the one made on purpose is not in it"])
    report.check("no 23503 in PostgreSQL's log", checks.logged(log, "23503", without=PROBE))
    report.check("no 40P01 in PostgreSQL's log", checks.logged(log, "40P01"))
    report.check("the shop met no error", [f"{state}: {number}" for state, number in shop.refused.items()])
    roots = receiver.roots()
    apart = checks.spans_apart(runs, roots, most_missing=host.killed)
    report.check(
        "ledger = spans received, one root a run", apart, f"{len(runs)} runs ended, {len(roots)} root spans"
    )


if __name__ == "__main__":
    main()
