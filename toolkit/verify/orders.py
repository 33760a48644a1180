"""Test orders: placed once each, watched, and taken away again.

A test order and its row in toolkit.test_order are written in one transaction, numbered within the verification, so that a
runner which is killed anywhere and goes on elsewhere doubles none. Its name is `FF-<verification>-<number>`. Jobs go to the
queue while the toggle is on for anybody; else they are done inline, as an importer does: by the release that is installed here,
so none is placed for another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from opentelemetry.trace import SpanKind

from toolkit.errors import UsageError
from toolkit.jobspec import JobSpec, OrderSeen, VerifyHooks
from toolkit.ledger import intents, toggles, verifications
from toolkit.ledger.database import Database
from toolkit.ledger.reading import reading
from toolkit.ledger.verifications import PlacedOrder
from toolkit.run import Mode
from toolkit.telemetry import catalog
from toolkit.telemetry.traces import Tracing, inject


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderDesk:
    """Places test orders of one job for one verification. `here`: the release installed here ('' for the same); `inline`
    performs a job in this process; `spans` keeps what was traced: (trace id, job id, OTLP bytes, count)."""

    database: Database
    spec: JobSpec
    verification_id: int
    release: str
    tracing: Tracing
    now: Callable[[], datetime]
    inline: Callable[[str], object]
    spans: Callable[[str, str, bytes, int], None]
    switched_off: bool = False
    here: str = ""

    @property
    def hooks(self) -> VerifyHooks:
        """The job's. Raises UsageError when it has none."""
        if self.spec.verify is None:
            raise UsageError(
                f"job {self.spec.name} has no test orders", remedy="give its JobSpec `verify=VerifyHooks(…)`"
            )
        return self.spec.verify

    def mode(self) -> Mode:
        """How the next one goes: by the queue while anybody's does."""
        if self.switched_off or not self.spec.toggle:
            return Mode.SYNC if self.switched_off else Mode.ASYNC
        with self.database.session() as session:
            standing = toggles.read(session, [self.spec.toggle]).get(self.spec.toggle)
        return Mode.ASYNC if standing is None or standing.enabled else Mode.SYNC

    def untried(self) -> str:
        """Why no test order can be placed; '' when one can."""
        if self.spec.verify is None:
            return f"job {self.spec.name} has no test orders: give its JobSpec `verify=VerifyHooks(…)`"
        if self.here not in {"", self.release} and self.mode() is Mode.SYNC:
            return f"asynchronous processing is off, and release {self.here} is installed here: verify {self.release} where it is"
        return ""

    def place(self, purpose: str, *, size: int = 1) -> int:
        """Place one, do it inline where that is the mode, and return its number."""
        mode = self.mode()
        tracer = self.tracing.tracer
        number, job = 0, ""
        with tracer.start_as_current_span("test order", attributes={"verification.purpose": purpose}) as root:
            trace_id = f"{root.get_span_context().trace_id:032x}"

            def ask(connection: sa.Connection, payload: Mapping[str, Any]) -> str:
                nonlocal job
                with tracer.start_as_current_span(
                    catalog.span_enqueue(self.spec.queue), kind=SpanKind.PRODUCER
                ) as span:
                    job = intents.ask(
                        connection, self.spec, payload, mode=mode, release=self.release, context=inject(span)
                    )
                    span.set_attributes(
                        catalog.messaging_attributes(catalog.OPERATION_SEND, self.spec.queue, job)
                    )
                return job

            with self.database.begin() as connection:
                number = verifications.next_number(connection, self.verification_id)
                key = f"FF-{self.verification_id}-{number}"
                subject = self.hooks.place(connection, ask, key, size, self.now())
                verifications.note_test_order(
                    connection,
                    self.verification_id,
                    number=number,
                    purpose=purpose,
                    job_id=job,
                    subject=subject,
                )
        data, count = self.tracing.take()
        self.spans(trace_id, job, data, count)
        if mode is Mode.SYNC:
            self.inline(job)
        return number

    def orders(self) -> list[PlacedOrder]:
        """All of this verification, in order."""
        with self.database.session() as session:
            return verifications.placed_orders(session, self.verification_id)

    def seen(self, subjects: Sequence[str]) -> Sequence[OrderSeen]:
        """What became of them in the catalog."""
        with self.database.session() as session:
            return self.hooks.seen(session, subjects)

    def clean(self, *, all_that_are_over: bool = False) -> int:
        """Take this verification's orders out of the catalog (`all_that_are_over`: others' too, that nobody will); their runs
        stay in the ledger. Returns what is `left`. Raises Refused, and psycopg.Error where the shop holds on to a row."""
        with self.database.session() as session, session.transaction():
            subjects = verifications.to_clean(session, None if all_that_are_over else self.verification_id)
            if subjects:
                self.hooks.clean(session, subjects)
                verifications.cleaned(session, subjects)
        return self.left()

    def left(self) -> int:
        """Rows that test orders have left in the catalog; while another verification has some there, only this one's orders."""
        with reading(self.database) as session:  # one snapshot: a row and its test order come and go together
            if verifications.any_placed(session):
                subjects = [one.subject for one in verifications.placed_orders(session, self.verification_id)]
                return len(self.hooks.seen(session, subjects))
            return self.hooks.left(session)
