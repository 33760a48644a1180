"""A receipt as one HTML page: no other file, no script, light and dark, fit for paper.

    path.write_text(render(receipt, runbooks))

The template is page.html, beside this file; every text is escaped by Jinja. Known weakness: a plot is wider than a telephone,
and is moved sideways there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import jinja2

from toolkit.verify.report import plots, words
from toolkit.verify.verdict import Receipt, Verdict

MEANINGS: Final = {
    Verdict.PROVEN: "the rule holds, and there is enough evidence that it does",
    Verdict.REGRESSION: "the rule is broken",
    Verdict.INCONCLUSIVE: "evidence is missing, stale, or its source cannot be believed; that is no pass",
    Verdict.PENDING: "still collecting",
}


def render(receipt: Receipt, runbooks: Mapping[str, str] = {}) -> str:
    """The whole page. `runbooks`: the path of each check's runbook, by the check's name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"when": words.when, "span": words.span}
    shown = words.cleaned(receipt)
    return environment.get_template("page.html").render(
        receipt=shown,
        words=words,
        plots=plots,
        runbooks=runbooks,
        meanings=MEANINGS,
        totals={
            name: sum(getattr(one, name) for one in shown.plots.moments)
            for name in (*plots.OUTCOMES, "fk_errors")
        },
    )
