"""`toolkit import FILE`: a purchase order through the workflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolkit.app import App
from toolkit.cli import render
from toolkit.settings import Settings

if TYPE_CHECKING:
    from jobs.workflow import ImportedOrder
    from toolkit.toggle.switch import Choice


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--merchant", metavar="ID", help="The merchant's id, when the file does not name it.")
@click.option("--number", metavar="N", help="The order number, when the file does not name it.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def command(file: Path, merchant: str | None, number: str | None, as_json: bool) -> int:
    """Import a purchase order and ask for its product images.

    \b
    CSV:   sku,product_name,quantity,unit_cost,product_url     (the last is optional)
           with --merchant and --number, or columns merchant and order_number
    JSON:  {"merchant": "m1", "orderNumber": "PO-1", "lines": [{"sku": "A1",
            "productName": "Mug", "quantity": 3, "unitCost": "4.50"}]}

    The order, its drafts and the request for the image job are one transaction: all or nothing. A broken file changes
    nothing, and its error names line and column. While ASYNC_IMAGE_PROCESSING is off (`toolkit toggle`, or =false in the
    environment) the images are searched here and now, by the very same job.
    """
    from jobs.importer import import_file

    with App(Settings.from_env()) as app, render.progress("lines") as progress:

        def committed(order: ImportedOrder, choice: Choice) -> None:
            progress.done()
            if choice.mode == "sync":
                render.say(
                    f"order {order.order_id} is in; searching its images here and now, since {choice.why} …"
                )

        imported = import_file(
            app, file, merchant=merchant, number=number, progress=progress.update, committed=committed
        )
    order, performed = imported.order, imported.performed
    record = performed.record if performed else None
    if as_json:
        made = {
            "order_id": order.order_id, "workflow_id": order.workflow_id, "job_id": order.job_id, "lines": order.lines,
            "drafts": order.drafts, "mode": imported.mode, "mode_because": imported.why, "trace_id": imported.trace_id,
            "result": performed.answer if performed else None,
        }  # fmt: skip
        render.as_json(made)
    else:
        click.echo(
            f"order {order.order_id}: {order.lines:,} lines, {order.drafts:,} drafts, job {order.job_id}"
        )
        if record is not None:
            click.echo(
                f"images: {record.outcome}{' ' + record.reason if record.reason else ''} in {render.seconds(record.duration)}"
            )
        render.next_steps(f"toolkit jobs show {order.job_id}", f"toolkit trace {order.job_id}")
    return 1 if record is not None and record.failure is not None else 0
