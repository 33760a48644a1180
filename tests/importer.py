"""An importer as a shop runs it: a long-lived program on Freshfetch's library, for tests and benchmarks.

    python -m tests.importer NAME COUNT DRAFTS        imports COUNT orders, one after another
    python -m tests.importer NAME 0 0                 only looks

One JSON line for each event: {"event": "ready"}, {"event": "value", "async": …, "version": …, "at": seconds since 1970} for
every change of the toggle, {"event": "order", "id": …, "job": …, "mode": …}, {"event": "error", …}. It ends at the end of its
standard input, or when its orders are in (COUNT above 0).
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

from jobs.images.words import TOGGLE
from jobs.importer import import_file
from toolkit.app import App
from toolkit.errors import ToolkitError
from toolkit.ledger.trouble import UNREACHABLE
from toolkit.settings import Settings
from toolkit.toggle.decide import Known, decide
from toolkit.toggle.switch import Switch

_saying = threading.Lock()


def say(event: str, **fields: object) -> None:
    """One line, whole."""
    with _saying:
        sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
        sys.stdout.flush()


def watch(switch: Switch) -> None:
    """Tell every change, at the moment when an order would go by it."""

    def heard(_event: str, name: str, known: Known) -> None:
        decision = decide(name, known, switched_off=switch.switched_off(name), order_id="o", merchant="m")
        say("value", **{"async": decision.enabled}, version=known.version, at=time.time(), why=decision.why)

    switch.watcher.listeners.append(heard)
    with switch.pledge() as pledge:
        choice = switch.choose(TOGGLE, "o", "m", pledge)
    say("ready", mode=choice.mode.value, why=choice.why)


def import_orders(app: App, name: str, count: int, drafts: int) -> None:
    """So many orders of so many drafts; one that could not be imported is tried again, since nothing of it is there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "order.csv"
        lines = "".join(f"S{n},Mug {n},1,2.50\n" for n in range(drafts))
        path.write_text("sku,product_name,quantity,unit_cost\n" + lines, encoding="utf-8")
        made = 0
        while made < count:
            try:
                done = import_file(app, path, merchant="m-own", number=f"{name}-{made}")
            except (ToolkitError, *UNREACHABLE) as error:
                say("error", error=str(error))
                time.sleep(0.2)
                continue
            made += 1
            say("order", id=done.order.order_id, job=done.order.job_id, mode=done.mode.value)


def main(arguments: list[str]) -> None:
    """Import, or only look."""
    name, count, drafts = arguments[0], int(arguments[1]), int(arguments[2])
    with App(Settings.from_env()) as app:
        watch(app.switch)
        if count:
            import_orders(app, name, count, drafts)
        else:
            sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
