"""What a check is, and what it may ask.

    facts = check.look(scene)                    # the only part that touches anything
    judgement = check.judge(facts, scene.rules)  # pure

One file a check in `toolkit/verify/checks/`, with a frozen Facts type, `look`, `judge` and one `CHECK`. A check reads; what a
verification writes (its test orders, the planted violation) the runner has written before the checks look.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from toolkit.verify.rules import Rules
from toolkit.verify.verdict import Event, Judgement

if TYPE_CHECKING:
    import redis

    from toolkit.jobspec import JobSpec, Registry
    from toolkit.ledger.database import Database
    from toolkit.ledger.verifications import PlacedOrder
    from toolkit.verify.adapters.vercel import Hosted
    from toolkit.verify.detect import Sighting


ROLLING: Final = timedelta(minutes=5)
"""A deployment may take so long until everybody is of the new release."""


class Phase(StrEnum):
    """The checklist's three parts, by how soon after a deployment they can be told."""

    IMMEDIATE = "immediate"
    SHORT_TERM = "short-term"
    LONG_TERM = "long-term"


@dataclass(frozen=True, slots=True)
class Target:
    """What is verified. Evidence counts from `since`; `previous` is the last proven release ('' for none) with its window;
    `events` lie inside the window; all times are the database's, in UTC."""

    verification_id: int
    release: str
    since: datetime
    now: datetime
    events: tuple[Event, ...] = ()
    previous: str = ""
    before: tuple[datetime, datetime] | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """What a check may ask. `spec` is the job that is verified. `sightings`: what each detector says of foreign key errors
    and of the planted one, which a worker met at `planted_at`; `orders`: the verification's test orders as the ledger and
    the catalog have them; `untried`: why none can be placed ('' when they can); `hosting` asks Vercel, where it is configured."""

    target: Target
    rules: Rules
    registry: Registry
    spec: JobSpec
    database: Database
    broker: redis.Redis
    sightings: Sequence[Sighting] = ()
    planted_at: datetime | None = None
    orders: Sequence[PlacedOrder] = ()
    untried: str = ""
    hosting: Callable[[], Hosted] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the checklist. `symptom`: what of the incident it guards against; `rule`: when it holds, in one sentence;
    `runbook`: the page for when it does not; `confounded`: kinds of event that restart its clock; `fed`: test orders are
    evidence for it, and it says how much it has and needs (`have`, `need`); `order`: the purpose of the one test order that it
    looks at ('' for none); `planted`: it asks the detectors of a planted violation."""

    name: str
    phase: Phase
    symptom: str
    rule: str
    runbook: str
    look: Callable[[Scene], Any]
    judge: Callable[[Any, Rules], Judgement]
    fed: bool = False
    order: str = ""
    planted: bool = False
    confounded: frozenset[str] = frozenset({"deployment", "rollback", "flip"})
