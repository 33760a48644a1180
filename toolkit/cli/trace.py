"""`toolkit trace`: the spans of a job as a waterfall, all of its runs in their order.

Spans are a convenience (pruned after a day, gone with a crash of the database); of a run without them the ledger's own
account is shown.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

import click

from toolkit.cli import render, words
from toolkit.cli.options import json_option, ledger
from toolkit.telemetry import catalog

if TYPE_CHECKING:
    from toolkit.ledger.traces import TraceChunk
    from toolkit.ledger.views import JobView, RunView
    from toolkit.telemetry.draw import Line
    from toolkit.telemetry.otlp import SpanRow
    from toolkit.telemetry.waterfall import Trace

_STYLES: Final[dict[str, dict[str, object]]] = {
    "title": {"bold": True}, "tree": {"dim": True}, "bar": {"fg": "cyan"}, "wait": {"fg": "blue"}, "error": {"fg": "red"},
    "warning": {"fg": "yellow"}, "ok": {"fg": "green"}, "detail": {"dim": True}, "link": {"fg": "magenta"},
}  # fmt: skip


@click.command()
@click.argument("name", metavar="ID")
@click.option("--check", "checked", is_flag=True, help="Find the last run's exemplar, spans and log lines.")
@click.option("--metrics", multiple=True, help="Address of a /metrics, for --check.  [default: this host's]")
@click.option(
    "--log", "log", default="", envvar="TOOLKIT_LOG_FILE", help="The worker's log file, for --check."
)
@click.option(
    "--receiver",
    default="",
    envvar="TOOLKIT_TRACE_RECEIVER",
    help="Where an OTLP receiver keeps spans, for --check: a file, or a URL with {trace_id}.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    name: str,
    checked: bool,
    metrics: tuple[str, ...],
    log: str,
    receiver: str,
    as_json: bool,
) -> int:
    """The trace of a job as a waterfall: asked for, waiting, and every step of every run.

    ID is a job id or a unique beginning of it (6 characters or more), a run id, a trace id, or an id in the payload such as
    a purchase order's. A trace that several jobs share is shown with all of them; one of no job (a flip's) by itself.

    --check walks from metric to trace to log instead: exit code 1 when a trail is missing, 3 when one was not looked for.
    """
    from toolkit.ledger import find, queries
    from toolkit.telemetry import waterfall

    with ledger(ctx) as seen:
        found = find.find(seen.session, name)
        chunks = [] if found else queries.span_chunks(seen.session, [], [name])
        if not found and not chunks:
            found = find.some(seen.session, name)
        by_trace = not found or found[0].by == "trace id"
        ids = (
            [match.job_id for match in found[: find.MOST]]
            if by_trace
            else [find.only(seen.session, name, found)]
        )
        views = sorted(
            (queries.job(seen.session, job_id) for job_id in ids), key=lambda view: view.line.asked_at
        )
        chunks = chunks or queries.span_chunks(
            seen.session, ids, [one for view in views for one in view.trace_ids]
        )
    spans, torn = _read(chunks)
    drawn = waterfall.arrange(spans)
    bare = _without_spans(views, spans)
    if torn:
        render.say(f"note: {torn} chunks of spans could not be read and are left out")
    if checked:
        from toolkit.cli.trace_check import check_last_run

        return check_last_run(
            seen.app.settings, views, spans, metrics=metrics, log=log, receiver=receiver, as_json=as_json
        )
    if as_json:
        render.as_json({
            "jobs": [view.line for view in views],
            "traces": waterfall.as_json(drawn),
            "runs_without_spans": bare,
        })  # fmt: skip
        return 0
    for view in views:
        _head(view, seen.now)
    click.echo("")
    for text in _in_order(drawn, bare, seen.now):
        click.echo(text)
    if not all(view.runs for view in views):
        render.say("a job that has not run has no spans but those of who asked for it")
    if bare:
        render.say(_why_bare(bare))
    if views:
        render.next_steps(*(f"toolkit jobs show {view.line.job_id[: words.SHORT]}" for view in views))
    return 0


def _read(chunks: Iterable[TraceChunk]) -> tuple[list[SpanRow], int]:
    """The spans, and how many chunks are torn."""
    from toolkit.telemetry.otlp import MalformedSpans, read_spans

    spans: list[SpanRow] = []
    torn = 0
    for chunk in chunks:
        try:
            spans += read_spans(chunk.spans)
        except MalformedSpans:
            torn += 1
    return spans, torn


def _without_spans(views: Sequence[JobView], spans: Iterable[SpanRow]) -> list[RunView]:
    told = {span.attributes.get(catalog.RUN_ID) for span in spans}
    return [run for view in views for run in view.runs if run.run_id not in told]


def _head(view: JobView, now: datetime) -> None:
    line = view.line
    state = click.style(line.state, fg=render.STYLES.get(line.state, "").rpartition(" ")[2] or None)
    what = words.plain(words.what(line, now))
    click.echo(
        f"{click.style(line.job_name, bold=True)}  {line.job_id}  {state}{f'  {what}' if what else ''}"
    )


def _in_order(traces: Sequence[Trace], bare: Sequence[RunView], now: datetime) -> list[str]:
    """Waterfalls, and the ledger's lines for runs without spans, by the time they began."""
    from toolkit.telemetry.draw import draw

    width = shutil.get_terminal_size((100, 24)).columns
    blocks = [
        (trace.start_ns, [*(_styled(line) for line in draw([trace], width=width)), ""]) for trace in traces
    ]
    blocks += [(int(run.started_at.timestamp() * 1e9), [_bare(run, now)]) for run in bare]
    return [text for _, block in sorted(blocks, key=lambda block: block[0]) for text in block]


def _styled(line: Line) -> str:
    if not sys.stdout.isatty():
        return str(line)
    return "".join(click.style(part.text, **_STYLES.get(part.style, {})) for part in line.segments)  # type: ignore[arg-type]


def _bare(run: RunView, now: datetime) -> str:
    """A run as the ledger has it, on one line."""
    outcome = run.outcome or "running"
    head = click.style(f"{outcome}: {run.reason}" if run.reason else outcome,
                       fg=render.STYLES.get(outcome, "").rpartition(" ")[2] or None)  # fmt: skip
    took = run.duration if run.duration is not None else (now - run.started_at).total_seconds()
    error = words.plain(": ".join(part for part in (run.error_type, run.error_message) if part))
    parts = (
        f"run {run.number} (no spans)",
        head,
        error,
        f"began {words.when(run.started_at, now)}",
        f"waited {render.seconds(run.queue_wait)}",
        f"{'took' if run.outcome else 'for'} {render.seconds(took)}",
        words.counts(run.counts),
        words.plain(run.worker),
    )
    return "  ".join(part for part in parts if part)


def _why_bare(bare: Sequence[RunView]) -> str:
    """Why there are no spans, as far as one can know."""
    reasons = []
    if any(run.outcome is None for run in bare):
        reasons.append("a run tells its spans when it ends")
    if any(run.outcome == "lost" for run in bare):
        reasons.append("the spans of a lost run died with its worker")
    if any(run.outcome not in {None, "lost"} for run in bare):
        from toolkit.ledger.traces import KEEP_HOURS

        reasons.append(
            f"spans are kept for {KEEP_HOURS} h, do not outlive a crash of PostgreSQL, and may have been dropped"
        )
    return "runs without spans are shown as the ledger has them: " + "; ".join(reasons)
