"""What the reading commands share: `--since`, `--json`, and the way to the ledger."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click
import msgspec

from toolkit.app import App
from toolkit.errors import UsageError
from toolkit.settings import Settings

if TYPE_CHECKING:
    from toolkit.ledger.database import Session
    from toolkit.ledger.views import JobLine

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*(s|m|min|h|d|w)", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_LONGEST = 36525 * 86400
_WANTED = (
    "a duration (90s, 15m, 2h, 3d, 1w) or a time (2025-10-11, 2025-10-11T17:05, UTC unless it says otherwise)"
)


@dataclass(frozen=True, slots=True)
class Since:
    """The beginning of a time span: a duration before now, or a moment."""

    text: str
    start: timedelta | datetime

    def moment(self, now: datetime) -> datetime:
        """When it begins; `now` is aware."""
        return self.start if isinstance(self.start, datetime) else now - self.start

    def __str__(self) -> str:
        return f"in the last {self.text}" if isinstance(self.start, timedelta) else f"since {self.text}"


def parse_since(text: str) -> Since:
    """`90s`, `15m`, `2h`, `3d`, `1w`, or an ISO 8601 date or time (UTC unless it names a zone). Raises ValueError."""
    given = text.strip()
    if found := _DURATION.fullmatch(given):
        seconds = float(found[1]) * _SECONDS[found[2].lower()]
        if seconds > _LONGEST:
            raise ValueError(f"{given} is longer than a century")
        return Since(given, timedelta(seconds=seconds))
    moment = datetime.fromisoformat(given)
    return Since(given, moment if moment.tzinfo else moment.replace(tzinfo=UTC))


class SinceType(click.ParamType[Since]):
    """`parse_since` for click."""

    name = "since"

    def convert(self, value: str | Since, param: click.Parameter | None, ctx: click.Context | None) -> Since:
        """A Since; a UsageError that says what would do."""
        if isinstance(value, Since):
            return value
        try:
            return parse_since(value)
        except ValueError:
            self.fail(f"{value!r} is not {_WANTED}", param, ctx)


SINCE = SinceType()
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
limit_option = click.option(
    "--limit", "-n", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many."
)


def typed(ctx: click.Context) -> dict[str, str]:
    """The options that were typed: a parameter's name and its option."""
    given = click.core.ParameterSource.COMMANDLINE
    return {
        str(one.name): one.opts[0]
        for one in ctx.command.params
        if ctx.get_parameter_source(str(one.name)) is given
    }


def refuse_beside(ctx: click.Context, name: str, *idle: str, why: str) -> None:
    """Raise UsageError when one of `idle` was typed beside `name`, which makes it do nothing."""
    there = typed(ctx)
    for one in idle:
        if name in there and one in there:
            raise UsageError(
                f"{there[one]} does nothing beside {there[name]}: {why}",
                remedy=f"leave {there[one]} or {there[name]} out",
            )


def settings_of(ctx: click.Context) -> Settings:
    """The environment's settings; from here on NO_COLOR holds for what this command prints."""
    settings = Settings.from_env()
    if settings.no_color:
        ctx.color = False
    return settings


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger, open for reading, and its clock."""

    app: App
    session: Session
    now: datetime

    def subject(self, line: JobLine) -> str:
        """The id that a job is about: the first field of its payload type."""
        spec = self.app.registry.specs.get(line.job_name)
        name = msgspec.structs.fields(spec.payload)[0].encode_name if spec else ""
        return str(line.payload.get(name) or next(iter(line.payload.values()), ""))


@contextmanager
def ledger(ctx: click.Context) -> Iterator[Ledger]:
    """The ledger, read only. Raises as `toolkit.ledger.reading.reading` does."""
    from toolkit.ledger.reading import clock, reading

    with App(settings_of(ctx)) as app, reading(app.brief()) as session:
        yield Ledger(app, session, clock(session))
