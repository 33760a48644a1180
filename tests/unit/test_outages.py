"""A dependency in trouble is told once when that begins and once when everybody gets on again; nothing else is swallowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import redis

from toolkit.broker.keeper import Outages
from toolkit.errors import DependencyUnreachable


class Told:
    """A log that keeps the names of events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __getattr__(self, _level: str) -> Callable[..., None]:
        return lambda event, **_fields: self.events.append(event)


def raising(error: Exception) -> Callable[[], Any]:
    def action() -> None:
        raise error

    return action


def nothing() -> None:
    """An action that gets on."""


@pytest.mark.parametrize(
    ("error", "dependency"),
    [
        (psycopg.OperationalError("gone"), "database"),
        (psycopg.errors.InsufficientPrivilege("permission denied for table intent"), "database"),
        (DependencyUnreachable("no answer"), "database"),
        (redis.exceptions.ConnectionError("refused"), "broker"),
        (redis.exceptions.TimeoutError("hangs"), "broker"),
        (redis.exceptions.ResponseError("OOM command not allowed when used memory > 'maxmemory'"), "broker"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_a_dependency_that_is_away_or_refuses_is_an_outage(error: Exception, dependency: str) -> None:
    outages = Outages(Told())  # type: ignore[arg-type]
    assert not outages.guard(raising(error), by="relay")
    assert outages.away == {dependency: str(error)}


def test_a_bug_is_not_an_outage() -> None:
    with pytest.raises(KeyError):
        Outages(Told()).guard(raising(KeyError("x")), by="relay")  # type: ignore[arg-type]


def test_who_gets_on_does_not_speak_for_who_does_not() -> None:
    log = Told()
    outages = Outages(log)  # type: ignore[arg-type]
    full = raising(redis.exceptions.ResponseError("OOM"))
    for _ in range(3):
        outages.guard(full, "broker", by="relay")
        outages.guard(nothing, "broker", by="gauges")
    assert list(outages.away) == ["broker"]
    assert log.events == ["broker.unreachable"]
    assert outages.guard(nothing, "broker", by="relay")
    assert outages.away == {}
    assert log.events == ["broker.unreachable", "broker.reached"]
