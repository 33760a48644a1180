"""`toolkit logs scan` counts a thing once, whoever wrote the log and however it is packed."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from toolkit.cli.logs import BARS, merged
from toolkit.errors import InputFileError
from toolkit.jobspec import CONTROL_CONSTRAINT
from toolkit.logscan import source
from toolkit.logscan.lines import Kind, read
from toolkit.logscan.scan import CONTEXT, EXAMPLES, MOST_KEYS, OTHERS, Minute, Report, scan
from toolkit.telemetry import catalog, logs

LOGS = Path(__file__).parent.parent / "logs"
FKEY = "ProductImage_productDraftId_fkey"


def scanned(data: str | bytes, size: int = source.BLOCK) -> Report:
    raw = io.BytesIO(data.encode() if isinstance(data, str) else data)
    return scan(source.lines(raw, size))


def own_json(*events: tuple[catalog.LogEvent, dict[str, object]]) -> str:
    """Lines as the worker writes them."""
    stream = io.StringIO()
    moment = datetime(2025, 10, 11, 17, 15, 30, tzinfo=UTC)
    render = logs._Json(lambda: moment, "r2")
    for event, fields in events:
        stream.write(render(None, event.level, {"event": event.name, "_line": event.line} | fields).decode())
    return stream.getvalue()


# The report's own lines


def test_the_reports_error_log_has_exactly_two_foreign_key_errors() -> None:
    report = scanned((LOGS / "incident_errors.log").read_bytes())
    assert report.fk_errors == {FKEY: 2}
    assert (report.completed, report.skipped, report.errors) == (0, {}, {})
    assert [(one.minute, one.fk_errors) for one in report.minutes] == [("10-11 17:15", 1), ("10-11 17:16", 1)]


def test_what_verify_deploy_planted_and_what_a_rehearsal_met_is_no_alarm(tmp_path: Path) -> None:
    head = "2025-10-11 17:15:30.000 UTC [7] 23503"
    error = 'ERROR:  insert or update on table "x" violates foreign key constraint'
    planted = {
        "job_id": "j",
        "constraint": CONTROL_CONSTRAINT,
        "sqlstate": "23503",
        "error_type": "ForeignKeyViolation",
    }
    log = tmp_path / "both.log"
    log.write_text(
        f'{head} shop app: {error} "{CONTROL_CONSTRAINT}"\n{head} rehearse_12_ab app: {error} "{FKEY}"\n'
        + own_json((catalog.RUN_FAILED, planted | {"job_name": "x", "run": 1}))
    )
    report = scanned(log.read_bytes())
    assert (report.planted, report.fk_errors, report.errors, report.minutes) == (2, {}, {}, ())

    def exit_code() -> int:
        return subprocess.run(
            [sys.executable, "-m", "toolkit.cli", "logs", "scan", str(log)], capture_output=True, check=False
        ).returncode

    assert exit_code() == 0
    log.write_text(log.read_text() + f'{head} shop app: {error} "{FKEY}"\n')
    assert exit_code() == 1


@pytest.mark.parametrize("size", [1, 7, 64, 200])
def test_where_blocks_end_changes_nothing(size: int) -> None:
    data = b"".join(path.read_bytes() for path in sorted(LOGS.glob("*.log")))
    assert scanned(data, size) == scanned(data)


def test_the_reports_healthy_job_is_one_completion_and_no_error() -> None:
    report = scanned((LOGS / "healthy.log").read_bytes())
    assert (report.completed, report.fk_errors, report.skipped, report.errors) == (1, {}, {}, {})


def test_the_reports_skipped_job_is_one_skip_and_no_error() -> None:
    report = scanned((LOGS / "skipped.log").read_bytes())
    assert (report.completed, report.fk_errors, report.skipped, report.errors) == (
        0,
        {},
        {"no_drafts": 1},
        {},
    )


# Others' logs

PG = 'insert or update on table "ProductImage" violates foreign key constraint "ProductImage_productDraftId_fkey"'
GERMAN = "Einfügen oder Aktualisieren verletzt Fremdschlüssel-Constraint"
CSV = (
    '2025-10-11 17:15:22.123 UTC,"shop","shop",71,"127.0.0.1:1",68e9.47,3,"INSERT",2025-10-11 17:00:00 UTC,5/12,0,'
    'ERROR,{code},"{message}","Key (""productDraftId"")=(x) is not present.",,,,,"INSERT INTO x",,,"app","client backend",,0'
)


@pytest.mark.parametrize(
    ("line", "minute"),
    [
        pytest.param(f"2025-10-11 17:15:22.123 UTC [71] ERROR:  {PG}", "2025-10-11 17:15", id="PostgreSQL's stderr"),
        pytest.param(f"Oct 11 17:15:22 db postgres[71]: [3-1] ERROR:  {PG}", "10-11 17:15", id="PostgreSQL's syslog"),
        pytest.param(
            CSV.format(code="23503", message=PG.replace('"', '""')), "2025-10-11 17:15", id="PostgreSQL's csv"
        ),
        pytest.param(
            json.dumps({"timestamp": "2025-10-11 17:15:22.1 UTC", "state_code": "23503", "message": PG}),
            "2025-10-11 17:15",
            id="PostgreSQL's json",
        ),
        pytest.param(
            json.dumps({"log": f"ERROR: {PG}\n", "stream": "stderr", "time": "2025-10-11T17:15:22.1Z"}),
            "2025-10-11 17:15",
            id="a container's json around it",
        ),
        pytest.param(
            f"2025-10-11T17:15:22.1Z stderr F {json.dumps({'level': 'error', 'msg': PG})}", "", id="CRI around json"
        ),
        pytest.param(
            json.dumps({"time": 1760202922123, "msg": f"Invalid `x`\nForeign key constraint violated: `{FKEY} (index)`"}),
            "2025-10-11 17:15",
            id="a message of several lines in one of json",
        ),
        pytest.param(f"Foreign key constraint failed on the field: `{FKEY} (index)`", "", id="Prisma before 5"),
    ],
)  # fmt: skip
def test_a_foreign_key_error_is_known_in_every_form(line: str, minute: str) -> None:
    found = read(line.encode())
    assert found is not None
    assert (found.kind, found.key, found.minute) == (Kind.FK_ERROR, FKEY, minute)
    assert scanned(line).fk_errors == {FKEY: 1}, "the needles find it too"


@pytest.mark.parametrize(
    "line",
    [
        CSV.format(code="23503", message=GERMAN),
        json.dumps({"error_severity": "FEHLER", "state_code": "23503", "message": GERMAN}),
    ],
)
def test_the_sqlstate_tells_in_any_language(line: str) -> None:
    assert sum(scanned(line).fk_errors.values()) == 1


@pytest.mark.parametrize(
    "line",
    [
        f"2025-10-11 17:15:22 UTC [71] STATEMENT:  SELECT 'violates foreign key constraint \"{FKEY}\"'",
        f"2025-10-11 17:15:22 UTC [71] LOG:  duration: 1 ms  statement: -- ERROR foreign key constraint `{FKEY}`",
        'grep "Foreign key constraint violated" logs',
        "level=info order 23503 was imported",
        '{"level":"info","event":"images.completed","order":"23503"}',
    ],
)
def test_a_line_that_only_quotes_an_error_is_none(line: str) -> None:
    report = scanned(line)
    assert (report.fk_errors, report.errors) == ({}, {})


# Our own


def test_a_run_of_ours_is_counted_once_by_the_event_of_its_end() -> None:
    run = {"job_name": "background-image-processing", "outcome": "x"}
    report = scanned(
        own_json(
            (catalog.LogEvent("images.completed", ""), {"seen": 5}),
            (catalog.RUN_PROCESSED, run),
            (catalog.LogEvent("images.no_drafts", "", "warning"), {"reason": "order_deleted"}),
            (catalog.RUN_SKIPPED, run | {"reason": "order_deleted"}),
            (catalog.RUN_FAILED, run | {"error_message": PG, "sqlstate": "23503", "constraint": FKEY}),
            (catalog.RUN_RETRY, run | {"error_type": "timeout", "error_message": "ERROR: it passes"}),
            (catalog.RUN_LOST, run | {"error_type": "SIGKILL"}),
        )
    )  # fmt: skip
    assert report.fk_errors == {FKEY: 1}
    assert (report.completed, report.skipped, report.errors) == (1, {"order_deleted": 1}, {"SIGKILL": 1})
    assert [(one.minute, one.release) for one in report.minutes] == [("2025-10-11 17:15", "r2")]


def test_our_console_tells_the_same() -> None:
    console = logs._Console(lambda: datetime(2025, 10, 11, 17, 15, 30, tzinfo=UTC), colour=True)
    told = [
        (
            catalog.LogEvent(
                "images.completed", "🖼️🔄 Background image processing completed: processed 5/5 drafts"
            ),
            {},
        ),
        (catalog.RUN_PROCESSED, {"duration": 0.1}),
        (catalog.RUN_SKIPPED, {"reason": "no_drafts"}),
        (catalog.RUN_FAILED, {"error_type": "ForeignKeyViolation", "error_message": PG}),
        (catalog.RUN_FAILED, {"error_type": "ValueError", "error_message": "no"}),
    ]
    lines = [
        console(None, event.level, {"event": event.name, "_line": event.line, "job_name": "a-job"} | fields)
        for event, fields in told
    ]  # fmt: skip
    report = scanned(b"".join(lines))
    assert (report.fk_errors, report.completed, report.skipped) == ({FKEY: 1}, 1, {"no_drafts": 1})
    assert sum(report.errors.values()) == 1


# Errors nobody knows


def test_errors_that_differ_in_numbers_and_names_fall_together() -> None:
    report = scanned("".join(f"2025-10-11 17:15:22 ERROR: disk {n} of 'host{n}' is full\n" for n in range(9)))
    assert list(report.errors.values()) == [9]
    assert len(report.examples) == EXAMPLES


def test_an_error_far_above_a_foreign_key_error_is_one_of_its_own() -> None:
    far = (
        "❌ something else\n"
        + "quiet\n" * (CONTEXT // 5)
        + f"Foreign key constraint violated on the constraint: `{FKEY}`\n"
    )
    report = scanned(far)
    assert (sum(report.errors.values()), report.fk_errors) == (1, {FKEY: 1})


def test_a_log_of_ever_new_errors_stays_small() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    report = scanned("".join(f"ERROR {a}{b} broke\n" for a in letters for b in letters))
    assert len(report.errors) == MOST_KEYS + 1
    assert report.errors[OTHERS] == len(letters) ** 2 - MOST_KEYS


def test_an_examples_secrets_are_masked() -> None:
    report = scanned("ERROR: cannot connect to postgresql://shop:hunter2@db/shop\n")
    assert "hunter2" not in report.examples[0].text


# Where logs come from


def test_gzip_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(gzip.compress((LOGS / "incident_errors.log").read_bytes()))
    with source.opened(str(path)) as blocks:
        assert scan(blocks).fk_errors == {FKEY: 2}


def test_a_torn_gzip_file_and_a_missing_one_are_told(tmp_path: Path) -> None:
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(b"a line\n" * 100_000)[:-20])
    with pytest.raises(InputFileError, match="broken gzip"), source.opened(str(path)) as blocks:
        scan(blocks)
    with pytest.raises(InputFileError, match="No such file"), source.opened(str(tmp_path / "no")):
        pass


def test_a_line_without_an_end_is_cut_and_not_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LONGEST", 1000)
    blocks = list(source.lines(io.BytesIO(b"x" * 5000), 100))
    assert max(map(len, blocks)) <= 1100
    assert sum(map(len, blocks)) == 5000


# The command


def command(*arguments: str, log: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "toolkit.cli", "logs", "scan", *arguments],
        input=log,
        capture_output=True,
        check=False,
    )


def test_the_command_reads_stdin_and_exits_with_1_on_a_foreign_key_error() -> None:
    told = command("-", "--json", log=gzip.compress((LOGS / "incident_errors.log").read_bytes()))
    assert told.returncode == 1, told.stderr
    assert json.loads(told.stdout)["fk_errors"] == {FKEY: 2}
    told = command(str(LOGS / "healthy.log"))
    assert told.returncode == 0, told.stderr
    assert b"completed\t\t1" in told.stdout


@pytest.mark.parametrize("day", ["2025-10-11 ", "10-11 ", ""])
def test_many_minutes_are_drawn_as_few_bars(day: str) -> None:
    minutes = [Minute(f"{day}{n // 60:02}:{n % 60:02}", "", 1, 0, 0, 0) for n in range(24 * 60)]
    bars = merged(minutes)
    assert len(bars) <= BARS
    assert sum(bar.fk_errors for bar in bars) == len(minutes)
