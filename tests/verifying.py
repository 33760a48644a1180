"""`toolkit verify-deploy` as it is typed, beside hosts of the releases that it is about."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from tests.eventually import eventually
from tests.hosts import Host, worker_host
from tests.orders import ask, new_order
from toolkit.verify.verdict import Finding, Receipt

_ROOT = Path(__file__).parent.parent
IMAGES = "jobs.images.spec:SPEC"
GATED = "tests.gates:SPEC"
NEW, OLD = "r2", "r1"
SWALLOWED = """
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.outcome := 'processed';
    NEW.sqlstate := NULL;
    NEW.constraint_name := NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER swallow BEFORE UPDATE ON toolkit.run FOR EACH ROW WHEN (NEW.sqlstate LIKE '23%') EXECUTE FUNCTION swallow()"""
"""A ledger that keeps integrity errors as if they were none."""


@dataclass
class Typed:
    """A command that ended: exit code, and what it said."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        try:
            told = [f"{one.check}: {one.verdict}: {one.judgement.said}" for one in self.receipt.findings]
        except msgspec.MsgspecError:
            told = [self.out]
        return "\n".join([f"exit code {self.code}", *told, self.err])

    @property
    def receipt(self) -> Receipt:
        """Its --json."""
        return msgspec.json.decode(self.out, type=Receipt)

    def finding(self, check: str) -> Finding:
        """What a check found."""
        (found,) = [one for one in self.receipt.findings if one.check == check]
        return found


@dataclass
class Yard:
    """A database and a broker with a shop, and the way to type commands at it."""

    database_url: str
    redis_url: str
    folder: Path
    connection: psycopg.Connection
    settings: dict[str, str]

    def host(
        self, release: str = NEW, *, jobs: str = GATED, processes: int = 1
    ) -> AbstractContextManager[Host]:
        """`toolkit worker` of that release."""
        return worker_host(
            self.database_url, self.redis_url, self.folder / release, processes=processes, TOOLKIT_RELEASE=release,
            TOOLKIT_JOBS=jobs,
        )  # fmt: skip

    def watched(self, host: Host) -> None:
        """Read this host's counters from here on."""
        self.settings["TOOLKIT_VERIFY_METRICS"] = f"{host.url()}/metrics"

    def environ(self) -> dict[str, str]:
        """The commands' environment."""
        return os.environ | {
            "DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url, "TOOLKIT_JOBS": IMAGES, "TOOLKIT_RELEASE": NEW,
            "TOOLKIT_OPERATOR": "ann", "TOOLKIT_HOME": str(self.folder / "home"), "TOOLKIT_METRICS_PORT": "1",
        } | self.settings  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command, begun."""
        return subprocess.Popen(
            [sys.executable, "-m", "toolkit.cli", *arguments], cwd=_ROOT, env=self.environ(), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_hear_ctrl_c,  # noqa: PLW1509  it only resets a signal
        )  # fmt: skip

    def type(self, *arguments: str, within: float = 120) -> Typed:
        """A command, to its end."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=within)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Typed(process.returncode, out, err)

    def mark(self, release: str = NEW, *more: str) -> None:
        """`toolkit verify-deploy mark`."""
        done = self.type("verify-deploy", "mark", "--release", release, *more)
        assert done.code == 0, done.err

    def verify(self, *arguments: str, within: float = 120) -> Typed:
        """`toolkit verify-deploy … --json`."""
        return self.type("verify-deploy", *arguments, "--json", within=within)

    def orders(self, number: int) -> list[str]:
        """So many orders of the shop's, asked for and done; their jobs."""
        jobs = [ask(self.connection, new_order(self.connection, 1)) for _ in range(number)]
        eventually(lambda: not self._open(jobs), within=60)
        return jobs

    def _open(self, jobs: list[str]) -> int:
        row: Any = self.connection.execute(
            "SELECT count(*) FROM toolkit.intent WHERE job_id = ANY(%s) AND done_at IS NULL", (jobs,)
        ).fetchone()
        return int(row[0])

    def rows_left(self) -> int:
        """Rows of the catalog that test orders have left."""
        row: Any = self.connection.execute(
            'SELECT (SELECT count(*) FROM "PurchaseOrder" WHERE "merchantId" = %(m)s)'
            ' + (SELECT count(*) FROM "ProductDraft" WHERE "merchantId" = %(m)s)'
            ' + (SELECT count(*) FROM "ImageReviewSession" WHERE "merchantId" = %(m)s)'
            ' + (SELECT count(*) FROM "Merchant" WHERE id = %(m)s)',
            {"m": "freshfetch-verify"},
        ).fetchone()
        return int(row[0])


def _hear_ctrl_c() -> None:
    """A shell that runs the tests in its background has them, and their children, ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C, and its end."""
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def said(text: str) -> dict[str, Any]:
    """A JSON document."""
    found: dict[str, Any] = json.loads(text)
    return found
