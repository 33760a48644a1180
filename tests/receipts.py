"""Receipts of each verdict, as verify-deploy might give them, with what pages find hard: long words, markup, secrets."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from toolkit.verify.verdict import Event, Finding, Judgement, Moment, Plots, Receipt, Rescue, Verdict

START = datetime(2025, 10, 11, 17, 0, tzinfo=UTC)
FK = "ProductImage_productDraftId_fkey"
HOSTILE = (
    "</td><script>alert('x')</script> & \"quoted\" | `tick` *star* @channel ]]> postgresql://shop:hunter2@db/shop"
    " \x1b[31m\nred\x00 \ud800"
)
"""What a job's error may say."""
RUNBOOKS = {"no-foreign-key-errors": "runbooks/ForeignKeyErrors.md", "queue-moves": "runbooks/QueueStuck.md"}


def finding(check: str, phase: str, verdict: Verdict, said: str, **more: Any) -> Finding:
    """One check's finding."""
    return Finding(
        check=check,
        phase=phase,
        since=START,
        took=0.02,
        judgement=Judgement(verdict=verdict, said=said, **more),
    )


def moments(count: int, *, errors_at: frozenset[int] = frozenset(), each: int = 6) -> tuple[Moment, ...]:
    """A minute each; at some there are foreign key errors."""
    return tuple(
        Moment(
            START + timedelta(minutes=number),
            each + number % 3,
            1 if number % 4 == 0 else 0,
            2 if number in errors_at else 0,
            1 if number == 9 else 0,
            2 if number in errors_at else 0,
        )
        for number in range(count)
    )


def log_normal(count: int, median: float, spread: float) -> tuple[float, ...]:
    """Durations in order of size, with no randomness in them."""
    return tuple(
        median * math.exp(spread * math.log((number + 0.5) / (count - number - 0.5)) / 1.7)
        for number in range(count)
    )


def receipt(verdict: Verdict, findings: tuple[Finding, ...], **more: Any) -> Receipt:
    """A receipt of the incident's release, half an hour after it came."""
    usual: dict[str, Any] = {
        "verification_id": 7,
        "release": "e682860",
        "previous": "3f1c02b",
        "since": START,
        "since_what": "deployment marked by ann@desk",
        "started_at": START + timedelta(seconds=40),
        "looked_at": START + timedelta(minutes=30),
        "who": "ann@desk",
        "sources": {"ledger": "seen in 0.4 s", "log": "seen in 1.2 s"},
    }
    return Receipt(verdict=verdict, findings=findings, **usual | more)


def proven() -> Receipt:
    """Every check of the first phase is proven."""
    return receipt(
        Verdict.PROVEN,
        (
            finding(
                "deployment-live",
                "immediate",
                Verdict.PROVEN,
                "6 processes on 2 hosts run e682860; nobody runs another release",
            ),
            finding(
                "no-foreign-key-errors",
                "immediate",
                Verdict.PROVEN,
                "0 errors in 212 clean jobs: rate below 1.4 %",
                evidence={"have": 212, "need": 59, "unit": "clean jobs"},
            ),
            finding(
                "queue-moves",
                "immediate",
                Verdict.PROVEN,
                "214 asked = 212 ended + 2 running; the oldest waits 0.3 s",
            ),
            finding(
                "no-new-errors", "immediate", Verdict.PROVEN, "no kind of error that was not there before"
            ),
        ),
        later={"short-term": START + timedelta(hours=1), "long-term": START + timedelta(hours=24)},
        plots=Plots(
            moments=moments(30), durations=log_normal(212, 1.4, 0.5), before=log_normal(300, 1.5, 0.5)
        ),
        test_orders=3,
    )


def regression() -> Receipt:
    """The incident: foreign key errors, a deployment and a flip inside the window, and two ways back."""
    return receipt(
        Verdict.REGRESSION,
        (
            finding("deployment-live", "immediate", Verdict.PROVEN, "6 processes on 2 hosts run 4811ec9"),
            finding(
                "no-foreign-key-errors",
                "immediate",
                Verdict.REGRESSION,
                f"4 foreign key errors in 96 jobs: {FK}",
                evidence={"have": 0, "need": 59, "unit": "clean jobs"},
                jobs=("cmgmrnwbw0007l804macxc3mm", "cmgmrnwbw0008l804macxc3mm"),
                traces=("4bf92f3577b34da6a3ce929d0e0e4736",),
                notes=(f"first one: {HOSTILE}", "ledger and log agree: 4 and 4"),
                next=(
                    "toolkit jobs show cmgmrnwbw0007l804macxc3mm",
                    "toolkit trace 4bf92f3577b34da6a3ce929d0e0e4736",
                ),
            ),
            finding(
                "queue-moves",
                "immediate",
                Verdict.PROVEN,
                "96 asked = 92 ended + 4 failed; the oldest waits 0.3 s",
            ),
            finding(
                "test-order",
                "short-term",
                Verdict.PENDING,
                "placed 4 s ago",
                evidence={"have": 2, "need": 5, "unit": "steps"},
            ),
        ),
        release="4811ec9",
        rescues=(
            Rescue(
                name="switch off",
                command='toolkit toggle off ASYNC_IMAGE_PROCESSING --reason "verify-deploy 7: regression"',
                seconds=0.171,
                measured="3 flips in the ledger, the slowest",
            ),
            Rescue(
                name="roll back",
                command="toolkit verify-deploy mark --release 3f1c02b",
                seconds=None,
                measured="no older release was ever marked again",
            ),
        ),
        events=(
            Event(
                kind="flip",
                at=START + timedelta(minutes=12),
                what="ASYNC_IMAGE_PROCESSING on for 25 % of the orders",
                who="bob@desk",
            ),
            Event(kind="deployment", at=START + timedelta(minutes=12, seconds=20), what="e682860", who="ci"),
            Event(kind="rollback", at=START + timedelta(minutes=24), what="back to 3f1c02b", who="ann@desk"),
        ),
        plots=Plots(
            moments=moments(30, errors_at=frozenset({15, 16})),
            durations=log_normal(96, 2.6, 0.7),
            before=log_normal(300, 1.5, 0.5),
        ),
    )


def inconclusive() -> Receipt:
    """A detector is blind, a source is away, and nothing has run: every plot is empty."""
    long_name = "the-log-of-a-service-with-a-very-long-name-" * 4
    return receipt(
        Verdict.INCONCLUSIVE,
        (
            finding(
                "no-foreign-key-errors",
                "immediate",
                Verdict.INCONCLUSIVE,
                "no clean job, and the log shows no planted violation",
                evidence={"have": 0, "need": 59, "unit": "clean jobs"},
                blind=(f"log: {long_name}",),
                unreachable=("prometheus",),
                next=("toolkit verify-deploy --top-up",),
            ),
            finding(
                "queue-moves",
                "immediate",
                Verdict.INCONCLUSIVE,
                "nothing was asked for. " + "Without an order there is nothing to see. " * 8,
            ),
        ),
        previous="",
        sources={
            "ledger": "seen in 0.4 s",
            "log": f"blind: {long_name}",
            "prometheus": "does not answer: connection refused",
        },
    )


def pending() -> Receipt:
    """Still collecting; a day of slices, and no release to compare with."""
    return receipt(
        Verdict.PENDING,
        (
            finding(
                "no-foreign-key-errors",
                "immediate",
                Verdict.PENDING,
                "31/59 orders, rate below 9.2 %, about 14 min left at 2.1/min",
                evidence={"have": 31, "need": 59, "unit": "clean jobs"},
            ),
            finding("queue-moves", "immediate", Verdict.PROVEN, "33 asked = 31 ended + 2 running"),
            finding(
                "success-rate",
                "long-term",
                Verdict.PENDING,
                "1 of 31 failed",
                evidence={"have": 31, "need": 104, "unit": "runs"},
            ),
        ),
        looked_at=START + timedelta(days=1),
        plots=Plots(moments=moments(1440, each=1), durations=(0.8, 0.9, 1.1, 1.2, 4.0)),
    )


def every() -> dict[Verdict, Receipt]:
    """One of each."""
    return {one.verdict: one for one in (proven(), regression(), inconclusive(), pending())}


def but(given: Receipt, **changes: Any) -> Receipt:
    """The receipt with these changed."""
    return msgspec.structs.replace(given, **changes)
