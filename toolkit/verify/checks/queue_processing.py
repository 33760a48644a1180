"""Is the queue processed? Every job asked for is somewhere, none waits too long, and a probe went through.

Heartbeats alone do not count: a frozen worker's supervisor still has one. The probe is a test order of one item that goes the
whole way; it must come through within Rules.probe seconds, unless the queue moves and jobs are before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from toolkit.broker import view
from toolkit.ledger import liveness
from toolkit.ledger.liveness import Account
from toolkit.ledger.reading import reading
from toolkit.ledger.verifications import PlacedOrder
from toolkit.run import Outcome
from toolkit.telemetry.draw import duration
from toolkit.verify.check import ROLLING, Check, Phase, Scene
from toolkit.verify.rules import Rules
from toolkit.verify.verdict import Judgement, Verdict

SPAN: Final = timedelta(minutes=15)
"""Jobs asked for in this time, at most, are accounted for one by one."""
SETTLE: Final = timedelta(seconds=10)
"""A job pushed this long ago has arrived."""


PURPOSE: Final = "probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """`marked`: since when the release is; `nowhere`: open jobs that the broker should have and has not; `oldest`: seconds that
    the oldest job has waited, in the broker or before it; `moved`: runs that began and ended since the probe was placed;
    `untried`: why none can be placed."""

    now: datetime
    marked: datetime
    release: str
    account: Account
    nowhere: tuple[str, ...]
    oldest: float
    probe: PlacedOrder | None
    moved: int
    workers: int
    """Workers with a living heartbeat."""
    untried: str = ""

    @property
    def waited(self) -> float:
        """Seconds since the probe was placed."""
        return (self.now - self.probe.placed_at).total_seconds() if self.probe else 0.0


def look(scene: Scene) -> Facts:
    """The broker first: what moves on meanwhile is then seen in the ledger."""
    target, name, queue = scene.target, scene.spec.name, scene.spec.queue
    resting, passing = view.known_ids(scene.broker, queue)
    waiting = view.queue_view(scene.broker, queue, target.now)
    workers = view.workers(scene.broker, [queue], target.now)
    probes = [order for order in scene.orders if order.purpose == PURPOSE]
    probe = probes[-1] if probes else None
    with reading(scene.database) as session:
        account = liveness.account(session, max(target.since, target.now - SPAN), target.now, name)
        lacking = [
            one
            for one in liveness.pushed_open(session, target.now - SETTLE, name)
            if one not in resting and one not in passing
        ]
        oldest = max(waiting.oldest_age, liveness.oldest_unpushed(session))
        moved = liveness.ended_after(session, probe.placed_at, name) if probe else 0
    return Facts(
        now=target.now,
        marked=target.since,
        release=target.release,
        account=account,
        nowhere=tuple(lacking),
        oldest=oldest,
        probe=probe,
        moved=moved,
        workers=sum(worker.state != "dead" and worker.heartbeat_age < 60 for worker in workers),
        untried=scene.untried,
    )


def judge(facts: Facts, rules: Rules) -> Judgement:
    """Pure."""
    asked = facts.account
    sums = (
        asked.processed
        + asked.skipped
        + asked.failed
        + asked.lost
        + asked.running
        + asked.unpushed
        + asked.pushed
    )
    told = (
        f"{asked.asked} asked = {asked.processed} processed + {asked.skipped} skipped + {asked.failed + asked.lost} failed"
        f" + {asked.running} running + {asked.unpushed + asked.pushed} waiting"
    )
    figures = {
        "asked": asked.asked, "processed": asked.processed, "skipped": asked.skipped, "failed": asked.failed,
        "lost": asked.lost, "running": asked.running, "waiting": asked.unpushed + asked.pushed, "nowhere": len(facts.nowhere),
        "oldest": facts.oldest, "workers": facts.workers, "moved": facts.moved,
    }  # fmt: skip
    if facts.nowhere or sums != asked.asked:
        lost = len(facts.nowhere) or abs(asked.asked - sums)
        return Judgement(
            verdict=Verdict.REGRESSION,
            said=f"{lost} jobs are in no list: {told}",
            evidence=figures,
            jobs=facts.nowhere[:5],
            next=("toolkit doctor", "toolkit doctor --repair"),
        )
    verdict, said = _probe(facts, rules)
    if facts.oldest > rules.oldest and verdict is not Verdict.REGRESSION:
        verdict, said = Verdict.REGRESSION, f"the oldest job has waited for {facts.oldest:.0f} s; {said}"
    return Judgement(
        verdict=verdict,
        said=f"{said}; {told}",
        soon=verdict is Verdict.PENDING and not _done(facts.probe) and facts.waited <= 2 * rules.probe,
        evidence=figures | ({"probe": facts.probe.job_id} if facts.probe else {}),
        jobs=(facts.probe.job_id,) if facts.probe and verdict is not Verdict.PROVEN else (),
        traces=(facts.probe.trace_id,) if facts.probe and facts.probe.trace_id else (),
        next=("toolkit status", "toolkit doctor") if verdict is Verdict.REGRESSION else (),
    )


def _probe(facts: Facts, rules: Rules) -> tuple[Verdict, str]:
    probe = facts.probe
    if probe is None:
        return (
            (Verdict.INCONCLUSIVE, facts.untried)
            if facts.untried
            else (Verdict.PENDING, "no probe was sent yet")
        )
    if probe.done_at is not None:
        return _arrived(facts, probe, (probe.done_at - probe.placed_at).total_seconds())
    waited = facts.waited
    verdict, why = Verdict.REGRESSION, "nothing moves"
    if waited <= rules.probe:
        verdict, why = Verdict.PENDING, "it is on its way"
    elif facts.moved:
        verdict, why = Verdict.PENDING, "the queue moves, with others before it"
    elif not facts.workers:
        why = "no worker runs"
    else:
        why += (
            f", though {facts.workers} {'worker has' if facts.workers == 1 else 'workers have'} a heartbeat"
        )
    return verdict, f"the probe waits for {waited:.0f} s: {why}"


def _done(probe: PlacedOrder | None) -> bool:
    return probe is not None and probe.done_at is not None


def _arrived(facts: Facts, probe: PlacedOrder, took: float) -> tuple[Verdict, str]:
    if probe.outcome != Outcome.PROCESSED:
        return Verdict.REGRESSION, f"the probe ended {probe.outcome} ({probe.reason}) after {duration(took)}"
    if probe.mode == "sync":
        return (
            Verdict.PROVEN,
            f"a probe went through in {duration(took)}, inline: asynchronous processing is off",
        )
    if probe.release != facts.release:
        # A rolling deployment: whoever watches sends another probe.
        rolling = facts.now - facts.marked < ROLLING
        return (
            Verdict.PENDING if rolling else Verdict.REGRESSION,
            f"the probe was done by release {probe.release}",
        )
    return Verdict.PROVEN, f"a probe went through in {duration(took)}"


CHECK = Check(
    name="queue-processing",
    phase=Phase.IMMEDIATE,
    symptom="background jobs waited for minutes, and nobody saw whether they moved at all",
    rule="every job asked for is done, in hand or waiting, none for too long, and a probe goes through",
    runbook="QueueStuck",
    look=look,
    judge=judge,
    order=PURPOSE,
)
