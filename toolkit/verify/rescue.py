"""The ways back from a bad release, the fastest first, by what was measured here.

    rescues = look(session, spec, target)          # reads the ledger
    rescues = ranked(facts)                        # pure

- switch off: how long the processes took to go by the toggle's last flips, as their receipts say in the audit.
- roll back: from the mark of an older release to its first run, when that has happened here.

What was never measured comes last, and says so. Both stand in runbooks/rollback.md.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from toolkit.jobspec import JobSpec
from toolkit.ledger import audit, rollbacks, toggles, verifications
from toolkit.ledger.database import Session
from toolkit.ledger.rollbacks import Rollback
from toolkit.ledger.toggles import Toggle
from toolkit.toggle.flip import KEPT
from toolkit.verify.check import Target
from toolkit.verify.verdict import Rescue

RUNBOOK: Final = "runbooks/rollback.md"
LAST: Final = 20
"""Flips that are looked back at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the ledger knows of ways back. `toggle` is '' for a job without one; `standing` is its present version (None:
    never flipped), `flips` the seconds that its last ones took; `previous` is the release before ('' for none); `vercel`: the
    importer's project there is configured."""

    verification_id: int
    release: str
    previous: str
    toggle: str = ""
    standing: Toggle | None = None
    flips: Sequence[float] = ()
    rollbacks: Sequence[Rollback] = ()
    vercel: bool = False


def look(session: Session, spec: JobSpec, target: Target, *, vercel: bool = False) -> tuple[Rescue, ...]:
    """The ways back as they are now. Reads only."""
    named = spec.toggle
    before = [
        one.release
        for one in verifications.deployments(session)
        if one.at < target.since and one.release != target.release
    ]
    return ranked(
        Facts(
            verification_id=target.verification_id,
            release=target.release,
            previous=target.previous
            or next(iter(before), "")
            or verifications.ran_before(session, target.release, target.since),
            toggle=named,
            standing=toggles.read(session, [named]).get(named) if named else None,
            flips=[
                float(act.detail["seconds"])
                for act in audit.history(session, KEPT, LAST)
                if act.subject == named
            ],
            rollbacks=rollbacks.rollbacks(session),
            vercel=vercel,
        )
    )


def is_off(standing: Toggle | None) -> bool:
    """True when no order is asynchronous: the toggle is off, and no merchant is pinned to async."""
    return standing is not None and not standing.enabled and not any(standing.pins.values())


def ranked(facts: Facts) -> tuple[Rescue, ...]:
    """The ways back, the fastest that was measured first. A toggle that is off already is none."""
    ways = [*_switch(facts), _rollback(facts)]
    return tuple(sorted(ways, key=lambda way: (way.seconds is None, way.seconds or 0.0)))


def _switch(facts: Facts) -> list[Rescue]:
    if not facts.toggle or is_off(facts.standing):
        return []
    reason = shlex.quote(f"verify-deploy {facts.verification_id}: regression of {facts.release}")
    return [
        Rescue(
            name="switch off",
            command=f"toolkit toggle off {facts.toggle} --reason {reason}",
            seconds=max(facts.flips, default=None),
            measured=f"from the flip until every process goes by it; {_of(len(facts.flips), 'flip')}"
            if facts.flips
            else "no flip has a complete receipt",
        )
    ]


def _rollback(facts: Facts) -> Rescue:
    took = [(one.ran - one.at).total_seconds() for one in facts.rollbacks]
    mark = f"toolkit verify-deploy mark --release {shlex.quote(facts.previous)}" if facts.previous else ""
    to = facts.previous or "the release before"
    if facts.vercel:
        name, command = (
            f"roll back to {to} at Vercel ({RUNBOOK})",
            " && ".join(filter(None, ("vercel rollback", mark))),
        )
    else:
        name, command = f"roll back: redeploy {to} ({RUNBOOK}), then mark it", mark
    return Rescue(
        name=name,
        command=command or "toolkit verify-deploy mark --release PREVIOUS",
        seconds=max(took, default=None),
        measured=f"from the mark to the first run; {_of(len(took), 'rollback')}"
        if took
        else "no release was marked again and ran",
    )


def _of(count: int, what: str) -> str:
    return f"the slowest of {count} {what}s" if count > 1 else f"one {what}"
