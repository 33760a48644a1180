"""Since when evidence counts: from the deployment's mark, and from what confounded it later. Pure.

A release that was never marked is taken from its first run. Another deployment, a rollback or a flip inside the window
restarts the clock of the checks that it confounds; errors stay charged to the release that made them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from toolkit.ledger.toggles import Toggle
from toolkit.ledger.verifications import Deployment
from toolkit.verify.check import Phase
from toolkit.verify.verdict import Event

DUE: dict[Phase, timedelta] = {
    Phase.IMMEDIATE: timedelta(0),
    Phase.SHORT_TERM: timedelta(minutes=5),
    Phase.LONG_TERM: timedelta(hours=1),
}
"""How long after the deployment a phase's checks can be looked at, unless they are asked for by name."""

ONE: Final = timedelta(hours=1)
"""Marks of a release that follow one another within this time are of one deployment: a pipeline that was tried again, or one
host after the other. Evidence counts from the first of them, so that a later one hides no error."""


@dataclass(frozen=True, slots=True)
class Window:
    """The window of a release: from when, and how that is known."""

    release: str
    since: datetime
    what: str


def window(
    release: str, deployments: Sequence[Deployment], first_run: datetime | None, now: datetime
) -> Window:
    """The release's window, without --since. `deployments`: newest first."""
    marked: Deployment | None = None
    for one in deployments:
        if marked is not None and (one.release != release or marked.at - one.at > ONE):
            break
        marked = one if one.release == release else marked
    if marked is not None:
        return Window(release, marked.at, f"marked by {marked.who}")
    if first_run is not None:
        return Window(release, first_run, "its first run: it was never marked (toolkit verify-deploy mark)")
    return Window(release, now, "now: it was never marked, and has no run")


def events(
    release: str,
    since: datetime,
    deployments: Sequence[Deployment],
    flips: Iterable[Toggle],
) -> tuple[Event, ...]:
    """What happened after `since`, oldest first; a deployment once, however often it was marked. `deployments`: newest first."""
    found = []
    for place, one in enumerate(deployments):
        before = deployments[place + 1 :]
        marked_again = before and before[0].release == one.release and one.at - before[0].at <= ONE
        if one.at <= since or marked_again:
            continue
        again = any(earlier.release == one.release for earlier in before)
        kind = "rollback" if again and one.release != release else "deployment"
        found.append(Event(kind=kind, at=one.at, what=f"release {one.release}", who=one.who))
    for flip in flips:
        if flip.at > since:
            state = f"{flip.name} {'on' if flip.enabled else 'off'}"
            if flip.enabled and flip.percent < 100:
                state += f" for {flip.percent} %"
            found.append(Event(kind="flip", at=flip.at, what=state, who=flip.who))
    return tuple(sorted(found, key=lambda event: event.at))


def restarted(since: datetime, events: Iterable[Event], confounded: frozenset[str]) -> datetime:
    """Since when evidence counts for a check that is confounded by these kinds of event."""
    return max((event.at for event in events if event.kind in confounded), default=since)


def due(since: datetime, now: datetime) -> tuple[tuple[Phase, ...], dict[str, datetime]]:
    """The phases whose time has come, and when that of the others comes."""
    ready = tuple(phase for phase, wait in DUE.items() if now - since >= wait)
    later = {phase.value: since + wait for phase, wait in DUE.items() if phase not in ready}
    return ready, later
