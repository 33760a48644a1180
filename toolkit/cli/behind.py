"""The part of `toolkit jobs failed` that the ledger cannot know: failed jobs that reached RQ behind its back."""

from __future__ import annotations

import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from toolkit.cli import render, words
from toolkit.errors import ToolkitError

if TYPE_CHECKING:
    from toolkit.broker.dead import DeadJob
    from toolkit.cli.options import Ledger


def strays(seen: Ledger, limit: int) -> list[DeadJob] | None:
    """At most `limit` of them, read without running or writing anything; None when the broker does not answer, which is
    said on stderr."""
    from toolkit.broker import connection, dead
    from toolkit.ledger import adoption

    try:
        connection.check(seen.app.redis_url)
        found = dead.find(seen.app.broker, seen.app.registry, lambda ids: adoption.known(seen.session, ids))
        return list(islice(found, limit))
    except (ToolkitError, *connection.BROKER_AWAY) as error:
        render.say(f"jobs that failed in RQ behind the ledger's back are not shown: {error}")
        return None


def show(found: list[DeadJob] | None) -> None:
    """A table of them, when there are any."""
    if not found:
        return
    render.heading("Failed in RQ, unknown to the ledger")
    cut = words.SHORT if sys.stdout.isatty() else None
    render.table(
        ("job", "queue", "function", "error", "as", "for"),
        [
            (one.job_id[:cut], one.queue, words.plain(one.asked.function) or "-",
             words.plain(f"{one.failure.error_type}: {one.failure.message}"), one.asked.serializer or "-",
             "refused: " + words.plain(one.asked.refused) if one.asked.refused else one.asked.job_name)
            for one in found
        ],
    )  # fmt: skip
    repairable = any(not one.asked.refused for one in found)
    render.next_steps("toolkit doctor --repair" if repairable else "toolkit doctor")


def document(found: list[DeadJob] | None) -> list[dict[str, Any]] | None:
    """For `--json`."""
    if found is None:
        return None
    return [
        {"job_id": one.job_id, "queue": one.queue, "function": one.asked.function, "job_name": one.asked.job_name,
         "serializer": one.asked.serializer, "refused": one.asked.refused, "error_type": one.failure.error_type,
         "error_message": one.failure.message, "fingerprint": one.failure.fingerprint, "failed_at": one.failed_at}
        for one in found
    ]  # fmt: skip
