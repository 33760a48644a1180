"""What `toolkit status` calls wrong, and its exit code. Pure: no servers."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from toolkit.broker.view import QueueView, WorkerView
from toolkit.ledger.views import Summary
from toolkit.status import LATE, SILENCE, Process, Schema, Server, Status, exit_code, judge

SERVER = Server(name="PostgreSQL", state="ok", source="DATABASE_URL", url="", version="18", detail="")
WORKER = WorkerView("host.1.0", "host", 42, "idle", ("images",), None, 1.0, 0, 0)
SILENT = dataclasses.replace(WORKER, heartbeat_age=SILENCE + 1)
LOOK = "ps -o pid,ppid,stat,etime,args -p 42"
QUEUE = QueueView("images", 0, 0, 0, 0, 0, 0, 0, 0.0)
QUIET = Summary(
    since=datetime(2025, 10, 11, tzinfo=UTC), unpushed=0, unpushed_age=0.0, due=0, due_age=0.0, running=0, silent=0, retries=0,
    next_retry=None, unresolved=0, runs={"processed": 5, "skipped": 1, "failed": 0, "lost": 0, "running": 0},
)  # fmt: skip
FINE = Status(
    release="r1", postgres=SERVER, broker=dataclasses.replace(SERVER, name="the broker", source="embedded"),
    schema=Schema("0001", "0001"), ledger=QUIET, queues=(QUEUE,), workers=(WORKER,), processes={}, longest=180.0,
)  # fmt: skip


def with_(**changes: Any) -> Status:
    return dataclasses.replace(FINE, **changes)


def ledger(**changes: Any) -> Status:
    return with_(ledger=dataclasses.replace(QUIET, **changes))


def test_all_is_well() -> None:
    assert judge(FINE) == []
    assert exit_code(FINE, []) == 0


@pytest.mark.parametrize(
    ("seen", "word", "following"),
    [
        (with_(workers=(), queues=(dataclasses.replace(QUEUE, queued=3),)), "3 jobs wait and no worker", "toolkit worker"),
        (with_(workers=(), ledger=dataclasses.replace(QUIET, due=1)), "1 job waits and no worker", "toolkit worker"),
        (with_(workers=(dataclasses.replace(WORKER, state="dead"),), queues=(dataclasses.replace(QUEUE, queued=1),)),
         "1 job waits and no worker", "toolkit worker"),
        (ledger(unpushed=2, unpushed_age=LATE + 1), "2 committed intents are not in the queue", "toolkit worker"),
        (ledger(silent=1), "1 run is past the lease", "toolkit worker"),
        (ledger(runs=QUIET.runs | {"lost": 1}), "1 run was lost", "toolkit jobs failed --since 1h"),
        (with_(schema=Schema(None, "0001"), ledger=None), "schema toolkit is missing", "toolkit init"),
        (with_(schema=Schema("0000", "0001")), "revision 0000, this release wants 0001", "toolkit init"),
        (with_(schema=Schema(None, "0001", "may not read", "GRANT it")), "may not read", "GRANT it"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_the_next_command(seen: Status, word: str, following: str) -> None:
    first = judge(seen)[0]
    assert word in first.what
    assert (first.next, first.wrong) == (following, True)
    assert exit_code(seen, judge(seen)) == 1


@pytest.mark.parametrize(
    "seen",
    [
        ledger(runs=QUIET.runs | {"failed": 3}),
        ledger(unpushed=1, unpushed_age=LATE - 1),
        with_(workers=()),
        with_(workers=(WORKER, dataclasses.replace(WORKER, state="dead"))),
        with_(queues=(dataclasses.replace(QUEUE, queued=100),)),
    ],
)
def test_what_is_only_worth_knowing_leaves_the_exit_code_alone(seen: Status) -> None:
    assert exit_code(seen, judge(seen)) == 0


def test_a_server_away_is_told_first_and_the_rest_is_still_judged() -> None:
    away = dataclasses.replace(FINE.broker, state="away", detail="refused")
    seen = with_(broker=away, queues=None, workers=None, ledger=dataclasses.replace(QUIET, silent=1))
    assert [finding.next for finding in judge(seen)] == ["toolkit up", "toolkit worker"]
    assert exit_code(seen, judge(seen)) == 4


@pytest.mark.parametrize(
    ("worker", "state"),
    [
        (WORKER, "idle"),
        (dataclasses.replace(WORKER, heartbeat_age=SILENCE + 1), "silent"),
        (dataclasses.replace(WORKER, state="busy", job_id="j", heartbeat_age=SILENCE + 1), "busy"),
        (dataclasses.replace(WORKER, state="busy", job_id="j", heartbeat_age=SILENCE + 181), "silent"),
    ],
)
def test_a_worker_without_a_heartbeat_is_silent_but_a_long_job_is_no_silence(
    worker: WorkerView, state: str
) -> None:
    assert FINE.worker_state(worker) == state


@pytest.mark.parametrize(
    ("process", "state"), [(Process.GONE, "dead"), (Process.STOPPED, "stopped"), (Process.RUNS, "idle")]
)
def test_the_process_table_of_the_own_host_knows_before_the_heartbeat(process: Process, state: str) -> None:
    seen = with_(processes={WORKER.name: process})
    assert seen.worker_state(WORKER) == state
    assert seen.living == (process is Process.RUNS)


@pytest.mark.parametrize(
    ("changes", "what", "following"),
    [
        ({"processes": {WORKER.name: Process.GONE}}, "no worker runs: 1 dead", ["toolkit worker", "toolkit doctor --repair"]),
        ({"processes": {WORKER.name: Process.STOPPED}}, "no worker runs: 1 stopped", [LOOK, LOOK]),
        ({"processes": {WORKER.name: Process.RUNS}, "workers": (SILENT,)}, "no worker runs: 1 silent", [LOOK, LOOK]),
        ({"workers": (SILENT,)}, "no worker runs: 1 silent", ["toolkit worker", "toolkit doctor"]),
        ({"processes": {WORKER.name: Process.STOPPED}, "workers": (WORKER, dataclasses.replace(WORKER, name="other"))},
         "1 worker is stopped", [LOOK]),
    ],
)  # fmt: skip
def test_workers_that_take_no_jobs_are_not_all_well(changes: Any, what: str, following: list[str]) -> None:
    found = judge(with_(**changes))
    assert (found[0].wrong, what in found[0].what) == (True, True), found
    assert [finding.next for finding in found] == following


def test_dead_workers_that_were_replaced_are_for_the_doctor() -> None:
    found = judge(
        with_(
            workers=(WORKER, dataclasses.replace(WORKER, name="new")), processes={WORKER.name: Process.GONE}
        )
    )
    assert [(finding.next, finding.wrong) for finding in found] == [("toolkit doctor --repair", False)]


def test_what_is_wrong_stands_before_what_is_only_worth_knowing() -> None:
    found = judge(with_(workers=(), ledger=dataclasses.replace(QUIET, silent=1)))
    assert [finding.wrong for finding in found] == [True, False]


@pytest.mark.parametrize(
    ("unresolved", "words"), [(0, "all their jobs are resolved"), (1, "1 job is unresolved"), (2, "2 jobs are unresolved")]
)  # fmt: skip
def test_failed_runs_come_with_the_jobs_that_still_need_somebody(unresolved: int, words: str) -> None:
    (found,) = judge(ledger(runs=QUIET.runs | {"failed": 9}, unresolved=unresolved))
    assert words in found.what
