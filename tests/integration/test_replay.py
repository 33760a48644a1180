"""Replay on the real servers: each verdict, one flight a job, brakes that leave an exact rest, and an account of it all."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import cast

import psycopg
import pytest
import redis

from tests.brokering import new_relay
from tests.eventually import eventually
from tests.integration.test_queries import as_login
from tests.orders import Order, images, sessions
from tests.performing import Heard, performing
from tests.replaying import Shop, answer
from toolkit.ledger import queries, replays, runs
from toolkit.ledger.database import Database, Session
from toolkit.ledger.replay_views import Plan, Selection
from toolkit.replay.execute import Ended
from toolkit.replay.pace import Limits, Load
from toolkit.run import Mode
from toolkit.telemetry import catalog
from toolkit.telemetry.metrics import Metrics


@pytest.fixture
def shop(
    database: Database, broker: redis.Redis, redis_url: str, connection: psycopg.Connection, tmp_path: Path
) -> Shop:
    return Shop(database.url, redis_url, tmp_path, database, broker, connection)


def carried_out(shop: Shop, plan: Plan, limits: Limits | None = None) -> Ended:
    replays = shop.replays()
    return replays.carry_out(replays.start(plan, reason="a test"), limits or Limits(), stop=Event())


def whole(shop: Shop, order: Order) -> bool:
    """Every draft has its images, and there is one review session."""
    return set(images(shop.connection, order).values()) == {2} and sessions(shop.connection, order) == 1


# -- real causes ---------------------------------------------------------------------------------------------------


def test_a_job_that_failed_because_the_image_host_was_down_is_replayed_to_its_end(shop: Shop) -> None:
    order, job_id = shop.failed()
    assert shop.where(job_id) == ["failed"]

    done = shop.toolkit("replay", "--job", job_id)

    assert done.returncode == 0, done.stderr
    assert "RUN" in done.stdout
    assert f"next: toolkit jobs show {job_id}" in done.stderr
    shop.work()
    assert shop.runs(job_id) == [("failed", "transient", False), ("processed", "", True)]
    assert whole(shop, order)
    assert shop.where(job_id) == ["finished"]


def test_a_job_that_broke_a_constraint_is_replayed_after_the_schema_was_mended(shop: Shop) -> None:
    shop.connection.execute('ALTER TABLE "ProductImage" ADD CONSTRAINT none_at_all CHECK (false)')
    order, job_id = shop.order()
    shop.work()
    shop.connection.execute('ALTER TABLE "ProductImage" DROP CONSTRAINT none_at_all')

    done = shop.toolkit("replay", "--sqlstate", "23514", "--reason", "the constraint is gone", "--yes")

    assert done.returncode == 0, done.stderr
    shop.work()
    assert shop.runs(job_id) == [("failed", "integrity", False), ("processed", "", True)]
    assert whole(shop, order)
    assert shop.rows("SELECT sqlstate FROM toolkit.run WHERE job_id = %s ORDER BY number", job_id) == [
        "23514",
        None,
    ]


def test_a_job_that_killed_its_workers_is_replayed_and_may_kill_three_more(shop: Shop) -> None:
    order, job_id = shop.order()
    kill(shop, job_id, 3)
    assert shop.rows("SELECT outcome FROM toolkit.intent WHERE job_id = %s", job_id) == ["lost"]

    assert shop.toolkit("replay", "--job", job_id).returncode == 0
    kill(shop, job_id, 2)
    shop.work()

    assert [outcome for outcome, _, _ in shop.runs(job_id)] == ["lost"] * 5 + ["processed"]
    assert [replay for _, _, replay in shop.runs(job_id)] == [False] * 3 + [True] * 3
    assert whole(shop, order)


def kill(shop: Shop, job_id: str, times: int) -> None:
    """So many workers begin the job and die."""
    with shop.database.session() as session:
        for number in range(times):
            runs.begin(
                session, job_id, worker=f"w{number}", host="h", release="test", lease=30.0, mode=Mode.ASYNC
            )
            runs.lose(session, f"w{number}", "SIGSEGV")


def test_a_replay_of_a_job_whose_host_fell_silent_is_not_taken_for_one_that_still_runs_in_the_broker(
    shop: Shop,
) -> None:
    order, job_id = shop.order()
    kill(shop, job_id, 3)
    shop.broker.hset(f"rq:job:{job_id}", mapping={"status": "started", "data": b"what the dead host left"})
    shop.broker.rpush("rq:queue:images:intermediate", job_id)

    assert shop.toolkit("replay", "--job", job_id).returncode == 0
    shop.work()

    assert shop.runs(job_id)[-1] == ("processed", "", True)
    assert whole(shop, order)


# -- verdicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["PurchaseOrder", "ProductDraft"])
def test_a_job_whose_order_or_drafts_are_gone_is_not_run(shop: Shop, gone: str) -> None:
    order, job_id = shop.failed()
    column = "id" if gone == "PurchaseOrder" else "purchaseOrderId"
    shop.connection.execute(f'DELETE FROM "{gone}" WHERE "{column}" = %s', (order.id,))

    done = shop.toolkit("replay", "--job", job_id, "--json")

    assert done.returncode == 0
    assert answer(done)["items"][0]["verdict"] == "SKIP-GONE"
    assert answer(done)["items"][0]["detail"] == ("order_deleted" if gone == "PurchaseOrder" else "no_drafts")
    assert len(shop.runs(job_id)) == 1


def test_an_order_that_is_another_merchants_now_is_gone(shop: Shop) -> None:
    order, job_id = shop.failed()
    shop.connection.execute("INSERT INTO \"Merchant\" VALUES ('m-other', 'Other')")
    shop.connection.execute(
        'UPDATE "PurchaseOrder" SET "merchantId" = %s WHERE id = %s', ("m-other", order.id)
    )

    assert shop.replays().plan(Selection(job_ids=(job_id,))).verdicts == {"SKIP-GONE": 1}


def test_a_job_that_was_done_is_not_done_again(shop: Shop) -> None:
    _, job_id = shop.order()
    shop.work()

    done = shop.toolkit("replay", "--job", job_id)

    assert done.returncode == 0
    assert "ALREADY-DONE" in done.stdout
    assert len(shop.runs(job_id)) == 1


def test_a_job_whose_worker_may_be_alive_is_left_alone(shop: Shop) -> None:
    _, job_id = shop.order()
    with shop.database.session() as session:
        runs.begin(session, job_id, worker="w", host="h", release="test", lease=30.0, mode=Mode.ASYNC)

    done = shop.toolkit("replay", "--job", job_id)

    assert done.returncode == 8
    assert "STILL-RUNNING" in done.stdout
    assert "w is at it" in done.stdout


def test_a_job_that_nobody_registers_is_undecodable(shop: Shop) -> None:
    _, job_id = shop.failed()
    shop.connection.execute(
        "UPDATE toolkit.intent SET job_name = 'of-another-shop' WHERE job_id = %s", (job_id,)
    )

    done = shop.toolkit("replay", "--job", job_id)

    assert done.returncode == 1
    assert "UNDECODABLE" in done.stdout
    assert "of-another-shop" in done.stdout


def test_an_old_payload_with_whole_drafts_is_replayed_by_its_ids(shop: Shop) -> None:
    order, job_id = shop.failed()
    old = {**order.payload, "productDrafts": [{"id": draft, "title": "Mug"} for draft in order.drafts]}
    shop.connection.execute(
        "UPDATE toolkit.intent SET payload = %s WHERE job_id = %s", (json.dumps(old), job_id)
    )

    assert shop.toolkit("replay", "--job", job_id).returncode == 0
    shop.work()

    assert shop.runs(job_id)[-1] == ("processed", "", True)
    assert shop.rows("SELECT payload FROM toolkit.intent WHERE job_id = %s", job_id) == [order.payload]
    assert shop.rows("SELECT payload_before FROM toolkit.flight WHERE job_id = %s", job_id) == [old]


def test_a_job_that_failed_its_replay_in_the_same_way_under_the_same_release_needs_force(shop: Shop) -> None:
    _, job_id = shop.failed()
    assert shop.toolkit("replay", "--job", job_id).returncode == 0
    with shop.outage():
        shop.work()

    refused = shop.toolkit("replay", "--job", job_id)
    assert refused.returncode == 5
    assert "LOOP" in refused.stdout
    assert f"toolkit jobs show {job_id[:8]}   toolkit replay --execute" in refused.stderr
    assert "--force" in refused.stderr
    assert shop.replays(release="another").plan(Selection(job_ids=(job_id,))).verdicts == {"RUN": 1}

    assert shop.toolkit("replay", "--job", job_id, "--force").returncode == 0
    shop.work()
    assert [outcome for outcome, _, _ in shop.runs(job_id)] == ["failed", "failed", "processed"]


def test_a_plan_of_nothing_but_loops_says_so_and_stays_open_for_force(shop: Shop) -> None:
    _, job_id = shop.failed()
    shop.toolkit("replay", "--job", job_id)
    with shop.outage():
        shop.work()
    planned = shop.toolkit("replay", "--failed", "--plan")
    (forced,) = (one for one in planned.stderr.split("   ") if "--force" in one)
    assert "--canary" not in planned.stderr
    assert f"toolkit jobs show {job_id[:8]}" in planned.stderr

    digest = forced.split()[3]
    done = shop.toolkit("replay", "--execute", digest, "--reason", "why", "--wait")
    assert (done.returncode, "LOOP 1" in done.stdout) == (5, True), done.stdout
    assert "no job is to be run" in done.stderr

    assert shop.toolkit(*shlex.split(forced)[1:]).returncode == 0
    shop.work()
    assert shop.runs(job_id)[-1] == ("processed", "", True)


def test_a_plan_without_jobs_is_not_offered_for_execution(shop: Shop) -> None:
    done = shop.toolkit("replay", "--failed", "--plan")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "next: toolkit jobs failed")
    assert [one["state"] for one in answer(shop.toolkit("replay", "history", "--json"))] == ["nothing to run"]


def test_the_history_shows_a_selection_as_it_is_typed(shop: Shop) -> None:
    _, job_id = shop.failed()
    for typed in (["--failed"], ["--error", "connect_timeout"], ["--job-name", "x"]):
        shop.toolkit("replay", *typed, "--plan")
    shop.toolkit("replay", "--job", job_id)
    header, *rows = (row.split("\t") for row in shop.toolkit("replay", "history").stdout.splitlines())
    at = header.index("selection")
    assert [row[at] for row in rows] == [
        f"--job {job_id[:8]}",
        "--job-name x",
        "--error connect_timeout",
        "--failed",
    ]


# -- once ----------------------------------------------------------------------------------------------------------


def test_twenty_replays_at_once_are_one_run_with_one_effect(shop: Shop) -> None:
    order, job_id = shop.failed()
    command = [sys.executable, "-m", "toolkit.cli", "replay", "--job", job_id]
    racing = [
        subprocess.Popen(command, env=shop.environ(TOOLKIT_OPERATOR=f"op{n}"), stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
        for n in range(20)
    ]  # fmt: skip
    said = [process.communicate(timeout=90) for process in racing]

    codes = Counter(process.returncode for process in racing)
    assert codes == {0: 1, 8: 19}, said
    holder = shop.rows("SELECT holder FROM toolkit.flight")[0]
    assert sum(f"replayed by {holder}" in out for out, _ in said) == 19
    shop.work()
    assert shop.runs(job_id) == [("failed", "transient", False), ("processed", "", True)]
    assert whole(shop, order)


def test_ten_replays_have_the_effect_of_one(shop: Shop) -> None:
    order, job_id = shop.failed()
    plans = [shop.replays().plan(Selection(job_ids=(job_id,))) for _ in range(10)]

    for plan in plans:
        carried_out(shop, plan)
        shop.work()

    assert shop.runs(job_id) == [("failed", "transient", False), ("processed", "", True)]
    assert whole(shop, order)


def test_ten_plans_of_one_failure_run_it_once_even_when_it_fails_again(shop: Shop) -> None:
    _, job_id = shop.failed()
    plans = [shop.replays().plan(Selection(job_ids=(job_id,))) for _ in range(10)]

    with shop.outage():
        for plan in plans:
            carried_out(shop, plan)
            shop.work()

    assert len(shop.runs(job_id)) == 2


# -- plans ---------------------------------------------------------------------------------------------------------


def test_a_selection_takes_the_failed_jobs_that_meet_every_condition(shop: Shop) -> None:
    with shop.outage():
        ours = [shop.order()[1] for _ in range(2)]
        theirs = shop.order(merchant="m-two")[1]
        shop.work()
    done_job = shop.order()[1]
    shop.work()
    fingerprint, started = shop.rows(
        "SELECT fingerprint, started_at FROM toolkit.run WHERE job_id = %s", theirs
    )[0]

    def selected(**conditions: object) -> set[str]:
        plan = shop.replays().plan(Selection(**conditions))
        return set(shop.rows("SELECT job_id FROM toolkit.replay_item WHERE replay_id = %s", plan.replay_id))

    every = {*ours, theirs}
    assert selected() == every
    assert done_job not in every
    assert selected(merchant="m-two") == {theirs}
    assert selected(fingerprint=fingerprint[:6]) == every
    assert selected(fingerprint="000000000000") == set()
    assert selected(error="connect_timeout") == selected(error="does not answer") == every
    assert selected(error="another") == selected(sqlstate="23503") == selected(job_name="x") == set()
    assert selected(release="test") == every
    assert selected(release="r0") == set()
    assert selected(since=started, merchant="m-two") == {theirs}
    assert selected(until=started, merchant="m-two") == set()


def test_a_selection_in_a_script_needs_a_yes_and_always_a_reason(shop: Shop) -> None:
    _, job_id = shop.failed()

    assert shop.toolkit("replay", "--failed", "--yes").returncode == 2
    silent = shop.toolkit("replay", "--failed", "--reason", "why")
    assert silent.returncode == 2
    assert "--yes" in silent.stderr
    assert shop.toolkit("replay").returncode == 2
    assert shop.toolkit("replay", "--failed", "--job", job_id, "--reason", "why", "--yes").returncode == 2
    assert shop.runs(job_id) == [("failed", "transient", False)]
    assert shop.rows("SELECT count(*) FROM toolkit.flight") == [0]


@pytest.mark.parametrize(
    "options",
    ["--execute abc --plan", "--resume --plan", "--failed --plan --wait", "--failed --plan --canary 5",
     "--job abc --dry-run --wait", "--job abc --dry-run --plan"],
)  # fmt: skip
def test_what_moves_nothing_refuses_options_that_would_do_nothing(shop: Shop, options: str) -> None:
    done = shop.toolkit("replay", *options.split())
    assert (done.returncode, "does nothing beside" in done.stderr) == (2, True), done.stderr


def test_a_frozen_plan_runs_exactly_its_jobs_and_says_what_changed_since(shop: Shop) -> None:
    (order, gone), (_, kept) = shop.failed(), shop.failed()
    planned = answer(shop.toolkit("replay", "--failed", "--plan", "--json"))
    assert planned["verdicts"] == {"RUN": 2}
    assert shop.rows("SELECT count(*) FROM toolkit.flight") == [0]
    _, later = shop.failed()
    shop.connection.execute('DELETE FROM "PurchaseOrder" WHERE id = %s', (order.id,))

    assert shop.toolkit("replay", "--execute", planned["plan"]).returncode == 2
    done = answer(shop.toolkit("replay", "--execute", planned["plan"], "--reason", "host is back", "--json"))

    assert done["moved"] == 1
    assert [(one["job_id"], one["verdict"]) for one in done["changed_items"]] == [(gone, "SKIP-GONE")]
    shop.work()
    assert len(shop.runs(kept)) == 2
    assert len(shop.runs(later)) == len(shop.runs(gone)) == 1
    assert shop.toolkit("replay", "--execute", planned["plan"]).returncode == 2


def test_max_failures_stops_and_leaves_exactly_the_rest_as_a_plan(shop: Shop) -> None:
    with shop.outage():
        jobs = {shop.order(1)[1] for _ in range(30)}
        shop.work()
        replays = shop.replays()
        plan = replays.start(replays.plan(Selection(), reason="host is back"))
        assert replays.step(plan, 5) is not None
        shop.work()
        ended = replays.carry_out(plan, Limits(max_failures=5), stop=Event())

    assert ended.how == "stopped"
    assert ended.remainder is not None
    rest = set(
        shop.rows("SELECT job_id FROM toolkit.replay_item WHERE replay_id = %s", ended.remainder.replay_id)
    )
    flown = set(shop.rows("SELECT job_id FROM toolkit.flight"))
    assert (len(flown), len(rest), flown | rest) == (5, 25, jobs)
    assert ended.remainder.verdicts == {"RUN": 25}

    shop.work()
    done = shop.toolkit("replay", "--execute", ended.remainder.hash)
    assert done.returncode == 0, done.stderr
    shop.work()
    assert Counter(shop.rows("SELECT outcome FROM toolkit.flight")) == {"failed": 5, "processed": 25}


def test_with_max_failures_only_so_many_fly_at_once(shop: Shop) -> None:
    with shop.outage():
        for _ in range(30):
            shop.order(1)
        shop.work()
    replays, stop = shop.replays(), Event()
    plan = replays.start(replays.plan(Selection(), reason="careful"))
    seen = []

    def watch(told: object) -> None:
        seen.append(replays.landed(plan).in_air)
        if seen[-1] == 20:
            stop.set()

    assert (
        replays.carry_out(plan, Limits(max_failures=1, rate=200.0), stop=stop, watch=watch).how
        == "interrupted"
    )
    assert max(seen) == 20


def test_a_canary_that_fails_keeps_the_rest_on_the_ground(shop: Shop) -> None:
    with shop.outage():
        jobs = [shop.order(1)[1] for _ in range(6)]
        shop.work()
        replaying = subprocess.Popen(
            [sys.executable, "-m", "toolkit.cli", "replay", "--failed", "--reason", "why", "--yes", "--canary", "2", "--json"],
            env=shop.environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        eventually(lambda: shop.rows("SELECT count(*) FROM toolkit.flight") == [2])
        shop.work()
    out, err = replaying.communicate(timeout=30)

    said = json.loads(out)
    assert replaying.returncode == 3, err
    assert (said["moved"], said["ended"]) == (2, "stopped")
    assert f"toolkit replay --execute {said['remainder']} --canary 2" in err
    assert len(jobs) == 6
    assert shop.rows("SELECT count(*) FROM toolkit.flight") == [2]


def test_a_canary_that_ends_well_lets_the_rest_go(shop: Shop) -> None:
    with shop.outage():
        for _ in range(6):
            shop.order(1)
        shop.work()
    replaying = subprocess.Popen(
        [sys.executable, "-m", "toolkit.cli", "replay", "--failed", "--reason", "try two", "--yes", "--canary", "2", "--wait"],
        env=shop.environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    eventually(lambda: shop.rows("SELECT count(*) FROM toolkit.flight") == [2])
    shop.work()
    eventually(lambda: shop.rows("SELECT count(*) FROM toolkit.flight") == [6])
    shop.work()
    out, err = replaying.communicate(timeout=30)

    assert replaying.returncode == 0, err
    assert "outcome: processed 6" in out


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(shop: Shop) -> None:
    with shop.outage():
        for _ in range(8):
            shop.order(1)
        shop.work()
    replaying = subprocess.Popen(
        [sys.executable, "-m", "toolkit.cli", "replay", "--failed", "--reason", "slowly", "--yes", "--rate", "2/s"],
        env=shop.environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    eventually(lambda: shop.rows("SELECT count(*) FROM toolkit.flight") >= [2])
    replaying.send_signal(signal.SIGINT)
    _, err = replaying.communicate(timeout=30)

    flown = shop.rows("SELECT count(*) FROM toolkit.flight")[0]
    (digest,) = shop.rows("SELECT hash FROM toolkit.replay")
    assert replaying.returncode == 130
    assert 0 < flown < 8
    assert f"toolkit replay --resume {digest} --rate 2/s" in err
    resumed = shop.toolkit("replay", "--resume", digest)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{8 - flown} of {8 - flown} jobs asked again" in resumed.stdout
    shop.work()
    assert Counter(shop.rows("SELECT outcome FROM toolkit.flight")) == {"processed": 8}
    assert "nothing was interrupted" in shop.toolkit("replay", "--resume").stderr


def test_ctrl_c_stops_all_that_was_to_be_resumed(shop: Shop) -> None:
    replays = shop.replays()
    for _ in range(2):
        with shop.outage():
            jobs = tuple(shop.order(1)[1] for _ in range(6))
            shop.work()
        replays.start(replays.plan(Selection(job_ids=jobs), reason="broken off"))
    resuming = subprocess.Popen(
        [sys.executable, "-m", "toolkit.cli", "replay", "--resume", "--rate", "2/s", "--json"],
        env=shop.environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    eventually(lambda: shop.rows("SELECT count(*) FROM toolkit.flight") >= [1])
    resuming.send_signal(signal.SIGINT)
    out, err = resuming.communicate(timeout=30)

    assert resuming.returncode == 130, err
    assert [one["jobs"] for one in json.loads(out)] == [6], "the second plan was not begun"
    assert shop.rows("SELECT count(*) FROM toolkit.flight")[0] < 6
    assert shop.toolkit("replay", "--resume").returncode == 0
    shop.work()
    assert Counter(shop.rows("SELECT outcome FROM toolkit.flight")) == {"processed": 12}


def test_it_holds_while_the_system_suffers_and_goes_on_after(shop: Shop) -> None:
    shop.failed()
    felt = iter([Load(oldest_age=900.0)])
    replays = shop.replays(load=lambda: next(felt, Load()))
    notes = []
    plan = replays.start(replays.plan(Selection(), reason="careful"))

    ended = replays.carry_out(plan, Limits(), stop=Event(), watch=lambda told: notes.append(told.note))

    assert ended.how == "done"
    assert notes[0] == "holding: the queue's oldest job waits 900 s"
    assert notes[-1] == ""


def test_two_who_carry_out_one_plan_share_its_jobs_and_neither_does_one_twice(shop: Shop) -> None:
    for _ in range(3):
        shop.failed()
    first, second = shop.replays(), shop.replays(who="another")
    plan = first.start(first.plan(Selection(), reason="shared"))

    with ThreadPoolExecutor(1) as thread, psycopg.connect(shop.url) as holder:
        holder.execute("SELECT toolkit.lock_jobs(array_agg(job_id)) FROM toolkit.intent")
        behind = thread.submit(second.step, plan, 3)
        eventually(
            lambda: (
                shop.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted") == [1]
            )
        )
        replays.reopen(cast("Session", holder), plan.replay_id, "first", [
            (one, None) for one in replays.snapshots(cast("Session", holder), shop.rows("SELECT job_id FROM toolkit.intent"))[:2]
        ])  # fmt: skip
        holder.commit()
        step = behind.result(20)

    assert step is not None
    assert (step.moved, step.changed) == (1, ()), "two were moved while it waited, and are not its changes"
    assert Counter(shop.rows("SELECT holder FROM toolkit.flight")) == {"first": 2, "another": 1}
    assert second.step(plan, 3) is None


def test_a_plan_is_never_deleted_for_what_it_moved_names_it(shop: Shop) -> None:
    shop.failed()
    shop.replays().plan(Selection())

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        shop.connection.execute("DELETE FROM toolkit.replay")


# -- account -------------------------------------------------------------------------------------------------------


def test_a_replay_is_in_the_audit_the_history_the_metrics_and_the_trace(shop: Shop) -> None:
    _, job_id = shop.failed()
    failed_run, failed_trace = shop.rows("SELECT run_id::text, trace_id FROM toolkit.run")[0]
    shop.toolkit("replay", "--failed", "--reason", "host is back", "--yes")
    shop.heard = Heard()
    shop.work()

    who, action, reason = shop.rows("SELECT who, action, reason FROM toolkit.audit")[0]
    assert (who, action, reason) == ("ann", "replay", "host is back")
    told = answer(shop.toolkit("replay", "history", "--json"))[0]
    assert (told["state"], told["reason"], told["outcomes"]) == (
        "done",
        "host is back",
        {"processed": 1, "in_air": 0},
    )
    flight = answer(shop.toolkit("replay", "history", "--job", job_id, "--json"))[0]
    assert (flight["replay_of"], flight["holder"], flight["outcome"]) == (failed_run, "ann", "processed")

    (record,) = shop.heard.records
    assert record.replay_of == failed_run
    metrics = Metrics(shop.replays().registry, release="test")
    metrics.observe(record)
    shown = metrics.exposition("")[1].decode()
    assert 'job_replays_total{job_name="background-image-processing",outcome="processed"} 1.0' in shown
    (trace_id, _, spans, _) = shop.heard.told[0]
    assert trace_id != failed_trace
    assert bytes.fromhex(failed_trace) in spans
    assert catalog.LINK_REPLAY.encode() in spans
    assert failed_run.encode() in spans


def test_jobs_failed_tells_the_command_that_replays_what_was_given_up_and_it_works_as_pasted(
    shop: Shop,
) -> None:
    order, _ = shop.failed()

    (command,) = [
        one
        for one in shop.toolkit("jobs", "failed").stderr.splitlines()[-1].split("   ")
        if "toolkit replay" in one
    ]
    program, *arguments = shlex.split(command)

    assert program == "toolkit"
    assert shop.toolkit(*arguments, "--yes").returncode == 0
    assert "toolkit replay" not in shop.toolkit("jobs", "failed").stderr, (
        "it is open, and not given up any more"
    )
    shop.work()
    assert whole(shop, order)
    assert "toolkit replay" not in shop.toolkit("jobs", "failed").stderr


def test_a_replay_of_last_weeks_job_waits_since_now_and_not_since_last_week(shop: Shop) -> None:
    _, job_id = shop.failed()
    shop.connection.execute(
        "UPDATE toolkit.intent SET created_at = created_at - interval '7 days', due_at = due_at - interval '7 days'"
    )
    assert shop.toolkit("replay", "--job", job_id).returncode == 0

    with shop.database.session() as session:
        seen = queries.summary(session, timedelta(days=1))

    assert seen.unpushed == 1
    assert 0 < seen.unpushed_age < 3600


def test_retries_of_a_replay_start_fresh(shop: Shop) -> None:
    order, job_id = shop.order()
    with shop.database.session() as session:
        for _ in range(4):
            begun = runs.begin(
                session, job_id, worker="w", host="h", release="test", lease=30.0, mode=Mode.ASYNC
            )
            session.execute("SELECT toolkit.finish_run(%s, %s, %s::jsonb)", (
                begun.run.run_id, begun.run.fence, json.dumps({
                    "outcome": "failed", "reason": "transient", "counts": {}, "duration": 0.1, "trace_id": "", "span_id": "",
                    "failure": {"error_type": "timeout", "message": "", "fingerprint": "f1"},
                    "retry_in": 0.0 if begun.retries < 3 else None})))  # fmt: skip
        assert begun.retries == 3
    assert shop.toolkit("replay", "--job", job_id).returncode == 0

    with shop.database.session() as session:
        again = runs.begin(session, job_id, worker="w", host="h", release="test", lease=30.0, mode=Mode.ASYNC)

    assert again.retries == 0
    assert again.run.number == 5
    assert again.run.replay_of == again.previous_run_id == begun.run.run_id
    assert order.id


def test_a_dry_run_shows_what_a_run_would_come_to_and_leaves_nothing(shop: Shop) -> None:
    order, job_id = shop.failed()
    shop.connection.execute('DELETE FROM "ProductDraft" WHERE id = %s', (order.drafts[0],))

    done = shop.toolkit(
        "replay", "--job", job_id, "--dry-run", "--json", TOOLKIT_JOBS="tests.replaying:IN_MEMORY"
    )

    assert done.returncode == 0, done.stderr
    said = answer(done)[0]
    assert (said["success"], said["attached"], said["images_memory"]) == (True, 1, 2)
    assert images(shop.connection, order) == {order.drafts[1]: 0}
    assert sessions(shop.connection, order) == 0
    assert shop.runs(job_id) == [("failed", "transient", False)]
    assert shop.rows("SELECT count(*) FROM toolkit.flight") == [0]
    assert shop.rows("SELECT count(*) FROM toolkit.run WHERE uncounted IS NOT NULL") == [0]


def test_a_dry_run_that_failed_leads_to_the_job_and_not_to_its_replay(shop: Shop) -> None:
    _, job_id = shop.failed()
    shop.connection.execute('ALTER TABLE "ProductImage" ADD CONSTRAINT none_at_all CHECK (false) NOT VALID')

    done = shop.toolkit("replay", "--job", job_id, "--dry-run", TOOLKIT_JOBS="tests.replaying:IN_MEMORY")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"next: toolkit jobs show {job_id[:8]}"
    assert "DETAIL" in done.stdout
    assert not any(line.startswith("DETAIL") for line in done.stdout.splitlines())


def test_a_job_the_ledger_does_not_know_is_named(shop: Shop) -> None:
    done = shop.toolkit("replay", "--job", "nobody-knows-me")

    assert done.returncode == 1
    assert "nobody-knows-me" in done.stderr


def login(shop: Shop, role: str) -> str:
    """The URL of somebody who has this role and no other right."""
    user = f"{role}_{uuid.uuid4().hex[:8]}"
    shop.connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'x' IN ROLE {role}")
    return as_login(shop.url, user, "x")


def test_an_operator_may_replay_and_a_worker_may_only_land_it(shop: Shop) -> None:
    order, job_id = shop.failed()
    as_operator = Database(login(shop, "toolkit_operator"))
    as_worker = Database(login(shop, "toolkit_worker"))
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            shop.replays(database=as_worker).plan(Selection(job_ids=(job_id,)))
        replays = shop.replays(database=as_operator)
        plan = replays.start(replays.plan(Selection(job_ids=(job_id,)), reason="a test"))
        assert replays.carry_out(plan, Limits(), stop=Event()).how == "done"
        while new_relay(as_worker, shop.broker).run_once():
            pass
        with performing(as_worker.url) as performer:
            performer.perform(job_id, mode=Mode.ASYNC)
    finally:
        as_operator.close()
        as_worker.close()

    assert shop.rows("SELECT outcome FROM toolkit.flight") == ["processed"]
    assert whole(shop, order)
