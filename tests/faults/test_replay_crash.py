"""A replay that is killed goes on: `scripts/replay-crash` does every step, this test a sample of them."""

from __future__ import annotations

import subprocess
import sys
from urllib.parse import urlsplit

from toolkit.embedded import servers as embedded


def test_a_replay_killed_at_any_step_is_resumed_and_runs_each_job_once(
    servers: embedded.Servers, redis_url: str
) -> None:
    command = [sys.executable, "-m", "tests.faults.replay_crash", "--every", "16"]
    postgres = urlsplit(servers.postgres.url)._replace(path="/postgres").geturl()

    done = subprocess.run(
        [*command, "--postgres", postgres, "--broker", redis_url],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "no job lost, none twice" in done.stdout
    assert done.stdout.count("killed before message") >= 8
