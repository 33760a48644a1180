"""REDIS_URL is read before anything is begun, and no part of it that may be a password is ever printed."""

from __future__ import annotations

import socket
from datetime import UTC, datetime

import psycopg
import pytest

from tests.orders import scalar
from toolkit import verification
from toolkit.app import App
from toolkit.broker import connection as connection_to_broker
from toolkit.broker.connection import connect
from toolkit.errors import DependencyUnreachable, SettingError
from toolkit.settings import Settings
from toolkit.verify.asked import Asked
from toolkit.verify.window import Window


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3c/ret@h:6379/0",
        "redis://:1@s3cret@h:port/0",
        "redis+sentinel://:s3c/ret@h:26379/service/0",
    ],
)
def test_a_url_that_cannot_be_read_is_told_without_its_password(url: str) -> None:
    with pytest.raises(SettingError, match="cannot be read") as refused:
        connect(url)
    assert "s3c" not in str(refused.value)
    assert "percent-encoded" in refused.value.remedy


def test_no_verification_is_begun_that_could_not_look_at_the_broker(
    database_url: str, connection: psycopg.Connection
) -> None:
    settings = Settings.from_env({"DATABASE_URL": database_url, "REDIS_URL": "nonsense"})
    found = Window("r1", datetime.now(UTC), "--since")
    with App(settings) as app, pytest.raises(SettingError, match="REDIS_URL"):
        verification.begin(app, found, Asked(job_name="any", what=found.what))
    assert scalar(connection, "SELECT count(*) FROM toolkit.verification") == 0


def test_a_broker_that_says_nothing_is_asked_once_before_work_is_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_to_broker, "CHECK_WITHIN", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10.0)
        with pytest.raises(DependencyUnreachable, match="does not answer"):
            connection_to_broker.check(f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        server.accept()[0].close()
        server.setblocking(False)  # noqa: FBT003
        with pytest.raises(BlockingIOError):
            server.accept()
