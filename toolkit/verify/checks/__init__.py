"""The checklist: one file a check, in the order in which it is read."""

from __future__ import annotations

from typing import Final

from toolkit.verify.check import Check
from toolkit.verify.checks import (
    end_to_end,
    fk_errors,
    live,
    new_errors,
    performance,
    queue_processing,
    satisfaction,
    skips,
    success_rate,
)

CHECKS: Final[tuple[Check, ...]] = (
    live.CHECK,
    fk_errors.CHECK,
    queue_processing.CHECK,
    new_errors.CHECK,
    end_to_end.CHECK,
    fk_errors.CHECK_MORE,
    success_rate.CHECK,
    skips.CHECK,
    satisfaction.CHECK,
    performance.CHECK,
)
