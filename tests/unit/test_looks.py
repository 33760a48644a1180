"""Looking again and again costs no more false alarms than a test claims: played, beside the same test without that care."""

from __future__ import annotations

import math
from random import Random
from statistics import NormalDist

import pytest

from toolkit.verify import looks
from toolkit.verify.evidence import LEAST, wilson

ALPHA = 0.05
RUNS, JOBS = 1_000, 1_000


@pytest.fixture(scope="module")
def alarms() -> tuple[int, int]:
    """Of RUNS unchanged releases, those that are called worse at a look after some job from LEAST on: by a one-sided test of
    the mean at ALPHA, and at what `spent` allows of it."""
    random = Random(6)
    normal = NormalDist()
    careless = normal.inv_cdf(1 - ALPHA)
    careful = [normal.inv_cdf(1 - looks.spent(ALPHA, n)) for n in range(JOBS + 1)]
    caught = guarded = 0
    for _ in range(RUNS):
        total, often, ever = 0.0, False, False
        for n in range(1, JOBS + 1):
            total += random.gauss()
            if n >= LEAST:
                score = total / math.sqrt(n)
                often |= score > careless
                ever |= score > careful[n]
        caught += often
        guarded += ever
    return caught, guarded


def test_a_mean_that_is_watched_raises_no_more_false_alarms_than_claimed(alarms: tuple[int, int]) -> None:
    low, _ = wilson(alarms[1], RUNS, 0.99)
    assert low <= ALPHA
    assert alarms[1], "a test that never raises one would not be watched at all"


def test_without_that_care_it_would(alarms: tuple[int, int]) -> None:
    assert wilson(alarms[0], RUNS, 0.99)[0] > 3 * ALPHA
