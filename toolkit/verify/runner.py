"""One verification, looked at again and again until it has its verdict.

    verifier.prepare()                  # become its runner; place the probe, plant the violation
    receipt = verifier.run_once()       # look, judge, top up, save
    receipt = verifier.finish(receipt)  # clean up, settle what is pending, save for good

Everything that counts lies in the ledger: a runner that is killed loses nothing, and the next one goes on with the same
window, the same test orders and the same evidence. One runner at a time; a silent one's place is free after LEASE seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import msgspec
import psycopg
import redis

from toolkit.broker.connection import BROKER_AWAY
from toolkit.errors import DependencyUnreachable, Refused, ToolkitError
from toolkit.jobspec import JobSpec, Registry
from toolkit.ledger import toggles, verifications
from toolkit.ledger.database import Database
from toolkit.ledger.reading import clock, reading
from toolkit.ledger.trouble import UNREACHABLE
from toolkit.ledger.verifications import Verification
from toolkit.run import Mode
from toolkit.verify import control, rescue
from toolkit.verify.adapters.vercel import Hosted
from toolkit.verify.asked import Asked
from toolkit.verify.check import Check, Scene, Target
from toolkit.verify.checks import end_to_end, queue_processing
from toolkit.verify.detect import Detector, Planted
from toolkit.verify.orders import OrderDesk
from toolkit.verify.plotted import plotted
from toolkit.verify.rules import Rules
from toolkit.verify.topup import paced, wanted
from toolkit.verify.verdict import Finding, Judgement, Plots, Receipt, Verdict, combined, settled, unclean
from toolkit.verify.window import due, events, restarted

AGAIN: Final = timedelta(minutes=15)
"""A violation is planted again, and a probe sent, after so long: much may have gone blind or stopped meanwhile."""
PROBED: Final = timedelta(seconds=5)
"""After so long another probe is sent, if a worker of another release took the last one."""
SIZES: Final = {queue_processing.PURPOSE: 1, end_to_end.PURPOSE: 3}
"""Products in a test order, by its purpose."""


@dataclass(slots=True, kw_only=True)
class Verifier:
    """Looks at one verification. `runner` names this process; `gone` the one before it, when it is known to be dead;
    `what` says how the window is known."""

    verification: Verification
    asked: Asked
    what: str
    checks: Sequence[Check]
    rules: Rules
    database: Database
    broker: redis.Redis
    registry: Registry
    spec: JobSpec
    desk: OrderDesk
    detectors: Sequence[Detector]
    runner: str
    gone: str = ""
    monotonic: Callable[[], float] = time.monotonic
    hosting: Callable[[], Hosted] | None = None
    certificate: str = ""
    _planted: Planted | None = field(default=None, init=False)
    _tried: datetime | None = field(default=None, init=False)
    _looked: float | None = field(default=None, init=False)
    _owed: float = field(default=1.0, init=False)
    _feeding: bool = field(default=False, init=False)
    _target: Target | None = field(default=None, init=False)

    @property
    def _id(self) -> int:
        return self.verification.verification_id

    def prepare(self) -> None:
        """Become the runner, and put in place what the checks look at. Raises Refused while somebody else is the runner."""
        with self.database.session() as session:
            holder = verifications.take(session, self._id, self.runner, gone=self.gone)
        if holder:
            raise Refused(
                f"verification {self._id} is being run by {holder}",
                remedy=f"watch it with `toolkit verify-deploy --list`, or wait: a runner that is silent for"
                f" {verifications.LEASE:g} s is gone",
            )
        if self._trying:
            with suppress(Refused, psycopg.IntegrityError):  # who placed them was told
                self.desk.clean(all_that_are_over=True)
            self._try()
            self._place(end_to_end.PURPOSE)

    @property
    def _trying(self) -> bool:
        return self.spec.verify is not None

    def _try(self) -> None:
        """What is to be seen at work: the planted violation, and a probe."""
        if any(check.planted for check in self.checks):
            self._plant()
        self._place(queue_processing.PURPOSE, within=AGAIN)

    def _place(self, purpose: str, *, within: timedelta = timedelta.max) -> None:
        """A test order of that purpose, if a check looks at it, it can be placed, and none was `within` that time."""
        if not any(check.order == purpose for check in self.checks) or self.desk.untried():
            return
        there = [one for one in self.desk.orders() if one.purpose == purpose and one.cleaned_at is None]
        if not any(self.desk.now() - one.placed_at < within for one in there):
            self.desk.place(purpose, size=SIZES[purpose])

    def _plant(self) -> None:
        with self.database.session() as session, session.transaction():
            job_id = control.plant(session, self.spec.queue, self.desk.release)
        with self.database.session() as session:
            self._planted = control.planted(session, job_id)

    # One look

    def run_once(self) -> Receipt:
        """Look at everything once, top up, and save. Raises Refused when somebody else has taken it over."""
        scene = self._scene()
        self._target = scene.target
        findings = tuple(self._judge(scene, check) for check in self.checks)
        if not scene.untried:
            if self.asked.top_up:
                self._top_up(findings, scene)
            if self.asked.watch:
                self._probe_again(scene)
        receipt = self._receipt(scene, findings)
        self._save(receipt, finished=False)
        return receipt

    def _scene(self) -> Scene:
        with reading(self.database) as session:
            now = clock(session)
            deployments = verifications.deployments(session)
            flips = toggles.history(session, self.spec.toggle) if self.spec.toggle else []
            proven = verifications.last_proven(session, other_than=self.verification.release)
        self._tried = self._tried or now
        if self._trying and now - self._tried > AGAIN:
            self._tried = now
            self._try()
        if self._planted is not None:
            with self.database.session() as session:
                self._planted = control.planted(session, self._planted.job_id)
        target = Target(
            verification_id=self._id,
            release=self.verification.release,
            since=self.verification.since,
            now=now,
            events=events(self.verification.release, self.verification.since, deployments, flips),
            previous=proven.release if proven else "",
            before=(proven.since, proven.finished_at or now) if proven else None,
        )
        return Scene(
            target=target,
            rules=self.rules,
            registry=self.registry,
            spec=self.spec,
            database=self.database,
            broker=self.broker,
            sightings=[
                detector.look(target.release, target.since, self._planted, now, self.rules.lag)
                for detector in self.detectors
                if any(check.planted for check in self.checks)
            ],
            planted_at=self._planted.met_at if self._planted else None,
            orders=self.desk.orders(),
            untried=self.desk.untried(),
            hosting=self.hosting,
        )

    def _judge(self, scene: Scene, check: Check) -> Finding:
        """What the check says; a source that does not answer is a judgement, too."""
        since = restarted(scene.target.since, scene.target.events, check.confounded)
        began = self.monotonic()
        try:
            facts = check.look(replace(scene, target=replace(scene.target, since=since)))
            judgement = check.judge(facts, self.rules)
        except (DependencyUnreachable, *BROKER_AWAY) as error:
            judgement = Judgement(
                verdict=Verdict.INCONCLUSIVE,
                said=str(error),
                unreachable=(str(error),),
                next=("toolkit status",),
            )
        except ToolkitError as error:
            judgement = Judgement(verdict=Verdict.INCONCLUSIVE, said=str(error), next=(error.remedy,))
        return Finding(
            check=check.name,
            phase=check.phase.value,
            since=since,
            took=self.monotonic() - began,
            judgement=judgement,
        )

    def _fed(self, findings: Sequence[Finding]) -> list[Finding]:
        fed = {check.name for check in self.checks if check.fed}
        return [finding for finding in findings if finding.check in fed]

    def _top_up(self, findings: Sequence[Finding], scene: Scene) -> None:
        """Place as many test orders as the rate allows since the last look."""
        now = self.monotonic()
        passed, self._looked = now - (self._looked or now), now
        more = wanted(self._fed(findings), scene.orders)
        placed, self._owed = paced(more, self._owed + self.asked.rate * passed)
        for _ in range(placed):
            self.desk.place("top-up")
        # By what this look saw: an order that ended since then is evidence that nobody has looked at yet.
        self._feeding = more > 0 or any(
            order.purpose == "top-up" and order.done_at is None for order in scene.orders
        )

    @property
    def topping_up(self) -> bool:
        """True while test orders are still to be placed, or were on their way in the last look."""
        return self._feeding

    def _probe_again(self, scene: Scene) -> None:
        """Another probe, where a worker of another release took the last one: a deployment may be rolling."""
        probes = [order for order in scene.orders if order.purpose == queue_processing.PURPOSE]
        if not probes or probes[-1].done_at is None or probes[-1].mode == Mode.SYNC:
            return
        if probes[-1].release != scene.target.release and scene.target.now - probes[-1].placed_at >= PROBED:
            self.desk.place(queue_processing.PURPOSE)

    # What is kept

    def _receipt(self, scene: Scene, findings: tuple[Finding, ...]) -> Receipt:
        target = scene.target
        verdict = combined(finding.verdict for finding in findings)
        _, later = due(target.since, target.now)
        shown = {finding.phase for finding in findings}
        found: Receipt = Receipt(
            verification_id=self._id,
            release=target.release,
            previous=target.previous,
            since=target.since,
            since_what=self.what,
            started_at=self.verification.started_at,
            looked_at=target.now,
            who=self.verification.who,
            verdict=verdict,
            findings=findings,
            later={phase: at for phase, at in later.items() if phase not in shown},
            events=target.events,
            certificate=self.certificate,
            sources={one.source: one.said for one in scene.sightings},
            test_orders=len(scene.orders),
        )
        if verdict is Verdict.REGRESSION:
            with reading(self.database) as session:
                ways = rescue.look(session, self.spec, target, vercel=self.hosting is not None)
            found = msgspec.structs.replace(found, rescues=ways)
        return found

    def finish(self, receipt: Receipt) -> Receipt:
        """The verdict: what is pending is inconclusive now; test orders are taken away, and the receipt is kept for good."""
        left, why = self._clean() if self._trying else (0, "")
        if self._trying:
            with self.database.session() as session:
                control.settle(session)
        findings = tuple(
            msgspec.structs.replace(one, judgement=settled(one.judgement)) for one in receipt.findings
        )
        if left:
            findings = tuple(unclean(finding, left, why) for finding in findings)
        done = msgspec.structs.replace(
            receipt,
            findings=findings,
            verdict=combined(finding.verdict for finding in findings),
            left=left,
            plots=plotted(self.database, self._target, self.spec.name) if self._target else Plots(),
        )
        self._save(done, finished=True)
        return done

    def _clean(self) -> tuple[int, str]:
        """Take the test orders away: what is left of them, and why."""
        try:
            return self.desk.clean(), ""
        except (Refused, psycopg.IntegrityError) as error:
            return self.desk.left(), " ".join(str(error).split())

    def leave(self) -> None:
        """Stop here; whoever resumes goes on. While PostgreSQL is away, the lease ends by itself."""
        with suppress(DependencyUnreachable, *UNREACHABLE), self.database.session() as session:
            verifications.leave(session, self._id, self.runner)

    def _save(self, receipt: Receipt, *, finished: bool) -> None:
        with self.database.session() as session:
            mine = verifications.keep(
                session,
                self._id,
                self.runner,
                verdict=receipt.verdict.value if finished else Verdict.PENDING.value,
                receipt=msgspec.json.encode(receipt).decode(),
                finished=finished,
            )
        if not mine:
            raise Refused(
                f"somebody else runs verification {self._id} now",
                remedy=f"toolkit verify-deploy --resume {self._id}, once that one has ended",
            )
