"""The page's plots: outcomes over time, and how long runs take beside the last proven release. Pure.

Colours are Okabe and Ito's (2008), told apart by the colour-blind; outcomes are stacked in the
legend's order, and foreign key errors differ by shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from markupsafe import Markup

from toolkit.telemetry.draw import duration
from toolkit.verify.report.svg import WIDE, Scale, path, picture, tag, text, time_ticks
from toolkit.verify.report.words import quantile, when
from toolkit.verify.verdict import Event, Moment, Receipt

WIDTH: Final = 960.0
LEFT: Final = 62.0
RIGHT: Final = WIDTH - 36.0
BAR: Final = 5.0
"""Least width of a bar: narrower slices are put together."""
OUTCOMES: Final = ("processed", "skipped", "failed", "lost")
"""From the bottom up."""
_FLAG: Final = 11.0
_FLOOR: Final = 0.001
"""Seconds: shorter runs are drawn there."""


def outcomes(receipt: Receipt) -> Markup:
    """Runs in each slice of time, stacked by outcome; foreign key errors and events marked."""
    moments, every = merged(receipt.plots.moments, receipt.plots.slice)
    first, last = _ends(receipt, every)
    x = Scale(first.timestamp(), last.timestamp(), LEFT, RIGHT)
    flags = _flags(receipt.events, x)
    rows = 1 + max((row for _, row in flags), default=-1)
    top = 14 + rows * (2 * _FLAG + 3) + (14 if any(one.fk_errors for one in moments) else 0)
    bottom = top + 210
    highest = max((_total(one) for one in moments), default=0)
    y = Scale(0, max(1, highest), bottom, top)
    parts = [
        _frame(top, bottom),
        *(_mark_y(y(value), f"{value:,.0f}") for value in y.ticks(5) if value == int(value)),
        *_time_axis(first, last, x, bottom),
        _label_y(f"runs in {_slice(every)}", top, bottom),
    ]
    if highest:
        width = max(1.5, (x(first.timestamp() + every) - x(first.timestamp())) * 0.86)
        parts += [part for one in moments for part in _stack(one, x(one.at.timestamp()), width, y)]
    else:
        parts.append(_nothing(f"no run of this release since {when(receipt.since)}", top, bottom))
    for number, (event, (at, row)) in enumerate(zip(receipt.events, flags, strict=True), 1):
        parts.append(_flag(event, number, at, 14 + row * (2 * _FLAG + 3), bottom))
    sums = {name: sum(getattr(one, name) for one in moments) for name in (*OUTCOMES, "fk_errors")}
    told = ", ".join(
        f"{count:,} {name.replace('fk_errors', 'foreign key errors')}" for name, count in sums.items()
    )
    return picture(
        WIDTH, bottom + 46, name="outcomes", title="Runs of this release over time, by outcome",
        described=f"From {when(first)} to {when(last)}: {told}; {len(receipt.events)} events.", parts=parts,
    )  # fmt: skip


def merged(moments: Sequence[Moment], every: float) -> tuple[list[Moment], float]:
    """The same in slices that are wide enough to be seen, and their length in seconds."""
    if not moments:
        return [], every
    begin = min(one.at for one in moments)
    reach = (max(one.at for one in moments) - begin).total_seconds() + every
    by = max(1, math.ceil(reach / every / ((RIGHT - LEFT) / BAR)))
    if by == 1:
        return list(moments), every
    together: dict[int, Moment] = {}
    for one in moments:
        number = int((one.at - begin).total_seconds() // (every * by))
        had = together.get(number) or Moment(begin + timedelta(seconds=number * every * by), 0, 0, 0, 0, 0)
        counts = {name: getattr(had, name) + getattr(one, name) for name in (*OUTCOMES, "fk_errors")}
        together[number] = msgspec.structs.replace(had, **counts)
    return list(together.values()), every * by


def durations(receipt: Receipt) -> Markup:
    """The share of runs that were done within a time: this release's and the last proven one's, p95 marked."""
    now, before = (
        sorted(max(_FLOOR, one) for one in values)
        for values in (receipt.plots.durations, receipt.plots.before)
    )
    top, bottom = 14.0, 250.0
    every = [*now, *before] or [0.1, 10.0]
    low, high = min(every), max(every)
    x = Scale(low / 1.15, high * 1.15, LEFT, RIGHT, log=True)
    y = Scale(0, 100, bottom, top)
    parts = [
        _frame(top, bottom),
        *(_mark_y(y(value), f"{value:.0f} %") for value in (0, 25, 50, 75, 95)),
        _label_y("share of the runs", top, bottom),
        text(
            (LEFT + RIGHT) / 2,
            bottom + 40,
            "done within (logarithmic)",
            anchor="middle",
            class_="axis",
        ),
    ]
    for value in x.ticks(9):
        parts += [
            tag("line", x1=x(value), x2=x(value), y1=bottom, y2=bottom + 5, class_="line"),
            text(x(value), bottom + 20, _time(value), anchor="middle"),
        ]
    for values, name in ((before, "before"), (now, "now")):
        if values:
            parts += _curve(values, name, x, y)
    if not every or not (now or before):
        parts.append(
            _nothing("no run of this release has ended yet, and there is none to compare with", top, bottom)
        )
    said = "; ".join(
        f"{name}: {len(values)} runs, median {duration(quantile(values, 0.5))}, p95 {duration(quantile(values, 0.95))}"
        if values
        else f"{name}: no runs"
        for name, values in (("this release", now), ("the last proven release", before))
    )
    return picture(
        WIDTH, bottom + 50, name="durations", title="How long runs take, beside the last proven release", described=said,
        parts=parts,
    )  # fmt: skip


def bar(share: float, class_: str) -> Markup:
    """How much of the evidence is there: decoration beside words that say the same."""
    return tag(
        "svg",
        tag("rect", x=0, y=0, width=100, height=10, class_="groove"),
        tag("rect", x=0, y=0, width=round(share * 100, 1), height=10, class_=class_),
        viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true", class_="bar",
    )  # fmt: skip


def swatch(class_: str) -> Markup:
    """A legend's sample."""
    if class_ == "fk":
        inside = tag("path", d=_diamond(8, 6, 6), class_="fk")
    elif class_ in {"now", "before"}:
        inside = path([(0, 6), (16, 6)], f"curve {class_}")
    else:
        inside = tag("rect", x=1, y=1, width=14, height=10, class_=class_)
    return tag("svg", inside, viewBox="0 0 16 12", width=16, height=12, aria_hidden="true")


def _ends(receipt: Receipt, every: float) -> tuple[datetime, datetime]:
    begins = [one.at for one in receipt.plots.moments]
    events = [one.at for one in receipt.events]
    first = min([receipt.since, *begins, *events])
    last = max([receipt.looked_at, *(at + timedelta(seconds=every) for at in begins), *events])
    return first, max(last, first + timedelta(seconds=every))


def _slice(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds % 60 == 0 else f"{seconds:.3g} s"


def _time(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"


def _total(moment: Moment) -> int:
    return moment.processed + moment.skipped + moment.failed + moment.lost


def _stack(moment: Moment, left: float, width: float, y: Scale) -> list[Markup]:
    counts = [(name, getattr(moment, name)) for name in OUTCOMES]
    told = ", ".join(f"{count:,} {name}" for name, count in counts if count)
    errors = f"; {moment.fk_errors} foreign key errors" if moment.fk_errors else ""
    drawn: list[Markup] = []
    below = 0
    for name, count in counts:
        if count:
            upper = y(below + count)
            drawn.append(
                tag("rect", x=left, y=upper, width=width, height=max(0.5, y(below) - upper), class_=name)
            )
            below += count
    if moment.fk_errors:
        drawn.append(tag("path", d=_diamond(left + width / 2, y(below) - 9, 6), class_="fk"))
    return [tag("g", tag("title", f"{moment.at:%H:%M:%S} UTC: {told or 'no run'}{errors}"), *drawn)]


def _flags(events: Sequence[Event], x: Scale) -> list[tuple[float, int]]:
    """Where each event's flag is: its place, and its row, so that none hides another."""
    taken: list[float] = []
    placed: dict[int, tuple[float, int]] = {}
    for number in sorted(range(len(events)), key=lambda number: events[number].at):
        at = x(events[number].at.timestamp())
        row = next((row for row, last in enumerate(taken) if at - last > 2 * _FLAG + 2), len(taken))
        taken[row : row + 1] = [at]
        placed[number] = (at, row)
    return [placed[number] for number in range(len(events))]


def _flag(event: Event, number: int, at: float, top: float, bottom: float) -> Markup:
    return tag(
        "g",
        tag("title", f"{number}: {event.kind} at {when(event.at)}: {event.what}"),
        tag("line", x1=at, x2=at, y1=top + 2 * _FLAG, y2=bottom, class_="event"),
        tag("circle", cx=at, cy=top + _FLAG, r=_FLAG - 1, class_="flag"),
        text(at, top + _FLAG + 4.5, str(number), anchor="middle", class_="flag-number"),
    )


def _curve(values: Sequence[float], name: str, x: Scale, y: Scale) -> list[Markup]:
    """The empirical distribution as steps, and its p95."""
    points = [(x(values[0]), y(0))]
    for number, value in enumerate(values, 1):
        points += [(x(value), points[-1][1]), (x(value), y(100 * number / len(values)))]
    p95 = x(quantile(values, 0.95))
    return [
        path(points, f"curve {name}"),
        tag("line", x1=p95, x2=p95, y1=y(95), y2=y(0), class_=f"p95 {name}"),
        tag("circle", cx=p95, cy=y(95), r=5, class_=f"dot {name}"),
    ]


def _diamond(x: float, y: float, half: float) -> str:
    return f"M{x:.1f},{y - half:.1f} l{half},{half} l{-half},{half} l{-half},{-half} z"


def _frame(top: float, bottom: float) -> Markup:
    return tag("rect", x=LEFT, y=top, width=RIGHT - LEFT, height=bottom - top, class_="frame")


def _mark_y(at: float, said: str) -> Markup:
    return tag(
        "g",
        tag("line", x1=LEFT, x2=RIGHT, y1=at, y2=at, class_="grid"),
        text(LEFT - 7, at + 4, said, anchor="end"),
    )


def _label_y(said: str, top: float, bottom: float) -> Markup:
    middle = (top + bottom) / 2
    return tag(
        "text", said, x=14, y=middle, text_anchor="middle", class_="axis", transform=f"rotate(-90 14 {middle:.1f})"
    )  # fmt: skip


def _time_axis(first: datetime, last: datetime, x: Scale, bottom: float) -> list[Markup]:
    reach = (last - first).total_seconds()
    form = "%m-%d %H:%M" if reach > 86400 else "%H:%M" if reach > 480 else "%H:%M:%S"
    wide = len(first.strftime(form)) * 13 * WIDE
    days = f"{first:%Y-%m-%d}" if first.date() == last.date() else f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"
    drawn = [text((LEFT + RIGHT) / 2, bottom + 40, f"time (UTC), {days}", anchor="middle", class_="axis")]
    for moment in time_ticks(first, last):
        at = x(moment.timestamp())
        drawn.append(tag("line", x1=at, x2=at, y1=bottom, y2=bottom + 5, class_="line"))
        drawn.append(text(min(at, WIDTH - wide / 2), bottom + 20, moment.strftime(form), anchor="middle"))
    return drawn


def _nothing(said: str, top: float, bottom: float) -> Markup:
    return text((LEFT + RIGHT) / 2, (top + bottom) / 2, said, anchor="middle", class_="nothing")
