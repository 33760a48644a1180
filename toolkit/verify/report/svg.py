"""A few primitives for plots as inline SVG: elements with everything escaped, scales, ticks. Pure.

    bar = tag("rect", x=10, y=20, width=5, height=50, class_="failed")
    plot = picture(960, 300, title="Outcomes", described="…", parts=[bar])

Colours and fonts come from the page's style sheet by class, so that one plot serves light, dark and paper. Known weakness: the
width of a text is guessed (WIDE of its size a character).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from markupsafe import Markup, escape

WIDE: Final = 0.62
"""Of a character's size: its width at most, on the average of a text."""
_STEPS: Final = (
    1,
    5,
    10,
    15,
    30,
    60,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
    172800,
    604800,
)


def tag(name: str, *inside: str | Markup, **attributes: str | float) -> Markup:
    """An element. Texts are escaped, Markup is taken as it is; `class_` is class, `stroke_width` is stroke-width; numbers are
    cut to a tenth."""
    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
    )
    body = Markup("").join(escape(part) for part in inside)
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, body)


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{round(value, 1):g}" if abs(value) < 1e5 else f"{value:.0f}"


def picture(
    width: float, height: float, *, name: str, title: str, described: str, parts: Iterable[Markup]
) -> Markup:
    """A whole plot. `name` is unique in the page; `title` and `described` are what a screen reader says."""
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", described, id=f"{name}-desc"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        id=name,
        aria_labelledby=f"{name}-title {name}-desc",
    )


def path(points: Iterable[tuple[float, float]], class_: str) -> Markup:
    """A line through these points."""
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag("polyline", points=drawn, class_=class_)


def text(x: float, y: float, said: str, *, anchor: str = "start", class_: str = "tick") -> Markup:
    """Words at a place: `anchor` is start, middle or end."""
    return tag("text", said, x=x, y=y, text_anchor=anchor, class_=class_)


@dataclass(frozen=True, slots=True)
class Scale:
    """Values `low` to `high` on the picture's `start` to `end`; logarithmic when `log` (then low is above 0)."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where the value is; beyond the ends at the ends."""
        bend: Callable[[float], float] = math.log if self.log else float
        whole = bend(self.high) - bend(self.low)
        share = (bend(max(value, self.low)) - bend(self.low)) / whole if whole else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within, at most about `most` of them: 1, 2, 5 times a power of ten."""
        if self.log:
            return self._log_ticks(most)
        step = _round_up((self.high - self.low) / most or 1.0)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _log_ticks(self, most: int) -> list[float]:
        """The finest round values that lie far enough apart; over less than a factor of two, those of a linear scale."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        least = abs(self.end - self.start) / most
        found: list[float] = []
        for factors in (range(1, 10), (1, 2, 3, 5), (1, 3), (1,)):
            values = (factor * 10.0**power for power in range(first, last + 1) for factor in factors)
            found = [value for value in values if self.low <= value <= self.high]
            if all(abs(self(one) - self(two)) >= least for one, two in pairwise(found)):
                break
        return found if len(found) > 1 else Scale(self.low, self.high, self.start, self.end).ticks(most // 2)


def _round_up(value: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if value <= factor * power * (1 + 1e-9))


def time_ticks(first: datetime, last: datetime, most: int = 8) -> list[datetime]:
    """Round times within, at most about `most` of them, in UTC."""
    begin, end = first.timestamp(), last.timestamp()
    step = next((step for step in _STEPS if (end - begin) / step <= most), _STEPS[-1])
    numbers = range(math.ceil(begin / step), math.floor(end / step) + 1)
    return [datetime.fromtimestamp(number * step, UTC) for number in numbers]
