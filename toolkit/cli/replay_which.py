"""Which jobs a replay is about: those named, or a selection. Failed jobs that only RQ knows are taken into the ledger first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from toolkit.cli import render
from toolkit.cli.options import Since
from toolkit.errors import DependencyUnreachable, NotFound, ToolkitError

if TYPE_CHECKING:
    from toolkit.app import App
    from toolkit.cli.replay_call import Call
    from toolkit.ledger.replay_views import Selection


def named(app: App, texts: Sequence[str]) -> tuple[str, ...]:
    """The ledger's job ids for what was typed. A failed job that only RQ knows is taken into the ledger first."""
    from toolkit.ledger import find

    def known(text: str) -> str:
        with app.single.session() as session:
            return find.one(session, text)

    ids = []
    for text in texts:
        try:
            ids.append(known(text))
        except NotFound:
            for dead in app.adopt_dead({text}):
                raise ToolkitError(
                    f"UNDECODABLE: job {text} is in RQ only, and its ids cannot be had: {dead.asked.refused}",
                    remedy="nothing of it was run; ask for the job again with toolkit.enqueue,"
                    f" then `toolkit doctor --drop {dead.job_id}`",
                ) from None
            ids.append(known(text))
    return tuple(ids)


def selection(app: App, call: Call) -> Selection:
    """What was typed, as the ledger selects by it. Strays of RQ whose ids cannot be had are told of."""
    from toolkit.ledger.replay_views import Selection

    if call.jobs:
        return Selection(job_ids=named(app, call.jobs))
    try:
        strays = app.adopt_dead()
    except DependencyUnreachable as error:
        render.say(f"not looked for in RQ: {error}")
    else:
        if strays:
            render.say(
                f"left out, in RQ only and UNDECODABLE: {len(strays):,} (toolkit jobs failed lists them)"
            )
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        name: value.moment(now) if isinstance(value, Since) else value
        for name, value in call.conditions.items()
    }
    return Selection(**values)
