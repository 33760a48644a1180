"""`toolkit verify-deploy` at work: good releases are proven, each fault is found and named, silence is no pass."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest

from tests.eventually import eventually
from tests.hosts import Host
from tests.integration.test_verify_rescue import FAILS
from tests.orders import ask, new_order, scalar
from tests.verifying import NEW, OLD, Yard, interrupt
from toolkit.verify.verdict import Verdict


@pytest.fixture
def yard(database_url: str, redis_url: str, tmp_path: Path, connection: psycopg.Connection) -> Yard:
    return Yard(database_url, redis_url, tmp_path, connection, {})


@pytest.fixture
def host(yard: Yard) -> Iterator[Host]:
    with yard.host() as host:
        yard.watched(host)
        yield host


@pytest.mark.usefixtures("host")
def test_a_healthy_release_with_enough_orders_is_proven(yard: Yard) -> None:
    yard.mark()
    yard.orders(59)
    done = yard.verify()
    assert done.code == 0, str(done)
    assert {finding.verdict for finding in done.receipt.findings} == {Verdict.PROVEN}
    assert {finding.phase for finding in done.receipt.findings} == {"immediate"}
    assert done.receipt.sources.keys() >= {"ledger", "counters"}
    assert yard.rows_left() == 0


@pytest.mark.usefixtures("host")
def test_three_orders_are_inconclusive_and_the_budget_is_told(yard: Yard) -> None:
    yard.mark()
    yard.orders(3)
    done = yard.verify()
    finding = done.finding("no-foreign-key-errors")
    assert done.code == 3, str(done)
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert finding.judgement.said.startswith("4/59 jobs, rate below")  # the probe is one
    assert "min left at" in finding.judgement.said or "s left at" in finding.judgement.said
    assert "toolkit verify-deploy --top-up" in finding.judgement.next


@pytest.mark.usefixtures("host")
def test_topping_up_an_idle_system_proves_it_and_leaves_no_row(yard: Yard) -> None:
    yard.mark()
    done = yard.verify("--top-up", "--rate", "50")
    assert done.code == 0, str(done)
    assert done.finding("no-foreign-key-errors").judgement.evidence["have"] >= 59
    assert yard.rows_left() == 0
    assert done.receipt.left == 0


@pytest.mark.usefixtures("host")
def test_topping_up_slowly_keeps_the_rate_and_comes_to_an_end(yard: Yard) -> None:
    yard.mark()
    done = yard.verify("--check", "no-foreign-key-errors", "--top-up", "--rate", "0.5", "--set", "rate=0.7")
    placed = "SELECT {} FROM toolkit.test_order WHERE purpose = 'top-up'"
    number = scalar(yard.connection, placed.format("count(*)"))
    took = scalar(yard.connection, placed.format("extract(epoch FROM max(placed_at) - min(placed_at))"))
    assert done.code == 0, str(done)
    assert number == 3  # 0.3^3 is below 5 %
    assert took >= 3, "one in 2 s"


def test_nothing_at_work_is_never_a_pass(yard: Yard) -> None:
    yard.mark()
    done = yard.verify("--set", "probe=1", "--set", "lag=1")
    assert done.code == 1, done.out  # the probe waits, and no worker runs
    assert "no worker runs" in done.finding("queue-processing").judgement.said
    assert done.finding("no-foreign-key-errors").verdict is Verdict.INCONCLUSIVE
    assert yard.rows_left() == 0


def test_one_real_foreign_key_error_is_a_regression_named_with_its_trace(yard: Yard) -> None:
    with yard.host(jobs="tests.broken_release:SPEC") as host:
        yard.watched(host)
        yard.mark()
        order = new_order(yard.connection, ["wait:gate"])
        job = ask(yard.connection, order)
        host.reached("gate")
        yard.connection.execute('DELETE FROM "ProductDraft" WHERE id = %s', (order.drafts[0],))
        host.open("gate")
        eventually(
            lambda: scalar(yard.connection, "SELECT count(*) FROM toolkit.run WHERE sqlstate = '23503'")
        )
        done = yard.verify("--fail-fast")
        spoken = yard.type("verify-deploy", "--fail-fast")
    finding = done.finding("no-foreign-key-errors")
    assert done.code == 1, str(done)
    assert finding.verdict is Verdict.REGRESSION
    assert "ProductImage_productDraftId_fkey 1×" in finding.judgement.said
    assert finding.judgement.jobs == (job,)
    assert len(finding.judgement.traces[0]) == 32
    assert {"switch off"} <= {rescue.name for rescue in done.receipt.rescues}
    assert spoken.code == 1
    shown = spoken.out + spoken.err
    assert "runbooks/ForeignKeyErrors.md" in shown
    assert f"toolkit jobs show {job}" in shown


def test_a_frozen_worker_with_a_living_heartbeat_is_a_regression(yard: Yard, host: Host) -> None:
    yard.mark()
    (worker,) = host.workers()
    worker.send_signal(signal.SIGSTOP)
    try:
        done = yard.verify("--set", "probe=3", "--set", "lag=3")
    finally:
        worker.send_signal(signal.SIGCONT)
    finding = done.finding("queue-processing")
    assert done.code == 1, str(done)
    assert finding.verdict is Verdict.REGRESSION
    assert "1 worker has a heartbeat" in finding.judgement.said


@pytest.mark.usefixtures("host")
def test_an_old_worker_that_still_runs_is_named(yard: Yard) -> None:
    with yard.host(OLD) as old:
        yard.mark(NEW, "--at", "10m")
        done = yard.verify("--check", "deployment-live")
    assert done.code == 1, str(done)
    assert f"supervisor {old.process.pid} on" in done.finding("deployment-live").judgement.said
    assert f"(release {OLD})" in done.finding("deployment-live").judgement.said


@pytest.mark.usefixtures("host")
def test_a_rolling_deployment_is_waited_for(yard: Yard) -> None:
    with yard.host(OLD):
        yard.mark()
        done = yard.verify("--check", "deployment-live")
    assert done.code == 3, str(done)
    assert f"(release {OLD})" in done.finding("deployment-live").judgement.said


@pytest.mark.usefixtures("host")
def test_a_killed_runner_is_gone_on_with_and_no_test_order_is_doubled(yard: Yard) -> None:
    yard.mark()
    process = yard.start("verify-deploy", "--top-up", "--rate", "20", "--json")
    placed = "SELECT count(*) FROM toolkit.test_order"
    eventually(lambda: scalar(yard.connection, placed) >= 20, within=30)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    known = yard.connection.execute("SELECT number, job_id FROM toolkit.test_order ORDER BY 1").fetchall()
    number = scalar(yard.connection, "SELECT max(verification_id) FROM toolkit.verification")
    since = yard.connection.execute("SELECT since FROM toolkit.verification").fetchone()
    done = yard.verify("--resume", str(number))
    after = yard.connection.execute("SELECT number, job_id FROM toolkit.test_order ORDER BY 1").fetchall()
    assert done.code == 0, done.err
    assert (done.receipt.since,) == since
    assert after[: len(known)] == known
    assert [row[0] for row in after] == list(range(1, len(after) + 1))
    runs = "SELECT count(*) FROM (SELECT job_id FROM toolkit.run WHERE outcome = 'processed' GROUP BY 1 HAVING count(*) > 1) t"
    assert scalar(yard.connection, runs) == 0
    assert yard.rows_left() == 0
    again = yard.verify("--resume", str(number))
    assert again.receipt == done.receipt


@pytest.mark.usefixtures("host")
def test_a_second_runner_is_told_who_has_it(yard: Yard) -> None:
    yard.mark()
    process = yard.start("verify-deploy", "--watch", "--within", "60", "--phase", "immediate")
    eventually(
        lambda: scalar(
            yard.connection, "SELECT count(*) FROM toolkit.verification WHERE receipt IS NOT NULL"
        ),
        within=30,
    )
    number = scalar(yard.connection, "SELECT max(verification_id) FROM toolkit.verification")
    second = yard.type("verify-deploy", "--resume", str(number))
    interrupt(process)
    assert second.code == 5, second.err
    assert f".{process.pid}" in second.err
    assert process.returncode == 130


@pytest.mark.usefixtures("host")
def test_a_flip_inside_the_window_is_shown(yard: Yard) -> None:
    yard.mark()
    assert yard.type("toggle", "off", "--reason", "drill").code in {0, 3}
    assert yard.type("toggle", "on", "--reason", "drill over", "--force").code in {0, 3}
    done = yard.verify()
    assert [event.kind for event in done.receipt.events] == ["flip", "flip"]
    assert done.finding("queue-processing").since == done.receipt.events[-1].at
    assert done.finding("no-foreign-key-errors").since == done.receipt.since


@pytest.mark.usefixtures("host")
def test_a_regression_switches_off_once_when_asked_to(yard: Yard) -> None:
    yard.mark(NEW, "--at", "10m")
    with yard.host(OLD):
        first = yard.type("verify-deploy", "--check", "deployment-live", "--on-fail", "toggle-off")
        number = scalar(yard.connection, "SELECT max(verification_id) FROM toolkit.verification")
        yard.type("verify-deploy", "--resume", str(number), "--on-fail", "toggle-off")
    assert first.code == 1
    assert "ASYNC_IMAGE_PROCESSING is off" in first.err
    row = yard.connection.execute("SELECT enabled, version, who FROM toolkit.toggle").fetchall()
    assert row == [(False, 1, "ann")]


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    "sqlstate", ["TK002", "42501", "57P01"]
)  # lost, no right, PostgreSQL ends the session
def test_a_flip_that_fails_costs_no_verdict_and_can_be_tried_again(
    yard: Yard, tmp_path: Path, sqlstate: str
) -> None:
    yard.mark(NEW, "--at", "10m")
    yard.connection.execute(FAILS % sqlstate)
    page = str(tmp_path / "junit.xml")
    asked = ("--check", "deployment-live", "--on-fail", "toggle-off", "--junit", page)
    with yard.host(OLD):
        done = yard.type("verify-deploy", *asked)
    yard.connection.execute("DROP TRIGGER fails ON toolkit.toggle")
    again = yard.type("verify-deploy", "--resume", "1", "--on-fail", "toggle-off")
    assert done.code == 1, str(done)
    assert done.out.startswith("regression")
    assert "<failure" in Path(page).read_text()
    assert "error: ASYNC_IMAGE_PROCESSING may still be on: no" in done.err
    assert "toolkit verify-deploy --resume 1 --on-fail toggle-off" in done.err
    assert "ASYNC_IMAGE_PROCESSING is off (version 1)" in again.err


@pytest.mark.parametrize(
    ("verdicts", "doubt"),
    [
        ((), "no verify-deploy verdict is known"),
        ((("proven", ["deployment-live"]),), "no verify-deploy verdict is known"),
        ((("proven", []),), ""),
        ((("proven", []), ("pending", []), ("regression", ["skips"])), ""),
        ((("proven", []), ("regression", []), ("proven", ["skips"])), "verify-deploy 2 says regression"),
    ],
)
def test_switching_on_goes_by_the_newest_whole_verification_that_has_ended(
    yard: Yard, verdicts: tuple[tuple[str, list[str]], ...], doubt: str
) -> None:
    for verdict, checks in verdicts:
        asked = msgspec.json.encode({"checks": checks}).decode()
        yard.connection.execute(
            "INSERT INTO toolkit.verification (release, since, asked, who, verdict, finished_at)"
            " VALUES (%(release)s, now(), %(asked)s, 'ann', %(v)s, CASE WHEN %(v)s <> 'pending' THEN now() END)",
            {"release": NEW, "asked": asked, "v": verdict},
        )
    done = yard.type("toggle", "on", "--reason", "drill")
    assert done.code == 0, done.err
    assert ("warning" in done.err, doubt in done.err) == (bool(doubt), True), done.err


@pytest.mark.usefixtures("host")
def test_what_is_inconclusive_switches_nothing_off(yard: Yard) -> None:
    yard.mark()
    done = yard.type("verify-deploy", "--on-fail", "toggle-off")
    assert done.code == 3
    assert scalar(yard.connection, "SELECT count(*) FROM toolkit.toggle") == 0


@pytest.mark.usefixtures("host")
def test_a_dry_run_shows_the_queries_and_changes_nothing(yard: Yard) -> None:
    yard.mark()
    done = yard.type("verify-deploy", "--dry-run")
    assert done.code == 0, done.err
    assert "FROM toolkit.run" in done.out
    assert f"'{NEW}'" in done.out
    assert scalar(yard.connection, "SELECT count(*) FROM toolkit.verification") == 0
    assert scalar(yard.connection, "SELECT count(*) FROM toolkit.intent") == 0


@pytest.mark.usefixtures("host")
def test_the_first_hour_has_a_test_order_go_all_the_way(yard: Yard) -> None:
    yard.mark()
    done = yard.verify("--phase", "short-term", "--check", "end-to-end")
    finding = done.finding("end-to-end")
    assert done.code == 0, str(done)
    assert finding.judgement.evidence["served"] == 3
    assert yard.rows_left() == 0


def test_attesting_needs_a_url_and_runs_out(yard: Yard) -> None:
    yard.mark()
    refused = yard.type("attest", "user-satisfaction", "--evidence", "they like it", "--by", "eve")
    given = yard.type(
        "attest",
        "user-satisfaction",
        "--evidence",
        "https://shop.test/survey",
        "--by",
        "eve",
        "--valid",
        "1d",
    )
    assert refused.code == 2
    assert given.code == 0
    done = yard.verify("--check", "user-satisfaction")
    assert done.code == 0, str(done)
    assert "eve" in done.finding("user-satisfaction").judgement.said


def test_an_unknown_check_is_refused_with_those_there_are(yard: Yard) -> None:
    yard.mark()
    done = yard.type("verify-deploy", "--check", "no-such-check")
    assert done.code == 2
    assert "no-foreign-key-errors" in done.err


def test_postgresql_away_is_exit_4(yard: Yard) -> None:
    yard.settings["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"
    began = time.monotonic()
    done = yard.type("verify-deploy")
    assert done.code == 4
    assert time.monotonic() - began < 60


def test_a_release_that_nobody_has_seen_is_refused_before_anything_is_begun(yard: Yard) -> None:
    done = yard.type("verify-deploy", "--release", "nosuch")
    assert done.code == 2
    assert "nosuch was never marked" in done.err
    assert scalar(yard.connection, "SELECT count(*) FROM toolkit.verification") == 0


@pytest.mark.usefixtures("host")
def test_a_release_that_is_at_work_needs_no_mark_and_no_run(yard: Yard) -> None:
    assert yard.verify("--release", NEW, "--check", "deployment-live").code == 0


def test_a_mark_that_changes_nothing_says_since_when_the_evidence_counts(yard: Yard) -> None:
    first = yard.type("verify-deploy", "mark", "--release", NEW)
    assert "note:" not in first.err
    at = first.out.split(" at ")[1].strip()
    for more in ((), ("--at", "2h")):
        assert (
            f"its evidence counts from {at}"
            in yard.type("verify-deploy", "mark", "--release", NEW, *more).err
        )


def test_the_list_says_proven_so_far_and_offers_to_go_on_with_the_newest_only(yard: Yard) -> None:
    for finished, later in ((None, "{}"), ("now", "{}"), ("now", '{"short-term": "2026-01-01T00:00:00Z"}')):
        yard.connection.execute(
            "INSERT INTO toolkit.verification (release, since, asked, who, verdict, finished_at, receipt) VALUES"
            " (%s, now(), '{}', 'ann', 'proven', %s::timestamptz, jsonb_build_object('later', %s::jsonb))",
            (NEW, finished, later),
        )
    listed = yard.type("verify-deploy", "--list")
    assert [line.split("\t")[2] for line in listed.out.splitlines()[1:]] == [
        "proven so far",
        "proven",
        "proven",
    ]
    assert "next:" not in listed.err
    yard.connection.execute("DELETE FROM toolkit.verification WHERE finished_at IS NOT NULL")
    assert "next: toolkit verify-deploy --resume 1\n" in yard.type("verify-deploy", "--list").err
