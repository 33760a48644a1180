"""What a verification's page draws, from the ledger: outcomes over time, and durations beside the last release's."""

from __future__ import annotations

from toolkit.ledger import plots
from toolkit.ledger.database import Database
from toolkit.ledger.reading import reading
from toolkit.verify.check import Target
from toolkit.verify.verdict import Moment, Plots


def plotted(database: Database, target: Target, job_name: str) -> Plots:
    """Of this job's runs. Raises as `reading`."""
    with reading(database) as session:
        moments = plots.moments(session, target.release, job_name, target.since, target.now)
        durations = plots.durations(session, target.release, job_name, target.since, target.now)
        before = plots.durations(session, target.previous, job_name, *target.before) if target.before else []
    return Plots(
        slice=plots.slice_of(target.since, target.now),
        moments=tuple(Moment(*one) for one in moments),
        durations=tuple(durations),
        before=tuple(before),
    )
