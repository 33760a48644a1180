"""`toolkit jobs`, `toolkit trace` and `toolkit status` as they are called: what they print, where, and how they end."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, set_span_in_context
from rq import Queue, SimpleWorker

from tests.alert_lint import RUNBOOKS
from tests.integration.test_queries import as_login, in_each_state
from tests.ledger_rows import FK_FAILURE, PASSING_FAILURE, TRACE, ask, begin, found_gone, ran, skipped
from toolkit.inline import LedgerSink
from toolkit.ledger import runs, traces
from toolkit.ledger.database import Database, Session
from toolkit.telemetry import catalog
from toolkit.telemetry.traces import Tracing, inject

Toolkit = Callable[..., subprocess.CompletedProcess[str]]
ESCAPE = "\x1b"


@pytest.fixture
def environ(database_url: str, redis_url: str, tmp_path: Any) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TOOLKIT_", "OTEL_", "ASYNC_"))
    }
    kept.pop("NO_COLOR", None)
    return kept | {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "TOOLKIT_HOME": str(tmp_path),
        "COLUMNS": "100",
    }


@pytest.fixture
def toolkit(environ: dict[str, str]) -> Toolkit:
    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "toolkit.cli", *arguments], env=environ | settings, capture_output=True, text=True, timeout=30,
            check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    with psycopg.connect(database_url, autocommit=True) as session:
        yield session


def on_terminal(environ: dict[str, str], *arguments: str) -> str:
    """What a person would see."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "toolkit.cli", *arguments], env=environ, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        seen += part
    process.wait(10)
    os.close(ours)
    return seen.decode()


@pytest.mark.parametrize("name", ["jobs", "trace", "status"])
def test_help_says_what_the_command_is_for(toolkit: Toolkit, name: str) -> None:
    done = toolkit(name, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout or "list" in done.stdout


def test_jobs_alone_is_the_list_with_its_options(toolkit: Toolkit, session: Session) -> None:
    made = in_each_state(session)
    bare = toolkit("jobs")
    assert bare.returncode == 0
    header, *rows = bare.stdout.splitlines()
    assert header.split("\t")[:3] == ["job_id", "state", "job_name"]
    assert {row.split("\t")[0] for row in rows} == set(made.values())
    assert all(len(row.split("\t")) == len(header.split("\t")) for row in rows)
    (only,) = toolkit("jobs", "--state", "skipped").stdout.splitlines()[1:]
    assert only.split("\t")[:2] == [made["skipped"], "skipped"]


def test_the_lists_json_has_stable_keys(toolkit: Toolkit, session: Session) -> None:
    in_each_state(session)
    told = json.loads(toolkit("jobs", "--json", "--limit", "2").stdout)
    assert set(told) == {"jobs", "more"}
    assert told["more"] is True
    assert len(told["jobs"]) == 2
    assert set(told["jobs"][0]) == {
        "job_id", "job_name", "queue", "payload", "mode", "release", "asked_at", "pushed_at", "due_at", "done_at", "state",
        "runs", "last_outcome", "reason", "counts", "error_type", "error_message", "queue_wait", "started_at", "duration",
        "retry_at", "held_by",
    }  # fmt: skip


def test_an_empty_list_is_explained(toolkit: Toolkit, session: Session) -> None:
    assert "no job was ever asked for" in toolkit("jobs").stderr
    ask(session)
    done = toolkit("jobs", "--state", "failed")
    assert done.returncode == 0
    assert "no failed job matches; the newest job was asked for" in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_show_is_a_page_for_the_engineer_on_call(toolkit: Toolkit, session: Session) -> None:
    job_id = ask(session, "order-1")
    ran(session, job_id, failure=PASSING_FAILURE, retry_in=0.0)
    ran(session, job_id, failure=FK_FAILURE)
    done = toolkit("jobs", "show", "order-1")
    assert done.returncode == 0
    for part in (
        job_id, "failed  integrity: ForeignKeyViolation", "purchaseOrderId=order-1", '"success":false', "refused a write",
        "run 1", "ConnectTimeout: images.example: timed out", "run 2", "23503  ProductImage_productDraftId_fkey", "f00dfeed0001",
        "release r1",
    ):  # fmt: skip
        assert part in done.stdout, part
    assert f"toolkit trace {job_id[:8]}" in done.stderr
    assert "Traceback" not in done.stdout
    assert "Traceback" in toolkit("jobs", "show", job_id, "--traceback").stdout


def test_a_job_that_a_replay_found_gone_says_so(toolkit: Toolkit, session: Session) -> None:
    job_id = ask(session)
    ran(session, job_id, failure=FK_FAILURE)
    found_gone(session, job_id)
    assert "found it gone: order_deleted; nothing is left to do" in toolkit("jobs", "show", job_id).stdout


def test_a_run_that_rq_did_without_us_leaves_out_who_is_not_known(toolkit: Toolkit, session: Session) -> None:
    job_id = ask(session)
    ran(session, job_id, failure=FK_FAILURE)
    session.execute("UPDATE toolkit.run SET worker = '', host = '', release = ''")
    (by,) = (
        line.split()
        for line in toolkit("jobs", "show", job_id).stdout.splitlines()
        if line.startswith("  by ")
    )
    assert by == ["by", "async"]


def test_a_skipped_job_shows_its_answer(toolkit: Toolkit, session: Session) -> None:
    job_id = ask(session)
    ran(session, job_id, skipped("no_drafts"))
    begin(session, job_id)
    assert '{"success":true,"skipped":true,"reason":"no_drafts"}' in toolkit("jobs", "show", job_id).stdout
    told = json.loads(toolkit("jobs", "show", job_id, "--json").stdout)
    assert set(told) == {"job", "answer", "gone", "runs"}
    assert told["answer"] == {"success": True, "skipped": True, "reason": "no_drafts"}
    assert [run["reason"] for run in told["runs"]] == ["no_drafts", "already_done"]
    assert {"run_id", "fingerprint", "sqlstate", "constraint", "trace_id", "retry_at", "queue_wait"} <= set(
        told["runs"][0]
    )


TRACES = {
    page.stem: command
    for page in sorted(RUNBOOKS.glob("*.md"))
    for command in re.findall(r"^toolkit trace .*\$\(.*$", page.read_text(), re.MULTILINE)
}
"""By runbook: the command that shows the trace of an example."""


@pytest.mark.parametrize("runbook", TRACES)
def test_a_runbooks_example_is_found_also_when_all_that_failed_has_ended_well(
    environ: dict[str, str], session: Session, runbook: str
) -> None:
    ran(session, ask(session), skipped("no_drafts"))
    broken = ran(session, ask(session), failure=FK_FAILURE)
    found_gone(session, broken.job_id)
    lost = ask(session)
    begin(session, lost, worker="doomed")
    runs.lose(session, "doomed", "SIGKILL")
    ran(session, lost)
    done = subprocess.run(
        ["/bin/bash", "-c", TRACES[runbook]], capture_output=True, text=True, timeout=30, check=False,
        env=environ | {"PATH": f"{Path(sys.executable).parent}:{environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    example = {"RunsLost": lost, "ForeignKeyErrors": broken.job_id}.get(runbook, "")
    assert example in done.stdout


@pytest.mark.parametrize("command", [("jobs", "show"), ("trace",)])
def test_an_unknown_id_is_an_error_with_a_remedy(toolkit: Toolkit, command: tuple[str, ...]) -> None:
    done = toolkit(*command, "no-such-id")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no job that 'no-such-id' could mean" in done.stderr
    assert "do: " in done.stderr


def test_a_beginning_that_is_too_short_is_told_as_such(toolkit: Toolkit, session: Session) -> None:
    assert "an id's beginning has 6 characters or more" in toolkit("jobs", "show", ask(session)[:5]).stderr
    assert "characters or more" not in toolkit("jobs", "show", "no-such-id").stderr.partition("do: ")[0]


@pytest.mark.parametrize("command", [("jobs", "show"), ("trace",)])
def test_an_ambiguous_id_is_a_usage_error_that_names_the_jobs(
    toolkit: Toolkit, session: Session, command: tuple[str, ...]
) -> None:
    both = [ask(session, "order-1"), ask(session, "order-1")]
    done = toolkit(*command, "order-1")
    assert done.returncode == 2
    assert all(job_id in done.stderr for job_id in both)


def test_failures_are_grouped_with_an_example_and_the_next_command(
    toolkit: Toolkit, session: Session
) -> None:
    in_each_state(session)
    done = toolkit("jobs", "failed")
    assert done.returncode == 0
    header, *rows = (line.split("\t") for line in done.stdout.splitlines())
    assert [row[header.index("error_type")] for row in rows] == [
        "SIGSEGV",
        "ConnectTimeout",
        "ForeignKeyViolation",
    ]
    assert "5 of 8 runs failed or were lost in the last 24h" in done.stderr
    assert "toolkit jobs show" in done.stderr
    told = json.loads(toolkit("jobs", "failed", "--json").stdout)
    assert set(told) == {"since", "groups", "runs", "strays"}
    assert {"fingerprint", "runs", "jobs", "open", "given_up", "example_job_id", "releases"} <= set(
        told["groups"][0]
    )


def test_no_failures_is_good_news_in_numbers(toolkit: Toolkit, session: Session) -> None:
    ran(session, ask(session))
    assert "nothing failed in the last 24h; 1 run began" in toolkit("jobs", "failed").stderr


def test_a_wrong_duration_says_what_would_do(toolkit: Toolkit) -> None:
    done = toolkit("jobs", "--since", "5x")
    assert done.returncode == 2
    assert "90s, 15m, 2h, 3d" in done.stderr


def traced(url: str, session: Session, *, outcomes: int = 2) -> tuple[str, list[str]]:
    """A job asked for under a span, whose first run failed and whose second one linked to it; spans kept. Job and traces."""
    tracing = Tracing("freshfetch", "r1")
    with tracing.tracer.start_as_current_span("enqueue images", kind=SpanKind.PRODUCER) as span:
        job_id = ask(session, "order-1", traceparent=inject(span)["traceparent"])
        asked = span.get_span_context()
    database = Database(url)
    sink = LedgerSink(database, lambda _data, _count: None)
    asked_trace = f"{asked.trace_id:032x}"
    traces.store(session, [traces.TraceChunk(asked_trace, "", tracing.take()[0])])
    ids = [asked_trace]
    for number in range(1, outcomes + 1):
        parent = set_span_in_context(NonRecordingSpan(asked)) if number == 1 else tracing.no_parent
        with tracing.tracer.start_as_current_span(
            "perform images", parent, SpanKind.CONSUMER, links=[Link(asked)]
        ) as root:
            with tracing.tracer.start_as_current_span("guarded write"):
                pass
            trace_id = f"{root.get_span_context().trace_id:032x}"
            how: dict[str, Any] = {"failure": PASSING_FAILURE, "retry_in": 0.0} if number < outcomes else {}
            run = ran(session, job_id, trace_id=trace_id, **how)
            root.set_attributes({catalog.RUN_ID: run.run_id, catalog.RUN_NUMBER: number,
                                 catalog.JOB_OUTCOME: "failed" if how else "processed"})  # fmt: skip
        data, count = tracing.take()
        sink.spans(trace_id, job_id, run.run_id, data, count)
        ids.append(trace_id)
    database.close()
    return job_id, list(dict.fromkeys(ids))


def test_the_trace_is_drawn_from_who_asked_to_the_last_run(
    toolkit: Toolkit, session: Session, database_url: str
) -> None:
    job_id, (first, second) = traced(database_url, session)
    for name in ("order-1", second):
        done = toolkit("trace", name)
        assert done.returncode == 0, done.stderr
        text = done.stdout
        assert (
            text.index(first)
            < text.index("enqueue images")
            < text.index("wait in queue")
            < text.index(f"trace {second}")
        )
        assert text.count("guarded write") == 2
    assert "no spans" not in done.stdout
    told = json.loads(toolkit("trace", job_id, "--json").stdout)
    assert set(told) == {"jobs", "traces", "runs_without_spans"}
    assert [trace["trace_id"] for trace in told["traces"]] == [first, second]
    assert told["runs_without_spans"] == []


def test_the_trace_follows_the_width_of_the_terminal(
    toolkit: Toolkit, session: Session, database_url: str
) -> None:
    job_id, _ = traced(database_url, session)
    assert max(map(len, toolkit("trace", job_id, COLUMNS="70").stdout.splitlines()[1:])) <= 70
    assert max(map(len, toolkit("trace", job_id, COLUMNS="140").stdout.splitlines()[1:])) > 100


def test_spans_that_are_gone_are_replaced_by_the_ledgers_account(
    toolkit: Toolkit, session: Session, database_url: str
) -> None:
    job_id, _ = traced(database_url, session)
    session.execute("TRUNCATE toolkit.trace")
    done = toolkit("trace", job_id)
    assert done.returncode == 0
    assert "run 1 (no spans)  failed: transient  ConnectTimeout: images.example: timed out" in done.stdout
    assert "run 2 (no spans)  processed" in done.stdout
    assert "kept for 24 h" in done.stderr
    assert len(json.loads(toolkit("trace", job_id, "--json").stdout)["runs_without_spans"]) == 2


def test_a_lost_run_stands_in_its_place_between_the_others(
    toolkit: Toolkit, session: Session, database_url: str
) -> None:
    job_id = ask(session)
    begin(session, job_id, worker="doomed")
    runs.lose(session, "doomed", "SIGKILL")
    begin(session, job_id)
    done = toolkit("trace", job_id)
    assert done.stdout.index("run 1 (no spans)  lost: killed  SIGKILL") < done.stdout.index(
        "run 2 (no spans)  running"
    )
    assert "died with its worker" in done.stderr


def test_torn_spans_do_not_hide_the_others(toolkit: Toolkit, session: Session, database_url: str) -> None:
    job_id, _ = traced(database_url, session)
    traces.store(session, [traces.TraceChunk("f" * 32, job_id, b"\xff\xff\xff")])
    done = toolkit("trace", job_id)
    assert done.returncode == 0
    assert done.stdout.count("guarded write") == 2
    assert "1 chunks of spans could not be read" in done.stderr


def test_a_job_that_has_not_run_says_so(toolkit: Toolkit, session: Session) -> None:
    assert "has not run" in toolkit("trace", ask(session)).stderr


def test_a_trace_shared_by_jobs_shows_all_of_them(toolkit: Toolkit, session: Session) -> None:
    jobs = [ask(session, f"order-{n}", traceparent=f"00-{TRACE}-{'2' * 16}-01") for n in range(2)]
    for job_id in jobs:
        ran(session, job_id)
    done = toolkit("trace", TRACE)
    assert done.returncode == 0
    assert all(job_id in done.stdout for job_id in jobs)


def test_status_shows_everything_and_masks_passwords(
    toolkit: Toolkit, session: Session, database_url: str, redis_url: str
) -> None:
    done = toolkit("status", ASYNC_IMAGE_PROCESSING="false")
    assert done.returncode == 0, done.stdout
    for part in (
        "PostgreSQL\tok\t18",
        "the broker\tok\tvalkey 9",
        "images\t0",
        "ASYNC_IMAGE_PROCESSING: off (environment)",
    ):
        assert part in done.stdout, part
    for url in (database_url, redis_url):
        password = re.search(r":([^:@/]+)@", url)
        assert password is not None
        assert password[1] not in done.stdout + done.stderr


def test_the_statuss_json_has_stable_keys(toolkit: Toolkit, session: Session) -> None:
    told = json.loads(toolkit("status", "--json").stdout)
    assert set(told) == {
        "exit_code", "release", "servers", "schema", "workers", "queues", "ledger", "toggles", "settings", "findings",
    }  # fmt: skip
    assert told["toggles"] == [{"name": "ASYNC_IMAGE_PROCESSING", "enabled": True, "source": "default"}]
    assert told["ledger"]["runs"] == {"processed": 0, "skipped": 0, "failed": 0, "lost": 0, "running": 0}
    assert told["servers"]["postgres"]["state"] == "ok"


def test_jobs_that_wait_for_nobody_are_wrong(toolkit: Toolkit, session: Session) -> None:
    ask(session)
    done = toolkit("status")
    assert done.returncode == 1
    assert "1 job waits and no worker runs" in done.stdout
    assert "next: toolkit worker" in done.stderr


def test_a_worker_is_seen_by_name_and_does_away_with_the_complaint(
    toolkit: Toolkit, session: Session, redis_url: str
) -> None:
    ask(session)
    with redis.Redis.from_url(redis_url) as broker:
        worker = SimpleWorker([Queue("images", connection=broker)], name="host.7.0", connection=broker)
        worker.register_birth()
        told = json.loads(toolkit("status", "--json").stdout)
        assert [one["name"] for one in told["workers"]] == ["host.7.0"]
        assert told["exit_code"] == 0
        worker.register_death()


def test_lost_runs_and_old_intents_are_wrong(toolkit: Toolkit, session: Session) -> None:
    job_id = ask(session)
    session.execute(
        "UPDATE toolkit.intent SET created_at = created_at - interval '31 s', due_at = due_at - interval '31 s'"
    )
    begin(session, job_id, worker="doomed")
    runs.lose(session, "doomed", "SIGKILL")
    done = toolkit("status")
    assert done.returncode == 1
    assert "1 run was lost" in done.stdout
    assert "1 committed intent is not in the queue" in done.stdout


def test_a_missing_schema_is_told_by_status_and_refused_by_the_others(
    toolkit: Toolkit, session: Session
) -> None:
    session.execute("DROP SCHEMA toolkit CASCADE")
    done = toolkit("status")
    assert done.returncode == 1
    assert "schema toolkit is missing" in done.stdout
    assert "toolkit init" in done.stderr
    refused = toolkit("jobs")
    assert refused.returncode == 2
    assert "do: run `toolkit init`" in refused.stderr


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("hangs", [True, False])
def test_a_server_that_is_away_or_hangs_is_told_and_the_other_one_is_shown(
    toolkit: Toolkit, session: Session, silent: int, hangs: bool
) -> None:
    port = silent if hangs else 1
    no_broker = toolkit("status", REDIS_URL=f"redis://127.0.0.1:{port}/0")
    no_database = toolkit("status", DATABASE_URL=f"postgresql://nobody@127.0.0.1:{port}/none")
    assert (no_broker.returncode, no_database.returncode) == (4, 4)
    why = "no answer within 1.5 s" if hangs else "refused"
    assert "the broker does not answer" in no_broker.stdout
    assert why in no_broker.stdout
    assert "jobs waiting" in no_broker.stdout
    assert "PostgreSQL does not answer" in no_database.stdout
    assert why in no_database.stdout
    assert "images\t0" in no_database.stdout
    assert "check DATABASE_URL" in no_database.stderr


def test_the_ledgers_commands_say_when_postgresql_is_away(toolkit: Toolkit) -> None:
    for command in (("jobs",), ("trace", "anything")):
        done = toolkit(*command, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
        assert (done.returncode, done.stdout) == (4, "")
        assert "does not answer" in done.stderr


def test_reading_needs_no_broker(toolkit: Toolkit, session: Session) -> None:
    job_id = ask(session)
    assert toolkit("jobs", "show", job_id, REDIS_URL="redis://127.0.0.1:1/0").returncode == 0


def test_an_observer_may_use_every_reading_command_and_none_of_them_writes(
    toolkit: Toolkit, session: Session, database_url: str, redis_url: str
) -> None:
    job_id, _ = traced(database_url, session)

    def everything() -> list[Any]:
        return [
            session.execute(
                f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM toolkit.{table} t"
            ).fetchone()
            for table in ("intent", "run", "trace")
        ]

    before = everything()
    session.execute("DROP ROLE IF EXISTS test_watcher")
    session.execute("CREATE ROLE test_watcher LOGIN PASSWORD 'watcher' IN ROLE toolkit_observer")
    url = as_login(database_url, "test_watcher", "watcher")
    try:
        for command in (
            ("jobs",),
            ("jobs", "failed"),
            ("jobs", "show", job_id),
            ("trace", job_id),
            ("status",),
        ):
            done = toolkit(*command, DATABASE_URL=url)
            assert done.returncode == 0, (command, done.stdout, done.stderr)
    finally:
        session.execute("DROP ROLE test_watcher")
    assert everything() == before
    with redis.Redis.from_url(redis_url) as broker:
        assert broker.dbsize() == 0


def test_head_ends_it_politely(environ: dict[str, str], session: Session) -> None:
    for _ in range(400):
        ask(session)
    command = f"{sys.executable} -m toolkit.cli jobs --limit 400 | head -n 1"
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=environ, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout.startswith("job_id\t")
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_terminal_gets_a_table_and_colours_unless_it_wants_none(
    environ: dict[str, str], session: Session
) -> None:
    made = in_each_state(session)
    seen = on_terminal(environ, "jobs")
    assert ESCAPE in seen
    assert "\t" not in seen
    assert made["failed"][:8] in seen
    for command in (("jobs", "show", made["failed"]), ("trace", made["failed"]), ("status",)):
        plain = on_terminal(environ | {"NO_COLOR": "1"}, *command)
        assert not re.search(r"\x1b\[[0-9;]*3\d", plain), (command, plain)


def test_on_a_narrow_terminal_what_is_copied_stays_in_one_piece(
    environ: dict[str, str], session: Session
) -> None:
    made = in_each_state(session)
    narrow = environ | {"COLUMNS": "80", "NO_COLOR": "1"}
    (line,) = (
        row for row in on_terminal(narrow, "jobs", "failed").splitlines() if row.startswith("f00dfeed ")
    )
    assert made["failed"][:8] in line
    assert "ForeignKeyViolation" in line
    assert "lost: SIGSEGV" in on_terminal(narrow, "jobs", "failed")
    assert made["failed"] in on_terminal(narrow, "replay", "--sqlstate", "23503", "--plan")


def test_what_others_wrote_cannot_drive_the_terminal(environ: dict[str, str], session: Session) -> None:
    job_id = ask(session)
    evil = type(FK_FAILURE)(
        reason="error",
        error_type="Boom",
        message=f"{ESCAPE}]0;pwned\x07\r\n{ESCAPE}[2J",
        fingerprint="e" * 12,
    )
    ran(session, job_id, failure=evil)
    for command in (("jobs", "failed"), ("jobs", "show", job_id), ("trace", job_id)):
        seen = on_terminal(environ, *command)
        assert "\x1b]0;" not in seen, command
        assert "\x1b[2J" not in seen, command
