"""Capturing a failed job as a case: what was asked, the rows it reads, what the world outside answered, the clock, the error.
Reads only, in one snapshot. Redacted unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import msgspec
from psycopg.rows import class_row

from toolkit.errors import NotFound, PayloadRefused, UsageError
from toolkit.jobspec import JobSpec, Payload, Registry, Rows
from toolkit.ledger import queries
from toolkit.ledger.database import Session
from toolkit.ledger.views import JobView, RunView
from toolkit.rehearse.case_file import FORMAT, Case, Ending, Table, Unique
from toolkit.rehearse.redact import Redactor, ids_in
from toolkit.run import Mode, Outcome
from toolkit.telemetry.otlp import MalformedSpans, SpanRow, read_spans

_UNIQUE = """
SELECT t.relname AS "table", i.relname AS name, array_agg(a.attname::text ORDER BY k.place) AS columns
FROM pg_index x JOIN pg_class t ON t.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
CROSS JOIN LATERAL unnest(x.indkey) WITH ORDINALITY k (attnum, place)
JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum
WHERE x.indisunique AND NOT x.indisprimary AND x.indpred IS NULL AND x.indexprs IS NULL
      AND x.indrelid = ANY (SELECT to_regclass(quote_ident(name))::oid FROM unnest(%s::text[]) name)
GROUP BY 1, 2 ORDER BY 1, 2"""


def capture(session: Session, registry: Registry, job_id: str, *, now: datetime, raw: bool = False) -> Case:
    """The newest failed run of the job, as a case. Raises NotFound when it has not failed, UsageError when its job has no
    hooks for capturing, PayloadRefused when no ids can be had from its payload."""
    view = queries.job(session, job_id)
    run = failed_run(view)
    spec = registry.get(view.line.job_name)
    if spec.case is None:
        raise UsageError(
            f"jobs named {spec.name} cannot be captured", remedy="give its JobSpec a `case` (CaseHooks)"
        )
    payload, older = todays(spec, view.line.payload)
    rows = spec.case.snapshot(session, payload)
    answers = spec.case.answers(_spans(session, job_id, run), rows)
    redactor = None if raw else Redactor(ids_in(rows, view.line.payload) | ids_in((), _plain(spec, payload)))
    tables = tuple(
        _table(one, redactor) for one in rows
    )  # first: it learns the addresses that the message may name
    return Case(
        format=FORMAT,
        job_name=spec.name,
        payload=redactor.payload(view.line.payload) if redactor else view.line.payload,
        mode=Mode(run.mode),
        release=run.release,
        asked_at=view.line.asked_at,
        ran_at=run.started_at,
        captured_at=now,
        redacted=not raw,
        error=ending(run),
        message=redactor.message(run.error_message or "") if redactor else run.error_message or "",
        fingerprint=run.fingerprint or "",
        tables=tables,
        unique=tuple(_unique(session, [one.table for one in rows])),
        answers=tuple(_redacted(one, spec, redactor) for one in answers),
        notes=tuple(_notes(run, answers, older=older, now=now)),
    )


def failed_run(view: JobView) -> RunView:
    """The newest run that failed or was lost."""
    for run in reversed(view.runs):
        if run.outcome in {Outcome.FAILED, Outcome.LOST}:
            return run
    raise NotFound(
        f"job {view.line.job_id} has no failed run", remedy="`toolkit jobs failed` shows those that have"
    )


def ending(run: RunView) -> Ending:
    """How a run of the ledger ended."""
    return Ending(
        outcome=run.outcome or "",
        reason=run.reason,
        error_type=run.error_type or "",
        sqlstate=run.sqlstate or "",
        constraint=run.constraint or "",
    )


def todays(spec: JobSpec, payload: Mapping[str, Any]) -> tuple[Payload, bool]:
    """The payload in today's form, and whether it was in an older one. Raises PayloadRefused."""
    try:
        return spec.decode(payload), False
    except PayloadRefused:
        if spec.upcast is None:
            raise
    return spec.decode(spec.encode(spec.upcast(payload))), True


def _plain(spec: JobSpec, payload: Payload) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.json.decode(spec.encode(payload))
    return plain


def _spans(session: Session, job_id: str, run: RunView) -> list[SpanRow]:
    """The run's spans, where they are still kept; its trace may hold those of who asked for the job, too."""
    spans: list[SpanRow] = []
    for chunk in queries.span_chunks(session, [job_id], []):
        try:
            spans += read_spans(chunk.spans)
        except MalformedSpans:
            continue
    begin = run.started_at.timestamp() - 1
    end = run.finished_at.timestamp() + 1 if run.finished_at else float("inf")
    return [span for span in spans if span.trace_id == run.trace_id and begin <= span.start_ns / 1e9 <= end]


def _unique(session: Session, tables: Sequence[str]) -> list[Unique]:
    with session.cursor(row_factory=class_row(Unique)) as cursor:
        return cursor.execute(_UNIQUE, (list(tables),)).fetchall()


def _table(rows: Rows, redactor: Redactor | None) -> Table:
    def cell(holds: Any, value: Any) -> Any:
        return _portable(redactor.value(holds, value) if redactor else value)

    kinds = tuple(rows.columns.values())
    return Table(
        table=rows.table,
        columns=tuple(rows.columns),
        rows=tuple(
            tuple(cell(holds, value) for holds, value in zip(kinds, row, strict=True)) for row in rows.rows
        ),
    )


def _portable(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value


def _redacted(answer: Mapping[str, Any], spec: JobSpec, redactor: Redactor | None) -> dict[str, Any]:
    if redactor is None or spec.case is None:
        return dict(answer)
    fields = spec.case.answer_fields
    return {name: redactor.value(fields.get(name, "plain"), value) for name, value in answer.items()}


def _notes(run: RunView, answers: Sequence[object], *, older: bool, now: datetime) -> list[str]:
    notes = [
        f"the rows are as they were when this was captured, {(now - run.started_at).total_seconds():.0f} s after the run"
    ]
    if older:
        notes.append("the payload is of an older form")
    if answers:
        notes.append("answers are known by their spans: how they ended, not what was in them")
    else:
        notes.append("no spans of the run are kept: what the world outside answered is not known")
    if run.outcome == Outcome.LOST:
        notes.append("the run was lost with its worker, which a rehearsal does not repeat")
    return notes
