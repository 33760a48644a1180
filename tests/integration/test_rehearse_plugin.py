"""The pytest plugin, in a project outside this repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import with_database
from toolkit.embedded import servers as embedded

PROJECT = '''
import pytest

SETUP = """CREATE TABLE customer (id int PRIMARY KEY);
           CREATE TABLE invoice (id int PRIMARY KEY, customer int REFERENCES customer ON DELETE CASCADE)"""


def look_then_insert(connection):
    with connection.transaction():
        if connection.execute("SELECT FROM customer WHERE id = 1").fetchone() is not None:
            connection.execute("INSERT INTO invoice VALUES (1, 1)")


def lock_then_insert(connection):
    with connection.transaction():
        if connection.execute("SELECT FROM customer WHERE id = 1 FOR KEY SHARE").fetchone() is not None:
            connection.execute("INSERT INTO invoice VALUES (1, 1)")


def delete(engine):
    from sqlalchemy import text
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM customer WHERE id = 1"))


@pytest.mark.races(look_then_insert, delete, setup=SETUP, rows="INSERT INTO customer VALUES (1)")
def test_racy(schedule):
    assert schedule.errors["look_then_insert"] == []


@pytest.mark.races(lock_then_insert, delete, setup=SETUP, rows="INSERT INTO customer VALUES (1)")
def test_safe(schedule):
    assert schedule.errors["lock_then_insert"] == []
    assert schedule.rows("SELECT * FROM invoice") == []  # the delete takes it away, or it never was
'''


def test_a_users_test_finds_its_own_race_and_passes_the_safe_job(
    servers: embedded.Servers, tmp_path: Path
) -> None:
    (tmp_path / "test_invoices.py").write_text(PROJECT)
    url = with_database(servers.postgres.url, "postgres")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", f"--races-url={url}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "FAILED test_invoices.py::test_racy" in done.stdout
    assert "12 of 25 schedules fail; the shortest:" in done.stdout
    assert "✗ 23503 invoice_customer_fkey" in done.stdout
