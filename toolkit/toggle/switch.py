"""What an importer asks: is this order's job left to the workers, or done here and now? Through an OpenFeature client.

    switch = Switch.open(watcher, log)                           # `App.switch`
    with switch.pledge() as pledge, database.begin() as connection:
        …
        choice = switch.choose("ASYNC_IMAGE_PROCESSING", order_id, merchant, pledge)

A shop that keeps its flags elsewhere sets its own provider for the domain before the first order:
`openfeature.api.set_provider_and_wait(provider, "freshfetch")`. `NAME=false` in the environment wins over that too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from openfeature import api
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import OpenFeatureError

from toolkit.run import Mode
from toolkit.telemetry.logs import Log
from toolkit.toggle.provider import MERCHANT, EvaluationLog, LedgerProvider
from toolkit.toggle.watch import Pledge, Watcher

DOMAIN = "freshfetch"
"""The OpenFeature domain whose provider the importer asks."""

_SAFE = False


@dataclass(frozen=True, slots=True)
class Choice:
    """An order's mode, and why in a sentence."""

    mode: Mode
    why: str


@dataclass(frozen=True, slots=True)
class Switch:
    """The toggles as an importer sees them. Close it at the end of the process."""

    client: OpenFeatureClient
    watcher: Watcher
    switched_off: Callable[[str], bool]

    @classmethod
    def open(cls, watcher: Watcher, log: Log) -> Switch:
        """Set the ledger's provider for the domain, unless the shop has set its own, and wait until it has read."""
        client = api.get_client(DOMAIN)
        client.add_hooks([EvaluationLog(log)])
        standing = client.provider
        if standing is api.get_client().provider or isinstance(standing, LedgerProvider):
            with contextlib.suppress(
                OpenFeatureError
            ):  # not ready: everything is sync until the store answers
                api.set_provider_and_wait(LedgerProvider(watcher), DOMAIN)
        else:
            watcher.start()
        return cls(client, watcher, watcher.switched_off)

    def pledge(self) -> AbstractContextManager[Pledge]:
        """Around an order's transaction: what is decided inside is committed before any newer version is acknowledged."""
        return self.watcher.pledge()

    def choose(self, toggle: str, order_id: str, merchant: str, pledge: Pledge) -> Choice:
        """The mode of an order. Sync whenever anything is in doubt."""
        if not toggle:
            return Choice(Mode.ASYNC, "no toggle governs this job")
        pledge.keep(toggle)
        details = self.client.get_boolean_details(
            toggle, _SAFE, EvaluationContext(targeting_key=order_id, attributes={MERCHANT: merchant})
        )
        if self.switched_off(toggle):
            return Choice(Mode.SYNC, f"the environment says {toggle}=false")
        why = str(
            details.flag_metadata.get("why")
            or details.error_message
            or details.reason
            or "the flag's default"
        )
        return Choice(Mode.ASYNC if details.value else Mode.SYNC, why)

    def close(self) -> None:
        """Say goodbye to the ledger."""
        self.watcher.close()
