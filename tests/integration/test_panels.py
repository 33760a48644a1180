"""Every query of every dashboard, asked of a real Prometheus that scraped real workers: in the quiet state right after the
start, after faults, and with a second release beside the first."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from dashboards.__main__ import FOLDER
from tests.conftest import TEMPLATE, with_database
from tests.dashboard_lint import Board, targets, texts
from tests.eventually import eventually
from tests.hosts import Host, worker_host
from tests.orders import ask, ended_runs, new_order
from tests.prometheus import JOB, Prometheus, prometheus
from toolkit.embedded.servers import Servers

BOARDS: list[Board] = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
VARIABLES = {  # one that begins another's name comes after it
    "$__rate_interval": "15s", "$__interval_ms": "2000", "$__interval": "2s", "$__range": "90s",
    "$job": JOB, "$instance": ".+", "$queue": ".+",
}  # fmt: skip
REFUSED = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF EXISTS (
        SELECT FROM "ProductDraft" WHERE id = NEW."productDraftId" AND title = 'refused') THEN
        RAISE foreign_key_violation USING CONSTRAINT = 'ProductImage_productDraftId_fkey', TABLE = 'ProductImage';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON "ProductImage" FOR EACH ROW EXECUTE FUNCTION refuse()"""
"""A foreign key error in a real run: the job as it is can make none."""


def filled(query: str) -> str:
    """The query as Grafana would send it."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def unanswered(server: Prometheus) -> list[str]:
    """Queries that give no series, or one that is no number."""
    found = []
    for board in BOARDS:
        for where, text in texts(board):
            series = server.query(filled(text))
            if not series or not all(math.isfinite(value) for _, value in series):
                found.append(f"{board['title']}: {where}: {series or 'no data'}\n  {filled(text)}")
    return found


def shown(server: Prometheus, uid: str, title: str) -> dict[str, float]:
    """What a panel shows now, by legend as far as it is one label."""
    board = next(one for one in BOARDS if one["uid"] == uid)
    found: dict[str, float] = {}
    for panel, target in targets(board):
        if panel["title"] == title:
            for labels, value in server.query(filled(target["expr"])):
                found[" ".join(labels[key] for key in sorted(labels)) or target["legendFormat"]] = value
    return found


@pytest.fixture(scope="module")
def database_url(servers: Servers, template_url: str) -> Iterator[str]:
    with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE test_panels TEMPLATE {TEMPLATE}")
        yield with_database(servers.postgres.url, "test_panels")
        connection.execute("DROP DATABASE test_panels WITH (FORCE)")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with prometheus(tmp_path_factory.mktemp("prometheus")) as started:
        yield started


def scraped(server: Prometheus, host: Host) -> None:
    """Wait until its metrics have been scraped as often as a rate needs."""
    place = host.url().removeprefix("http://")
    eventually(lambda: server.value(f'count_over_time(up{{instance="{place}"}}[9s])') >= 3, within=20)
    eventually(
        lambda: server.value(f'count_over_time(toggle_info{{instance="{place}"}}[4s])') >= 2, within=20
    )


def made_faults(connection: psycopg.Connection, host: Host) -> None:
    """One run of each kind: processed, skipped, failed on a foreign key, failed in passing, lost."""
    connection.execute(REFUSED)
    orders = {name: new_order(connection, [name]) for name in ("mug", "refused", "fail:timeout", "kill")}
    gone = new_order(connection, 1)
    jobs = {name: ask(connection, order) for name, order in orders.items()}
    connection.execute('DELETE FROM "ProductDraft" WHERE "purchaseOrderId" = %s', (gone.id,))
    jobs["gone"] = ask(connection, gone)
    first: dict[str, Callable[[], object]] = {
        name: lambda job=job: ended_runs(connection, job) for name, job in jobs.items()
    }
    for name, ended in first.items():
        assert eventually(ended, within=20), name


def series(host: Host) -> int:
    """How many a scrape has."""
    return sum(not line.startswith("#") for line in host.get("/metrics").text.splitlines())


def test_every_panel_answers_quiet_after_faults_and_across_releases_and_series_stay_few(
    database_url: str, servers: Servers, server: Prometheus, tmp_path: Path
) -> None:
    with (
        psycopg.connect(database_url, autocommit=True) as connection,
        worker_host(database_url, servers.valkey.url, tmp_path / "one", TOOLKIT_RELEASE="r1") as host,
    ):
        server.scrape([host.url()])
        scraped(server, host)
        assert unanswered(server) == [], "quiet, right after the start"
        assert set(shown(server, "freshfetch-image-jobs", "Runs by outcome").values()) == {0.0}
        assert shown(server, "freshfetch-image-jobs", "Success") == {"success": 1.0}

        before = series(host)
        assert before < 1400, "one kind of job; Prometheus is told to refuse more than 2,000"

        made_faults(connection, host)

        def told() -> bool:
            outcomes = shown(server, "freshfetch-image-jobs", "Runs by outcome")
            return all(outcomes[name] > 0 for name in ("processed", "skipped", "failed", "lost"))

        eventually(told, within=20)
        assert unanswered(server) == [], "after faults"
        errors = eventually(lambda: shown(server, "freshfetch-image-jobs", "Foreign key errors"))
        assert errors["errors"] > 0.5
        assert shown(server, "freshfetch-image-jobs", "Skips by reason")["no_drafts"] > 0
        assert shown(server, "freshfetch-image-jobs", "Success")["success"] < 1
        assert shown(server, "freshfetch-replay", "Failures by class")["ProductImage_productDraftId_fkey"] > 0
        assert_exemplars(server)
        assert series(host) == before, "runs make no series"

        two = worker_host(
            database_url, servers.valkey.url, tmp_path / "two", processes=2, TOOLKIT_RELEASE="r2"
        )
        with two as second:
            server.scrape([host.url(), second.url()])
            scraped(server, second)
            assert unanswered(server) == [], "with two releases"

            def errors() -> dict[str, float]:
                return shown(server, "freshfetch-deployment", "Foreign key errors by release")

            eventually(lambda: errors()["r1"] > 0.5, within=20)
            assert errors()["r1"] < 1.5, "there was one"
            assert errors()["r2"] == 0
            assert series(second) == before, "nor do processes"


def assert_exemplars(server: Prometheus) -> None:
    """The panels that ask for exemplars get some, and each is a trace."""
    for board in BOARDS:
        for panel, target in targets(board):
            if target.get("exemplar"):
                found = server.get(
                    "query_exemplars", query=filled(target["expr"]), start=time.time() - 90, end=time.time()
                )
                traces = {exemplar["labels"]["trace_id"] for one in found for exemplar in one["exemplars"]}
                assert traces, panel["title"]
                assert all(len(trace) == 32 for trace in traces)
