"""Rescues on a real ledger: flips and rollbacks are measured by what really happened; `--on-fail` switches off once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg
import pytest

from jobs.images.spec import SPEC
from tests import receipts
from tests.eventually import eventually
from tests.ledger_rows import ask, ran
from tests.orders import scalar
from toolkit import verification
from toolkit.app import App
from toolkit.errors import FlipLost
from toolkit.ledger import audit, rollbacks, toggles, verifications
from toolkit.ledger.database import Database
from toolkit.ledger.toggles import Toggle
from toolkit.settings import Settings
from toolkit.telemetry import logs
from toolkit.telemetry.traces import Tracing
from toolkit.toggle.flip import KEPT, Flipper
from toolkit.toggle.plan import Plan
from toolkit.toggle.watch import Process, Watcher
from toolkit.verify import rescue
from toolkit.verify.asked import Asked
from toolkit.verify.check import Target
from toolkit.verify.verdict import Receipt, Rescue


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


def mark(database: Database, *releases: tuple[str, float]) -> None:
    """Mark releases, each so many seconds ago."""
    now = datetime.now(UTC)
    with database.session() as session:
        for release, ago in releases:
            verifications.mark(session, release, who="ann", note="", at=now - timedelta(seconds=ago))


def look(database: Database) -> dict[str, Rescue]:
    """The ways back from release r2, by their first word."""
    now = datetime.now(UTC)
    target = Target(7, "r2", now - timedelta(seconds=600), now)
    with database.session() as session:
        return {one.name.split()[0]: one for one in rescue.look(session, SPEC, target)}


def test_a_ledger_that_knows_nothing_measures_nothing(database: Database) -> None:
    ways = look(database)
    assert [(one.seconds, one.measured) for one in ways.values()] == [
        (None, "no flip has a complete receipt"),
        (None, "no release was marked again and ran"),
    ]


def test_a_flip_with_a_complete_receipt_is_measured_and_kept(database: Database, database_url: str) -> None:
    flipper = Flipper(database, Tracing("test", "1").tracer, logs.get_logger(), "ann@desk")
    process = Process("p1", "importer", "h", os.getpid(), "r1")
    watcher = Watcher(url=database_url, names=(SPEC.toggle,), process=process, switched_off=lambda _: False)
    watcher.start()
    try:
        with database.session() as session:
            eventually(lambda: any(one.connected for one in toggles.seen_by(session, SPEC.toggle)))
        for version, enabled in enumerate((False, True)):
            plan = Plan(version, enabled=enabled, percent=100, pins={}, hold=None, lease=None)
            standing = flipper.flip(SPEC.toggle, plan, jobs=(SPEC.name,), reason="drill")
            assert flipper.await_receipt(standing, within=10).complete
    finally:
        watcher.close()
    with database.session() as session:
        kept = audit.history(session, KEPT)
    assert [(one.who, one.subject, one.detail["version"], one.detail["processes"]) for one in kept] == [
        ("ann@desk", SPEC.toggle, 2, 1),
        ("ann@desk", SPEC.toggle, 1, 1),
    ]
    way = look(database)["switch"]
    assert way.seconds == max(one.detail["seconds"] for one in kept) > 0
    assert way.measured.endswith("the slowest of 2 flips")


def test_a_flip_that_nobody_saw_measures_nothing(database: Database) -> None:
    flipper = Flipper(database, Tracing("test", "1").tracer, logs.get_logger(), "ann@desk")
    plan = Plan(0, enabled=True, percent=100, pins={}, hold=None, lease=None)
    flipper.await_receipt(flipper.flip(SPEC.toggle, plan, jobs=(SPEC.name,), reason="drill"), within=1)
    assert look(database)["switch"].seconds is None


def test_a_release_that_was_marked_again_and_ran_is_a_measured_rollback(database: Database) -> None:
    mark(database, ("r1", 9000), ("r2", 600), ("r1", 60))
    with database.session() as session:
        ran(session, ask(session))  # release r1, now
        (one,) = rollbacks.rollbacks(session)
    assert one.release == "r1"
    assert 60 <= (one.ran - one.at).total_seconds() < 180
    way = look(database)["roll"]
    assert way.seconds == (one.ran - one.at).total_seconds()
    assert way.command == "toolkit verify-deploy mark --release r1"


def test_the_release_that_ran_before_is_named_although_it_was_never_marked(database: Database) -> None:
    with database.session() as session:
        ran(session, ask(session))  # release r1
        session.execute("UPDATE toolkit.run SET started_at = now() - interval '1 hour'")
    assert look(database)["roll"].command == "toolkit verify-deploy mark --release r1"


@pytest.mark.parametrize(
    "marks",
    [
        (("r1", 9000), ("r1", 60)),  # marked twice, with nothing between
        (("r2", 9000), ("r1", 60)),  # a new one
        (("r1", 9000), ("r2", 600), ("r1", 60), ("r2", 30)),  # it never ran before the next came
    ],
)
def test_what_is_no_rollback_or_never_ran_measures_nothing(
    database: Database, marks: tuple[tuple[str, float], ...]
) -> None:
    mark(database, *marks)
    with database.session() as session:
        ran(session, ask(session))
        assert rollbacks.rollbacks(session) == []


# --on-fail toggle-off

FAILS = """
CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no' USING ERRCODE = '%s'; END $$;
CREATE TRIGGER fails BEFORE INSERT OR UPDATE ON toolkit.toggle EXECUTE FUNCTION fails()"""
"""No flip gets through."""
ASKED = Asked(job_name=SPEC.name, on_fail="toggle-off")


@pytest.fixture
def app(database_url: str, redis_url: str) -> Iterator[App]:
    environ = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "TOOLKIT_OPERATOR": "ann"}
    with App(Settings.from_env(environ)) as app:
        yield app


@pytest.fixture
def regression(app: App, database: Database) -> Receipt:
    with database.session() as session:
        begun = verifications.begin(session, "r2", datetime.now(UTC), ASKED.encode(), who="ann")
    return msgspec.structs.replace(receipts.regression(), verification_id=begun.verification_id)


def flip(database: Database, version: int, *, enabled: bool, pins: dict[str, bool] | None = None) -> None:
    """On from that version."""
    flipper = Flipper(database, Tracing("test", "1").tracer, logs.get_logger(), "bob")
    plan = Plan(version, enabled=enabled, percent=100, pins=pins or {}, hold=None, lease=None)
    flipper.flip(SPEC.toggle, plan, jobs=(SPEC.name,), reason="drill")


def standing(database: Database) -> Toggle | None:
    with database.session() as session:
        return toggles.read(session, [SPEC.toggle]).get(SPEC.toggle)


def test_a_flip_that_failed_is_not_used_up_and_one_that_was_made_is(
    app: App, database: Database, regression: Receipt, connection: psycopg.Connection
) -> None:
    connection.execute(FAILS % "TK002")
    for _ in range(2):
        with pytest.raises(FlipLost):
            verification.rescue(app, ASKED, regression)
    connection.execute("DROP TRIGGER fails ON toolkit.toggle")
    assert verification.rescue(app, ASKED, regression).startswith(f"{SPEC.toggle} is off (version 1)")
    assert verification.rescue(app, ASKED, regression) == f"{SPEC.toggle} is off already"
    flip(database, 1, enabled=True)
    assert "by this verification before" in verification.rescue(app, ASKED, regression)
    assert (found := standing(database)) is not None
    assert (found.version, found.enabled) == (2, True), "what a person switched on again stays on"


def test_a_toggle_that_is_off_already_uses_nothing_up(
    app: App, database: Database, regression: Receipt
) -> None:
    flip(database, 0, enabled=False, pins={"m1": False})
    assert verification.rescue(app, ASKED, regression) == f"{SPEC.toggle} is off already"
    flip(database, 1, enabled=True)
    assert verification.rescue(app, ASKED, regression).startswith(f"{SPEC.toggle} is off (version 3)")


def test_a_merchant_that_is_pinned_to_async_is_switched_off_too(
    app: App, database: Database, regression: Receipt
) -> None:
    flip(database, 0, enabled=False, pins={"m1": True, "m2": False})
    verification.rescue(app, ASKED, regression)
    assert (found := standing(database)) is not None
    assert (found.version, found.enabled, found.pins) == (2, False, {"m2": False})


@pytest.mark.parametrize("first", ["flips", "fails"])
def test_a_second_runner_waits_for_the_first_and_flips_only_if_that_one_did_not(
    app: App, database: Database, regression: Receipt, connection: psycopg.Connection, first: str
) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as pool:
        with database.session() as session, session.transaction() as transaction:
            assert verifications.rescue_once(session, regression.verification_id)
            second = pool.submit(verification.rescue, app, ASKED, regression)
            eventually(lambda: scalar(connection, waiting))
            if first == "fails":
                raise psycopg.Rollback(transaction)
        told = second.result(20)
    if first == "fails":
        assert told.startswith(f"{SPEC.toggle} is off (version 1)")
    else:
        assert "nothing is done twice" in told
        assert standing(database) is None
