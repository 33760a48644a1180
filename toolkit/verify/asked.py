"""What was asked of a verification: kept with it in the ledger, so that any host can go on with it."""

from __future__ import annotations

import msgspec

from toolkit.errors import UsageError


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """`what`: how the window is known; `phases`: by name, empty for those whose time has come; `checks`: only these; `rules`:
    changed ones; `top_up`: place test orders until the evidence is enough, at most `rate` a second; `watch`: wait for evidence,
    too, for `within` seconds; `on_fail`: '' or `toggle-off`."""

    job_name: str
    what: str = ""
    phases: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    rules: dict[str, str] = {}
    top_up: bool = False
    rate: float = 10.0
    watch: bool = False
    within: float = 600.0
    fail_fast: bool = False
    on_fail: str = ""

    def encode(self) -> str:
        """As JSON."""
        return msgspec.json.encode(self).decode()


def decode(raw: str) -> Asked:
    """From the ledger. Raises UsageError for what another release wrote."""
    try:
        return msgspec.json.decode(raw, type=Asked)
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"this release cannot go on with that verification: {error}",
            remedy="start a new one: toolkit verify-deploy",
        ) from error
