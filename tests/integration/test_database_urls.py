"""DATABASE_URL is read once, refused with what to do, and no part of it that may be a password is ever printed."""

from __future__ import annotations

import re

import psycopg
import pytest

from toolkit.app import App
from toolkit.errors import DependencyUnreachable, SettingError
from toolkit.failures import failure_of
from toolkit.ledger.database import Brief, Database
from toolkit.run import Reason
from toolkit.settings import Settings, masked

UNUSABLE = [
    ("mysql://u:s3cret@h/db", "names 'mysql'", "postgresql://"),
    ("host=h password=s3cret", "cannot be read", "postgresql://user"),
    ("postgresql://u:s3c ret@h/db", "cannot be read", "a space as %20"),
    ("postgresql://u:s3c%ret@h/db", "cannot be read", "% as %25"),
    ("postgresql://u:pw@s3cret@h/db", "has an @ or a /", "@ as %40"),
    ("postgresql://u:12/s3cret@h/db", "has an @ or a /", "/ as %2F"),
    ("postgresql://u:s3cret@[::1/db", "cannot be read", "postgresql://user"),
    ("postgresql://u:s3cret@127.0.0.1:notaport/db", "port that is not a number", "postgresql://user"),
    ("postgresql://u:s3cret@h/db?schema=public", "does not know: schema", "Prisma"),
]


@pytest.mark.parametrize(("url", "told", "remedy"), UNUSABLE)
def test_a_url_that_cannot_be_used_is_told_without_its_password(url: str, told: str, remedy: str) -> None:
    with App(Settings.from_env({"DATABASE_URL": url})) as app:
        for read in (lambda: Database(url), lambda: Brief(url), lambda: app.database_url):
            with pytest.raises(SettingError, match=re.escape(told)) as refused:
                read()
            assert remedy in refused.value.remedy
            assert not re.search("s3c|ret@", f"{refused.value} {refused.value.remedy}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:s3c@r/e t@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u@h:5432/db", "postgresql://u@h:5432/db"),
        ("redis://:s3cret@h:6379/0", "redis://:***@h:6379/0"),
        ("redis://me@corp:s3cret@h:6379/0", "redis://me@corp:***@h:6379/0"),
        ("host=h password=s3cret", "***"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize("way", [Database, Brief])
def test_a_host_that_no_name_server_knows_is_a_server_that_does_not_answer(way: type[Database]) -> None:
    database = way("postgresql://u:s3cret@nowhere.invalid/db")
    with (
        pytest.raises(DependencyUnreachable, match="does not answer: failed to resolve host"),
        database.session(),
    ):
        pytest.fail("connected")


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_job_that_meets_it_is_worth_another_attempt(wrapped: bool) -> None:
    url = "postgresql://u:s3cret@nowhere.invalid/db"
    with (
        pytest.raises((DependencyUnreachable, psycopg.OperationalError)) as met,
        Brief(url).session() if wrapped else psycopg.connect(url),
    ):
        pytest.fail("connected")
    failure = failure_of(met.value, in_app=["tests"])
    assert (failure.reason, failure.retryable) == (Reason.TRANSIENT, True)


def test_a_server_that_refuses_is_not_said_to_be_away(database_url: str) -> None:
    wrong = re.sub(r"(?<=freshfetch:)[^@]+", "s3cret", database_url)
    refused = "refuses the connection: password authentication"
    with pytest.raises(DependencyUnreachable, match=refused) as told, Brief(wrong).session():
        pytest.fail("connected")
    assert "password" in told.value.remedy
    assert "s3cret" not in str(told.value)


def test_what_libpq_adds_is_a_sentence_of_its_own() -> None:
    database = Brief("postgresql://127.0.0.1:1/db")
    with pytest.raises(DependencyUnreachable, match=r"refused\. Is the server running"), database.session():
        pytest.fail("connected")
