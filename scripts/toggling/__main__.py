"""`scripts/toggle-soak`: 100 flips during 1,000 orders, with kills of workers; exit code 1 when anything is not as it must be."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from scripts.benchmarks.room import own_room
from scripts.toggling.storm import account, storm, wrong
from toolkit.cli import render


@click.command()
@click.option("--orders", default=1000, show_default=True, help="Purchase orders, of two drafts each.")
@click.option("--flips", default=100, show_default=True)
@click.option("--kills", default=20, show_default=True, help="Kills of a random worker process.")
@click.option("--seed", default=4, show_default=True, help="Of the dice that choose when and whom.")
def main(orders: int, flips: int, kills: int, seed: int) -> None:
    """Flip the switch while orders come in and workers are killed, on embedded servers of its own; then count."""
    with own_room() as room, room.database(orders=0, drafts=0) as url:
        folder = Path(room.folder)
        came = storm(
            (url, room.servers.valkey.url), folder, orders=orders, flips=flips, kills=kills, seed=seed
        )
        found = account(url)
        log = room.servers.postgres.log.read_text(errors="replace")
    times = sorted(came.receipts)
    faults = wrong(came, found, flips)
    if "violates foreign key" in log:
        faults.append("the server's log tells of a foreign key error")
    render.fields(
        {
            "orders": f"{came.orders:,} in {render.seconds(came.seconds)}: {found['async']:,} async, {found['sync']:,} sync",
            "flips": f"{flips}; receipt p50 {render.seconds(times[len(times) // 2])}, slowest {render.seconds(times[-1])}",
            "workers killed": f"{came.kills}; runs lost and done again: {found['lost_runs']}",
            "queued jobs": f"{came.taken_back:,} taken back, {came.reclaimed:,} of them done by the command",
            "account": "; ".join(faults) or "images exactly once, nothing lost, no 23503",
        }
    )
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
