"""The newest verification in a supervisor's metrics: verify_verdict{phase,check}, as exit codes.

Each supervisor reads the same row, so all show the same. What that verification did not look at is inconclusive.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from toolkit.ledger import verifications
from toolkit.ledger.database import Database
from toolkit.telemetry.metrics import Metrics
from toolkit.verify.verdict import Verdict


class _Judgement(msgspec.Struct, frozen=True):
    verdict: Verdict


class _Finding(msgspec.Struct, frozen=True):
    check: str
    phase: str
    judgement: _Judgement


class _Receipt(msgspec.Struct, frozen=True):
    """What is read of a receipt, which another release may have written."""

    findings: tuple[_Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class VerdictGauge:
    """`run_once` is to be called every ten seconds or so."""

    database: Database
    metrics: Metrics

    def run_once(self) -> None:
        """Show the newest verification, if there is one. Raises when PostgreSQL is away."""
        with self.database.session() as session:
            newest = verifications.listed(session, limit=1)
        findings = _findings(newest[0].receipt) if newest and newest[0].receipt else ()
        self.metrics.set_verdicts(
            {(one.phase, one.check): one.judgement.verdict.exit_code for one in findings}
        )


def _findings(receipt: str) -> tuple[_Finding, ...]:
    try:
        return msgspec.json.decode(receipt, type=_Receipt).findings
    except msgspec.MsgspecError:  # of a release that knows other verdicts: nothing is known here
        return ()
