"""Looking again and again: at a test that is made for one look, without more false alarms than it claims. Pure.

    confidence = 1 - looks.spent(1 - rules.confidence, jobs)

Whoever tests at 5 % after every job calls far more than 5 % of all unchanged releases a regression in the end. So alpha is spent
over the doublings of the evidence, from LEAST on: the k-th gets alpha / (3·k·(k+1)), which adds up to a third of it. The rest is
for looks within a doubling. tests/unit/test_looks.py plays a mean that is looked at after every job, with this care and without.
"""

from __future__ import annotations

import math

from toolkit.verify.evidence import LEAST


def spent(alpha: float, n: int, *, least: int = LEAST) -> float:
    """The part of `alpha` that a look at `n` jobs may use."""
    doubling = 1 + int(math.log2(max(n, least) / least))
    return alpha / (3 * doubling * (doubling + 1))
