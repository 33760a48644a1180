"""How much the evidence says: failure rates, new kinds of error, speed. Pure statistics: no clock, no I/O, no randomness.

One file a subject: `rates`, `kinds` of error, `speed`; `given` refuses arguments that make no sense (UsageError).

Each function names its source. Shares are from 0 to 1, confidences too (usual: 0.95), durations in whatever unit they come in.
The standard library is enough: of all that scipy has, only `NormalDist` and `lgamma` are needed.

What may be watched while it collects: the zero-failure count (it waits for a number fixed beforehand, and one failure ends
it) and the SPRT. All else here is for one look, at the end of a phase: who looks k times divides alpha by k.

Known weakness: jobs are taken to be independent. Failures that come in bursts make every interval here too narrow.
"""

from __future__ import annotations

from toolkit.verify.evidence.kinds import (
    NewKinds,
    good_toulmin,
    good_turing_at_most,
    good_turing_unseen,
    new_kinds,
)
from toolkit.verify.evidence.rates import (
    FEW,
    LEAST,
    Pace,
    Sprt,
    binomial_at_most,
    needed_clean,
    pace,
    rate_excluded,
    wilson,
)
from toolkit.verify.evidence.speed import (
    Slower,
    Speed,
    hodges_lehmann,
    hodges_lehmann_interval,
    not_slower,
    probability_slower,
    quantile_interval,
)

__all__ = [
    "FEW",
    "LEAST",
    "NewKinds",
    "Pace",
    "Slower",
    "Speed",
    "Sprt",
    "binomial_at_most",
    "good_toulmin",
    "good_turing_at_most",
    "good_turing_unseen",
    "hodges_lehmann",
    "hodges_lehmann_interval",
    "needed_clean",
    "new_kinds",
    "not_slower",
    "pace",
    "probability_slower",
    "quantile_interval",
    "rate_excluded",
    "wilson",
]
