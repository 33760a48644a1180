"""Payloads of the form that caused the incident of 2025-10-11: whole drafts inside. Only the ids are taken out; the drafts
are fetched fresh when the job runs. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.errors import PayloadRefused

_KEPT = ("purchaseOrderId", "merchantId", "workflowId")


def upcast(old: Mapping[str, Any]) -> dict[str, Any]:
    """The ids of `{purchaseOrderId, productDrafts: […], merchantId, workflowId}`, or of a call with positional arguments,
    `{args: […]}`; an order or merchant that is not named at the top is taken from the drafts when they agree on it. Raises
    PayloadRefused, naming the field that cannot be had."""
    ids = {name: old[name] for name in _KEPT if old.get(name) is not None}
    args = old.get("args")
    lists = [one for one in args if isinstance(one, list)] if isinstance(args, list) else []
    drafts = old.get("productDrafts") or next(iter(lists), None)
    inside = (
        [draft for draft in drafts if isinstance(draft, Mapping)] if isinstance(drafts, list | tuple) else []
    )
    for name in ("purchaseOrderId", "merchantId"):
        if name not in ids:
            ids[name] = _agreed(name, [draft.get(name) for draft in inside])
    return ids


def _agreed(name: str, values: list[Any]) -> str:
    told = {value for value in values if isinstance(value, str)}
    if len(told) != 1:
        raise PayloadRefused(
            f"an old payload without {name}, and its drafts name {len(told) or 'none'}",
            field=name,
            remedy="ask for the job anew, with toolkit.enqueue",
        )
    return told.pop()
