"""Kill -9 a replay of 50 jobs before each thing that it says to PostgreSQL or to the broker, and go on with --resume.

    python -m tests.faults.replay_crash [--every N] [--jobs N] [--postgres URL --broker URL]

Step k: a child process runs `toolkit replay` and then the relay, and dies by SIGKILL before its k-th message to a server.
Then `toolkit replay --resume` (or, when it died before anything was begun, the same command again), the relay, and a worker.
After each step every job has one failed run and one replay, each image once, and was in RQ's queue exactly once. Steps end
with the first child that has nothing left to be killed at. Without --every each single step is done.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, NoReturn
from urllib.parse import urlsplit

import psycopg
import redis

from jobs.images.spec import SPEC
from tests.brokering import new_relay
from tests.orders import ask, new_order
from tests.performing import performing
from tests.template import prepare_template
from toolkit import cli
from toolkit.embedded import servers as embedded
from toolkit.ledger.database import Database
from toolkit.replay import pace
from toolkit.run import Mode

BATCH = 20
"""Jobs a batch, so that 50 jobs are three."""

COMMAND = ("replay", "--failed", "--reason", "crash test", "--yes")

_FAIL = """
WITH failed AS (
    UPDATE toolkit.intent SET done_at = now(), outcome = 'failed', pushed_at = now(), pushes = 1 RETURNING job_id, job_name, queue
)
INSERT INTO toolkit.run (job_id, job_name, queue, number, mode, worker, host, release, queue_wait, finished_at, duration, outcome,
                         reason, error_type, fingerprint)
SELECT job_id, job_name, queue, 1, 'async', 'w', 'h', 'r0', 0, now(), 1, 'failed', 'transient', 'timeout', 'f1' FROM failed
"""


@dataclass(frozen=True)
class Place:
    """The servers, and a template database with the failed jobs."""

    postgres: str
    broker: str
    jobs: int

    def url(self, name: str) -> str:
        """A database of this server."""
        return urlsplit(self.postgres)._replace(path=f"/{name}").geturl()

    def prepare(self) -> None:
        """Make the template."""
        with psycopg.connect(self.postgres, autocommit=True) as connection:
            connection.execute("CREATE DATABASE crash_template")
        prepare_template(self.url("crash_template"))
        with psycopg.connect(self.url("crash_template")) as connection:
            for _ in range(self.jobs):
                ask(connection, new_order(connection, 1))
            connection.execute(_FAIL)

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """A copy of the template; and in the broker the failed jobs as RQ keeps them."""
        name = f"crash_{os.getpid()}"
        with psycopg.connect(self.postgres, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE crash_template")
            with psycopg.connect(self.url(name)) as inside, redis.Redis.from_url(self.broker) as broker:
                broker.flushdb()
                for (job_id,) in inside.execute("SELECT job_id FROM toolkit.intent").fetchall():
                    broker.hset(
                        f"rq:job:{job_id}", mapping={"status": "failed", "exc_info": "old", "data": "old"}
                    )
                    broker.zadd("rq:failed:images", {job_id: 4_000_000_000})
            yield self.url(name)
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def die_before(step: int) -> list[int]:
    """Kill this process before its `step`-th message to a server (0: never); what is returned counts them."""
    sent = [0]

    def wrap(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            sent[0] += 1
            if sent[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(owner, name, counted)

    wrap(psycopg.Connection, "wait")
    wrap(redis.connection.AbstractConnection, "send_packed_command")
    return sent


def child(action: Callable[[], object]) -> int:
    """Do it in a process of its own; its exit code, negative for a signal. Whatever it has open is left to the kernel. What
    it says is shown only when it fails."""
    with TemporaryFile() as said:
        pid = os.fork()
        if pid == 0:
            _be(action, said.fileno())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code not in {0, -signal.SIGKILL}:
            said.seek(0)
            sys.stderr.write(said.read().decode())
    return code


def _be(action: Callable[[], object], said: int) -> NoReturn:
    """The child's life."""
    os.dup2(said, 1)
    os.dup2(said, 2)
    code = 70
    try:
        action()
        code = 0
    except BaseException:  # noqa: BLE001  nothing of the parent's may run here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def toolkit(url: str, place: Place, *arguments: str) -> None:
    """A command, as typed."""
    os.environ.update(
        DATABASE_URL=url, REDIS_URL=place.broker, TOOLKIT_RELEASE="test", TOOLKIT_OPERATOR="ann"
    )
    pace.BATCH = BATCH  # type: ignore[misc]
    code = cli.cli.main(arguments, standalone_mode=False)
    assert code == 0, f"{arguments} ended with {code}"


def relay(url: str, place: Place) -> None:
    """Everything that is asked goes to the broker."""
    with redis.Redis.from_url(place.broker) as broker:
        moving = new_relay(Database(url), broker, batch=BATCH)
        while moving.run_once():
            pass


def work(url: str, place: Place) -> None:
    """Perform what is in RQ's queue, in its order."""
    with redis.Redis.from_url(place.broker) as broker, performing(url) as performer:
        for job_id in broker.lrange("rq:queue:images", 0, -1):
            performer.perform(job_id.decode(), mode=Mode.ASYNC)


def crash_at(step: int, place: Place) -> bool:
    """One step. True when the child was killed there; False when it had fewer steps."""
    with place.fresh() as url:

        def doomed() -> None:
            die_before(step)
            toolkit(url, place, *COMMAND)
            relay(url, place)

        killed = child(doomed) == -signal.SIGKILL
        with (
            psycopg.connect(url, autocommit=True) as connection,
            redis.Redis.from_url(place.broker) as broker,
        ):
            between(connection, place)
            assert child(lambda: toolkit(url, place, "replay", "--resume")) == 0
            if not connection.execute("SELECT FROM toolkit.flight").fetchone():
                assert child(lambda: toolkit(url, place, *COMMAND)) == 0
            assert child(lambda: relay(url, place)) == 0
            queued(connection, broker)
            assert child(lambda: work(url, place)) == 0
            once(connection, place)
    return killed


def between(connection: psycopg.Connection, place: Place) -> None:
    """After the kill each job is in exactly one place: failed and never flown, or open and in the air."""
    wrong = connection.execute(
        "SELECT i.job_id FROM toolkit.intent i LEFT JOIN toolkit.flight f ON f.job_id = i.job_id AND f.landed_at IS NULL"
        " WHERE (i.done_at IS NULL) <> (f.job_id IS NOT NULL) OR (i.done_at IS NULL) <> (i.outcome IS NULL)"
    ).fetchall()
    assert not wrong, f"neither failed nor asked again: {wrong}"
    (count,) = connection.execute("SELECT count(*) FROM toolkit.intent").fetchone() or (0,)
    assert count == place.jobs


def queued(connection: psycopg.Connection, broker: redis.Redis) -> None:
    """Every job waits in RQ's queue once, and nothing of its failure is left in the broker."""
    wanted = sorted(row[0] for row in connection.execute("SELECT job_id FROM toolkit.intent").fetchall())
    assert sorted(one.decode() for one in broker.lrange("rq:queue:images", 0, -1)) == wanted
    assert broker.zcard("rq:failed:images") == 0
    assert not any(broker.hexists(f"rq:job:{job_id}", "exc_info") for job_id in wanted)


def once(connection: psycopg.Connection, place: Place) -> None:
    """Every job: one failed run, one replay of it that ended well, its images once."""
    runs = connection.execute(
        "SELECT job_id, array_agg(outcome ORDER BY number), count(replay_of) FROM toolkit.run GROUP BY job_id"
    ).fetchall()
    assert [row[1:] for row in runs] == [(["failed", "processed"], 1)] * place.jobs, runs
    flights = connection.execute("SELECT outcome, count(*) FROM toolkit.flight GROUP BY 1").fetchall()
    assert flights == [("processed", place.jobs)]
    (images,) = connection.execute('SELECT count(*) FROM "ProductImage"').fetchone() or (0,)
    assert images == 2 * place.jobs


@contextmanager
def servers(postgres: str | None, broker: str | None) -> Iterator[tuple[str, str]]:
    """Those given, or some of our own."""
    if postgres and broker:
        yield postgres, broker
        return
    with TemporaryDirectory(prefix="freshfetch-crash-") as folder:
        try:
            found = embedded.up(Path(folder), extra_options={"fsync": "off"})
            yield found.postgres.url, found.valkey.url
        finally:
            embedded.destroy(Path(folder))


def main() -> None:
    """Every step, or each N-th."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=1, help="only each N-th step")
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--postgres", help="the server's URL; a database is made on it")
    parser.add_argument("--broker", help="the broker's URL; it is emptied")
    options = parser.parse_args()
    assert SPEC.queue == "images"
    with servers(options.postgres, options.broker) as (postgres, broker):
        place = Place(postgres, broker, options.jobs)
        place.prepare()
        step, killed = 1, 0
        while crash_at(step, place):
            killed += 1
            sys.stdout.write(f"killed before message {step}: resumed, {place.jobs} jobs once each\n")
            sys.stdout.flush()
            step += options.every
        sys.stdout.write(
            f"{killed} kills; the whole replay has fewer than {step} messages; no job lost, none twice\n"
        )
        assert killed


if __name__ == "__main__":
    main()
