"""The way out of `toolkit`: whatever a server does in the middle of a command ends with a sentence, never with a traceback."""

from __future__ import annotations

import click
import psycopg
import pytest
import redis
from click.testing import CliRunner

from toolkit import cli


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (redis.exceptions.ConnectionError("Connection refused"), 4, "the broker went away"),
        (redis.exceptions.TimeoutError("Timeout reading"), 4, "the broker went away"),
        (psycopg.OperationalError("server closed the connection"), 4, "PostgreSQL went away"),
        (psycopg.errors.AdminShutdown("terminating connection"), 4, "PostgreSQL went away"),
        (psycopg.errors.InsufficientPrivilege("permission denied for table run"), 2, "may not do that"),
    ],
)
def test_a_server_that_fails_meanwhile_is_told_with_its_exit_code(
    error: Exception,
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    def fails() -> None:
        raise error

    monkeypatch.setattr(cli, "cli", fails)
    monkeypatch.setattr("sys.argv", ["toolkit"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert (ended.value.code, told in said) == (code, True), said
    assert "do: " in said


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def fails() -> None:
        raise psycopg.errors.UndefinedColumn("column x does not exist")

    monkeypatch.setattr(cli, "cli", fails)
    monkeypatch.setattr("sys.argv", ["toolkit"])
    with pytest.raises(psycopg.errors.UndefinedColumn):
        cli.main()


def test_a_misspelt_command_is_told_the_nearest_one() -> None:
    done = CliRunner().invoke(cli.cli, ["statu"])
    assert (done.exit_code, "Did you mean 'status'?" in done.output) == (2, True), done.output
