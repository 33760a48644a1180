"""A verification as an annotation in Grafana: one of each, brought up to date by every publish.

    annotation, warning = publish(url, token, annotation, receipt)

It spans from the deployment to the last look. Tags: `freshfetch`, `verify-deploy`, `release:…`, `verification:…`. A Grafana that
does not answer, or refuses, costs a warning and never the verdict.
"""

from __future__ import annotations

import html

from toolkit.errors import ToolkitError
from toolkit.grafana import Grafana, Note
from toolkit.verify.report import words
from toolkit.verify.verdict import Receipt


def publish(url: str, token: str, annotation: str | None, receipt: Receipt) -> tuple[str | None, str]:
    """Make the annotation, or bring it up to date. `annotation`: its id, as it was kept from the last time. Returns the id to
    keep, and what went wrong ('' for nothing)."""
    try:
        with Grafana.connect(url, token) as grafana:
            return grafana.annotate(annotation, note(receipt)), ""
    except ToolkitError as error:
        return annotation, f"no annotation in Grafana: {error} ({error.remedy})"


def note(receipt: Receipt) -> Note:
    """What it says. Grafana shows a text as HTML, so it is escaped."""
    shown = words.cleaned(receipt)
    lines = [words.headline(shown), words.why(shown)]
    lines += [f"{way.name}: {way.command}" for way in shown.rescues]
    tags = (
        "freshfetch",
        "verify-deploy",
        f"release:{shown.release}"[:100],
        f"verification:{shown.verification_id}",
    )
    return Note(
        text="\n".join(html.escape(line, quote=False) for line in lines),
        tags=tags,
        begin=shown.since,
        end=max(shown.looked_at, shown.since),
    )
