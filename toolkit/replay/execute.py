"""Carrying a plan out: batch after batch, each one transaction that holds its jobs, judges them again, opens those that may
run, and writes down what it did. Only the ledger is written: the relay takes what is open to the broker.

So a process that dies leaves each job failed or asked again, never between, and the plan knows which. Any number of
processes may carry out one plan, or plans that share jobs: a job flies once.

Known weakness: with `max_failures`, jobs in the air when the last failure lands still run (at most Limits.in_air).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event

from toolkit.jobspec import Registry
from toolkit.ledger import audit, replays
from toolkit.ledger.database import Database, Session
from toolkit.ledger.replay_views import Item, Landed, Plan, Selection, Snapshot
from toolkit.replay.pace import Limits, Load, pace, room
from toolkit.replay.plan import Judged, PlanHash, Verdict, item
from toolkit.replay.select import Assessed, assess, make_plan

LOCK_TIMEOUT = "10s"
"""A batch waits so long for jobs that another replay is deciding about."""

POLL = 0.2
"""Seconds between looks at what landed: no signal comes from a worker to an operator's terminal."""


@dataclass(frozen=True, slots=True)
class Step:
    """One batch: how many jobs were opened, those whose verdict has changed since the plan, and the last job's id."""

    moved: int
    changed: tuple[Item, ...]
    last: str


@dataclass(slots=True)
class Told:
    """How far it got, for whoever watches: jobs opened, jobs found changed by verdict, and why it is not faster."""

    moved: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    examples: list[Item] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """How carrying out ended: `done`, `stopped` (with the plan of what is left) or `interrupted`; and why."""

    how: str
    why: str = ""
    remainder: Plan | None = None


@dataclass(frozen=True, slots=True)
class Replays:
    """Plans and carries out replays, in the name of an operator. `load()` tells what the system feels."""

    database: Database
    registry: Registry
    release: str
    who: str
    load: Callable[[], Load] = Load

    def plan(self, selection: Selection, *, reason: str = "", force: bool = False) -> Plan:
        """Freeze a plan. Raises NotFound for a named job that the ledger does not know."""
        with self.database.session() as session, session.transaction():
            return make_plan(
                session,
                self.registry,
                selection,
                who=self.who,
                release=self.release,
                reason=reason,
                force=force,
            )

    def start(self, plan: Plan, *, reason: str = "", force: bool = False) -> Plan:
        """Begin or go on with a plan: who, what and why go to the audit."""
        with self.database.session() as session, session.transaction():
            first = replays.start(session, plan.replay_id, self.who, reason, forced=force)
            begun = replays.plan(session, plan.replay_id)
            audit.write(
                session, who=self.who, action="replay", subject=begun.hash, reason=begun.reason,
                detail={
                    "replay_id": begun.replay_id, "selection": begun.selection, "verdicts": begun.verdicts,
                    "release": begun.release, "forced": begun.forced, "resumed": not first,
                },
            )  # fmt: skip
        return begun

    def step(self, plan: Plan, limit: int, *, after: str = "") -> Step | None:
        """Carry out up to `limit` jobs of a plan that was begun, after that job id; None when none is left."""
        with self.database.session() as session, session.transaction():
            replays.careful(session, LOCK_TIMEOUT)
            if replays.hold_plan(session, plan.replay_id).ending:
                return None
            last, held = replays.take(session, plan.replay_id, attempted(plan), limit, after=after)
            return self._settle(session, plan, held, last) if last else None

    def _settle(self, session: Session, plan: Plan, held: Sequence[tuple[Snapshot, str]], last: str) -> Step:
        found = assess(
            session, self.registry, [one for one, _ in held], release=self.release, force=plan.forced
        )
        judged = [
            (one, recheck(run_id, one, force=plan.forced))
            for one, (_, run_id) in zip(found, held, strict=True)
        ]
        moves = [(one.snapshot, one.decoded.upcast) for one, now in judged if now.verdict is Verdict.RUN]
        moved = replays.reopen(session, plan.replay_id, self.who, moves) if moves else []
        changed = [item(one.snapshot, now) for one, now in judged if now.verdict is not Verdict.RUN]
        if changed:
            replays.settle(session, plan.replay_id, changed)
        return Step(len(moved), tuple(changed), last)

    def finish(self, plan: Plan) -> None:
        """Everything was carried out."""
        with self.database.session() as session, session.transaction():
            replays.finish(session, plan.replay_id, "done")

    def stop(self, plan: Plan) -> Plan | None:
        """End a plan here: what is left becomes a plan of its own, exactly. None when nothing is left."""
        with self.database.session() as session, session.transaction():
            now = replays.hold_plan(session, plan.replay_id, alone=True)
            replays.careful(session, LOCK_TIMEOUT)
            left = replays.count_open(session, plan.replay_id, attempted(now))
            replays.finish(session, plan.replay_id, "stopped" if left else "done")
            return self._remainder(session, now) if left else None

    def _remainder(self, session: Session, plan: Plan) -> Plan:
        replay_id = replays.new_plan(
            session, who=self.who, release=plan.release, selection=plan.selection, reason=plan.reason,
            forced=plan.forced, remainder_of=plan.replay_id,
        )  # fmt: skip
        digest, verdicts, after = PlanHash(plan.release, force=plan.forced), Counter[str](), ""
        while some := replays.open_items(session, plan.replay_id, attempted(plan), 500, after=after):
            for one in some:
                digest.add(one)
            verdicts.update(one.verdict for one in some)
            replays.add_items(session, replay_id, some)
            after = some[-1].job_id
        return replays.seal(session, replay_id, digest.text(), verdicts)

    def landed(self, plan: Plan) -> Landed:
        """What became of its flights so far."""
        with self.database.session() as session:
            return replays.landed(session, plan.replay_id)

    def follow(
        self, plan: Plan, *, within: float, stop: Event, watch: Callable[[Landed], None] = lambda _: None
    ) -> Landed:
        """Wait until every flight of the plan landed, `within` seconds have passed, or `stop` is set."""
        deadline = time.monotonic() + within
        while True:
            seen = self.landed(plan)
            watch(seen)
            if not seen.in_air or time.monotonic() > deadline or stop.wait(POLL):
                return seen

    def carry_out(self, plan: Plan, limits: Limits, *, stop: Event, patience: float = 600.0,
                  watch: Callable[[Told], None] = lambda _: None, told: Told | None = None) -> Ended:  # fmt: skip
        """Carry a begun plan out within the limits. `patience`: seconds that a canary may take to land; `told` is kept up
        to date with how far it got, and `watch` is called with it."""
        return _Flightplan(self, plan, limits, stop, patience, watch, told or Told()).run()


@dataclass(slots=True)
class _Flightplan:
    """One carrying out: the loop, its pace and its brakes."""

    replays: Replays
    plan: Plan
    limits: Limits
    stop: Event
    patience: float
    watch: Callable[[Told], None]
    told: Told
    after: str = ""
    _looked: float = 0.0
    _load: Load = field(default_factory=Load)

    def run(self) -> Ended:
        flown = self.replays.landed(self.plan).flights
        if self.limits.canary is not None and flown <= self.limits.canary:
            ended = self._fly(self.limits.canary - flown) or self._canary_landed()
            if ended is not None:
                return ended
        return self._fly(None) or Ended("done")

    def _fly(self, most: int | None) -> Ended | None:
        """Move up to `most` jobs; None when that is done, and the plan goes on or is at its end."""
        moved = 0
        while most is None or moved < most:
            if self.stop.is_set():
                return Ended("interrupted")
            if self.limits.max_failures is not None:
                seen = self.replays.landed(self.plan)
                if seen.bad >= self.limits.max_failures:
                    return self._stopped(f"{seen.bad} failed again")
                free = room(self.limits, seen.in_air)
            else:
                free = None
            now = pace(self.limits, self._feel())
            self._note(now.why)
            jobs = min(limit for limit in (now.jobs, free, most and most - moved) if limit is not None)
            if not jobs:
                self.stop.wait(now.wait or POLL)
                continue
            step = self.replays.step(self.plan, jobs, after=self.after)
            if step is None:
                self.replays.finish(self.plan)
                return Ended("done")
            self.after = step.last
            moved += step.moved
            self._count(step)
            self.stop.wait(now.wait)
        return None

    def _canary_landed(self) -> Ended | None:
        self._note("the canary flies; the rest waits for it")
        seen = self.replays.follow(self.plan, within=self.patience, stop=self.stop)
        if self.stop.is_set():
            return Ended("interrupted")
        if seen.bad:
            return self._stopped(f"{seen.bad} of the first {seen.flights} failed again")
        if seen.in_air:
            return self._stopped(
                f"{seen.in_air} of the first {seen.flights} have not ended in {self.patience:g} s"
            )
        return None

    def _stopped(self, why: str) -> Ended:
        remainder = self.replays.stop(self.plan)
        return Ended("stopped", why, remainder)

    def _feel(self) -> Load:
        if self.limits.heed and time.monotonic() - self._looked > 0.5:
            self._load, self._looked = self.replays.load(), time.monotonic()
        return self._load

    def _note(self, note: str) -> None:
        if note != self.told.note:
            self.told.note = note
            self.watch(self.told)

    def _count(self, step: Step) -> None:
        self.told.moved += step.moved
        self.told.changed.update(one.verdict for one in step.changed)
        self.told.examples = [*self.told.examples, *step.changed][:20]
        self.watch(self.told)


def attempted(plan: Plan) -> list[str]:
    """The verdicts that a plan carries out."""
    return [Verdict.RUN, Verdict.LOOP] if plan.forced else [Verdict.RUN]


def recheck(planned: str, now: Assessed, *, force: bool) -> Judged:
    """The verdict under lock on a job that was planned to run. `planned`: the run that had failed then; a job that failed anew
    since is not the plan's any more. Pure."""
    last = now.snapshot.last
    if now.judged.verdict is Verdict.RUN and not force and last is not None and last.run_id != planned:
        return Judged(Verdict.LOOP, f"failed again since it was planned, as run {last.number}: plan it anew")
    return now.judged
