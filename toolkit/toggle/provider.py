"""The OpenFeature provider over a Watcher, and the evaluation event in the log.

    api.set_provider_and_wait(LedgerProvider(watcher), domain="freshfetch")
    client.get_boolean_details("ASYNC_IMAGE_PROCESSING", False, EvaluationContext(order_id, {"merchant": merchant_id}))

true is asynchronous. The targeting key is the order's id; the attribute `merchant` names its merchant. A value is never an
error: while the store was never reached it is false, with reason DEFAULT, and the provider's status is ERROR until the store
answers; while the store is away it is the last known one, with reason STALE and status STALE. Flag metadata: version, actor,
source (the layer), why. Only here and in `switch`: openfeature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEventDetails
from openfeature.exception import ErrorCode, FlagNotFoundError, ProviderNotReadyError, TypeMismatchError
from openfeature.flag_evaluation import FlagEvaluationDetails, FlagResolutionDetails, FlagValueType
from openfeature.hook import Hook, HookContext, HookHints
from openfeature.provider import AbstractProvider, Metadata

from toolkit.telemetry import catalog
from toolkit.telemetry.logs import Log
from toolkit.toggle.decide import Known, decide
from toolkit.toggle.watch import Event, Watcher

NAME = "freshfetch-ledger"
MERCHANT = "merchant"
"""The attribute of an evaluation context that pins look at."""


class LedgerProvider(AbstractProvider):
    """`initialize` starts the watcher and raises ProviderNotReadyError when the store is away; `shutdown` closes it."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def get_metadata(self) -> Metadata:
        """Its name."""
        return Metadata(name=NAME)

    def initialize(self, evaluation_context: EvaluationContext) -> None:  # noqa: ARG002  OpenFeature's words
        """Read the toggles once; the watcher goes on by itself, with the store or without."""
        self.watcher.start()
        self.watcher.listeners.append(self._heard)
        for name in self.watcher.names:
            known = self.watcher.known(name)
            if not known.reached:
                raise ProviderNotReadyError(f"{name} is sync until the ledger answers: {known.why}")

    def shutdown(self) -> None:
        """Stop listening."""
        self.watcher.close()

    def resolve_boolean_details(
        self,
        flag_key: str,
        default_value: bool,  # noqa: ARG002  OpenFeature's words; the default of a switch is the safe side
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[bool]:
        """The toggle's value for the order that the context names. Raises FlagNotFoundError for an unknown toggle."""
        if flag_key not in self.watcher.names:
            raise FlagNotFoundError(
                f"no toggle {flag_key}; there are {', '.join(self.watcher.names) or 'none'}"
            )
        context = evaluation_context or EvaluationContext()
        merchant = context.attributes.get(MERCHANT)
        decision = decide(
            flag_key,
            self.watcher.known(flag_key),
            switched_off=self.watcher.switched_off(flag_key),
            order_id=context.targeting_key,
            merchant=merchant if isinstance(merchant, str) else None,
        )
        return FlagResolutionDetails(
            value=decision.enabled,
            reason=decision.reason.value,
            variant=decision.variant,
            flag_metadata={
                "version": decision.version,
                "actor": decision.who,
                "source": decision.layer.value,
                "why": decision.why,
                "stale": decision.stale,
            },
        )

    def resolve_string_details(
        self,
        flag_key: str,
        default_value: str,  # noqa: ARG002
        evaluation_context: EvaluationContext | None = None,  # noqa: ARG002
    ) -> FlagResolutionDetails[str]:
        """Toggles are booleans."""
        self._refuse(flag_key)

    def resolve_integer_details(
        self,
        flag_key: str,
        default_value: int,  # noqa: ARG002
        evaluation_context: EvaluationContext | None = None,  # noqa: ARG002
    ) -> FlagResolutionDetails[int]:
        """Toggles are booleans."""
        self._refuse(flag_key)

    def resolve_float_details(
        self,
        flag_key: str,
        default_value: float,  # noqa: ARG002
        evaluation_context: EvaluationContext | None = None,  # noqa: ARG002
    ) -> FlagResolutionDetails[float]:
        """Toggles are booleans."""
        self._refuse(flag_key)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[FlagValueType] | Mapping[str, FlagValueType],  # noqa: ARG002
        evaluation_context: EvaluationContext | None = None,  # noqa: ARG002
    ) -> FlagResolutionDetails[Sequence[FlagValueType] | Mapping[str, FlagValueType]]:
        """Toggles are booleans."""
        self._refuse(flag_key)

    def _refuse(self, flag_key: str) -> NoReturn:
        if flag_key not in self.watcher.names:
            raise FlagNotFoundError(f"no toggle {flag_key}")
        raise TypeMismatchError(f"{flag_key} is a boolean")

    def _heard(self, event: Event, name: str, known: Known) -> None:
        """What the watcher noticed, as OpenFeature's events."""
        details = ProviderEventDetails(flags_changed=[name], message=known.why or None)
        if event == "ready":
            self.emit_provider_ready(details)
        elif event == "stale":
            self.emit_provider_stale(details)
        elif event == "error":
            details.error_code = ErrorCode.PROVIDER_NOT_READY
            self.emit_provider_error(details)
        else:
            details.metadata = {"version": known.version}
            self.emit_provider_configuration_changed(details)


class EvaluationLog(Hook):
    """Each evaluation as an event in the log, by OpenTelemetry's semantic convention for feature flags."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def finally_after(
        self, hook_context: HookContext, details: FlagEvaluationDetails[FlagValueType], hints: HookHints  # noqa: ARG002
    ) -> None:  # fmt: skip
        """After every evaluation, one that failed too."""
        metadata = details.flag_metadata
        fields: dict[str, Any] = {
            catalog.FLAG_KEY: details.flag_key,
            catalog.FLAG_VARIANT: details.variant or str(details.value).lower(),
            catalog.FLAG_REASON: str(details.reason or "unknown").lower(),
            catalog.FLAG_CONTEXT: hook_context.evaluation_context.targeting_key,
            catalog.FLAG_VERSION: str(metadata["version"]) if "version" in metadata else None,
            catalog.FLAG_PROVIDER: hook_context.provider_metadata.name
            if hook_context.provider_metadata
            else None,
        }
        if details.error_code is not None:
            fields[catalog.ATTR_ERROR_TYPE] = details.error_code.value.lower()
            fields[catalog.FLAG_ERROR] = details.error_message
        why = metadata.get("why") or details.error_message or fields[catalog.FLAG_REASON]
        catalog.emit(
            self._log,
            catalog.FLAG_EVALUATED,
            toggle=details.flag_key,
            variant=fields[catalog.FLAG_VARIANT],
            why=why,
            **{name: value for name, value in fields.items() if value is not None},
        )
