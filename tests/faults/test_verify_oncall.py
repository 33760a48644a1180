"""`toolkit verify-deploy` in an engineer's hands at three in the morning: typed wrongly, killed, piped, asked twice."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.eventually import eventually
from tests.hosts import Host
from tests.integration.test_roles import as_role
from tests.orders import scalar
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


def begun(yard: Yard) -> int:
    """Verifications in the ledger."""
    return int(scalar(yard.connection, "SELECT count(*) FROM toolkit.verification"))


def one(yard: Yard, query: str) -> Any:
    """The one value that a query gives."""
    row: Any = yard.connection.execute(query).fetchone()
    return row[0]


# Typed wrongly


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--set", "rate=2"), "above 0 and below 1"),
        (("--set", "confidence=1"), "above 0 and below 1"),
        (("--set", "lag=inf"), "seconds above 0"),
        (("--set", "p0=0.2"), "p0 must be below p1"),
        (("--since", "2999-01-01"), "--since 15m"),
        (("--resume", "0"), "there is no verification 0"),
        (("--resume", "1", "--top-up"), "--top-up"),
        (("--list", "--dry-run"), "--dry-run"),
        (("--dry-run", "--junit", "x.xml"), "--junit"),
        (("--dry-run", "--on-fail", "toggle-off"), "--on-fail"),
        (("--detach", "--html", "x.html"), "--detach"),
        (("--json", "--markdown", "-"), "share stdout"),
        (("--junit", "/no/such/folder/x.xml"), "no folder"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_begun(
    yard: Yard, arguments: tuple[str, ...], told: str
) -> None:
    done = yard.type("verify-deploy", *arguments)
    assert done.code == 2, str(done)
    assert told in done.err
    assert "Traceback" not in done.err
    assert begun(yard) == 0


def test_a_deployment_of_the_future_is_not_marked(yard: Yard) -> None:
    done = yard.type("verify-deploy", "mark", "--release", NEW, "--at", "2999-01-01")
    assert done.code == 2
    assert scalar(yard.connection, "SELECT count(*) FROM toolkit.deployment") == 0


@pytest.mark.parametrize(
    "jobs", ["no.such.module:SPEC", "jobs.images.spec:NONE", "jobs", "toolkit.run:Outcome"]
)
def test_jobs_that_are_not_there_are_a_setting_and_no_regression(yard: Yard, jobs: str) -> None:
    yard.settings["TOOLKIT_JOBS"] = jobs
    done = yard.type("verify-deploy")
    assert done.code == 2, str(done)
    assert jobs in done.err
    assert "Traceback" not in done.err


def test_a_login_that_may_only_read_is_a_setting_and_no_regression(yard: Yard) -> None:
    yard.mark()
    yard.settings["DATABASE_URL"] = as_role(yard.database_url, "toolkit_observer")
    done = yard.type("verify-deploy")
    assert done.code == 2, str(done)
    assert "toolkit_operator" in done.err


# What a mark says


def test_marked_twice_by_a_pipeline_it_counts_from_the_first_mark(yard: Yard) -> None:
    yard.mark(NEW, "--at", "30m")
    yard.mark(NEW)
    first = one(yard, "SELECT min(at) FROM toolkit.deployment")
    done = yard.verify("--check", "queue-processing", "--set", "probe=1")
    assert done.receipt.since == done.finding("queue-processing").since == first
    assert done.receipt.events == ()


def test_marked_again_after_another_release_it_counts_from_there(yard: Yard) -> None:
    for release, at in ((NEW, "30m"), (OLD, "20m"), (NEW, "10m")):
        yard.mark(release, "--at", at)
    last = one(yard, "SELECT max(at) FROM toolkit.deployment")
    assert yard.verify("--check", "skips").receipt.since == last


# Test orders


def test_a_job_without_test_orders_or_toggle_is_not_waited_for_or_switched_off(
    yard: Yard, tmp_path: Path
) -> None:
    (tmp_path / "bare_job.py").write_text(
        "import dataclasses\nfrom jobs.images.spec import SPEC as IMAGES\n"
        "SPEC = dataclasses.replace(IMAGES, verify=None, toggle='')\n"
    )
    yard.settings |= {"TOOLKIT_JOBS": "bare_job:SPEC", "PYTHONPATH": str(tmp_path)}
    yard.mark()
    done = yard.verify("--job-name", "background-image-processing", within=30)
    assert done.code == 3, str(done)  # and no sooner than in 10 min, it was
    assert done.finding("queue-processing").verdict is Verdict.INCONCLUSIVE
    assert "VerifyHooks" in done.finding("queue-processing").judgement.said
    for option, told in (("--top-up", "VerifyHooks"), ("--on-fail=toggle-off", "no toggle")):
        refused = yard.type("verify-deploy", "--job-name", "background-image-processing", option)
        assert refused.code == 2, str(refused)
        assert told in refused.err


@pytest.mark.usefixtures("host")
def test_only_what_a_check_looks_at_is_placed_and_planted(yard: Yard) -> None:
    yard.mark()
    assert yard.verify("--check", "deployment-live").code == 0
    assert scalar(yard.connection, "SELECT count(*) FROM toolkit.intent") == 0


@pytest.mark.usefixtures("host")
def test_while_the_toggle_is_off_a_test_order_is_done_only_by_the_release_it_is_for(yard: Yard) -> None:
    yard.mark()
    assert yard.type("toggle", "off", "--reason", "drill").code in {0, 3}
    yard.settings["TOOLKIT_RELEASE"] = OLD
    elsewhere = yard.verify("--check", "queue-processing", "--check", "deployment-live")
    yard.settings["TOOLKIT_RELEASE"] = NEW
    here = yard.verify("--check", "queue-processing")
    assert elsewhere.finding("queue-processing").verdict is Verdict.INCONCLUSIVE
    assert f"release {OLD} is installed here" in elsewhere.finding("queue-processing").judgement.said
    assert elsewhere.finding("deployment-live").verdict is Verdict.PROVEN  # it did not meet itself
    assert "inline" in here.finding("queue-processing").judgement.said
    assert here.code == 0


def test_a_probe_that_an_old_worker_took_while_rolling_is_sent_again(yard: Yard) -> None:
    with yard.host(OLD):
        yard.mark()
        once = yard.verify("--check", "queue-processing")
        watching = yard.start(
            "verify-deploy", "--check", "queue-processing", "--watch", "--within", "60", "--json"
        )
        by = "SELECT count(*) FROM toolkit.run WHERE release = %s"
        eventually(lambda: scalar(yard.connection, by, OLD) >= 2, within=30)
    with yard.host(NEW):
        out, _ = watching.communicate(timeout=90)
    assert once.code == 3, str(once)
    assert f"done by release {OLD}" in once.finding("queue-processing").judgement.said
    assert watching.returncode == 0, out
    assert yard.rows_left() == 0


@pytest.mark.usefixtures("host")
def test_topping_up_ends_on_a_look_that_saw_the_last_order(yard: Yard) -> None:
    yard.mark()
    for _ in range(3):  # it raced with the worker
        done = yard.verify("--check", "no-foreign-key-errors", "--top-up", "--rate", "1000", "--since", "1s")
        assert done.code == 0, str(done)


@pytest.mark.usefixtures("host")
def test_two_at_once_do_not_take_one_anothers_test_orders_for_left_behind(yard: Yard) -> None:
    yard.mark()
    watching = yard.start(
        "verify-deploy", "--check", "end-to-end", "--check", "skips", "--watch", "--within", "60", "--json"
    )
    eventually(lambda: yard.rows_left() > 0, within=30)
    other = yard.verify("--check", "end-to-end")
    watching.send_signal(signal.SIGINT)
    watching.communicate()
    assert other.code == 0, str(other)
    assert other.receipt.left == 0


@pytest.mark.usefixtures("host")
def test_a_table_of_the_shops_that_holds_on_to_a_test_order_costs_no_verdict(yard: Yard) -> None:
    yard.connection.execute("""
        CREATE TABLE "Extra" (id text REFERENCES "PurchaseOrder" (id));
        CREATE FUNCTION extra() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO "Extra" VALUES (new.id); RETURN NULL; END $$;
        CREATE TRIGGER extra AFTER INSERT ON "PurchaseOrder" FOR EACH ROW EXECUTE FUNCTION extra()""")
    yard.mark()
    done = yard.verify("--check", "end-to-end")
    assert done.code == 1, str(done)
    assert '"Extra"' in done.finding("end-to-end").judgement.said
    assert done.receipt.left > 0
    assert yard.verify("--check", "deployment-live").code == 0  # nor does it stand in the way of the next


# What is printed


def typed_at_a_terminal(yard: Yard, *arguments: str, interrupt_at: bytes) -> tuple[int, str]:
    """A command on a pseudo-terminal, with Ctrl-C once it has shown that."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "toolkit.cli", *arguments], env=yard.environ() | {"TERM": "xterm", "COLUMNS": "120"},
        stdin=follower, stdout=follower, stderr=follower, cwd=Path(__file__).parents[2], start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    shown = b""
    sent = False
    while True:
        try:
            shown += os.read(leader, 65536)
        except OSError:  # nobody is left at the other end
            break
        if not sent and interrupt_at in shown:
            process.send_signal(signal.SIGINT)
            sent = True
    os.close(leader)
    return process.wait(30), shown.decode()


@pytest.mark.usefixtures("host")
def test_ctrl_c_on_a_terminal_leaves_what_to_type_on_the_screen(yard: Yard) -> None:
    yard.mark()
    code, shown = typed_at_a_terminal(
        yard, "verify-deploy", "--check", "skips", "--watch", interrupt_at=b"looked at"
    )
    after = shown.rpartition("\x1b[2K")[2]  # all before is taken away again
    assert code == 130
    assert "stopped; nothing is lost. go on: toolkit verify-deploy --resume 1" in after


@pytest.mark.usefixtures("host")
def test_markdown_on_stdout_is_all_there_is_on_stdout(yard: Yard) -> None:
    yard.mark()
    done = yard.type("verify-deploy", "--check", "deployment-live", "--markdown", "-")
    assert done.code == 0
    assert done.out.startswith("## ✔ proven so far")
    assert "phase\tcheck" not in done.out


@pytest.mark.usefixtures("host")
def test_a_report_that_cannot_be_written_costs_no_verdict(yard: Yard, tmp_path: Path) -> None:
    yard.mark(NEW, "--at", "10m")
    folder = tmp_path / "report.xml"
    gone = yard.type("verify-deploy", "--check", "deployment-live", "--junit", "/proc/self/x.xml")
    with yard.host(OLD):
        bad = yard.type(
            "verify-deploy", "--check", "deployment-live", "--on-fail", "toggle-off", "--junit", "/proc/self/x.xml", "--html",
            str(folder),
        )  # fmt: skip
    assert gone.code == 2  # proven, and yet not all that was asked for is done
    assert gone.out.startswith("proven")
    assert bad.code == 1
    assert "cannot be written" in bad.err
    assert "ASYNC_IMAGE_PROCESSING is off" in bad.err
    assert folder.exists()


@pytest.mark.usefixtures("host")
def test_head_does_not_turn_a_verdict_into_another(yard: Yard) -> None:
    yard.mark()
    with yard.start("verify-deploy", "--check", "deployment-live") as process:
        assert process.stdout
        process.stdout.close()  # as `| head` does once it has enough
        process.wait(60)
    assert process.returncode == 0


@pytest.mark.usefixtures("host")
def test_a_dry_run_names_the_detectors_and_what_they_ask(yard: Yard) -> None:
    yard.mark()
    done = yard.type("verify-deploy", "--dry-run", "--check", "no-foreign-key-errors")
    assert f"counters: {yard.settings['TOOLKIT_VERIFY_METRICS']}" in done.out
    assert "sqlstate LIKE '23%'" in done.out


@pytest.mark.usefixtures("host")
def test_what_restarted_a_clock_is_told_and_phases_to_come_are_in_their_order(yard: Yard) -> None:
    yard.mark()
    assert yard.type("toggle", "off", "--reason", "drill").code in {0, 3}
    first = yard.type("verify-deploy", "--check", "performance-kept")
    assert "its evidence begins at" in first.out
    yard.type("verify-deploy", "--check", "deployment-live")
    again = yard.type("verify-deploy", "--resume", "2")
    assert 0 < again.err.index("short-term: not before") < again.err.index("long-term: not before")


@pytest.mark.usefixtures("host")
def test_a_planted_failure_is_listed_only_by_its_name(yard: Yard) -> None:
    yard.mark()
    yard.verify("--check", "no-foreign-key-errors")
    listed = yard.type("jobs", "list", "--json")
    named = yard.type("jobs", "list", "--job", "freshfetch-control", "--json")
    assert "freshfetch-control" not in listed.out
    assert "freshfetch-control" in named.out


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        (("--check", "skips"), 86400),  # before its time has come, too
        (("--check", "deployment-live", "--since", "2h"), 600),
        (("--check", "skips", "--within", "50"), 50),
    ],
)
def test_watching_waits_as_long_as_the_named_checks_may_take(
    yard: Yard, arguments: tuple[str, ...], seconds: int
) -> None:
    watching = yard.start("verify-deploy", *arguments, "--watch")
    eventually(lambda: one(yard, "SELECT max(runner) FROM toolkit.verification"), within=30)
    interrupt(watching)
    assert float(one(yard, "SELECT asked ->> 'within' FROM toolkit.verification")) == seconds


def test_times_are_told_in_utc(yard: Yard) -> None:
    marked = yard.type("verify-deploy", "mark", "--release", NEW)
    at = f"{one(yard, 'SELECT at FROM toolkit.deployment'):%Y-%m-%d %H:%M:%S} UTC"
    verified = yard.type("verify-deploy", "--check", "skips")
    listed = yard.type("verify-deploy", "--list")
    assert at in marked.out
    assert f"since {at}" in verified.err
    started = one(yard, "SELECT started_at FROM toolkit.verification")
    assert f"{started:%Y-%m-%d %H:%M:%S} UTC" in listed.out


# In the background


@pytest.mark.usefixtures("host")
def test_a_detached_one_that_was_killed_goes_on_as_it_was_asked_to(yard: Yard) -> None:
    yard.mark()
    detached = yard.type("verify-deploy", "--check", "skips", "--detach", "--within", "60", "--json")
    told: dict[str, Any] = json.loads(detached.out)
    number = str(told["verification_id"])
    runner = "SELECT max(runner) FROM toolkit.verification WHERE receipt IS NOT NULL"
    eventually(lambda: one(yard, runner), within=30)
    meanwhile = yard.type("verify-deploy", "--resume", number)
    os.kill(int(one(yard, runner).rpartition(".")[2]), signal.SIGKILL)
    going_on = yard.start("verify-deploy", "--resume", number, "--within", "60")
    assert going_on.stdout
    assert "skips: pending" in going_on.stdout.readline()  # it watches, and ends nothing
    going_on.send_signal(signal.SIGINT)
    going_on.communicate()
    assert detached.code == 8
    assert "error" not in detached.err
    assert meanwhile.code == 5
    assert meanwhile.out.startswith("pending")
    assert going_on.returncode == 130
    again = yard.verify("--resume", number, "--within", "1")
    assert again.receipt.since_what.startswith("marked by ann")


@pytest.mark.usefixtures("host")
def test_one_that_goes_on_in_the_background_is_asked_what_was_typed_last(yard: Yard) -> None:
    """A look that does not watch ends by itself; this one goes on until something is wrong, and then switches off."""
    yard.mark(NEW, "--at", "10m")
    begun = yard.start("verify-deploy", "--check", "skips", "--check", "deployment-live", "--watch")
    runner = "SELECT max(runner) FROM toolkit.verification WHERE receipt IS NOT NULL"
    eventually(lambda: one(yard, runner), within=30)
    interrupt(begun)
    yard.connection.execute("UPDATE toolkit.verification SET asked = asked || '{\"watch\": false}'")
    detached = yard.type(
        "verify-deploy", "--resume", "1", "--detach", "--within", "60", "--on-fail", "toggle-off"
    )
    eventually(lambda: one(yard, runner), within=30)
    log = yard.folder / "home" / "verification-1.log"
    with yard.host(OLD):
        eventually(lambda: "ASYNC_IMAGE_PROCESSING is off" in log.read_text(), within=60)
    assert detached.code == 8, str(detached)
