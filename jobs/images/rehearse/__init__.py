"""The image job in the sealed room: its scenarios, the kept bodies of the incident, its mutants, its incident's cast."""

from __future__ import annotations

from jobs.images.rehearse.bodies import table
from jobs.images.rehearse.incident import ImageCast
from jobs.images.rehearse.mutants import MUTANTS
from jobs.images.rehearse.scenarios import scenarios
from jobs.images.rehearse.shop import prepare
from toolkit.rehearse.words import Rehearsal

REHEARSAL = Rehearsal(
    name="images",
    cast=ImageCast(),
    prepare=prepare,
    scenarios=scenarios,
    table=table,
    mutants=MUTANTS,
    sources=(
        "jobs.catalog",
        "jobs.images.attach",
        "jobs.images.fetch",
        "jobs.images.job",
        "jobs.images.words",
        "jobs.images.search.urls",
        "toolkit.failures",
        "toolkit.jobspec",
        "toolkit.ledger.database",
        "toolkit.ledger.migrations",  # the fence and the lease are SQL functions
        "toolkit.ledger.runs",
        "toolkit.perform",
        "toolkit.run",
    ),
)
