"""A purchase order file, all the way in: read, workflow in one transaction, and the images now (synchronous mode) or later.

The order's mode is fixed when it is created, by asking the toggle through OpenFeature, and travels in its intent. In
synchronous mode the same job body runs here, with the same run, spans and counts; the order is committed before, so a failure
of the images loses no order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from opentelemetry.trace import SpanKind

from jobs.catalog import id_maker
from jobs.images import words
from jobs.orders.read import read_order
from jobs.workflow import ImportedOrder, import_order
from toolkit.app import App
from toolkit.ledger import intents
from toolkit.perform import Performed
from toolkit.run import Mode
from toolkit.telemetry import catalog
from toolkit.telemetry.traces import inject
from toolkit.toggle.switch import Choice


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of a file: the order, its mode and why, its trace, and the inline run's end (None in asynchronous mode)."""

    order: ImportedOrder
    mode: Mode
    why: str
    trace_id: str
    performed: Performed | None


def import_file(
    app: App,
    path: Path,
    *,
    merchant: str | None = None,
    number: str | None = None,
    progress: Callable[[int], None] | None = None,
    committed: Callable[[ImportedOrder, Choice], None] | None = None,
) -> Imported:
    """Import one purchase order file. `progress` is told lines written, `committed` the order and its mode before an inline
    run.

    Raises InputFileError (nothing is changed), AlreadyImported, NotInitialised, DependencyUnreachable.
    """
    order = read_order(path, merchant, number)
    app.require_schema()
    spec = app.registry.get(words.NAME)
    switch = app.switch
    choice = Choice(Mode.SYNC, "not asked yet")
    tracer = app.tracing.tracer
    with tracer.start_as_current_span("import order", attributes={"order.lines": order.count}) as root:
        trace_id = f"{root.get_span_context().trace_id:032x}"

        def ask(connection: sa.Connection, payload: Mapping[str, Any]) -> str:
            with tracer.start_as_current_span(
                catalog.span_enqueue(spec.queue), kind=SpanKind.PRODUCER
            ) as span:
                job_id = intents.ask(
                    connection,
                    spec,
                    payload,
                    mode=choice.mode,
                    release=app.settings.release,
                    context=inject(span),
                )
                span.set_attributes(catalog.messaging_attributes(catalog.OPERATION_SEND, spec.queue, job_id))
            return job_id

        with switch.pledge() as pledge, app.database.begin() as connection:

            def choose(order_id: str, merchant_id: str) -> Mode:
                nonlocal choice
                choice = switch.choose(spec.toggle, order_id, merchant_id, pledge)
                return choice.mode

            imported = import_order(
                connection,
                order,
                ask=ask,
                now=datetime.now(UTC),
                new_id=id_maker(lambda: datetime.now(UTC), os.urandom),
                progress=progress,
                mode=choose,
                create_merchant=app.settings.database_url is None,
            )
    sink = app.inline_sink()
    data, count = app.tracing.take()
    sink.spans(trace_id, imported.job_id, "", data, count)
    if committed is not None:
        committed(imported, choice)
    performed = None
    if choice.mode is Mode.SYNC:
        performed = app.inline.perform(imported.job_id, mode=Mode.SYNC)
    return Imported(imported, choice.mode, choice.why, trace_id, performed)
