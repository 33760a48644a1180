"""The provider as OpenFeature's specification wants one: status, events, defaults, reasons, metadata, hooks, errors."""
# ruff: noqa: ARG002  a hook's arguments are OpenFeature's words

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import ErrorCode, OpenFeatureError
from openfeature.flag_evaluation import FlagEvaluationDetails, Reason
from openfeature.hook import Hook, HookContext, HookHints
from openfeature.provider import ProviderStatus
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

from jobs.images.words import NAME, TOGGLE
from tests.eventually import eventually
from toolkit.ledger import toggles
from toolkit.ledger.database import Database
from toolkit.run import Mode
from toolkit.telemetry import logs
from toolkit.toggle.provider import LedgerProvider
from toolkit.toggle.switch import DOMAIN, Switch
from toolkit.toggle.watch import Process, Watcher

REFUSING = "postgresql://nobody@127.0.0.1:1/nothing"
CONTEXT = EvaluationContext("order-1", {"merchant": "m1"})
SAFE = False


@pytest.fixture(autouse=True)
def _own_api() -> Iterator[None]:
    """OpenFeature's API is one a process."""
    yield
    api.shutdown()


@pytest.fixture
def flip(database_url: str) -> Iterator[Callable[..., toggles.Toggle]]:
    database = Database(database_url)

    def do(to: str, **state: Any) -> toggles.Toggle:
        with database.session() as session:
            standing = toggles.read(session, [TOGGLE]).get(TOGGLE)
            return toggles.flip(
                session, TOGGLE, version=standing.version if standing else 0, enabled=to == "on",
                percent=state.get("percent", 100), pins=state.get("pins", {}), jobs=[NAME], hold=None, lease=None,
                who="ann@desk", reason="because",
            )  # fmt: skip

    yield do
    database.close()


def watcher(url: str, *, switched_off: bool = False) -> Watcher:
    return Watcher(
        url=url, names=(TOGGLE,), process=Process("p1", "importer", "h", os.getpid(), "r1"),
        switched_off=lambda _: switched_off,
    )  # fmt: skip


def client_on(url: str, **more: Any) -> OpenFeatureClient:
    api.set_provider_and_wait(LedgerProvider(watcher(url, **more)), "test")
    return api.get_client("test")


def heard(
    client: OpenFeatureClient, *events: ProviderEvent
) -> queue.Queue[tuple[ProviderEvent, EventDetails]]:
    """What the client's handlers are told."""
    told: queue.Queue[tuple[ProviderEvent, EventDetails]] = queue.Queue()
    for event in events:
        client.add_handler(event, lambda details, event=event: told.put((event, details)))  # type: ignore[misc]
    return told


# Status and events


def test_it_is_ready_once_it_has_read(database_url: str) -> None:
    client = client_on(database_url)
    assert client.get_provider_status() is ProviderStatus.READY
    assert client.provider.get_metadata().name == "freshfetch-ledger"
    assert heard(client, ProviderEvent.PROVIDER_READY).get(timeout=5)[0] is ProviderEvent.PROVIDER_READY


def test_without_the_store_initialising_fails_and_it_becomes_ready_when_the_store_answers(
    database_url: str,
) -> None:
    provider = LedgerProvider(watcher(REFUSING))
    with pytest.raises(OpenFeatureError):
        api.set_provider_and_wait(provider, "test")
    client = api.get_client("test")
    assert client.get_provider_status() is ProviderStatus.ERROR
    for default in (True, False):
        details = client.get_boolean_details(TOGGLE, default, CONTEXT)
        assert (details.value, details.reason, details.variant) == (False, "DEFAULT", "sync"), (
            "never async by accident"
        )
        assert "refused" in str(details.flag_metadata["why"])
    told = heard(client, ProviderEvent.PROVIDER_READY)
    provider.watcher.url = database_url
    assert told.get(timeout=5)[0] is ProviderEvent.PROVIDER_READY
    assert client.get_boolean_value(TOGGLE, SAFE, CONTEXT)


def test_a_flip_is_a_configuration_change_that_names_the_flag(
    database_url: str, flip: Callable[..., Any]
) -> None:
    client = client_on(database_url)
    told = heard(client, ProviderEvent.PROVIDER_CONFIGURATION_CHANGED)
    flip("off")
    _, details = told.get(timeout=5)
    assert (details.flags_changed, details.metadata, details.provider_name) == (
        [TOGGLE],
        {"version": 1},
        "freshfetch-ledger",
    )
    assert not client.get_boolean_value(TOGGLE, True, CONTEXT)  # noqa: FBT003
    assert client.get_provider_status() is ProviderStatus.READY


def test_the_store_going_away_is_stale_and_coming_back_is_ready(
    database_url: str, flip: Callable[..., Any]
) -> None:
    flip("on")
    client = client_on(database_url)
    told = heard(client, ProviderEvent.PROVIDER_STALE)
    provider = client.provider
    assert isinstance(provider, LedgerProvider)
    provider.watcher.url = REFUSING
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(backend) FROM toolkit.toggle_process")
    _, about = told.get(timeout=5)
    assert about.flags_changed == [TOGGLE]
    assert client.get_provider_status() is ProviderStatus.STALE
    details = client.get_boolean_details(TOGGLE, SAFE, CONTEXT)
    assert (details.value, details.reason, details.flag_metadata["stale"]) == (True, Reason.STALE, True)
    provider.watcher.url = database_url
    eventually(lambda: client.get_provider_status() is ProviderStatus.READY)


def test_shutting_down_says_goodbye(database_url: str) -> None:
    client_on(database_url)
    api.shutdown()
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM toolkit.toggle_process").fetchone() == (0,)


# Values, reasons, metadata


@pytest.mark.parametrize(
    ("to", "state", "expected"),
    [
        ("on", {}, (True, "STATIC", "async")),
        ("off", {}, (False, "STATIC", "sync")),
        ("on", {"percent": 0}, (False, "SPLIT", "sync")),
        ("on", {"pins": {"m1": False}}, (False, "TARGETING_MATCH", "sync")),
        ("off", {"pins": {"m1": True}}, (True, "TARGETING_MATCH", "async")),
    ],
)
def test_value_reason_variant_and_metadata(
    database_url: str, flip: Callable[..., Any], to: str, state: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    flip(to, **state)
    details = client_on(database_url).get_boolean_details(TOGGLE, SAFE, CONTEXT)
    assert (details.value, details.reason, details.variant) == expected
    assert details.error_code is None
    assert {"version": 1, "actor": "ann@desk", "source": "ledger"}.items() <= details.flag_metadata.items()


def test_never_flipped_is_the_default_and_the_environment_wins(database_url: str) -> None:
    details = client_on(database_url).get_boolean_details(TOGGLE, SAFE, CONTEXT)
    assert (details.value, details.reason, details.flag_metadata["source"]) == (True, "DEFAULT", "default")
    details = client_on(database_url, switched_off=True).get_boolean_details(TOGGLE, SAFE, CONTEXT)
    assert (details.value, details.reason, details.flag_metadata["source"]) == (
        False,
        "STATIC",
        "environment",
    )


def test_an_unknown_flag_gives_the_callers_default(database_url: str) -> None:
    client = client_on(database_url)
    for default in (True, False):
        details = client.get_boolean_details("NO_SUCH", default)
        assert (details.value, details.reason, details.error_code) == (
            default,
            Reason.ERROR,
            ErrorCode.FLAG_NOT_FOUND,
        )


def test_asking_for_another_type_is_a_type_mismatch(database_url: str) -> None:
    client = client_on(database_url)
    for details in (
        client.get_string_details(TOGGLE, "x"),
        client.get_integer_details(TOGGLE, 7),
        client.get_float_details(TOGGLE, 1.5),
        client.get_object_details(TOGGLE, {"a": 1}),
    ):
        assert (details.error_code, details.reason) == (ErrorCode.TYPE_MISMATCH, Reason.ERROR)
        assert details.value in ("x", 7, 1.5, {"a": 1})


# Hooks


class Recording(Hook):
    """Which stages it was called in."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def before(self, hook_context: HookContext, hints: HookHints) -> EvaluationContext | None:
        self.stages.append("before")
        return EvaluationContext(attributes={"merchant": "pinned"})

    def after(self, hook_context: HookContext, details: FlagEvaluationDetails[Any], hints: HookHints) -> None:
        self.stages.append("after")

    def error(self, hook_context: HookContext, exception: Exception, hints: HookHints) -> None:
        self.stages.append(f"error {type(exception).__name__}")

    def finally_after(
        self, hook_context: HookContext, details: FlagEvaluationDetails[Any], hints: HookHints
    ) -> None:
        self.stages.append("finally")


def test_hooks_run_in_order_and_what_they_add_is_seen(database_url: str, flip: Callable[..., Any]) -> None:
    flip("off", pins={"pinned": True})
    client, hook = client_on(database_url), Recording()
    client.add_hooks([hook])
    assert client.get_boolean_value(TOGGLE, SAFE, EvaluationContext("order-1"))
    assert hook.stages == ["before", "after", "finally"]
    hook.stages.clear()
    client.get_boolean_value("NO_SUCH", SAFE)
    assert hook.stages == ["before", "error FlagNotFoundError", "finally"]


# The importer's side


def test_a_shop_may_bring_its_own_provider_and_the_environment_still_wins(database_url: str) -> None:
    mine = InMemoryProvider({TOGGLE: InMemoryFlag("blue", {"blue": True})})
    api.set_provider_and_wait(mine, DOMAIN)
    for switched_off, mode in ((False, Mode.ASYNC), (True, Mode.SYNC)):
        switch = Switch.open(watcher(database_url, switched_off=switched_off), logs.get_logger())
        with switch.pledge() as pledge:
            assert switch.choose(TOGGLE, "o1", "m1", pledge).mode is mode
        assert switch.client.provider is mine
        switch.close()


def test_a_shops_provider_that_does_not_know_the_flag_means_sync(database_url: str) -> None:
    api.set_provider_and_wait(InMemoryProvider({}), DOMAIN)
    switch = Switch.open(watcher(database_url), logs.get_logger())
    with switch.pledge() as pledge:
        assert switch.choose(TOGGLE, "o1", "m1", pledge).mode is Mode.SYNC
    switch.close()
