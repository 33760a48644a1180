"""What `toolkit replay` shows: plans, progress, endings. Verdicts and results to stdout, talk to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from toolkit.cli import render, words

if TYPE_CHECKING:
    from toolkit.ledger.replay_views import Item, Landed, Plan
    from toolkit.replay.execute import Ended, Told

SHOWN: Final = 20
"""Jobs of a plan that are listed on a terminal or in a pipe; `--json` lists JSON_SHOWN."""
JSON_SHOWN: Final = 1000


def plan(frozen: Plan, items: Sequence[Item]) -> None:
    """The verdicts: the first jobs of the plan, and how many of each."""
    if items:
        render.table(
            ("job", "verdict", "why"),
            [(one.job_id, one.verdict, words.plain(one.detail)) for one in items[:SHOWN]],
            whole=("job",),
        )
    if frozen.jobs > SHOWN:
        click.echo(f"… and {frozen.jobs - SHOWN:,} more")
    click.echo(f"plan {frozen.hash}: {counted(frozen.verdicts) or 'no failed job meets the selection'}")


def to_run(frozen: Plan) -> int:
    """How many jobs the plan carries out."""
    from toolkit.replay.execute import attempted

    return sum(frozen.verdicts.get(verdict, 0) for verdict in attempted(frozen))


def ended(frozen: Plan, how: Ended, told: Told, planned: int) -> None:
    """What carrying the plan out came to."""
    from toolkit.replay.execute import attempted

    click.echo(f"{told.moved:,} of {render.many(planned, 'job')} asked again")
    if left := counted(
        {name: many for name, many in frozen.verdicts.items() if name not in attempted(frozen)}
    ):
        click.echo(f"left as they were: {left}")
    if told.changed:
        click.echo(f"changed since the plan: {counted(told.changed)}")
        render.table(
            ("job", "now", "why"),
            [(one.job_id, one.verdict, words.plain(one.detail)) for one in told.examples],
            whole=("job",),
        )
    if how.why:
        render.say(f"stopped: {how.why}")


def landed(seen: Landed) -> None:
    """What became of the jobs."""
    left = f"{seen.in_air:,} not ended yet" if seen.in_air else ""
    click.echo(
        "outcome: " + (", ".join(filter(None, (counted(seen.outcomes), left))) or "no job was asked again")
    )


def document(frozen: Plan, items: Sequence[Item], *, how: Ended | None = None, told: Told | None = None,
             seen: Landed | None = None) -> dict[str, Any]:  # fmt: skip
    """Everything, for programs."""
    made: dict[str, Any] = {
        "plan": frozen.hash,
        "replay_id": frozen.replay_id,
        "release": frozen.release,
        "selection": frozen.selection,
        "reason": frozen.reason,
        "verdicts": frozen.verdicts,
        "jobs": frozen.jobs,
        "items": [msgspec.to_builtins(one) for one in items],
    }
    if how is not None and told is not None:
        made |= {
            "ended": how.how,
            "why": how.why,
            "moved": told.moved,
            "changed": dict(told.changed),
            "changed_items": [msgspec.to_builtins(one) for one in told.examples],
            "remainder": how.remainder.hash if how.remainder else None,
        }
    if seen is not None:
        made["outcomes"] = seen.outcomes | {"in_air": seen.in_air}
    return made


class Progress:
    """How far it is: a bar on a terminal, a line every 10 s elsewhere, and each change of pace at once."""

    def __init__(self, total: int, bar: Any, task: Any) -> None:
        self._total = total
        self._bar = bar
        self._task = task
        self._next = time.monotonic() + 10.0
        self._note = ""

    def moved(self, told: Told) -> None:
        """Jobs were opened, or the pace changed."""
        settled = told.moved + told.changed.total()
        if self._bar is not None:
            self._bar.update(self._task, completed=settled, note=told.note)
        elif told.note != self._note or time.monotonic() >= self._next:
            self._next = time.monotonic() + 10.0
            render.say(f"{settled:,}/{self._total:,} jobs{f'; {told.note}' if told.note else ''}")
        self._note = told.note

    def followed(self, seen: Landed) -> None:
        """Jobs landed."""
        ended = sum(seen.outcomes.values())
        if self._bar is not None:
            self._bar.update(self._task, completed=ended, total=seen.flights, note=counted(seen.outcomes))
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + 10.0
            render.say(f"{ended:,}/{seen.flights:,} ended: {counted(seen.outcomes)}")


@contextmanager
def progress(total: int, what: str) -> Iterator[Progress]:
    """Progress over `total` jobs."""
    if not sys.stderr.isatty() or total < 2:
        yield Progress(total, None, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        yield Progress(total, bar, bar.add_task(what, total=total, note=""))


def counted(counts: Mapping[str, int]) -> str:
    """`failed 2, processed 40`: the names whose number is not 0."""
    return ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()) if number)
