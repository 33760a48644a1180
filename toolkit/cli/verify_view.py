"""How a verification is shown: its verdict first, then the checks, what cannot be believed, and the ways back.

While it is followed: a table that is drawn again on a terminal, one line a change in a pipe. Data to stdout, talk to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from toolkit.cli import render
from toolkit.verify.report import words
from toolkit.verify.report.words import Collected
from toolkit.verify.verdict import Finding, Receipt, Verdict

if TYPE_CHECKING:
    from toolkit.verify.simulate import Row, Simulation

NAMED: Final = 5
"""Jobs and traces of a check that are named."""
_TENTH: Final = 10


def show(receipt: Receipt, runbooks: Mapping[str, str] = {}) -> None:
    """The receipt for people. `runbooks`: the path of each check's runbook, by the check's name."""
    shown = words.cleaned(receipt)
    click.echo(click.style(words.headline(shown), fg=_colour(shown.verdict), bold=True))
    click.echo(words.why(shown))
    click.echo("")
    rows = [(one.phase, one.check, one.verdict.value, one.judgement.said) for one in shown.findings]
    render.table(("phase", "check", "verdict", "found"), rows)
    for finding in shown.findings:
        if finding.verdict in {Verdict.REGRESSION, Verdict.INCONCLUSIVE}:
            _details(finding, shown.since, runbooks.get(finding.check, ""))
    _confounded(shown)
    _rescues(shown)
    _after(shown)


def _details(finding: Finding, since: datetime, runbook: str) -> None:
    """What stands behind a check that is not proven; `since`: when the window begins."""
    judgement = finding.judgement
    begins = f"its evidence begins at {words.when(finding.since)}: see inside the window"
    lines = [
        *([begins] if finding.since > since else []),
        *judgement.notes,
        *(f"cannot be believed: {source}" for source in judgement.blind),
        *(f"does not answer: {source}" for source in judgement.unreachable),
        *_few("jobs", judgement.jobs),
        *_few("traces", judgement.traces),
        *([f"runbook: {runbook}"] if runbook else []),
    ]
    if lines:
        click.echo("")
        render.heading(finding.check)
        for line in lines:
            click.echo(f"  {line}")


def _few(what: str, ids: tuple[str, ...]) -> list[str]:
    if not ids:
        return []
    more = f", and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return [f"{what}: {', '.join(ids[:NAMED])}{more}"]


def _confounded(receipt: Receipt) -> None:
    if receipt.events:
        click.echo("")
        render.heading("inside the window")
        for event in receipt.events:
            click.echo(f"  {event.kind} {words.when(event.at)}: {event.what} ({event.who})")


def _rescues(receipt: Receipt) -> None:
    if receipt.rescues:
        click.echo("")
        render.heading("ways back, the fastest first")
        for number, way in enumerate(receipt.rescues, 1):
            soon = "never measured here" if way.seconds is None else f"safe after {words.span(way.seconds)}"
            click.echo(f"  {number}. {way.name}: {soon} ({way.measured})")
            click.echo(f"     {way.command}")


def _after(receipt: Receipt) -> None:
    """How it was made, and what to type next: talk."""
    render.say("")
    render.say(
        f"evidence since {words.when(receipt.since)} ({receipt.since_what}); verification {receipt.verification_id}"
    )
    if receipt.certificate:
        render.say(f"races: {receipt.certificate}")
    for phase, at in receipt.later.items():
        render.say(f"{phase}: not before {words.when(at)}")
    if receipt.left:
        render.say(
            click.style("warning: ", fg="yellow")
            + f"{receipt.left} rows of test orders are still in the catalog"
        )
    if steps := words.commands(receipt):
        render.next_steps(*steps)


def _colour(verdict: Verdict) -> str:
    return render.STYLES[verdict.value].rpartition(" ")[2]


# While it is followed


def changes(before: Receipt | None, after: Receipt) -> list[str]:
    """What is new since the look before (None: this is the first), one line each: verdicts, every tenth of the evidence,
    sources, events."""
    now, then = words.cleaned(after), words.cleaned(before) if before else None
    known = {(one.phase, one.check): one for one in then.findings} if then else {}
    share, had = _tenths(now), _tenths(then) if then else {}
    lines = []
    for one in now.findings:
        old = known.get((one.phase, one.check))
        if old is None:
            lines.append(f"{one.phase} {one.check}: {one.verdict}: {one.judgement.said}")
        elif old.verdict is not one.verdict:
            lines.append(f"{one.phase} {one.check}: {old.verdict} → {one.verdict}: {one.judgement.said}")
        elif _trouble(old) != _trouble(one) or had.get(one.check) != share.get(one.check):
            lines.append(f"{one.phase} {one.check}: {one.verdict}: {one.judgement.said}")
    sources = then.sources if then else {}
    lines += [f"source {name}: {how}" for name, how in now.sources.items() if sources.get(name) != how]
    seen = set(then.events) if then else set()
    lines += [
        f"{one.kind} {words.when(one.at)}: {one.what} ({one.who})" for one in now.events if one not in seen
    ]
    if then is not None and then.verdict is not now.verdict:
        lines.append(f"verdict: {then.verdict} → {now.verdict}")
    return [f"{now.looked_at:%H:%M:%S} {line}" for line in lines]


def _trouble(finding: Finding) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return finding.judgement.blind, finding.judgement.unreachable


def _tenths(receipt: Receipt) -> dict[str, int]:
    return {one.check: int(one.share * _TENTH) for one in words.collected(receipt)}


def live(receipt: Receipt) -> RenderableType:
    """The table of a verification under way, for rich.live."""
    shown = words.cleaned(receipt)
    counted = {one.check: one for one in words.collected(shown)}
    drawn = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("phase", "check", "verdict", "evidence"):
        drawn.add_column(column, no_wrap=column == "verdict")
    drawn.add_column("found", overflow="fold", ratio=1)
    for one in shown.findings:
        drawn.add_row(
            one.phase,
            Text(one.check),
            Text(f"{words.MARKS[one.verdict]} {one.verdict}", style=render.STYLES[one.verdict.value]),
            _bar(counted.get(one.check)),
            Text(one.judgement.said),
        )
    head = Text(words.headline(shown), style=f"bold {_colour(shown.verdict)}")
    foot = Text(
        f"looked at {shown.looked_at:%H:%M:%S} UTC; Ctrl-C stops, nothing is lost"
        f" (toolkit verify-deploy --resume {shown.verification_id})",
        style="dim",
    )
    return Group(head, drawn, foot)


def _bar(counted: Collected | None) -> RenderableType:
    if counted is None:
        return Text("")
    return ProgressBar(
        total=1.0, completed=counted.share, width=12, complete_style="cyan", finished_style="green"
    )


class Screen:
    """Shows a verification while it is followed. `quiet`: says nothing on stdout. On a terminal the table is taken away at the
    end, for `show` to stand in its place; in a pipe there are lines only while it is watched."""

    def __init__(self, *, watch: bool, quiet: bool) -> None:
        self._lines = watch and not quiet
        self._live: Live | None = None
        if not quiet and sys.stdout.isatty():
            self._live = Live(console=Console(), auto_refresh=False, transient=True)
        self._last: Receipt | None = None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def told(self, receipt: Receipt) -> None:
        """A look."""
        if self._live:
            self._live.update(live(receipt), refresh=True)
        elif self._lines:
            for line in changes(self._last, receipt):
                click.echo(line)
        self._last = receipt

    def trouble(self, said: str) -> None:
        """PostgreSQL is away; it is asked again."""
        render.say(click.style("waiting: ", fg="yellow") + words.printable(said))


def simulation(played: Simulation) -> None:
    """How often the rules were wrong."""
    render.heading(
        f"{played.runs:,} made-up releases with a true failure rate of {played.true_rate:.3%},"
        f" undecided after {played.cap:,} jobs"
    )
    rows = [
        (one.rule, f"{one.proven:.2%}", f"{one.regression:.2%}", f"{one.undecided:.2%}", f"{one.mean_jobs:,.0f}",
         f"{one.median_jobs:,.0f}", _claim(one))
        for one in played.rows
    ]  # fmt: skip
    columns = ("rule", "proven", "regression", "undecided", "mean jobs", "median jobs", "claim")
    render.table(columns, rows, right=columns[1:6])


def _claim(row: Row) -> str:
    claim = row.claim
    if claim is None:
        return "none here"
    word = "holds" if claim.holds else "BROKEN"
    return f"{word}: {claim.error} at most {claim.at_most:.2%}, seen {claim.seen:.2%} ({claim.low:.2%} to {claim.high:.2%})"
