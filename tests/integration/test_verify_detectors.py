"""Detectors of foreign key errors on real servers: each sees the planted one and a real one, tells them apart, and says so when
it cannot see."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import pytest
import redis

from tests.conftest import TEMPLATE, with_database
from tests.eventually import eventually
from tests.hosts import Host, worker_host
from tests.ledger_rows import FK_FAILURE
from tests.orders import ask, ended_runs, new_order
from tests.prometheus import Prometheus as Server
from tests.prometheus import prometheus
from tests.verifying import SWALLOWED
from tests.web import Web, serving
from toolkit.broker import census
from toolkit.embedded.servers import Servers
from toolkit.jobspec import CONTROL, CONTROL_CONSTRAINT, Registry
from toolkit.ledger import queries, replays, runs
from toolkit.ledger.database import Database
from toolkit.ledger.replay_views import Selection
from toolkit.ledger.views import Filters
from toolkit.settings import Settings
from toolkit.telemetry.exemplars import ACCEPT
from toolkit.telemetry.metrics import Metrics
from toolkit.verify import control
from toolkit.verify.adapters.counters import Counters
from toolkit.verify.adapters.ledger import Ledger
from toolkit.verify.adapters.logs import LogFile
from toolkit.verify.adapters.prometheus import Prometheus, PrometheusDetector
from toolkit.verify.detect import Detector, Planted, Sight, Sighting
from toolkit.verify.detectors import detectors
from toolkit.verify.gauge import VerdictGauge

RELEASE, FKEY = "r1", "ProductImage_productDraftId_fkey"
LAG = 45.0
REFUSED = f"""
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF EXISTS (SELECT FROM "ProductDraft" WHERE id = NEW."productDraftId" AND title = 'refused') THEN
        RAISE EXCEPTION 'insert or update on table "ProductImage" violates foreign key constraint "{FKEY}"'
            USING ERRCODE = '23503', CONSTRAINT = '{FKEY}', TABLE = 'ProductImage';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON "ProductImage" FOR EACH ROW EXECUTE FUNCTION refuse()"""
"""A foreign key error in a real run: the job as it is can make none."""


@dataclass
class Scene:
    """A deployed release: its worker host, the servers, and a Prometheus that scrapes it; a violation was planted."""

    connection: psycopg.Connection
    database: Database
    broker: redis.Redis
    host: Host
    server: Server
    server_log: Path
    since: datetime
    planted: Planted

    @property
    def now(self) -> datetime:
        """The database's time."""
        row = self.connection.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        return row[0]

    @property
    def url(self) -> str:
        """The Prometheus."""
        return str(self.server.client.base_url).rstrip("/")

    def all(self) -> list[Detector]:
        """Every kind of detector."""
        return [
            Ledger(self.database),
            Counters((f"{self.host.url()}/metrics",), self.database),
            PrometheusDetector(Prometheus(self.url)),
            LogFile(str(self.host.folder / "log"), "worker log"),
            LogFile(str(self.server_log), "server log", frozenset({FKEY})),
        ]

    def look(self, detector: Detector, *, later: float = 0.0, since: datetime | None = None) -> Sighting:
        """What it says, now or `later` seconds from now."""
        now = self.now + timedelta(seconds=later)
        return detector.look(RELEASE, since or self.since, self.planted, now, LAG)

    def exposition(self) -> str:
        """What the host serves."""
        return httpx.get(f"{self.host.url()}/metrics", headers={"Accept": ACCEPT}, timeout=5).text


def plant(connection: psycopg.Connection, release: str = RELEASE) -> str:
    return control.plant(connection, "images", release)


def met(connection: psycopg.Connection, job_id: str) -> Planted:
    """The planted violation, once a worker has met it."""

    def look() -> Planted | None:
        found = control.planted(connection, job_id)
        return found if found.run_at else None

    found = eventually(look, within=20)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def module_database(servers: Servers, template_url: str) -> Iterator[str]:
    with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE test_detectors TEMPLATE {TEMPLATE}")
        yield with_database(servers.postgres.url, "test_detectors")
        connection.execute("DROP DATABASE test_detectors WITH (FORCE)")


@pytest.fixture(scope="module")
def scene(
    module_database: str, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("detectors")
    database = Database(module_database)
    with (
        psycopg.connect(module_database, autocommit=True) as connection,
        redis.Redis.from_url(servers.valkey.url) as broker,
        prometheus(folder) as server,
        worker_host(module_database, servers.valkey.url, folder / "host", TOOLKIT_RELEASE=RELEASE) as host,
    ):
        broker.flushdb()
        server.scrape([host.url()])
        eventually(lambda: server.query("toolkit_build_info"), within=20)
        row = connection.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        planted = met(connection, plant(connection))
        yield Scene(
            connection, database, broker, host, server, Path(str(servers.postgres.log)), row[0], planted
        )
    database.close()


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as server:
        yield server


# The planted one


def test_every_detector_sees_the_planted_violation_and_no_error(scene: Scene) -> None:
    for detector in scene.all():
        seen = eventually(lambda d=detector: scene.look(d).sight is Sight.SEEN and scene.look(d), within=10)
        assert isinstance(seen, Sighting)
        assert (seen.errors, seen.planted, seen.detail) == ({}, 1, ""), seen
        assert seen.after is not None, seen
        assert 0 <= seen.after < 10, seen


def test_a_planted_violation_is_nobodys_business(scene: Scene) -> None:
    day = scene.now - timedelta(days=1)
    assert queries.failed_groups(scene.connection, day) == []
    assert queries.count_runs(scene.connection, day)["failed"] == 0
    assert queries.list_jobs(scene.connection, Filters(state="failed")) == []
    assert runs.unresolved(scene.connection) == {}
    with scene.connection.transaction():
        assert list(replays.selected(scene.connection, Selection(), fetch=10)) == []
    assert scene.connection.execute("SELECT outcome FROM toolkit.intent").fetchall() == [("failed",)]
    assert scene.host.outcomes() == {}
    assert scene.host.metric("job_runs_unaccounted_total") == 0
    assert scene.host.metric("job_failed_backlog") == 0
    seen = census.take(scene.broker, ["images"], now=datetime.now(UTC), alive=lambda *_: True, silence=60)
    assert census.FAILED not in seen.places.get(scene.planted.job_id, ())
    assert scene.connection.execute(
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'freshfetch_control%'"
    ).fetchone() == (0,)


def test_without_a_planted_one_no_detector_has_seen_anything(scene: Scene) -> None:
    for detector in scene.all():
        assert detector.look(RELEASE, scene.since, None, scene.now, LAG).sight is Sight.NOT_YET


def test_a_violation_that_no_worker_has_met_yet_blinds_nobody_however_long_the_queue_is(scene: Scene) -> None:
    later = scene.now + timedelta(seconds=600)
    waiting = Planted("job", scene.now + timedelta(seconds=1), None)
    for detector in scene.all():
        found = detector.look(RELEASE, scene.since, waiting, later, LAG)
        assert (found.sight, found.after) == (Sight.NOT_YET, None), found


def test_one_that_a_worker_met_and_a_detector_lacks_makes_it_blind_after_the_lag(scene: Scene) -> None:
    at = scene.now + timedelta(seconds=20)
    unseen = Planted("job", at, at, "ab" * 16)
    for detector in scene.all():
        if detector.source in {"ledger", "prometheus"}:
            continue  # the ledger is where it was met; the other one's clock is its own
        soon = detector.look(RELEASE, scene.since, unseen, at + timedelta(seconds=LAG - 1), LAG)
        late = detector.look(RELEASE, scene.since, unseen, at + timedelta(seconds=LAG + 1), LAG)
        assert (soon.sight, late.sight) == (Sight.NOT_YET, Sight.BLIND), (soon, late)
        assert "46 s ago" in late.detail


# Real ones (this one runs after those above, which want none)


def test_a_real_error_is_seen_by_all_and_not_mixed_up_with_the_planted_one(scene: Scene) -> None:
    before = scene.now
    scene.connection.execute(REFUSED)
    job = ask(scene.connection, new_order(scene.connection, ["refused"]))
    assert eventually(lambda: ended_runs(scene.connection, job), within=20) == [("failed", "integrity")]
    for detector in scene.all():
        seen = eventually(lambda d=detector: scene.look(d).total and scene.look(d), within=10)
        assert isinstance(seen, Sighting)
        assert (seen.sight, seen.errors, seen.planted) == (Sight.SEEN, {FKEY: 1}, 1), seen
    ledger, counters = scene.look(scene.all()[0]), scene.look(scene.all()[1])
    assert (ledger.jobs, ledger.runs) == ((job,), 1)
    assert ledger.traces == counters.traces != ()
    after = scene.now
    for detector in scene.all():
        assert scene.look(detector, since=before).errors == {FKEY: 1}, detector
        found = detector.look(RELEASE, after, scene.planted, scene.now, LAG)
        assert found.errors == {}, (detector, found)


def test_errors_of_another_release_are_not_charged_to_this_one(scene: Scene) -> None:
    for detector in scene.all()[:4]:
        found = detector.look("r2", scene.since, None, scene.now, LAG)
        assert found.errors == {}, found
    other = Counters((f"{scene.host.url()}/metrics",), scene.database)
    found = other.look("r2", scene.since, None, scene.now, LAG)
    assert (found.sight, "no supervisor of release r2" in found.detail) == (Sight.BLIND, True)


# Blindness


def renamed(text: str) -> str:
    return text.replace("job_fk_errors", "job_foreign_key_errors")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (renamed, "job_fk_errors_total is missing"),
        (lambda text: text.replace(CONTROL, "other"), 'job_fk_errors_total{job_name="freshfetch-control"} is missing'),
        (lambda text: text.replace("toolkit_build_info", "build"), "toolkit_build_info is missing"),
        (lambda text: text.replace("process_start_time_seconds", "started"), "process_start_time_seconds is missing"),
        (lambda text: text[: len(text) // 2], "no OpenMetrics exposition"),
        (lambda _: "<html>it works</html>", "no OpenMetrics exposition"),
    ],
)  # fmt: skip
def test_counters_that_do_not_tell_are_blind_and_say_what_is_missing(
    scene: Scene, web: Web, changed: Callable[[str], str], said: str
) -> None:
    url = web.serve("/metrics", changed(scene.exposition()).encode())
    found = scene.look(Counters((url,), scene.database))
    assert (found.sight, said in found.detail) == (Sight.BLIND, True), found
    both = scene.look(Counters((f"{scene.host.url()}/metrics", url), scene.database))
    assert both.sight is Sight.BLIND, "one that is fine does not vouch for the other"


def test_a_supervisor_that_does_not_answer_is_away(scene: Scene, web: Web) -> None:
    for url in ("http://127.0.0.1:1/metrics", web.page("/metrics", "down", status=503)):
        found = scene.look(Counters((url,), scene.database))
        assert (found.sight, url in found.detail) == (Sight.AWAY, True), found
    assert scene.look(Counters((f"{web.url}/wrong",), scene.database)).sight is Sight.BLIND


def test_a_prometheus_without_the_counter_is_blind(scene: Scene, web: Web, tmp_path: Path) -> None:
    web.serve("/metrics", renamed(scene.exposition()).encode(), Content_Type=ACCEPT)
    with prometheus(tmp_path) as server:
        server.scrape([web.url])
        eventually(lambda: server.query("toolkit_build_info"), within=20)
        found = scene.look(PrometheusDetector(Prometheus(str(server.client.base_url).rstrip("/"))))
        assert found.sight is Sight.BLIND
        assert 'job_fk_errors_total{job_name="freshfetch-control"} is missing at' in found.detail


def test_a_prometheus_whose_samples_are_old_or_gone_is_blind(scene: Scene, web: Web, tmp_path: Path) -> None:
    old = int((datetime.now(UTC).timestamp() - 100) * 1000)
    text = f'# TYPE toolkit_build_info gauge\ntoolkit_build_info{{release="{RELEASE}",python="3"}} 1 {old}\n'
    web.serve("/metrics", text.encode(), Content_Type="text/plain; version=0.0.4")
    with prometheus(tmp_path) as server:
        detector = PrometheusDetector(Prometheus(str(server.client.base_url).rstrip("/")))
        found = scene.look(detector)
        assert (found.sight, "no toolkit_build_info of release r1" in found.detail) == (Sight.BLIND, True), (
            found
        )
        server.scrape([web.url])
        eventually(lambda: server.query("toolkit_build_info"), within=20)
        found = scene.look(detector)
        assert (found.sight, "its newest samples are old" in found.detail) == (Sight.BLIND, True), found
        assert 95 < float(found.detail.split()[-2]) < 160, found
        server.scrape([web.url, "127.0.0.1:1"])
        eventually(lambda: server.query("up == 0"), within=20)
        lenient = PrometheusDetector(detector.prometheus, fresh=600)
        assert "it cannot scrape 127.0.0.1:1" in scene.look(lenient).detail


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b"<html>", (Sight.BLIND, "no JSON of its API")),
        (
            400,
            b'{"status":"error","errorType":"bad_data","error":"parse error"}',
            (Sight.BLIND, "parse error"),
        ),
        (401, b"", (Sight.AWAY, "TOOLKIT_PROMETHEUS_TOKEN")),
        (503, b'{"status":"error","error":"TSDB not ready"}', (Sight.AWAY, "TSDB not ready")),
    ],
)
def test_a_prometheus_that_does_not_answer_says_why(
    scene: Scene, web: Web, status: int, body: bytes, told: tuple[Sight, str]
) -> None:
    web.serve("/api/v1/query?query=time%28%29", body, status=status)
    found = scene.look(PrometheusDetector(Prometheus(web.url, "secret")))
    assert (found.sight, told[1] in found.detail) == (told[0], True), found
    assert web.seen[0][1]["Authorization"] == "Bearer secret"
    dead = scene.look(PrometheusDetector(Prometheus("http://127.0.0.1:1")))
    assert (dead.sight, "TOOLKIT_PROMETHEUS_URL" in dead.detail) == (Sight.AWAY, True)


def test_logs_that_do_not_tell_are_blind_and_say_why(scene: Scene, tmp_path: Path) -> None:
    packed, empty, timeless, local = (tmp_path / name for name in ("gz", "empty", "timeless", "local"))
    packed.write_bytes(b"\x1f\x8b\x08")
    empty.touch()
    timeless.write_text("something happened\n" * 3)
    local.write_text("2025-10-11 17:16:22.000 CEST [1] ERROR: x\n")
    said = {
        tmp_path / "gone": "No such file", tmp_path: "Is a directory", packed: "is packed", empty: "is empty",
        timeless: "has no line whose time is understood", local: "CEST",
    }  # fmt: skip
    for path, why in said.items():
        found = scene.look(LogFile(str(path), "log"))
        assert (found.sight, why in found.detail, str(path) in found.detail) == (Sight.BLIND, True, True), (
            found
        )


def test_a_log_that_is_written_no_more_is_blind_after_the_lag(scene: Scene, tmp_path: Path) -> None:
    """Rotated away: the path names a file that another one has replaced."""
    old = tmp_path / "log"
    old.write_text("2020-01-01 00:00:00.000 UTC [1] LOG: long ago\n")
    assert scene.look(LogFile(str(old), "log"), later=LAG + 60).sight is Sight.BLIND


def test_a_ledger_that_swallows_the_row_is_blind_and_the_counters_are_not(
    database_url: str, redis_url: str, database: Database, connection: psycopg.Connection, tmp_path: Path
) -> None:
    since = datetime.now(UTC)
    with worker_host(database_url, redis_url, tmp_path, TOOLKIT_RELEASE=RELEASE) as host:
        connection.execute(SWALLOWED)
        job = plant(connection)
        found = eventually(lambda: (at := control.planted(connection, job)).trouble and at, within=20)
        assert isinstance(found, Planted)
        assert (found.run_at, found.trouble) == (
            None, "the planted violation was met by no error: the ledger has its run as processed",
        )  # fmt: skip
        ledger = Ledger(database).look(RELEASE, since, found, datetime.now(UTC), LAG)
        assert (ledger.sight, ledger.detail, ledger.planted) == (Sight.BLIND, found.trouble, 0)
        counters = Counters((f"{host.url()}/metrics",), database)
        assert counters.look(RELEASE, since, found, datetime.now(UTC), LAG).sight is Sight.SEEN


def test_a_ledger_that_does_not_answer_is_away() -> None:
    nowhere = Database("postgresql://nobody@127.0.0.1:1/nothing")
    now = datetime.now(UTC)
    found = Ledger(nowhere).look(RELEASE, now, None, now, LAG)
    assert (found.sight, "127.0.0.1:1" in found.detail) == (Sight.AWAY, True)


# Planting


def test_only_a_worker_of_the_release_meets_the_violation(
    database_url: str, redis_url: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    with worker_host(database_url, redis_url, tmp_path / "old", TOOLKIT_RELEASE="old"):
        job = plant(connection, "new")
        eventually(lambda: ("failed", "transient") in ended_runs(connection, job), within=20)
        assert control.planted(connection, job).run_at is None
        with worker_host(database_url, redis_url, tmp_path / "new", TOOLKIT_RELEASE="new"):
            assert met(connection, job).trouble == ""
    assert connection.execute(
        "SELECT release FROM toolkit.run WHERE job_id = %s AND sqlstate = '23503'", (job,)
    ).fetchall() == [("new",)]


def test_settled_controls_are_offered_to_nobody_and_open_ones_are_left_alone(
    connection: psycopg.Connection,
) -> None:
    failed, open_, left = (plant(connection) for _ in range(3))
    connection.execute(
        "UPDATE toolkit.intent SET done_at = now(), outcome = 'failed' WHERE job_id = %s", (failed,)
    )
    connection.execute(
        "UPDATE toolkit.intent SET created_at = now() - interval '1 hour' WHERE job_id = %s", (left,)
    )
    real = ask(connection, new_order(connection))
    connection.execute(
        "UPDATE toolkit.intent SET done_at = now(), outcome = 'failed' WHERE job_id = %s", (real,)
    )
    assert control.settle(connection) == 2
    stands = dict(connection.execute("SELECT job_id, outcome FROM toolkit.intent").fetchall())
    assert stands == {failed: "processed", open_: None, left: "processed", real: "failed"}
    assert control.settle(connection) == 0


def test_the_control_violates_the_constraint_that_its_name_says() -> None:
    assert (CONTROL_CONSTRAINT, FK_FAILURE.sqlstate) == ("freshfetch_control_fkey", "23503")
    assert (control.SPEC.name, control.SPEC.constraints) == (CONTROL, {CONTROL_CONSTRAINT})


def test_the_operator_may_plant_and_settle_and_the_observer_may_not(connection: psycopg.Connection) -> None:
    with connection.transaction():
        connection.execute("SET LOCAL ROLE toolkit_operator")
        control.planted(connection, plant(connection))
        control.settle(connection)
    connection.execute("SET ROLE toolkit_observer")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        plant(connection)


# Which are in use


def test_what_the_settings_name_is_in_use_and_the_ledger_always(scene: Scene, tmp_path: Path) -> None:
    none = Settings.from_env({"TOOLKIT_METRICS_PORT": "1"})
    assert [
        one.source for one in detectors(none, scene.database, constraints=frozenset(), server_log=None)
    ] == ["ledger"]
    named = Settings.from_env(
        {
            "TOOLKIT_VERIFY_METRICS": "http://127.0.0.1:1/metrics, http://127.0.0.1:2/metrics", "TOOLKIT_PROMETHEUS_URL": "http://127.0.0.1:3/",
            "TOOLKIT_VERIFY_LOGS": f"{tmp_path}/a,{tmp_path}/b",
        }
    )  # fmt: skip
    found = detectors(named, scene.database, constraints=frozenset(), server_log=scene.server_log)
    assert [one.source for one in found] == [
        "ledger",
        "counters",
        "prometheus",
        f"log {tmp_path}/a",
        f"log {tmp_path}/b",
    ]
    assert [scene.look(one).sight for one in found] == [
        Sight.SEEN,
        Sight.AWAY,
        Sight.AWAY,
        Sight.BLIND,
        Sight.BLIND,
    ]
    port = scene.host.url().rpartition(":")[2]
    own = Settings.from_env({"TOOLKIT_METRICS_PORT": port})
    found = detectors(own, scene.database, constraints=frozenset({FKEY}), server_log=scene.server_log)
    assert [one.source for one in found] == ["ledger", "counters", "server log"]
    assert {scene.look(one).sight for one in found} == {Sight.SEEN}


def test_the_newest_verification_is_on_metrics(database: Database, connection: psycopg.Connection) -> None:
    metrics = Metrics(Registry.installed(), release=RELEASE)
    gauge = VerdictGauge(database, metrics)

    def shown(check: str) -> float | None:
        gauge.run_once()
        return metrics.value("verify_verdict", phase="immediate", check=check)

    def verified(**verdicts: str) -> None:
        findings = [
            {"check": check.replace("_", "-"), "phase": "immediate", "judgement": {"verdict": verdict}}
            for check, verdict in verdicts.items()
        ]
        connection.execute(
            "INSERT INTO toolkit.verification (release, since, asked, who, receipt) VALUES ('r1', now(), '{}', 'me', %s)",
            (json.dumps({"findings": findings}),),
        )

    assert shown("queue-processing") == 3
    verified(queue_processing="proven", deployment_live="regression")
    assert (shown("queue-processing"), shown("deployment-live"), shown("no-new-errors")) == (0, 1, 3)
    verified(queue_processing="pending")
    assert (shown("queue-processing"), shown("deployment-live")) == (8, 3)
    verified(queue_processing="of a later release")
    assert shown("queue-processing") == 3
