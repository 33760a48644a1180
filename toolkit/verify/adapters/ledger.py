"""The ledger as a detector: runs of the release that ended on SQLSTATE class 23, and the planted one's row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from toolkit.errors import ToolkitError
from toolkit.jobspec import CONTROL
from toolkit.ledger import integrity
from toolkit.ledger.database import Database
from toolkit.ledger.reading import reading
from toolkit.ledger.trouble import TROUBLE
from toolkit.verify.adapters.sight import judged
from toolkit.verify.detect import Planted, Sight, Sighting


@dataclass(frozen=True, slots=True)
class Ledger:
    """Any violation of integrity counts, by constraint, or by SQLSTATE where there is none (23502: a missing value)."""

    database: Database
    source: str = "ledger"
    where: str = "toolkit.run"

    def look(
        self, release: str, since: datetime, planted: Planted | None, now: datetime, lag: float
    ) -> Sighting:
        """See Detector. `jobs`, `traces`: the newest three of each constraint."""
        try:
            with reading(self.database) as session:
                found = integrity.violations(session, release, since)
                runs = integrity.runs_of(session, release, since)
        except (ToolkitError, *TROUBLE) as error:
            said = " ".join(str(error).split())
            return Sighting(source=self.source, sight=Sight.AWAY, errors={}, planted=0, detail=said)
        real = [one for one in found if one.job_name != CONTROL]
        controls = sum(one.runs for one in found if one.job_name == CONTROL)
        errors: dict[str, int] = {}
        for one in real:
            key = one.constraint or one.sqlstate
            errors[key] = errors.get(key, 0) + one.runs
        met = planted.run_at if planted else None
        sight, detail = judged(planted, seen=met is not None, now=now, lag=lag)
        return Sighting(
            source=self.source, sight=sight, errors=errors, planted=controls, runs=max(0, runs - controls),
            after=(met - planted.at).total_seconds() if planted and met else None,
            jobs=tuple(job for one in real for job in one.jobs),
            traces=tuple(trace for one in real for trace in one.traces if trace), detail=detail,
        )  # fmt: skip
