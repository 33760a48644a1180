"""What the operator typed after `toolkit replay`: which jobs, in exactly one way, and within which limits."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from toolkit.errors import UsageError

if TYPE_CHECKING:
    from toolkit.ledger.replay_views import Plan
    from toolkit.replay.pace import Limits

_RATE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(?:/(s|min|h))?")
_CONDITIONS = ("fingerprint", "error", "sqlstate", "job_name", "merchant", "release", "since", "until")


class Rate(click.ParamType[float]):
    """`20`, `20/s`, `90/min`, `500/h`: jobs a second."""

    name = "rate"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Jobs a second, above 0."""
        if isinstance(value, float):
            return value
        found = _RATE.fullmatch(value)
        if not found or float(found[1]) <= 0:
            self.fail(f"{value!r} is not a rate: 20/s, 90/min, 500/h", param, ctx)
        return float(found[1]) / {"s": 1, "min": 60, "h": 3600}[found[2] or "s"]


@dataclass(frozen=True, slots=True)
class Call:
    """What the operator typed."""

    options: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.options[name]

    @property
    def conditions(self) -> dict[str, Any]:
        """The conditions of a selection that were given."""
        return {name: self.options[name] for name in _CONDITIONS if self.options[name]}

    @property
    def selects(self) -> bool:
        """True when jobs are selected, not named."""
        return bool(self.failed or self.conditions)

    def check(self) -> None:
        """Raise UsageError unless exactly one way of saying which jobs was taken, with what it needs."""
        ways = [bool(self.jobs), self.selects, self.execute is not None, self.resume is not None]
        if sum(ways) != 1:
            raise UsageError(
                "say which jobs, in one way" if any(ways) else "say which jobs to replay",
                remedy="--job ID, or a selection (--failed, --fingerprint, …), or --execute HASH, or --resume\n"
                "`toolkit jobs failed` shows what failed",
            )
        if self.dry_run and not self.jobs:
            raise UsageError("--dry-run is for jobs that are named", remedy="give --job ID")
        if self.selects and not self.plan and not self.reason:
            raise UsageError(
                "a selection needs a reason, for the audit",
                remedy='give --reason "why", or --plan to look first',
            )
        if self.selects and not (self.plan or self.yes or sys.stdin.isatty()):
            raise UsageError("a selection asks first, and there is no terminal to ask on",
                             remedy="give --yes, or freeze the plan with --plan and run it with --execute HASH")  # fmt: skip

    def limits(self, plan: Plan) -> Limits:
        """The limits of carrying out; named jobs do not wait for better weather."""
        from toolkit.replay.pace import Limits

        return Limits(canary=self.canary, rate=self.rate, max_failures=self.max_failures, heed=not plan.named)

    def again(self) -> str:
        """The limits as they were typed, to go on with."""
        typed = {"--canary": self.canary, "--max-failures": self.max_failures}
        parts = [f"{option} {value}" for option, value in typed.items() if value is not None]
        return " ".join([*parts, *([f"--rate {self.rate:g}/s"] if self.rate else [])])
