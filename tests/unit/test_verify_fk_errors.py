"""What the check for foreign key errors makes of clean jobs and of what its detectors say."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit.telemetry import catalog
from toolkit.verify.checks import fk_errors
from toolkit.verify.detect import Sight, Sighting
from toolkit.verify.rules import Rules
from toolkit.verify.verdict import Judgement, Verdict

FKEY = "ProductImage_productDraftId_fkey"


def source(name: str, sight: Sight = Sight.SEEN, errors: int = 0, **more: Any) -> Sighting:
    return Sighting(source=name, sight=sight, errors={FKEY: errors} if errors else {}, planted=1, **more)


def judged(*sightings: Sighting, clean: int = 59, planted: float | None = 5.0) -> Judgement:
    return fk_errors.judge(fk_errors.Facts(clean, 598, 300.0, planted, sightings), Rules())


def test_enough_clean_jobs_before_detectors_that_see_are_proven_and_one_less_is_not() -> None:
    assert judged(source("ledger"), source("counters")).verdict is Verdict.PROVEN
    assert judged(source("ledger"), source("counters"), clean=58).verdict is Verdict.PENDING
    assert judged(source("ledger"), clean=0).verdict is Verdict.PENDING


def test_nobody_who_looks_is_no_pass() -> None:
    assert judged().verdict is Verdict.PENDING


@pytest.mark.parametrize("sight", [Sight.NOT_YET, Sight.BLIND, Sight.AWAY])
def test_one_detector_that_has_not_seen_the_planted_error_is_enough_for_no_pass(sight: Sight) -> None:
    judgement = judged(source("ledger"), source("counters", sight, detail="why"))
    assert judgement.verdict is (Verdict.PENDING if sight is Sight.NOT_YET else Verdict.INCONCLUSIVE)
    assert judgement.soon is (sight is Sight.NOT_YET)
    assert "counters" in judgement.said


@pytest.mark.parametrize("sight", list(Sight))
def test_an_error_is_a_regression_by_whomever_it_is_told(sight: Sight) -> None:
    judgement = judged(source("ledger"), source("counters", sight, errors=1))
    assert judgement.verdict is Verdict.REGRESSION
    assert judgement.notes == ("counters told of it", "sources disagree: ledger did not")


def test_of_sources_that_count_differently_the_highest_is_told() -> None:
    """A supervisor counts from its start, Prometheus from the first scrape."""
    judgement = judged(source("ledger", errors=14), source("counters", errors=2))
    assert judgement.said == f"foreign key errors: {FKEY} 14×"


@pytest.mark.parametrize("counted", [1, 2])
def test_an_error_on_a_constraint_that_is_not_the_jobs_own_is_counted_once_by_its_name(counted: int) -> None:
    """Counters call it `other`."""
    ledger = Sighting(source="ledger", sight=Sight.SEEN, errors={FKEY: 1, "b_fkey": 2}, planted=1)
    counters = Sighting(
        source="counters", sight=Sight.SEEN, errors={FKEY: 1, catalog.OTHER: counted}, planted=1
    )
    facts = fk_errors.Facts(59, 598, 300.0, 5.0, (counters, ledger), frozenset({FKEY}))
    assert fk_errors.judge(facts, Rules()).said == f"foreign key errors: {FKEY} 1×, b_fkey 2×"


def test_a_log_that_has_them_and_not_whose_they_are_does_not_disagree() -> None:
    told = source("ledger", errors=2)
    assert judged(told, source("server log", unclaimed=2)).notes == (
        "ledger told of it",
        "server log has 2 on other constraints, and does not say of which release",
    )
    assert "sources disagree: server log did not" in judged(told, source("server log", unclaimed=1)).notes


def test_a_regression_waits_for_a_silent_source_only_while_it_may_still_turn_out_to_see() -> None:
    told, silent = source("ledger", errors=1), source("counters", Sight.NOT_YET)
    assert judged(told, silent).soon
    assert not judged(told, silent, planted=46.0).soon
    assert not judged(told, silent, planted=None).soon
    assert not judged(told, source("counters", Sight.NOT_YET, errors=1)).soon
    assert not judged(told, source("counters", Sight.BLIND)).soon
