"""End to end: a test order goes all the way, as a merchant's would, in one trace and in the promised time.

The runner has placed it (purpose `end-to-end`), through the job's own workflow. Looked at are its job and runs, the catalog's
live rows (VerifyHooks.seen) and the spans that the ledger keeps. That it is cleaned up afterwards, the receipt tells.

One trace: the workflow's span, the enqueue below it and the perform of the first run have the trace id that the order was asked
for in. Spans come a little after the run; without them the check is inconclusive, for nobody saw the way.
Known weakness: one order is one order. How often it goes well, the other checks say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from toolkit.ledger import evidence as ledger
from toolkit.ledger import traces
from toolkit.ledger.evidence import Attempt
from toolkit.ledger.reading import reading
from toolkit.run import Mode, Outcome
from toolkit.telemetry import catalog
from toolkit.telemetry.draw import duration
from toolkit.verify.check import Check, Phase, Scene
from toolkit.verify.rules import Rules
from toolkit.verify.verdict import Judgement, Verdict

if TYPE_CHECKING:
    from toolkit.jobspec import OrderSeen
    from toolkit.ledger.verifications import PlacedOrder
    from toolkit.telemetry.otlp import SpanRow

PURPOSE: Final = "end-to-end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """`order` is None before one was placed, `seen` while (or when no longer) it is in the catalog. `spans`: those kept of the
    trace that it was asked for in; `torn`: why they cannot be read. `promised`, `workflow`: seconds, of the job's hooks;
    `untried`: why no order can be placed."""

    now: datetime
    release: str
    queue: str
    untried: str = ""
    promised: float = 0.0
    workflow: float = 0.0
    order: PlacedOrder | None = None
    seen: OrderSeen | None = None
    attempts: Sequence[Attempt] = ()
    spans: Sequence[SpanRow] = ()
    torn: str = ""

    @property
    def age(self) -> float:
        """Seconds from asked to done, or to now."""
        assert self.order is not None  # noqa: S101  asked only of an order
        return ((self.order.done_at or self.now) - self.order.placed_at).total_seconds()

    @property
    def figures(self) -> dict[str, Any]:
        """For programs."""
        order, seen = self.order, self.seen
        told: dict[str, Any] = {"promised": self.promised, "workflow_promised": self.workflow}
        if order is not None:
            told |= {
                "job": order.job_id, "subject": order.subject, "outcome": order.outcome, "seconds": self.age,
                "attempts": len(self.attempts), "release": order.release, "trace": order.asked_trace_id,
                "spans": len(self.spans), "mode": order.mode,
            }  # fmt: skip
        if seen is not None:
            told |= {
                "asked": seen.asked, "served": seen.served, "strays": seen.strays, "reviews": seen.reviews,
                "workflow": seen.workflow,
            }  # fmt: skip
        return told


def look(scene: Scene) -> Facts:
    """The ledger, and the catalog through the job's hooks."""
    from toolkit.telemetry.otlp import MalformedSpans, read_spans  # noqa: PLC0415  protobuf loads slowly

    target, hooks = scene.target, scene.spec.verify
    if hooks is None:
        return Facts(now=target.now, release=target.release, queue=scene.spec.queue, untried=scene.untried)
    orders = [order for order in scene.orders if order.purpose == PURPOSE]
    order = orders[-1] if orders else None
    seen: Sequence[OrderSeen] = ()
    attempts: Sequence[Attempt] = ()
    spans: Sequence[SpanRow] = ()
    torn = ""
    if order is not None:
        with reading(scene.database) as session:
            seen = hooks.seen(session, [order.subject])
            attempts = ledger.attempts(session, order.job_id)
            kept = traces.load(session, [order.asked_trace_id] if order.asked_trace_id else [])
        try:
            spans = [span for span in read_spans(kept) if span.trace_id == order.asked_trace_id]
        except MalformedSpans as error:
            torn = str(error)
    return Facts(
        now=target.now,
        release=target.release,
        queue=scene.spec.queue,
        untried=scene.untried,
        promised=hooks.promised,
        workflow=hooks.workflow,
        order=order,
        seen=seen[0] if seen else None,
        attempts=attempts,
        spans=spans,
        torn=torn,
    )


def judge(facts: Facts, rules: Rules) -> Judgement:
    """Pure. What is wrong is told before what is missing."""
    order = facts.order
    if order is None and facts.untried:
        return Judgement(verdict=Verdict.INCONCLUSIVE, said=facts.untried)
    if order is None:
        return Judgement(verdict=Verdict.PENDING, said="no test order was placed yet", evidence=facts.figures)
    if wrong := [*_late(facts, order), *_wrong(facts, order)]:
        return _judgement(facts, Verdict.REGRESSION, "; ".join(wrong))
    if order.done_at is None:
        said = f"the test order is on its way for {facts.age:.0f} s, promised within {facts.promised:.0f} s"
        return _judgement(facts, Verdict.PENDING, said, soon=True)
    if unknown := [*_unseen(facts), *_untraced(facts, order)]:
        # The catalog and the supervisor's spans may be a moment behind the run's end.
        fresh = (facts.now - order.done_at).total_seconds() < rules.lag and order.cleaned_at is None
        verdict = Verdict.PENDING if fresh else Verdict.INCONCLUSIVE
        return _judgement(facts, verdict, "; ".join(unknown), soon=fresh)
    assert facts.seen is not None  # noqa: S101  _unseen told
    said = (
        f"a test order went through in {duration(facts.age)}: workflow {duration(facts.seen.workflow or 0)},"
        f" {facts.seen.served} of {facts.seen.asked} served, one review session, one trace of {len(facts.spans)} spans"
    )
    inline = ("done inline: asynchronous processing is off",) if order.mode == Mode.SYNC else ()
    return _judgement(facts, Verdict.PROVEN, said, notes=inline)


def _late(facts: Facts, order: PlacedOrder) -> Iterator[str]:
    since_placed = (facts.now - order.placed_at).total_seconds()
    if facts.age > facts.promised:
        state = "took" if order.done_at else "is on its way for"
        yield f"the test order {state} {facts.age:.0f} s, promised within {facts.promised:.0f} s"
    if facts.seen is None:
        return
    took = facts.seen.workflow
    if took is None and since_placed > facts.workflow:
        yield f"its workflow runs for {since_placed:.0f} s, promised within {facts.workflow:.0f} s"
    if took is not None and took > facts.workflow:
        yield f"its workflow took {took:.0f} s, promised within {facts.workflow:.0f} s"


def _wrong(facts: Facts, order: PlacedOrder) -> Iterator[str]:
    if facts.seen is not None and facts.seen.strays:
        yield f"{facts.seen.strays} of its results are on what is not there"
    if order.done_at is None:
        return
    if order.outcome != Outcome.PROCESSED:
        yield f"the test order ended {order.outcome}{f' ({order.reason})' if order.reason else ''}"
        return
    if order.mode != Mode.SYNC and order.release != facts.release:
        yield f"it was done by release {order.release or 'unknown'}"
    if facts.seen is not None and facts.seen.served != facts.seen.asked:
        yield f"{facts.seen.served} of {facts.seen.asked} were served"
    if facts.seen is not None and facts.seen.reviews != 1:
        yield f"{facts.seen.reviews} review sessions were opened for it, one is wanted"
    first = facts.attempts[0] if facts.attempts else None
    if order.asked_trace_id and first is not None and first.trace_id != order.asked_trace_id:
        yield f"it was asked for in trace {order.asked_trace_id}, and run in {first.trace_id or 'none'}"


def _unseen(facts: Facts) -> Iterator[str]:
    if facts.seen is None:
        yield "the test order is not in the catalog: was it cleaned away before this look?"
    elif not facts.seen.asked:
        yield "the test order has nothing in it to serve"
    elif facts.seen.workflow is None:
        yield "its workflow has not ended"


def _untraced(facts: Facts, order: PlacedOrder) -> Iterator[str]:
    """Why it is not known to be one trace."""
    if not order.asked_trace_id:
        yield "nobody traced the test order"
        return
    if len(facts.attempts) != 1:
        yield f"it took {len(facts.attempts)} attempts, each a trace of its own"
        return
    if facts.torn:
        yield facts.torn
        return
    missing = [name for name, found in _way(facts, order).items() if not found]
    if missing:
        yield f"of trace {order.asked_trace_id} the ledger keeps {len(facts.spans)} spans, and no {', no '.join(missing)}"


def _way(facts: Facts, order: PlacedOrder) -> dict[str, bool]:
    """The spans of the order's way, in its order, and whether each is kept."""
    ids = {span.span_id for span in facts.spans}
    own = [span for span in facts.spans if span.attributes.get(catalog.MESSAGING_MESSAGE_ID) == order.job_id]
    enqueue, perform = catalog.span_enqueue(facts.queue), catalog.span_perform(facts.queue)
    asked = next((span for span in own if span.name == enqueue), None)
    return {
        "workflow": asked is not None and asked.parent_id in ids,
        enqueue: asked is not None,
        perform: any(
            span.name == perform and asked is not None and span.parent_id == asked.span_id for span in own
        ),
    }


def _judgement(
    facts: Facts, verdict: Verdict, said: str, *, notes: tuple[str, ...] = (), soon: bool = False
) -> Judgement:
    order = facts.order
    assert order is not None  # noqa: S101  asked only of an order
    trace = order.trace_id or order.asked_trace_id
    steps = (
        ()
        if verdict is Verdict.PROVEN or soon
        else (f"toolkit jobs show {order.job_id}", f"toolkit trace {order.job_id}")
    )
    return Judgement(
        verdict=verdict, said=said, evidence=facts.figures, notes=notes, jobs=(order.job_id,), traces=(trace,) if trace else (),
        next=steps, soon=soon,
    )  # fmt: skip


CHECK = Check(
    name="end-to-end",
    phase=Phase.SHORT_TERM,
    symptom="Workflows complete successfully, but no images appear later; the background job fails silently",
    rule="a test order is served in the promised time, all of it and nothing else, with one review session, in one trace",
    runbook="ImagesMissing",
    look=look,
    judge=judge,
    order=PURPOSE,
    confounded=frozenset(),  # its order is younger than the verification
)
