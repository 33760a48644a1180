"""What a toggle says, what a flip makes of it, and who is a laggard: the pure half."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import UsageError
from toolkit.ledger.toggles import SeenBy, Toggle
from toolkit.toggle.decide import Known, Layer, Reason, bucket, decide, layer, variant
from toolkit.toggle.look import Standing, conflicts, explain
from toolkit.toggle.plan import HOLD_FOR_GOOD, InFlight, Request, plan
from toolkit.toggle.receipt import receipt

NAME = "ASYNC_IMAGE_PROCESSING"
NOW = datetime(2025, 10, 11, 17, 15, tzinfo=UTC)
ON = Toggle(NAME, 4, True, 100, {}, ["job"], None, None, "ann", "steady", NOW)  # noqa: FBT003
OFF = dataclasses.replace(ON, enabled=False, reason="23503 again")


def known(toggle: Toggle | None = ON, **more: Any) -> Known:
    return Known(reached=True, toggle=toggle, **more)


AWAY = {"stale_since": NOW, "why": "connection refused"}


@pytest.mark.parametrize(
    ("seen", "switched_off", "expected"),
    [
        (known(ON), False, (True, Layer.LEDGER, Reason.STATIC)),
        (known(OFF), False, (False, Layer.LEDGER, Reason.STATIC)),
        (known(None), False, (True, Layer.DEFAULT, Reason.DEFAULT)),
        (known(ON), True, (False, Layer.ENVIRONMENT, Reason.STATIC)),
        (Known(), True, (False, Layer.ENVIRONMENT, Reason.STATIC)),
        (Known(**AWAY), False, (False, Layer.NONE, Reason.DEFAULT)),
        (Known(), False, (False, Layer.NONE, Reason.DEFAULT)),
        (known(ON, **AWAY), False, (True, Layer.LEDGER, Reason.STALE)),
        (known(OFF, **AWAY), False, (False, Layer.LEDGER, Reason.STALE)),
        (known(None, **AWAY), False, (True, Layer.DEFAULT, Reason.STALE)),
    ],
)
def test_the_first_layer_that_speaks_decides(
    seen: Known, switched_off: bool, expected: tuple[bool, Layer, Reason]
) -> None:
    said = decide(NAME, seen, switched_off=switched_off, order_id="o1", merchant="m1")
    assert (said.enabled, said.layer, said.reason) == expected


def test_a_cold_start_without_the_store_is_sync_and_says_why() -> None:
    said = decide(NAME, Known(**AWAY), switched_off=False)
    assert not said.enabled
    assert "connection refused" in said.why


@given(
    enabled=st.booleans(), percent=st.integers(0, 100), pins=st.dictionaries(st.sampled_from("abc"), st.booleans()),
    order=st.text(max_size=30), reached=st.booleans(),
)  # fmt: skip
def test_nothing_but_the_ledger_or_its_silence_makes_an_order_async(
    enabled: bool, percent: int, pins: dict[str, bool], order: str, reached: bool
) -> None:
    toggle = dataclasses.replace(ON, enabled=enabled, percent=percent, pins=pins)
    seen = Known(reached=reached, toggle=toggle if reached else None)
    assert not decide(NAME, seen, switched_off=True, order_id=order, merchant="a").enabled
    if not reached:
        assert not decide(NAME, seen, switched_off=False, order_id=order, merchant="a").enabled


def test_a_pin_comes_before_the_value_and_before_the_percentage() -> None:
    seen = known(dataclasses.replace(OFF, pins={"m1": True}))
    said = decide(NAME, seen, switched_off=False, order_id="o", merchant="m1")
    assert (said.enabled, said.reason) == (True, Reason.TARGETING_MATCH)
    assert not decide(NAME, seen, switched_off=False, order_id="o", merchant="m2").enabled
    pinned = known(dataclasses.replace(ON, pins={"m1": False}))
    assert not decide(NAME, pinned, switched_off=False, order_id="o", merchant="m1").enabled


@pytest.mark.parametrize("percent", [0, 1, 25, 50, 99])
def test_a_percentage_takes_about_that_share_and_a_larger_one_takes_the_same_and_more(percent: int) -> None:
    orders = [f"order-{n}" for n in range(4000)]

    def chosen(share: int) -> set[str]:
        seen = known(dataclasses.replace(ON, percent=share))
        return {order for order in orders if decide(NAME, seen, switched_off=False, order_id=order).enabled}

    assert abs(len(chosen(percent)) / 40 - percent) < 3
    assert chosen(percent) <= chosen(percent + 1)


def test_the_hash_of_an_order_never_changes() -> None:
    assert bucket(NAME, "cmgmrnwbw0007l804macxc3mm") == 86.16


def test_a_share_of_orders_without_an_order_is_sync() -> None:
    seen = known(dataclasses.replace(ON, percent=99))
    assert not decide(NAME, seen, switched_off=False).enabled


def test_the_variant_of_a_process() -> None:
    split = known(dataclasses.replace(ON, percent=25))
    assert [variant(one, switched_off=False) for one in (known(ON), known(OFF), known(None), Known(), split)] == [
        "async", "sync", "async", "sync", "split",
    ]  # fmt: skip
    assert variant(known(ON), switched_off=True) == "sync"
    assert layer(known(ON), switched_off=True) is Layer.ENVIRONMENT


# -- flips


def planned(standing: Toggle | None, **given: Any) -> Any:
    return plan(NAME, standing, Request(reason="r", **given), switched_off=False, reclaim_hold=240.0)


def test_a_first_flip_goes_from_version_0() -> None:
    assert planned(None, on=False).version == 0
    assert planned(ON, on=False).version == 4


def test_off_means_off_for_those_who_were_pinned_on_and_keeps_those_pinned_off() -> None:
    standing = dataclasses.replace(ON, pins={"m1": True, "m2": False})
    assert planned(standing, on=False).pins == {"m2": False}
    assert planned(standing, on=True).pins == {"m1": True, "m2": False}


def test_a_pin_leaves_the_rest_alone_and_keeps_a_hold() -> None:
    standing = dataclasses.replace(OFF, held_until=datetime(9999, 12, 31, tzinfo=UTC), percent=25)
    done = planned(standing, on=True, merchant="m1")
    assert (done.enabled, done.percent, done.pins, done.hold) == (False, 25, {"m1": True}, HOLD_FOR_GOOD)


def test_towards_async_a_verdict_is_asked_for_unless_forced() -> None:
    assert any("verify-deploy" in warning for warning in planned(OFF, on=True).warnings)
    assert not planned(OFF, on=True, force=True).warnings
    assert not planned(ON, on=False).warnings


def test_the_hold_of_each_way_with_queued_jobs() -> None:
    holds = {way: planned(ON, on=False, in_flight=way).hold for way in InFlight}
    assert holds == {InFlight.FINISH: None, InFlight.HOLD: HOLD_FOR_GOOD, InFlight.RECLAIM: 240.0}


@pytest.mark.parametrize(
    "given",
    [
        {"on": False, "percent": 25},
        {"on": True, "merchant": "m", "percent": 5},
        {"on": True, "in_flight": InFlight.HOLD},
        {"on": False, "merchant": "m", "in_flight": InFlight.RECLAIM},
    ],
)
def test_a_request_that_means_nothing_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as refused:
        planned(ON, **given)
    assert refused.value.remedy


def test_a_flip_without_a_reason_is_refused() -> None:
    with pytest.raises(UsageError, match="reason"):
        plan(NAME, ON, Request(on=False, reason=" "), switched_off=False, reclaim_hold=1.0)


# -- receipts and conflicts


def process(name: str, version: int | None, *, connected: bool = True, layer: str = "ledger") -> SeenBy:
    return SeenBy(name, "importer", "h", 1, "r", version, "async", layer, NOW, NOW, 0.1, connected)


def test_a_receipt_names_who_has_not_acknowledged_and_waits_for_nobody_who_is_gone() -> None:
    seen = receipt(
        4,
        [
            process("new", 5),
            process("good", 4),
            process("late", 3),
            process("starting", None),
            process("dead", 3, connected=False),
        ],
    )
    assert [one.process for one in seen.acknowledged] == ["new", "good"]
    assert [one.process for one in seen.laggards] == ["late", "starting"]
    assert [one.process for one in seen.gone] == ["dead"]
    assert not seen.complete


def test_a_process_that_has_not_read_yet_does_not_count_as_having_acknowledged_version_0() -> None:
    assert not receipt(0, [process("starting", None)]).complete


def test_conflicting_layers_are_explained() -> None:
    standing = Standing(
        NAME,
        known(ON),
        switched_off=False,
        processes=(process("p1", 4, layer="environment"), process("p2", 3)),
        in_flight=None,
    )
    told = conflicts(standing)
    assert "p1 stay sync" in told[0]
    assert "p2 did not acknowledge version 4" in told[1]
    steps = explain(dataclasses.replace(standing, switched_off=True), order_id="o", merchant=None)
    assert [step.layer for step in steps if step.decides] == ["environment"]
    assert "says async" in steps[1].says
