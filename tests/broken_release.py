"""A release that is broken as the incident's was, for worker processes: TOOLKIT_JOBS=tests.broken_release:SPEC.

Its body is the museum's `first-fix`: drafts read when the job begins, searched one after another, and inserted by their ids
with no lock. The search is that of tests/gates.py: a draft that the test deletes while it waits at a gate is a real 23503;
drafts of any other name have their images, as a broken release's mostly do.
"""

from __future__ import annotations

import dataclasses

import msgspec

from jobs.images.museum import first_fix
from jobs.images.payload import ImagePayload
from tests.gates import SPEC as GATED
from toolkit.perform import JobContext
from toolkit.run import Result


def unlocked(context: JobContext, payload: ImagePayload) -> Result:
    """The body. Raises psycopg.Error: 23503 for a draft that went since it was read."""
    return first_fix(context, msgspec.to_builtins(payload))


SPEC = dataclasses.replace(GATED, body=unlocked)
