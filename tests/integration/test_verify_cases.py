"""The checklist is itself tested: over the incident it says regression for the broken release and proven for the fixed one, and
each check fails by its own symptom.

Seeded (tests/cases/verify/): deployments, jobs and their runs, reviews, and the release that was proven before. Real: the server,
the ledger's schema and functions, the processes' connections, the runner with its checks and the ledger's detector, the planted
violation, and the test orders: placed by the job's own workflow, performed by the job itself, then changed as the case says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from jobs.images.spec import SPEC
from tests.performing import Heard, performing
from tests.verify_cases import Case, Expected, Looked, Placed, cases, outcome_columns, seeded
from tests.verifying import Yard
from toolkit.jobspec import CONTROL, Registry
from toolkit.ledger import traces, verifications
from toolkit.ledger.database import Database
from toolkit.ledger.verifications import PlacedOrder
from toolkit.run import Mode
from toolkit.telemetry import catalog
from toolkit.telemetry.traces import Tracing
from toolkit.verification import runbooks
from toolkit.verify import control
from toolkit.verify.adapters.ledger import Ledger
from toolkit.verify.asked import Asked
from toolkit.verify.check import Check, Phase
from toolkit.verify.checks import CHECKS
from toolkit.verify.orders import OrderDesk
from toolkit.verify.rules import Rules
from toolkit.verify.runner import Verifier
from toolkit.verify.verdict import Judgement, Verdict

ROOT = Path(__file__).parent.parent.parent
CASES = cases()
INCIDENT = CASES[0]
LOOKED = [
    pytest.param(case, looked, id=f"{case.title}: {name}")
    for case in CASES
    for name, looked in case.verify.items()
]
REGISTRY = Registry({SPEC.name: SPEC}, own={CONTROL: control.SPEC})


# Looking


@dataclasses.dataclass(frozen=True)
class Place:
    """The servers of a test."""

    connection: psycopg.Connection
    database: Database
    broker: redis.Redis


@pytest.fixture
def place(connection: psycopg.Connection, database: Database, broker: redis.Redis) -> Place:
    return Place(connection, database, broker)


def judged(
    place: Place, case: Case, looked: Looked, checks: Sequence[Check] = CHECKS
) -> dict[str, Judgement]:
    """What each check says of the case."""
    with seeded(place.connection, case, looked):
        verifier = _verifier(place, looked, checks)
        verifier.prepare()
        _perform(place, verifier, looked)
        return {finding.check: finding.judgement for finding in verifier.run_once().findings}


def wrong(said: dict[str, Judgement], expect: dict[str, Expected]) -> list[str]:
    """Where they say another thing than is expected."""
    return [
        f"{name}: {said[name].verdict}: {said[name].said}\n    expected {expected.verdict}: {expected.says}"
        for name, expected in expect.items()
        if said[name].verdict != expected.verdict or expected.says not in said[name].said
    ]


def _verifier(place: Place, looked: Looked, checks: Sequence[Check]) -> Verifier:
    (since,) = [
        one.at for one in verifications.deployments(place.connection) if one.release == looked.release
    ]
    asked = Asked(job_name=SPEC.name, phases=tuple(phase.value for phase in Phase))
    begun = verifications.begin(place.connection, looked.release, since, asked.encode(), who="ann")

    def keep(trace_id: str, job_id: str, data: bytes, _count: int) -> None:
        traces.store(place.connection, [traces.TraceChunk(trace_id, job_id, data)])

    desk = OrderDesk(
        database=place.database, spec=SPEC, verification_id=begun.verification_id, release=looked.release,
        tracing=Tracing("freshfetch", looked.release, {}), now=lambda: datetime.now(UTC), inline=lambda _job: None, spans=keep,
    )  # fmt: skip
    return Verifier(
        verification=begun, asked=asked, what="marked by ann", checks=checks, rules=Rules(), database=place.database,
        broker=place.broker, registry=REGISTRY, spec=SPEC, desk=desk, detectors=[Ledger(place.database)], runner="test",
    )  # fmt: skip


def _perform(place: Place, verifier: Verifier, looked: Looked) -> None:
    """What a worker of the release does: the planted violation, and the test orders; then what the case has of them."""
    heard = Heard()
    controls = place.connection.execute(
        "SELECT job_id FROM toolkit.intent WHERE job_name = %s", (CONTROL,)
    ).fetchall()
    with performing(place.database.url, sink=heard) as plain:
        worker = dataclasses.replace(
            plain, registry=REGISTRY, release=looked.release, resources={**plain.resources, CONTROL: None}
        )
        for (job,) in controls:
            worker.perform(job, mode=Mode.ASYNC)
        for order in verifier.desk.orders():
            changed = looked.orders.get(order.purpose, Placed())
            if not changed.waits:
                worker.perform(order.job_id, mode=Mode.ASYNC)
            _change(place.connection, order, changed)
    for told in heard.told:
        verifier.desk.spans(*told)


def _change(connection: psycopg.Connection, order: PlacedOrder, changed: Placed) -> None:
    names: dict[str, Any] = {"job": order.job_id, "order": order.subject}

    def do(query: str, **values: Any) -> None:
        connection.execute(query, names | values)

    if changed.after:
        earlier = timedelta(seconds=changed.after)
        do(
            "UPDATE toolkit.test_order SET placed_at = placed_at - %(earlier)s WHERE job_id = %(job)s",
            earlier=earlier,
        )
        do("UPDATE toolkit.intent SET created_at = created_at - %(earlier)s, due_at = due_at - %(earlier)s"
           " WHERE job_id = %(job)s", earlier=earlier)  # fmt: skip
    if changed.ends is not None:
        ended = outcome_columns(changed.ends)
        places = ", ".join(f"{name} = %({name})s" for name in ended)
        do(f"UPDATE toolkit.run SET {places} WHERE job_id = %(job)s", **ended)
        do("UPDATE toolkit.intent SET outcome = %(outcome)s WHERE job_id = %(job)s", **ended)
    if changed.served is not None:
        do('DELETE FROM "ProductImage" WHERE "productDraftId" IN (SELECT id FROM "ProductDraft"'
           ' WHERE "purchaseOrderId" = %(order)s ORDER BY id OFFSET %(served)s)', served=changed.served)  # fmt: skip
    for number in range(1, changed.reviews):
        do('INSERT INTO "ImageReviewSession" (id, "purchaseOrderId", "merchantId", status, "createdAt", "updatedAt")'
           ' SELECT id || %(number)s, "purchaseOrderId", "merchantId", status, "createdAt", "updatedAt"'
           ' FROM "ImageReviewSession" WHERE "purchaseOrderId" = %(order)s', number=f"-{number}")  # fmt: skip
    if changed.workflow:
        do('UPDATE "PurchaseOrder" o SET "createdAt" = w."completedAt" - %(took)s FROM "WorkflowExecution" w'
           ' WHERE w."purchaseOrderId" = o.id AND o.id = %(order)s', took=timedelta(seconds=changed.workflow))  # fmt: skip
    if changed.trace:
        do("UPDATE toolkit.run SET trace_id = %(trace)s WHERE job_id = %(job)s", trace=changed.trace)


# Cases


@pytest.mark.parametrize(("case", "looked"), LOOKED)
def test_each_check_says_of_the_case_what_is_expected(place: Place, case: Case, looked: Looked) -> None:
    said = judged(place, case, looked)
    assert said.keys() == looked.expect.keys()
    assert not (found := wrong(said, looked.expect)), "\n" + "\n".join(found)


# Is each check tried?


def untried(checks: Iterable[Check], tried: Iterable[Case]) -> list[str]:
    """Checks without a case in which they say regression by a symptom's own words, or none in which they say proven.

    What the cases expect is what the checks say: the test above holds them to it."""
    expected = [
        (name, one.verdict)
        for case in tried
        for looked in case.verify.values()
        for name, one in looked.expect.items()
        if one.says
    ]
    return [
        f"{check.name} is never {verdict}"
        for check in checks
        for verdict in (Verdict.REGRESSION, Verdict.PROVEN)
        if (check.name, verdict) not in expected
    ]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_each_check_fails_in_some_case_and_passes_in_another(check: Check) -> None:
    assert not untried([check], CASES)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_without_its_symptom_is_noticed(check: Check) -> None:
    """Sabotage: a new check that has no cases, and an old one that has lost those in which it fails, or passes."""
    new = dataclasses.replace(check, name="a-new-check")
    assert untried([new], CASES) == ["a-new-check is never regression", "a-new-check is never proven"]
    for verdict in (Verdict.REGRESSION, Verdict.PROVEN):
        left = [
            case
            for case in CASES
            if all(verdict != looked.expect[check.name].verdict for looked in case.verify.values())
        ]
        assert f"{check.name} is never {verdict}" in untried([check], left)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_that_passes_whatever_it_sees_is_noticed(place: Place, check: Check) -> None:
    """Sabotage: over the first of its symptoms, its rule made to say proven."""
    case, looked = next(
        (case, looked)
        for case in CASES
        for looked in case.verify.values()
        if looked.expect[check.name].verdict == Verdict.REGRESSION
    )
    blunt = dataclasses.replace(
        check, judge=lambda _facts, _rules: Judgement(verdict=Verdict.PROVEN, said="fine")
    )
    (found,) = wrong(judged(place, case, looked, [blunt]), {check.name: looked.expect[check.name]})
    assert found.startswith(f"{check.name}: proven: fine")


def test_the_catalog_names_the_checks_that_there_are() -> None:
    told = [(phase, name) for phase, names in catalog.VERIFY_CHECKS.items() for name in names]
    assert told == [(check.phase.value, check.name) for check in CHECKS]
    assert len({name for _, name in told}) == len(CHECKS)


def test_each_check_has_a_page() -> None:
    missing = [page for page in runbooks().values() if not (ROOT / page).is_file()]
    assert runbooks().keys() == {check.name for check in CHECKS}
    assert not missing


# As it is typed


def test_the_command_says_regression_for_the_broken_release_and_proven_for_the_fixed_one(
    database_url: str, redis_url: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    """An hour and a quarter after the fix. Its host, its processes and all they do are real, what was before them is seeded."""
    yard = Yard(database_url, redis_url, tmp_path, connection, {})
    fixed = INCIDENT.verify["fixed"]
    with seeded(connection, INCIDENT, fixed, processes=False), yard.host(fixed.release) as host:
        yard.watched(host)
        good = yard.verify("--release", fixed.release, "--phase", "all")
        bad = yard.verify("--release", INCIDENT.verify["broken"].release)
    assert good.code == 0, str(good)
    assert {finding.verdict for finding in good.receipt.findings} == {Verdict.PROVEN}
    assert len(good.receipt.findings) == len(CHECKS)
    assert bad.code == 1, str(bad)
    assert "ProductImage_productDraftId_fkey 14×" in bad.finding("no-foreign-key-errors").judgement.said
    told = {finding.check for finding in bad.receipt.of(Verdict.REGRESSION)}
    assert told >= {"no-foreign-key-errors", "no-foreign-key-errors-hour", "no-new-errors", "success-rate"}
    assert f"release {fixed.release}" in {event.what for event in bad.receipt.events}
    assert yard.rows_left() == 0
