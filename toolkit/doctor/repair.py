"""Mending what the doctor found. Each job is mended under the lock of its intent, by what the ledger says of it then, so a
finding that has healed by itself meanwhile costs nothing, and doing it twice is doing it once.

open and free   queued anew, in exactly one place
held by a run   only its started entry stays
done            only among the finished (or failed) ones
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import redis

from toolkit.broker import burial, census, dead, mend
from toolkit.broker.relay import Relay
from toolkit.doctor.findings import Finding, Kind
from toolkit.jobspec import Registry
from toolkit.ledger import audit, checkup, intents, runs
from toolkit.ledger.database import Database, Session

BATCH = 100

PLAN = {
    Kind.PAST_LEASE: "close the run as lost, and queue the job again",
    Kind.TWICE: "leave it in the one place that the ledger says",
    Kind.EXPIRING: "queue it anew, without expiry",
    Kind.ABANDONED: "mark it finished",
    Kind.STRANDED: "take it back, and queue it again if it is still to be done",
    Kind.NOWHERE: "queue it again",
    Kind.UNPUSHED: "push it",
    Kind.UNKNOWN: "take it into the ledger, as failed",
    Kind.RESIDUE: "take the worker out of RQ's books, close its runs, queue their jobs again",
}
"""What is done about each kind."""


@dataclass(frozen=True, slots=True)
class Surgeon:
    """Mends. `now` is the wall clock."""

    database: Database
    broker: redis.Redis
    registry: Registry
    relay: Relay
    now: Callable[[], datetime]

    def repair(self, findings: Sequence[Finding], *, who: str, reason: str) -> dict[str, int]:
        """Write the act down, then do it; returns how many findings of each kind were dealt with."""
        todo = [finding for finding in findings if finding.repairable]
        counts = Counter(finding.kind.value for finding in todo)
        if not todo:
            return {}
        told = [asdict(finding) for finding in todo[:200]]
        with self.database.session() as session:
            audit.write(
                session, who=who, action="repair", subject=f"{len(todo)} findings", reason=reason,
                detail={"kinds": dict(counts), "findings": told},
            )  # fmt: skip
        by_kind: dict[Kind, list[Finding]] = {}
        for finding in todo:
            by_kind.setdefault(finding.kind, []).append(finding)
        for worker in by_kind.pop(Kind.RESIDUE, []):
            self._bury(worker)
        if by_kind.pop(Kind.PAST_LEASE, []):
            with self.database.session() as session:
                lost = runs.lose_expired(session)
            self._settle(lost)
        self._adopt({finding.subject for finding in by_kind.pop(Kind.UNKNOWN, [])})
        self._settle([finding.subject for some in by_kind.values() for finding in some])
        return dict(counts)

    def drop(self, stray: Finding, *, who: str, reason: str) -> None:
        """Write down what is known of a failed job whose ids cannot be had, and take it out of RQ, data and all."""
        with self.database.session() as session:
            audit.write(
                session, who=who, action="drop", subject=stray.subject, reason=reason, detail=asdict(stray)
            )
        mend.drop(self.broker, stray.queue, stray.subject)

    def _bury(self, finding: Finding) -> None:
        held = self._executions(finding.queue)
        burial.unregister(self.broker, finding.subject, finding.queue)
        lost = burial.close_runs(self.database, self.relay, finding.subject, "WorkerGone").lost
        left = self._executions(finding.queue)
        self._settle([job_id for job_id in held if held[job_id] != left.get(job_id) and job_id not in lost])

    def _adopt(self, job_ids: set[str]) -> None:
        if not job_ids:
            return
        with self.database.session() as session:
            dead.adopt_all(self.broker, self.registry, session, now=self.now(), only=job_ids)

    def _settle(self, job_ids: Iterable[str]) -> None:
        ids = sorted(set(job_ids))
        for start in range(0, len(ids), BATCH):
            with self.database.session() as session, session.transaction():
                self._settle_batch(session, checkup.hold(session, ids[start : start + BATCH]))

    def _settle_batch(self, session: Session, standings: Sequence[checkup.Standing]) -> None:
        executions = {queue: self._executions(queue) for queue in {one.queue for one in standings}}
        free: list[str] = []
        for one in standings:
            entries = executions[one.queue].get(one.job_id, ())
            if one.done is not None:
                good = checkup.is_good(one.done)
                mend.close(self.broker, one.queue, one.job_id, good=good, entries=entries)
            elif one.held:
                mend.keep_only(self.broker, one.queue, one.job_id, census.STARTED, entries)
            else:
                mend.keep_only(self.broker, one.queue, one.job_id, "", entries)
                free.append(one.job_id)
        wanted = intents.open_among(session, free)
        if wanted:
            self.relay.push(wanted, again=True)
            intents.mark_pushed(session, [intent.job_id for intent in wanted])

    def _executions(self, queue: str) -> dict[str, tuple[str, ...]]:
        return census.executions(self.broker, queue)
