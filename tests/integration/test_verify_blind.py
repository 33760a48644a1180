"""A detector that is switched off is never a pass, and sources that disagree are named: `toolkit verify-deploy` as it is typed,
beside a healthy release with clean orders enough. Each test takes one source's sight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.conftest import TEMPLATE, with_database
from tests.eventually import eventually
from tests.hosts import Host
from tests.orders import ask, new_order, scalar
from tests.prometheus import prometheus
from tests.verifying import SWALLOWED, Typed, Yard
from tests.web import Request, Web, serving
from toolkit.embedded.servers import Servers
from toolkit.jobspec import CONTROL
from toolkit.telemetry.exemplars import ACCEPT
from toolkit.verify.verdict import Verdict

CHECK = "no-foreign-key-errors"
FKEY = "ProductImage_productDraftId_fkey"


@pytest.fixture(scope="module")
def healthy(
    servers: Servers, template_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Yard, Host]]:
    """A release with orders enough, in a database of this module; nothing here changes it for good."""
    assert template_url
    url = with_database(servers.postgres.url, "test_blind")
    with psycopg.connect(servers.postgres.url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE test_blind TEMPLATE {TEMPLATE}")
        with psycopg.connect(url, autocommit=True) as connection:
            yard = Yard(
                url, with_database(servers.valkey.url, "0"), tmp_path_factory.mktemp("blind"), connection, {}
            )
            with yard.host() as host:
                yard.mark()
                yard.orders(59)
                yield yard, host
        server.execute("DROP DATABASE test_blind WITH (FORCE)")


@pytest.fixture
def host(healthy: tuple[Yard, Host]) -> Host:
    return healthy[1]


@pytest.fixture
def yard(healthy: tuple[Yard, Host], host: Host) -> Yard:
    yard = healthy[0]
    yard.settings.clear()
    yard.watched(host)
    return yard


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as server:
        yield server


def altered(web: Web, host: Host, change: Callable[[str], str]) -> str:
    """The host's real exposition with something in it changed; its URL."""

    def answer(request: Request) -> None:
        real = httpx.get(f"{host.url()}/metrics", headers={"Accept": ACCEPT}, timeout=5)
        request.answer(200, change(real.text).encode(), {"Content-Type": real.headers["Content-Type"]})

    return web.does("/metrics", answer)


@contextmanager
def swallowing(connection: psycopg.Connection, when: str = "true") -> Iterator[None]:
    """A ledger that keeps integrity errors as if they were none."""
    connection.execute(SWALLOWED.replace("WHEN (", f"WHEN ({when} AND "))
    try:
        yield
    finally:
        connection.execute("DROP FUNCTION swallow CASCADE")


def is_no_pass(done: Typed, source: str, why: str, *, code: int = 3) -> None:
    """It names the source that cannot be believed, and why; all else is proven."""
    assert done.code == code, str(done)
    finding = done.finding(CHECK)
    assert finding.verdict is Verdict.INCONCLUSIVE
    blind = finding.judgement.blind if code == 3 else finding.judgement.unreachable
    assert blind == (source,)
    assert why in finding.judgement.said
    assert why in done.receipt.sources[source]
    others = {one.verdict for one in done.receipt.findings if one.check != CHECK}
    assert others == {Verdict.PROVEN}, str(done)


# One source at a time


def test_every_source_in_use_has_seen_the_planted_error_when_it_is_a_pass(
    yard: Yard, host: Host, tmp_path: Path
) -> None:
    yard.settings["TOOLKIT_VERIFY_LOGS"] = str(host.folder / "log")
    with prometheus(tmp_path) as server:
        server.scrape([host.url()])
        eventually(lambda: server.query("toolkit_build_info"), within=20)
        yard.settings["TOOLKIT_PROMETHEUS_URL"] = str(server.client.base_url)
        done = yard.verify()
    assert done.code == 0, str(done)
    assert done.receipt.sources.keys() == {"ledger", "counters", "prometheus", f"log {host.folder / 'log'}"}
    assert all(said.startswith("saw the planted error after") for said in done.receipt.sources.values())


def test_a_renamed_counter_is_no_pass(yard: Yard, host: Host, web: Web) -> None:
    url = altered(web, host, lambda text: text.replace("job_fk_errors", "job_foreign_key_errors"))
    yard.settings["TOOLKIT_VERIFY_METRICS"] = url
    is_no_pass(yard.verify(), "counters", "job_fk_errors_total is missing")


def test_a_counter_that_counts_no_more_is_no_pass(yard: Yard, host: Host, web: Web) -> None:
    frozen = httpx.get(f"{host.url()}/metrics", headers={"Accept": ACCEPT}, timeout=5).text
    yard.settings["TOOLKIT_VERIFY_METRICS"] = altered(web, host, lambda _text: frozen)
    is_no_pass(yard.verify("--set", "lag=2"), "counters", "is not there")


def test_a_wrong_log_path_is_no_pass(yard: Yard, tmp_path: Path) -> None:
    path = tmp_path / "rotated-away.log"
    yard.settings["TOOLKIT_VERIFY_LOGS"] = str(path)
    is_no_pass(yard.verify(), f"log {path}", "cannot be read: No such file or directory")


def test_a_log_that_nobody_writes_to_is_no_pass(yard: Yard, host: Host, tmp_path: Path) -> None:
    path = tmp_path / "copy.log"
    path.write_bytes((host.folder / "log").read_bytes())
    yard.settings["TOOLKIT_VERIFY_LOGS"] = str(path)
    is_no_pass(yard.verify("--set", "lag=2"), f"log {path}", "is not there")


def test_a_ledger_that_swallows_integrity_errors_is_no_pass(yard: Yard) -> None:
    with swallowing(yard.connection):
        done = yard.verify()
    is_no_pass(done, "ledger", "the planted violation was met by no error")


def test_a_prometheus_that_does_not_answer_is_no_pass(yard: Yard) -> None:
    yard.settings["TOOLKIT_PROMETHEUS_URL"] = "http://127.0.0.1:1"
    is_no_pass(yard.verify(), "prometheus", "does not answer", code=4)


def test_a_prometheus_that_scrapes_nobody_of_the_release_is_no_pass(yard: Yard, tmp_path: Path) -> None:
    with prometheus(tmp_path) as server:
        yard.settings["TOOLKIT_PROMETHEUS_URL"] = str(server.client.base_url)
        is_no_pass(yard.verify(), "prometheus", "it has no toolkit_build_info of release")


# Sources that disagree


@contextmanager
def broken(yard: Yard) -> Iterator[Host]:
    """A release that has had one real foreign key error."""
    with yard.host(jobs="tests.broken_release:SPEC") as host:
        yard.mark()
        order = new_order(yard.connection, ["wait:gate"])
        job = ask(yard.connection, order)
        host.reached("gate")
        yard.connection.execute('DELETE FROM "ProductDraft" WHERE id = %s', (order.drafts[0],))
        host.open("gate")
        done = "SELECT count(*) FROM toolkit.intent WHERE job_id = %s AND done_at IS NOT NULL"
        eventually(lambda: scalar(yard.connection, done, job), within=20)
        eventually(lambda: host.metric("job_fk_errors_total", constraint=FKEY) == 1, within=20)
        yield host


def disagree(done: Typed, told: str, silent: str) -> None:
    """One error is a regression, whoever else has seen none; both are named."""
    finding = done.finding(CHECK)
    assert done.code == 1, str(done)
    assert f"{FKEY} 1×" in finding.judgement.said
    assert finding.judgement.notes == (f"{told} told of it", f"sources disagree: {silent} did not")
    assert done.receipt.sources[silent].startswith("saw the planted error"), "it is not blind"


@pytest.fixture
def own(database_url: str, redis_url: str, tmp_path: Path, connection: psycopg.Connection) -> Yard:
    return Yard(database_url, redis_url, tmp_path, connection, {})


def test_an_error_that_the_ledger_keeps_no_row_of_is_told_by_the_counters(own: Yard) -> None:
    with swallowing(own.connection, f"NEW.job_name <> '{CONTROL}'"), broken(own) as host:
        own.watched(host)
        done = own.verify("--check", CHECK)
    disagree(done, "counters", "ledger")


def test_an_error_that_the_counters_do_not_count_is_told_by_the_ledger(own: Yard, web: Web) -> None:
    with broken(own) as host:
        counted = f'constraint="{FKEY}",job_name="background-image-processing",queue="images"}} 1.0'
        assert counted in host.get("/metrics").text
        own.settings["TOOLKIT_VERIFY_METRICS"] = altered(
            web, host, lambda text: text.replace(counted, counted.replace(" 1.0", " 0.0"))
        )
        done = own.verify("--check", CHECK)
    disagree(done, "ledger", "counters")
