"""The switch on a real ledger: flips, receipts, layers, jobs in flight, and the store that is away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from jobs.images.words import NAME, TOGGLE
from tests.eventually import eventually
from tests.hosts import worker_host
from tests.importers import importer
from tests.ledger_rows import PASSING_FAILURE, ran
from tests.orders import Order, ask, ended_runs, images, new_merchant, new_order, scalar
from tests.performing import Heard, performing
from toolkit.broker.relay import Relay
from toolkit.errors import FlipLost
from toolkit.jobspec import Registry
from toolkit.ledger import queries, toggles
from toolkit.ledger.database import Database
from toolkit.ledger.toggles import Toggle
from toolkit.telemetry import logs
from toolkit.telemetry.metrics import Metrics
from toolkit.telemetry.traces import Tracing
from toolkit.toggle import in_flight
from toolkit.toggle.flip import Flipper
from toolkit.toggle.gauges import ToggleGauges
from toolkit.toggle.plan import HOLD_FOR_GOOD, Plan
from toolkit.toggle.watch import Process, Watcher

REFUSING = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def flipper(database: Database) -> Flipper:
    return Flipper(database, Tracing("test", "1").tracer, logs.get_logger(), "ann@desk")


def flip(
    flipper: Flipper, to: str, *, hold: float | None = None, lease: float | None = None, **more: Any
) -> Toggle:
    """A flip from whatever stands."""
    with flipper.database.session() as session:
        standing = toggles.read(session, [TOGGLE]).get(TOGGLE)
    plan = Plan(
        standing.version if standing else 0,
        to == "on",
        more.pop("percent", 100),
        more.pop("pins", {}),
        hold,
        lease,
    )
    return flipper.flip(TOGGLE, plan, jobs=(NAME,), reason="test")


def plan_from(version: int) -> Plan:
    """Off, from that version."""
    return Plan(version, enabled=False, percent=100, pins={}, hold=None, lease=None)


def watcher(url: str, name: str = "p1", *, switched_off: bool = False, **more: Any) -> Watcher:
    """A watcher as a process of its own would have."""
    return Watcher(
        url=url, names=(TOGGLE,), process=Process(name, "importer", "h", os.getpid(), "r1"),
        switched_off=lambda _: switched_off, **more,
    )  # fmt: skip


@contextmanager
def watching(url: str, name: str = "p1", **more: Any) -> Iterator[Watcher]:
    one = watcher(url, name, **more)
    one.start()
    try:
        yield one
    finally:
        one.close()


def toolkit(database_url: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command line."""
    return subprocess.run(
        [sys.executable, "-m", "toolkit.cli", *arguments], capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"DATABASE_URL": database_url, "TOOLKIT_JOBS": "tests.gates:SPEC"} | environ,
        cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip


# -- state


def test_a_flip_is_compare_and_set_and_the_loser_learns_who_won(flipper: Flipper) -> None:
    flip(flipper, "off")
    with pytest.raises(FlipLost, match=r"is at version 1, not 0: ann@desk flipped it meanwhile \(test\)"):
        flipper.flip(TOGGLE, plan_from(0), jobs=(NAME,), reason="late")
    flip(flipper, "on")
    with pytest.raises(FlipLost, match="version 2, not 1"):
        flipper.flip(TOGGLE, plan_from(1), jobs=(NAME,), reason="late")


def test_of_many_who_flip_at_once_one_wins(flipper: Flipper) -> None:
    won: list[bool] = []
    start = threading.Barrier(6)

    def try_it() -> None:
        start.wait()
        try:
            flipper.flip(TOGGLE, plan_from(0), jobs=(NAME,), reason="race")
            won.append(True)
        except FlipLost:
            won.append(False)

    threads = [threading.Thread(target=try_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]


def test_history_and_audit_keep_every_version_and_nobody_may_change_them(flipper: Flipper) -> None:
    flip(flipper, "off")
    flip(flipper, "on", percent=25, pins={"m1": True}, lease=3600.0)
    with flipper.database.session() as session:
        kept = toggles.history(session, TOGGLE)
        acts = session.execute(
            "SELECT who, subject, reason FROM toolkit.audit WHERE action = 'toggle'"
        ).fetchall()
        assert [(one.version, one.enabled, one.percent, one.pins) for one in kept] == [
            (2, True, 25, {"m1": True}), (1, False, 100, {}),
        ]  # fmt: skip
        assert kept[0].lease_until is not None
        assert kept[0].lease_until - kept[0].at == timedelta(hours=1)
        assert acts == [("ann@desk", TOGGLE, "test")] * 2
        for statement in (
            "DELETE FROM toolkit.toggle_history",
            "UPDATE toolkit.toggle_history SET reason = 'x'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                session.execute(statement)


def test_only_an_operator_may_flip_and_a_program_may_read_and_acknowledge(flipper: Flipper) -> None:
    flip(flipper, "off")
    with flipper.database.session() as session:
        for role in ("toolkit_worker", "toolkit_app"):
            session.execute(f"SET ROLE {role}")
            assert toggles.read(session, [TOGGLE])[TOGGLE].version == 1
            toggles.ack(
                session, TOGGLE, process=role, kind="worker", host="h", pid=1, release="", version=1, variant="sync",
                layer="ledger", direct=True,
            )  # fmt: skip
            toggles.leave(session, role)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                toggles.flip(
                    session, TOGGLE, version=1, enabled=True, percent=100, pins={}, jobs=(), hold=None, lease=None,
                    who="x", reason="x",
                )  # fmt: skip
        session.execute("SET ROLE toolkit_operator")
        toggles.flip(
            session, TOGGLE, version=1, enabled=True, percent=100, pins={}, jobs=(), hold=None, lease=None, who="x", reason="x",
        )  # fmt: skip
        session.execute("RESET ROLE")


# -- watching


def test_every_process_obeys_and_then_acknowledges(database_url: str, flipper: Flipper) -> None:
    with watching(database_url, "p1") as one, watching(database_url, "p2") as two:
        standing = flip(flipper, "off")
        seen = flipper.await_receipt(standing, within=5)
        assert seen.complete
        assert {process.process for process in seen.acknowledged} == {"p1", "p2"}
        assert {watched.known(TOGGLE).version for watched in (one, two)} == {1}
        assert {process.variant for process in seen.acknowledged} == {"sync"}
    with flipper.database.session() as session:
        assert toggles.seen_by(session, TOGGLE) == []


def test_an_order_that_is_being_made_holds_the_acknowledgement_back(
    database_url: str, flipper: Flipper
) -> None:
    with watching(database_url) as one:
        with one.pledge() as pledge:
            pledge.keep(TOGGLE)
            standing = flip(flipper, "off")
            eventually(lambda: one.known(TOGGLE).version == 1)
            assert [late.process for late in flipper.await_receipt(standing, within=0.3).laggards] == ["p1"]
        assert flipper.await_receipt(standing, within=5).complete


def test_a_process_whose_connection_is_gone_is_named_as_gone_and_not_waited_for(
    database_url: str, flipper: Flipper
) -> None:
    with watching(database_url, "lives"), watching(database_url, "dies") as dies:
        eventually(lambda: len(processes(flipper)) == 2)
        dies._stop.set()  # its thread never says goodbye
        with flipper.database.session() as session:
            session.execute(
                "SELECT pg_terminate_backend(backend) FROM toolkit.toggle_process WHERE process = 'dies'"
            )
        eventually(
            lambda: (
                {one.process: one.connected for one in processes(flipper)} == {"lives": True, "dies": False}
            )
        )
        seen = flipper.await_receipt(flip(flipper, "off"), within=5)
        assert ([one.process for one in seen.acknowledged], [one.process for one in seen.gone]) == (
            ["lives"],
            ["dies"],
        )


def processes(flipper: Flipper) -> list[toggles.SeenBy]:
    with flipper.database.session() as session:
        return toggles.seen_by(session, TOGGLE)


def test_without_notify_the_poll_does_the_work(database_url: str, flipper: Flipper) -> None:
    with watching(database_url) as one:
        with flipper.database.session() as session:
            session.execute(
                "INSERT INTO toolkit.toggle (name, version, enabled, who, reason) VALUES (%s, 7, false, 'w', 'silent')", (TOGGLE,)
            )  # fmt: skip
        eventually(lambda: one.known(TOGGLE).version == 7, within=3)


def test_a_cold_start_without_the_store_is_sync_until_it_answers(database_url: str) -> None:
    heard: list[str] = []
    with watching(REFUSING, listeners=[lambda event, *_: heard.append(event)]) as one:
        known = one.known(TOGGLE)
        assert not known.reached
        assert "refused" in known.why
        assert heard == ["error"]
        one.url = database_url  # the store comes up
        eventually(lambda: one.known(TOGGLE).reached)
        assert heard == ["error", "ready"]


def test_the_store_going_away_leaves_the_last_known_value_marked_stale(
    database_url: str, flipper: Flipper
) -> None:
    flip(flipper, "off")
    heard: list[str] = []
    with watching(database_url, listeners=[lambda event, *_: heard.append(event)]) as one:
        one.url = REFUSING
        assert one._connection is not None
        with flipper.database.session() as session:
            session.execute("SELECT pg_terminate_backend(backend) FROM toolkit.toggle_process")
        eventually(lambda: one.known(TOGGLE).stale_since is not None)
        assert (one.known(TOGGLE).version, one.known(TOGGLE).toggle is not None) == (1, True)
        flip(flipper, "on")
        assert one.known(TOGGLE).version == 1
        one.url = database_url
        eventually(lambda: one.known(TOGGLE).stale_since is None)
        assert one.known(TOGGLE).version == 2
        assert heard == ["ready", "stale", "ready", "changed"]


def test_a_value_that_nobody_confirmed_is_read_again_before_it_is_used(
    database_url: str, flipper: Flipper
) -> None:
    """A process that was frozen wakes: its thread has not looked yet."""
    with watching(database_url) as one:
        one._stop.set()
        one._ring()
        assert one._thread is not None
        one._thread.join(5)
        flip(flipper, "off")
        assert one._known[TOGGLE].version == 0
        one._looked = one._tried = 0.0
        assert one.known(TOGGLE).version == 1


def test_before_init_everything_is_sync_and_says_why(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA toolkit CASCADE")
    with watching(database_url) as one:
        assert not one.known(TOGGLE).reached
        assert "toolkit init" in one.known(TOGGLE).why


# -- metrics and leases


def test_the_supervisor_shows_it_and_reminds_of_a_lease_once_and_never_flips(
    database_url: str, flipper: Flipper, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [datetime.now(UTC)]
    logs.configure(style="json", release="r1", stream=sys.stderr)
    with watching(database_url) as one:
        metrics = Metrics(Registry.installed(), release="r1")
        gauges = ToggleGauges(one, metrics, logs.get_logger(), lambda: now[0])
        one.listeners.append(gauges.heard)
        flip(flipper, "off", lease=60.0)
        eventually(lambda: metrics.value("toggle_enabled", toggle=TOGGLE) == 0)
        assert metrics.value("toggle_info", toggle=TOGGLE, variant="sync", version="1") == 1
        gauges.run_once()
        assert metrics.value("toggle_lease_overdue_seconds", toggle=TOGGLE) == 0
        now[0] += timedelta(seconds=90)
        for _ in range(3):
            gauges.run_once()
        assert 29 < (metrics.value("toggle_lease_overdue_seconds", toggle=TOGGLE) or 0) < 31
        said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        assert [line["event"] for line in said].count("toggle.lease_over") == 1
        assert one.known(TOGGLE).version == 1


# -- programs that import


def test_an_importer_goes_by_a_flip_without_being_restarted(
    database_url: str, redis_url: str, tmp_path: Path, flipper: Flipper
) -> None:
    with importer((database_url, redis_url), tmp_path, "i1") as one:
        eventually(one.ready)
        assert one.said("ready")[0]["mode"] == "async"
        assert flipper.await_receipt(flip(flipper, "off"), within=5).complete
        assert [(value["async"], value["version"]) for value in one.said("value")][-1:] == [(False, 1)]


def test_in_sync_mode_the_same_job_is_done_inline(
    database_url: str, redis_url: str, tmp_path: Path, flipper: Flipper
) -> None:
    flip(flipper, "off")
    with psycopg.connect(database_url) as connection:
        new_merchant(connection, "m-own")
    with importer((database_url, redis_url), tmp_path, "i1", count=2, drafts=3) as one:
        eventually(lambda: one.ready() and len(one.said("order")) == 2, within=20)
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT r.mode, r.outcome, i.mode, r.uncounted IS NOT NULL FROM toolkit.run r JOIN toolkit.intent i USING (job_id)"
        ).fetchall()
        assert rows == [("sync", "processed", "sync", True)] * 2
        assert scalar(connection, 'SELECT count(*) FROM "ProductImage"') == 2 * 3 * 2
        assert scalar(connection, "SELECT count(*) FROM \"WorkflowExecution\" WHERE mode = 'sync'") == 2
    events = [json.loads(line) for line in one.out.with_suffix(".err").read_text().splitlines()]
    evaluated = [
        event for event in events if event["event"] == "feature_flag.evaluation" and event.get("trace_id")
    ]
    assert len(evaluated) == 2
    assert evaluated[0] | {
        "feature_flag.key": TOGGLE, "feature_flag.result.variant": "sync", "feature_flag.result.reason": "static",
        "feature_flag.version": "1", "feature_flag.provider.name": "freshfetch-ledger",
    } == evaluated[0]  # fmt: skip


def test_the_environment_wins_towards_sync_and_the_receipt_shows_it(
    database_url: str, redis_url: str, tmp_path: Path, flipper: Flipper
) -> None:
    flip(flipper, "on")
    with importer((database_url, redis_url), tmp_path, "i1", ASYNC_IMAGE_PROCESSING="false") as one:
        eventually(one.ready)
        assert one.said("ready")[0]["mode"] == "sync"
        shown = toolkit(database_url, "toggle", "explain")
    assert "stay sync: ASYNC_IMAGE_PROCESSING=false stands in their environment" in shown.stdout
    assert shown.returncode == 0


# -- in flight


@pytest.fixture
def broker(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def queued(database: Database, broker: redis.Redis) -> Callable[[int], tuple[list[Order], Relay]]:
    """Orders whose jobs lie in the broker."""

    def make(count: int) -> tuple[list[Order], Relay]:
        relay = Relay(database, broker, Registry.installed(), logs.get_logger())
        with psycopg.connect(database.url) as connection:
            orders = [new_order(connection, 2) for _ in range(count)]
            for order in orders:
                ask(connection, order)
        while relay.run_once():
            pass
        assert broker.llen("rq:queue:images") == count
        return orders, relay

    return make


def take_back(flipper: Flipper, broker: redis.Redis, standing: Toggle, batch: int = 500) -> int:
    return in_flight.take_back(
        flipper.database, broker, standing, log=flipper.log, tracer=flipper.tracer, batch=batch
    )


def test_hold_keeps_queued_and_new_jobs_in_the_ledger_until_the_next_flip(
    flipper: Flipper, broker: redis.Redis, queued: Callable[[int], tuple[list[Order], Relay]]
) -> None:
    _, relay = queued(7)
    standing = flip(flipper, "off", hold=HOLD_FOR_GOOD)
    assert take_back(flipper, broker, standing, batch=3) == 7
    with psycopg.connect(flipper.database.url) as connection:
        ask(connection, new_order(connection))
    assert relay.run_once() == 0
    assert (broker.llen("rq:queue:images"), broker.keys("rq:job:*")) == (0, [])
    with flipper.database.session() as session:
        assert toggles.in_flight(session, [NAME]) == toggles.InFlight(waiting=8, queued=0, running=0)
        assert queries.summary(session, timedelta(days=1)).unpushed == 0, "nobody is to push what is held"
    flip(flipper, "on")
    assert relay.run_once() == 8
    assert broker.llen("rq:queue:images") == 8


def test_a_held_job_names_its_toggle_and_what_lets_it_go(database_url: str, flipper: Flipper) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        job = ask(connection, new_order(connection))
        ran(connection, job, failure=PASSING_FAILURE, retry_in=0.0)
    commands = (("jobs", "list"), ("jobs", "show", job), ("replay", "--job", job))

    flip(flipper, "off", hold=HOLD_FOR_GOOD)
    listed, shown, replayed = (toolkit(database_url, *command).stdout for command in commands)
    assert f"held by {TOGGLE}" in listed
    assert f"kept in the ledger until `toolkit toggle on {TOGGLE}`" in shown
    assert "again now" not in listed + shown
    assert f"`toolkit toggle on {TOGGLE}` lets it go" in replayed

    flip(flipper, "on")
    assert not any(TOGGLE in toolkit(database_url, *command).stdout for command in commands)


def test_a_broker_that_is_away_leaves_the_toggle_off_and_says_what_is_still_queued(
    database_url: str, queued: Callable[[int], tuple[list[Order], Relay]]
) -> None:
    queued(2)
    off = ("toggle", "off", TOGGLE, "--in-flight", "hold", "--reason", "23503", "--timeout", "0")
    done = toolkit(
        database_url, *off, REDIS_URL="redis://127.0.0.1:1/0", TOOLKIT_JOBS="jobs.images.spec:SPEC"
    )
    assert done.returncode == 3
    assert f"{TOGGLE}: off" in done.stdout
    assert "queued jobs are still in the broker" in done.stderr
    assert "Traceback" not in done.stderr
    assert "type the same command again" in done.stderr


@pytest.mark.parametrize("url", ["", "nonsense", "redis://host:port/0"])
def test_a_broker_url_that_cannot_be_used_flips_nothing(
    database_url: str, tmp_path: Path, flipper: Flipper, url: str
) -> None:
    off = ("toggle", "off", TOGGLE, "--in-flight", "reclaim", "--reason", "23503")
    done = toolkit(database_url, *off, REDIS_URL=url, TOOLKIT_HOME=str(tmp_path))
    assert (done.returncode, "REDIS_URL" in done.stderr) == (2, True), done.stderr
    with flipper.database.session() as session:
        assert toggles.read(session, [TOGGLE]) == {}


@pytest.mark.parametrize("what", ["hold", "reclaim"])
def test_a_job_that_a_stopped_worker_has_taken_is_told_as_left(
    database_url: str, redis_url: str, broker: redis.Redis, queued: Callable[[int], tuple[list[Order], Relay]],
    what: str,
) -> None:  # fmt: skip
    queued(2)
    broker.lmove(
        "rq:queue:images", "rq:queue:images:intermediate", "LEFT", "RIGHT"
    )  # as a worker's BLMOVE does
    off = ("toggle", "off", TOGGLE, "--in-flight", what, "--reason", "23503")
    done = toolkit(database_url, *off, REDIS_URL=redis_url)
    assert done.returncode == 3
    assert "1 queued job taken back" in done.stdout
    assert "1 job could not be taken back" in done.stderr
    assert "kill -KILL" in done.stderr
    assert ("left to the workers: 1" in done.stdout) == (what == "reclaim")


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (("--deadline", "60"), "--deadline is for --via"),
        (("--via", "vercel", "--timeout", "5"), "--timeout does nothing beside --via"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    database_url: str, options: tuple[str, ...], wrong: str
) -> None:
    done = toolkit(database_url, "toggle", "off", TOGGLE, "--reason", "why", *options)
    assert (done.returncode, wrong in done.stderr) == (2, True), done.stderr


def test_reclaim_does_every_queued_job_here_once_and_ends_the_hold(
    flipper: Flipper, broker: redis.Redis, queued: Callable[[int], tuple[list[Order], Relay]]
) -> None:
    orders, relay = queued(5)
    standing = flip(flipper, "off", hold=60.0)
    assert take_back(flipper, broker, standing) == 5
    with performing(flipper.database.url, sink=Heard(uncounted=True)) as here:
        came = in_flight.reclaim(flipper.database, here, standing, flipper.log, lambda *_: None)
    assert came == in_flight.Reclaimed(done=5, failed=0, left=0)
    with psycopg.connect(flipper.database.url) as connection:
        for order in orders:
            assert set(images(connection, order).values()) == {2}
        assert connection.execute("SELECT DISTINCT mode, outcome FROM toolkit.run").fetchall() == [
            ("sync", "processed")
        ]
        ask(connection, new_order(connection))
    assert relay.run_once() == 1, "the hold ended with the reclaim"


def test_a_job_that_a_worker_has_in_hand_is_left_to_it(
    database_url: str, redis_url: str, tmp_path: Path, flipper: Flipper, broker: redis.Redis
) -> None:
    with worker_host(database_url, redis_url, tmp_path / "host") as host:
        with psycopg.connect(database_url) as connection:
            running = new_order(connection, ["wait:gate"])
            job = ask(connection, running)
        host.reached("gate")
        with psycopg.connect(database_url) as connection:
            waiting = new_order(connection, 2)
            ask(connection, waiting)
        eventually(lambda: broker.llen("rq:queue:images") == 1)
        standing = flip(flipper, "off", hold=60.0)
        assert take_back(flipper, broker, standing) == 1
        with performing(flipper.database.url, sink=Heard(uncounted=True)) as here:
            came = in_flight.reclaim(flipper.database, here, standing, flipper.log, lambda *_: None)
        assert came == in_flight.Reclaimed(done=1, failed=0, left=1)
        host.open("gate")
        with psycopg.connect(database_url, autocommit=True) as connection:
            eventually(lambda: ended_runs(connection, job) == [("processed", "")])
            assert (
                set(images(connection, running).values()) == set(images(connection, waiting).values()) == {2}
            )


def test_a_reclaim_that_dies_gives_the_rest_back_to_the_workers(
    flipper: Flipper, broker: redis.Redis, queued: Callable[[int], tuple[list[Order], Relay]]
) -> None:
    _, relay = queued(3)
    standing = flip(flipper, "off", hold=0.3)
    assert take_back(flipper, broker, standing) == 3
    assert relay.run_once() == 0
    eventually(lambda: relay.run_once() == 3, within=3)  # the command is gone; its hold ends by itself


# -- the command


def test_off_prints_a_receipt_for_each_process_and_a_stopped_one_is_named(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    servers = (database_url, redis_url)
    with importer(servers, tmp_path, "good") as good, importer(servers, tmp_path, "stopped") as stopped:
        eventually(lambda: good.ready() and stopped.ready())
        done = toolkit(database_url, "toggle", "off", TOGGLE, "--reason", "23503 again")
        assert (done.returncode, done.stdout.count("✔"), "2 processes go by version 1" in done.stdout) == (
            0,
            2,
            True,
        )
        stopped.send(signal.SIGSTOP)
        done = toolkit(
            database_url,
            "toggle",
            "on",
            TOGGLE,
            "--reason",
            "mended",
            "--force",
            "--timeout",
            "0.5",
            "--json",
        )
        told = json.loads(done.stdout)
        assert done.returncode == 3
        assert [one["pid"] for one in told["laggards"]] == [stopped.process.pid]
        assert [one["pid"] for one in told["acknowledged"]] == [good.process.pid]
        assert toolkit(database_url, "toggle", "status").returncode == 3
        stopped.send(signal.SIGCONT)
        eventually(lambda: stopped.said("value")[-1]["version"] == 2)
        shown = toolkit(database_url, "toggle", "history", "--json")
        assert [one["reason"] for one in json.loads(shown.stdout)] == ["mended", "23503 again"]


def test_on_without_a_verdict_warns_and_goes_on(database_url: str) -> None:
    done = toolkit(database_url, "toggle", "on", "--reason", "steady", "--percent", "25")
    assert done.returncode == 0
    assert "no verify-deploy verdict" in done.stderr
    assert "on for 25 % of the orders" in done.stdout


def test_status_without_the_ledger_says_what_happens_and_why() -> None:
    for verb in ("status", "explain"):
        done = toolkit(REFUSING, "toggle", verb)
        assert done.returncode == 4
        assert "sync" in done.stdout
        assert "refused" in done.stdout
        assert "toggle history" not in done.stderr, "it needs the ledger as well"


def test_a_history_without_a_flip_says_so(database_url: str) -> None:
    assert "never flipped" in toolkit(database_url, "toggle", "history").stderr


def test_a_flip_without_the_ledger_changes_nothing_and_says_so() -> None:
    done = toolkit(REFUSING, "toggle", "off", "--reason", "x")
    assert done.returncode == 4
    assert "does not answer" in done.stderr


def test_an_unknown_toggle_is_refused_by_name(database_url: str) -> None:
    done = toolkit(database_url, "toggle", "off", "ASYNC_IMAGES", "--reason", "x")
    assert done.returncode == 2
    assert "toggles: ASYNC_IMAGE_PROCESSING" in done.stderr
