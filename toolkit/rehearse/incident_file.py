"""An incident's timeline as a YAML file: read, and refused with the line when something is wrong.

The format is documented in runbooks/rehearse.md. All scalars are read as text (YAML would make 17:02:00 a number).
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from toolkit.errors import InputFileError
from toolkit.rehearse.words import Rehearsal

_MOMENT = r"^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]$"
_DATE = r"^\d{4}-\d\d-\d\d$"
_SQLSTATE = r"^[0-9A-Z]{5}$"
_IN_WORDS = {
    _MOMENT: "a time of day, HH:MM:SS",
    _DATE: "a date, YYYY-MM-DD",
    _SQLSTATE: "an SQLSTATE: five digits and capitals",
}

Moment = Annotated[str, msgspec.Meta(pattern=_MOMENT)]
"""A time of day, UTC: 17:02:05."""

STARTS, WRITES, FAILS = "job starts", "job writes", "job fails"
"""The verbs of the job itself; the others are the cast's."""


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the timeline. `until`: it lasts. `do`: what the rehearsal does then; nothing without."""

    at: Moment
    say: str
    do: str = ""
    until: Moment | None = None


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the body of then must end in, and at which moment."""

    sqlstate: Annotated[str, msgspec.Meta(pattern=_SQLSTATE)]
    constraint: str
    at: Moment


class Incident(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    title: str
    date: Annotated[str, msgspec.Meta(pattern=_DATE)]
    then: str
    now: str
    reasons: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    expect: Expected
    timeline: Annotated[tuple[Event, ...], msgspec.Meta(min_length=1)]
    rehearsal: str = ""

    def moment(self, at: str) -> datetime:
        """A time of the incident's day."""
        return datetime.combine(date.fromisoformat(self.date), time.fromisoformat(at), UTC)

    def event(self, verb: str) -> Event | None:
        """The first line that does `verb`."""
        return next((one for one in self.timeline if one.do == verb), None)


def read(path: Path) -> tuple[Incident, yaml.Node]:
    """The incident and the YAML it came from, for `refusal`. Raises InputFileError with line and column."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputFileError(
            f"{path} cannot be read: {why}", remedy="give a file that exists, YAML in UTF-8"
        ) from error
    try:
        node = yaml.compose(text, yaml.BaseLoader)
        plain = yaml.load(text, yaml.BaseLoader)  # noqa: S506  BaseLoader builds text, lists and mappings only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise InputFileError(
            f"{path}:{line}:{column}: not YAML: {error.problem}",
            line=line,
            column=column,
            remedy="mend the line",
        ) from error
    if node is None:
        raise InputFileError(f"{path} is empty", remedy="see runbooks/rehearse.md for the format")
    try:
        incident = msgspec.convert(plain, type=Incident)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at ")
        steps = re.findall(r"[A-Za-z_]+|\d+", where.strip("`").removeprefix("$"))
        for pattern, words in _IN_WORDS.items():
            text = text.replace(f"`str` matching regex {pattern!r}", words)
        unknown = re.search(r"unknown field `([^`]+)`", text)
        raise refusal(path, node, [*steps, *((unknown.group(1),) if unknown else ())], text) from error
    return incident, node


def check(path: Path, node: yaml.Node, incident: Incident, chosen: Rehearsal) -> None:
    """What the schema cannot say: known words, and times that go forward. Raises InputFileError."""
    try:
        date.fromisoformat(incident.date)
    except ValueError as error:
        raise refusal(path, node, ["date"], f"there is no {incident.date}: {error}") from error
    cast = chosen.cast
    for field in ("then", "now"):
        if getattr(incident, field) not in cast.bodies:
            raise refusal(
                path, node, [field], f"{getattr(incident, field)!r} is no body: {_list(cast.bodies)}"
            )
    for place, reason in enumerate(incident.reasons):
        if reason not in cast.reasons:
            raise refusal(
                path, node, ["reasons", str(place)], f"{reason!r} is no reason: {_list(cast.reasons)}"
            )
    verbs = {"", *cast.verbs, STARTS, WRITES, FAILS}
    before = ""
    for place, event in enumerate(incident.timeline):
        if wrong := _wrong(event, before, verbs):
            raise refusal(path, node, ["timeline", str(place), wrong[0]], wrong[1])
        before = event.at
    for verb in (STARTS, WRITES, FAILS):
        if incident.event(verb) is None:
            raise refusal(path, node, ["timeline"], f"no line says `do: {verb}`")


def _wrong(event: Event, before: str, verbs: set[str]) -> tuple[str, str] | None:
    """The field of a line that cannot be, and why."""
    if event.do not in verbs:
        return "do", f"{event.do!r} is no verb: {_list(verbs - {''})}"
    if event.at < before:
        return "at", f"{event.at} is earlier than the line before it"
    if event.until is not None and event.until < event.at:
        return "until", f"{event.until} is before {event.at}"
    return None


def refusal(path: Path, node: yaml.Node, steps: list[str], text: str) -> InputFileError:
    """An error at the place in the file that `steps` lead to, or as near to it as they lead."""
    mark = node.start_mark
    for step in steps:
        found = _child(node, step)
        if found is None:
            break
        mark, node = found
    line, column = mark.line + 1, mark.column + 1
    return InputFileError(
        f"{path}:{line}:{column}: {text}",
        line=line,
        column=column,
        remedy="the format is in runbooks/rehearse.md",
    )


def _child(node: yaml.Node, step: str) -> tuple[Any, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark, value) for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and step.isdigit() and int(step) < len(node.value):
        value = node.value[int(step)]
        return value.start_mark, value
    return None


def _list(words: Any) -> str:
    return "there are " + ", ".join(sorted(words))
