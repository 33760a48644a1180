"""Verdicts, pace and exit codes are decided purely: each rule once, and no rule without its opposite."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from jobs.images.spec import SPEC
from jobs.images.upcast import upcast
from toolkit.cli.replay_ending import exit_code
from toolkit.errors import PayloadRefused
from toolkit.ledger.replay_views import Item, Landed, LastRun, Snapshot
from toolkit.replay.execute import Ended, Told, recheck
from toolkit.replay.pace import BATCH, Limits, Load, pace, room
from toolkit.replay.plan import Judged, PlanHash, Verdict, decide, decode, loops
from toolkit.replay.select import Assessed

SPECS = {SPEC.name: SPEC}
IDS = '{"purchaseOrderId": "po1", "merchantId": "m1"}'


def run(**changes: Any) -> LastRun:
    usual = LastRun(
        run_id="r2", number=2, outcome="failed", reason="integrity", error_type="ForeignKeyViolation", fingerprint="f00d",
        release="r1", worker="host.1", lease_left=0.0,
    )  # fmt: skip
    return msgspec.structs.replace(usual, **changes)


def job(**changes: Any) -> Snapshot:
    usual = Snapshot(
        job_id="j1", job_name=SPEC.name, payload=IDS, outcome="failed", pushed=True, due_in=-1.0, last=run(),
        replayed=None, holder="", in_air=0.0,
    )  # fmt: skip
    return msgspec.structs.replace(usual, **changes)


def verdict(snapshot: Snapshot, gone: str = "", **how: Any) -> Judged:
    return decide(snapshot, decode(SPECS, snapshot), gone, **({"release": "r1"} | how))


REPLAYED = run(run_id="r1", number=1)


@pytest.mark.parametrize(
    ("snapshot", "gone", "expected", "why"),
    [
        (job(), "", Verdict.RUN, "failed: ForeignKeyViolation"),
        (job(outcome="lost", last=run(outcome="lost", fingerprint="")), "", Verdict.RUN, "lost"),
        (job(), "order_deleted", Verdict.SKIP_GONE, "order_deleted"),
        (job(outcome="processed", last=run(outcome="processed", reason="")), "", Verdict.ALREADY_DONE, "run 2: processed"),
        (job(outcome="skipped", last=run(outcome="skipped", reason="no_drafts")), "", Verdict.ALREADY_DONE, "no_drafts"),
        (job(outcome="", last=run(outcome="", lease_left=12.0)), "", Verdict.STILL_RUNNING, "lease holds for 12 s"),
        (job(outcome="", last=run(outcome="", lease_left=-5.0)), "", Verdict.STILL_RUNNING, "silent 5 s ago"),
        (job(outcome="", due_in=40.0), "", Verdict.STILL_RUNNING, "retry is due in 40 s"),
        (job(outcome="", last=None), "", Verdict.STILL_RUNNING, "waits in the queue"),
        (job(outcome="", pushed=False), "", Verdict.STILL_RUNNING, "relay"),
        (job(outcome="", pushed=False, held_by="TOGGLE"), "", Verdict.STILL_RUNNING, "`toolkit toggle on TOGGLE` lets it go"),
        (job(outcome="", holder="ann@host", in_air=3.0), "", Verdict.STILL_RUNNING, "replayed by ann@host 3 s ago"),
        (job(job_name="no-such-job"), "", Verdict.UNDECODABLE, "no-such-job"),
        (job(payload='{"merchantId": "m1"}'), "", Verdict.UNDECODABLE, "purchaseOrderId"),
        (job(replayed=REPLAYED), "", Verdict.LOOP, "release r1"),
        (job(replayed=run(run_id="r1", fingerprint="another")), "", Verdict.RUN, "failed"),
        (job(replayed=REPLAYED, last=run(release="r0")), "", Verdict.RUN, "failed"),
        (job(replayed=REPLAYED), "order_deleted", Verdict.SKIP_GONE, "order_deleted"),
    ],
)  # fmt: skip
def test_a_verdict_follows_from_the_snapshot(
    snapshot: Snapshot, gone: str, expected: Verdict, why: str
) -> None:
    judged = verdict(snapshot, gone)

    assert judged.verdict is expected
    assert why in judged.detail


def test_force_runs_what_loops_and_nothing_else_that_must_not_run() -> None:
    assert verdict(job(replayed=REPLAYED), force=True).verdict is Verdict.RUN
    assert verdict(job(outcome="processed"), force=True).verdict is Verdict.ALREADY_DONE
    assert verdict(job(outcome=""), force=True).verdict is Verdict.STILL_RUNNING
    assert verdict(job(), "no_drafts", force=True).verdict is Verdict.SKIP_GONE


def test_a_lost_run_loops_by_how_it_was_lost() -> None:
    lost = run(outcome="lost", fingerprint="", reason="killed", error_type="SIGSEGV")

    assert loops(job(outcome="lost", last=lost, replayed=msgspec.structs.replace(lost, run_id="r1")), "r1")
    assert not loops(
        job(outcome="lost", last=lost, replayed=msgspec.structs.replace(lost, error_type="SIGKILL")), "r1"
    )


def test_an_old_payload_gives_its_ids_and_nothing_else() -> None:
    old = job(
        payload='{"purchaseOrderId": "po1", "merchantId": "m1", "productDrafts": [{"id": "d1", "title": "Mug"}]}'
    )

    decoded = decode(SPECS, old)

    assert decoded.upcast == '{"purchaseOrderId":"po1","merchantId":"m1"}'
    assert verdict(old).verdict is Verdict.RUN


def test_ids_that_only_the_drafts_name_are_taken_when_they_agree() -> None:
    agreed = {"productDrafts": [{"purchaseOrderId": "po1", "merchantId": "m1"}, {"purchaseOrderId": "po1"}]}
    torn = {"purchaseOrderId": "po1", "productDrafts": [{"merchantId": "m1"}, {"merchantId": "m2"}]}

    assert upcast(agreed) == {"purchaseOrderId": "po1", "merchantId": "m1"}
    with pytest.raises(PayloadRefused, match="merchantId"):
        upcast(torn)


def test_a_plan_is_named_by_its_jobs_verdicts_failed_runs_and_release() -> None:
    def named(*items: tuple[str, str, str], release: str = "r1", force: bool = False) -> str:
        digest = PlanHash(release, force=force)
        for job_id, word, run_id in items:
            digest.add(Item(job_id=job_id, verdict=word, detail="whatever", run_id=run_id))
        return digest.text()

    one = ("j1", "RUN", "r2")
    others = [
        named(("j2", "RUN", "r2")),
        named(("j1", "LOOP", "r2")),
        named(("j1", "RUN", "r3")),
        named(one, one),
        named(one, release="r2"),
        named(one, force=True),
    ]

    assert named(one) == named(one)
    assert named(one) not in others
    assert len(set(others)) == len(others)


def test_a_job_that_failed_anew_is_not_the_plans_any_more() -> None:
    now = Assessed(job(), decode(SPECS, job()), Judged(Verdict.RUN, ""))

    assert recheck("r1", now, force=False).verdict is Verdict.LOOP
    assert recheck("r1", now, force=True).verdict is Verdict.RUN
    assert recheck("r2", now, force=False).verdict is Verdict.RUN


def test_it_slows_down_and_holds_when_the_system_suffers() -> None:
    free, slow, held = (pace(Limits(), load) for load in (Load(59.0, 2), Load(60.0, 0), Load(0.0, 20)))

    assert (free.jobs, free.wait, free.why) == (BATCH, 0.0, "")
    assert 0 < slow.jobs < BATCH
    assert slow.wait >= 1.0
    assert "waits 60 s" in slow.why
    assert held.jobs == 0
    assert "20 sessions" in held.why
    assert pace(Limits(heed=False), Load(9999.0, 99)).jobs == BATCH


@pytest.mark.parametrize("rate", [0.1, 1.0, 20.0, 5000.0])
def test_a_rate_is_kept(rate: float) -> None:
    now = pace(Limits(rate=rate), Load())

    assert now.jobs / now.wait == pytest.approx(rate)


def test_with_max_failures_no_more_fly_than_may_fail() -> None:
    assert room(Limits(), 10_000) is None
    assert room(Limits(max_failures=10), 0) == 40
    assert room(Limits(max_failures=10), 41) == 0


@pytest.mark.parametrize(
    ("verdicts", "ended", "changed", "moved", "seen", "code"),
    [
        ({"RUN": 2}, "done", {}, 2, None, 0),
        ({"RUN": 2, "SKIP-GONE": 1, "ALREADY-DONE": 1}, "done", {}, 2, None, 0),
        ({"RUN": 2}, "done", {}, 2, Landed(outcomes={"processed": 1, "skipped": 1}, in_air=0), 0),
        ({"RUN": 2}, "done", {}, 2, Landed(outcomes={"failed": 1}, in_air=0), 1),
        ({"RUN": 2}, "done", {}, 2, Landed(outcomes={}, in_air=2), 8),
        ({"RUN": 2}, "stopped", {}, 1, None, 3),
        ({"RUN": 2, "LOOP": 1}, "done", {}, 2, None, 3),
        ({"RUN": 2}, "done", {"LOOP": 2}, 0, None, 5),
        ({"RUN": 2}, "done", {"STILL-RUNNING": 2}, 0, None, 8),
        ({"RUN": 2}, "done", {"UNDECODABLE": 2}, 0, None, 1),
        ({"RUN": 2}, "done", {"SKIP-GONE": 2}, 0, None, 0),
    ],
)
def test_the_exit_code_tells_what_is_left_to_do(  # noqa: PLR0917  a row of the table above
    verdicts: dict[str, int], ended: str, changed: dict[str, int], moved: int,
                                                seen: Landed | None, code: int) -> None:  # fmt: skip
    assert exit_code(verdicts, Ended(ended), Told(moved=moved, changed=Counter(changed)), seen) == code
