"""`toolkit demo` is honest: what it shows is in the database, what it prints can be typed, and it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from toolkit.embedded import servers as embedded

TOOLKIT = [sys.executable, "-m", "toolkit.cli"]
ORDER = re.compile(r"^ {4}order (\S+)   job (\S+)", re.MULTILINE)
DELETED = re.compile(r"DELETE … WHERE id = '(\w+)'")
COMMAND = re.compile(r"^  ((?:TOOLKIT_HOME=\S+ )?toolkit .+?)   ", re.MULTILINE)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home for the demo's servers; destroyed at the end, with the second one that a demo may take."""
    home = tmp_path_factory.mktemp("demo") / "home"
    try:
        yield home
    finally:
        for used in (home, home.with_name("home-demo")):
            embedded.destroy(used)


def environment(home: Path, **more: str) -> dict[str, str]:
    """A newcomer's: nothing of Freshfetch is set but its home."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TOOLKIT_", "OTEL_"))
        and name not in {"DATABASE_URL", "REDIS_URL", "ASYNC_IMAGE_PROCESSING"}
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return kept | {"TOOLKIT_HOME": str(home), "PATH": path, "PYTHONUTF8": "1"} | more


def demo(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TOOLKIT, "demo", *arguments], env=environment(home, **more), capture_output=True, text=True, timeout=90, check=False
    )  # fmt: skip


@contextmanager
def database(home: Path) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    running = embedded.up(home)
    with psycopg.connect(running.postgres.url, autocommit=True) as connection:
        yield connection


def images(home: Path, order_id: str) -> Mapping[str, int]:
    """Images by sku, of the order's drafts that are left."""
    with database(home) as connection:
        rows = connection.execute(
            'SELECT l.sku, count(i.id) FROM "ProductDraft" d JOIN "POLineItem" l ON l.id = d."lineItemId"'
            ' LEFT JOIN "ProductImage" i ON i."productDraftId" = d.id WHERE d."purchaseOrderId" = %s GROUP BY l.sku',
            (order_id,),
        ).fetchall()
    return {str(sku): int(str(count)) for sku, count in rows}


def left_behind(home: Path) -> list[psutil.Process]:
    """Worker processes that a demo on these servers started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TOOLKIT_HOME") == str(home) and "worker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def shown(home: Path) -> str:
    """What the first demo on a machine shows, while somebody else listens on the metrics port."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 9464))
            taken.listen()
        except OSError:
            pass  # somebody else listens there already, which is as good
        done = demo(home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    return done.stdout


def test_what_the_demo_shows_is_what_the_database_has(home: Path, shown: str) -> None:
    (order_id, _), *_ = ORDER.findall(shown)
    assert images(home, order_id) == {"MUG-01": 3, "LAMP-02": 3, "THROW-03": 2, "CANDLE-05": 0, "VASE-06": 0}
    deleted = DELETED.findall(shown)
    with database(home) as connection:
        assert connection.execute(
            'SELECT count(*) FROM "ProductImage" WHERE "productDraftId" = ANY(%s)', (deleted,)
        ).fetchone() == (0,)
        runs = connection.execute(
            "SELECT outcome, reason, counts FROM toolkit.run ORDER BY started_at"
        ).fetchall()
    counts = {"attached": 3, "no_images_found": 2, "draft_deleted": 1, "images_product_page": 8}
    assert runs == [("processed", "", counts), ("skipped", "no_drafts", {})]
    assert '{"success": true, "skipped": true, "reason": "no_drafts"}' in shown
    for line in ("Walnut Serving Board", "Beeswax Candle, Tall", "Recycled Glass Vase"):
        assert re.search(rf"{line} .*skipped: (draft_deleted|no_images_found)", shown)
    assert re.search(r'image_drafts_total\{outcome="draft_deleted"\} +1$', shown, re.MULTILINE)
    assert "perform images" in shown


def test_every_command_that_it_prints_can_be_typed(home: Path, shown: str) -> None:
    commands = COMMAND.findall(shown.partition("Go on from here")[2])
    assert len(commands) == 7
    for command in commands:
        if command == "toolkit demo --incident":
            continue  # it has a test of its own
        if command.endswith("toolkit worker"):
            a_worker_starts_and_stops(command, home)
            continue
        done = subprocess.run(  # noqa: S602  a shell is what people paste it into
            command, shell=True, env=environment(home), capture_output=True, text=True, timeout=30, check=False
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout


def a_worker_starts_and_stops(command: str, home: Path) -> None:
    """It says when it is up, and runs until it is told to stop."""
    with subprocess.Popen(  # noqa: S602  a shell is what people paste it into
        f"exec env {command}",
        shell=True,
        env=environment(home),
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stderr is not None
        heard = []
        for line in worker.stderr:
            heard.append(line)
            if "worker.started" in line:
                break
        worker.terminate()
        heard.append(worker.stderr.read())
        assert worker.wait(timeout=30) == 0, "".join(heard)


def heeding_ctrl_c() -> None:
    """A shell's background jobs ignore SIGINT, and so would whatever they start; a person's demo does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.usefixtures("shown")
def test_an_interrupted_demo_takes_its_worker_and_its_orders_along(home: Path) -> None:
    with subprocess.Popen(
        [*TOOLKIT, "demo"],
        env=environment(home),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heeding_ctrl_c,  # noqa: PLW1509
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if order := ORDER.match(line):
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
        assert process.wait(timeout=30) == 130
    assert left_behind(home) == []
    with database(home) as connection:
        found = connection.execute(
            'SELECT count(*) FROM "PurchaseOrder" WHERE id = %s', (order[1],)
        ).fetchone()
    assert found == (0,)


@pytest.mark.usefixtures("shown")
def test_a_demo_that_goes_otherwise_says_so_and_exits_with_1(home: Path) -> None:
    """The second run on these servers, too; a trigger throws away every draft's third image."""
    with database(home) as connection:
        connection.execute(
            "CREATE FUNCTION thief() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
            'CREATE TRIGGER thief BEFORE INSERT ON "ProductImage" FOR EACH ROW WHEN (NEW.position = 2) EXECUTE FUNCTION thief()'
        )
        try:
            done = demo(home)
        finally:
            connection.execute("DROP FUNCTION thief CASCADE")
    assert done.returncode == 1, done.stderr
    assert "✗ images of the surviving drafts: {'MUG-01': 2" in done.stdout
    assert left_behind(home) == []


def test_a_worker_of_the_users_is_left_alone(home: Path, shown: str) -> None:
    (_, ours), *_ = ORDER.findall(shown)
    worker = subprocess.Popen(
        [*TOOLKIT, "worker", "-n", "1"], env=environment(home, TOOLKIT_METRICS_PORT="0"), stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    assert worker.stderr is not None
    try:
        next(line for line in worker.stderr if "worker.started" in line)
        done = demo(home)
    finally:
        worker.terminate()
        worker.stderr.read()
        worker.wait(30)
        worker.stderr.close()
    assert done.returncode == 0, done.stdout + done.stderr
    (_, job_id), *_ = ORDER.findall(done.stdout)
    show = next(command for command in COMMAND.findall(done.stdout) if "jobs show" in command)
    assert show == f"TOOLKIT_HOME={home}-demo toolkit jobs show {job_id}"
    with database(home) as connection:
        jobs = connection.execute("SELECT job_id FROM toolkit.intent").fetchall()
    assert (ours,) in jobs
    assert (job_id,) not in jobs


def test_servers_of_the_users_are_refused(tmp_path: Path) -> None:
    done = demo(tmp_path / "home", DATABASE_URL="postgresql://host/shop", REDIS_URL="redis://host/0")
    assert done.returncode == 5
    assert "env -u DATABASE_URL -u REDIS_URL toolkit demo" in done.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.usefixtures("shown")
def test_the_incident_fails_as_it_failed_and_the_job_does_not(home: Path) -> None:
    log = embedded.up(home).postgres.log
    before = log.read_text(errors="replace").count("violates foreign key constraint")
    done = demo(home, "--incident")
    assert done.returncode == 0, done.stdout + done.stderr
    error = "Foreign key constraint violated on the constraint: `ProductImage_productDraftId_fkey`  (23503)"
    assert done.stdout.count(error) == 4
    assert log.read_text(errors="replace").count("violates foreign key constraint") - before == 4
    table = done.stdout.partition("Side by side")[2]
    assert re.search(r"stale payload, the incident +3 +3 +3 +3 of 3", table)
    assert re.search(r"fetch again, then INSERT +3 +1 +1 +3 of 3", table)
    assert re.search(r"Freshfetch: lock, then write +3 +0 +0 +3 of 3", table)
    with database(home) as connection:
        orders = connection.execute(
            "SELECT number, id FROM \"PurchaseOrder\" WHERE number ~ '-(STALE|AGAIN|FRESH)$'"
        ).fetchall()
        (open_jobs,) = connection.execute(
            "SELECT count(*) FROM toolkit.intent WHERE done_at IS NULL"
        ).fetchone() or (None,)
    assert sorted(str(number).rpartition("-")[2] for number, _ in orders) == ["AGAIN", "FRESH", "STALE"]
    for _, order_id in orders:
        assert images(home, str(order_id)) == {"MUG-01": 2, "THROW-03": 2, "CANDLE-05": 2}
    assert open_jobs == 0
