"""One log line → what it says of the job, or None. Pure.

Known: Freshfetch's own JSON and console lines; the text lines of the report of 2025-10-11, with Prisma's errors on several
lines; PostgreSQL's stderr, csv and json logs; JSON of others that has a message and a level; all of these within what a
container runtime puts around a line. A line of another kind that says ERROR is an unknown error.

Known weakness: minutes are as the log writes them, in its own time zone. A server that speaks another language than English
is understood in csv and json logs only, by the SQLSTATE.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from toolkit.telemetry import catalog

FK_VIOLATION: Final = "23503"
UNNAMED: Final = "(not named)"


class Kind(StrEnum):
    """What a line tells."""

    FK_ERROR = "fk_error"
    COMPLETED = "completed"
    SKIPPED = "skipped"
    ERROR = "error"
    PLANTED = "planted"
    """The foreign key error by which `toolkit verify-deploy` tries its detectors: no fault."""


class Finding(msgspec.Struct, frozen=True):
    """`key`: the constraint, the reason of a skip, or the error with what varies taken out; '' for a completion.
    `minute` is as the log has it ('' for a line without a time), `release` '' where the line does not say."""

    kind: Kind
    key: str = ""
    minute: str = ""
    release: str = ""


NEEDLES: Final = (
    "gn key constraint", FK_VIOLATION,
    catalog.RUN_PROCESSED.name, catalog.RUN_SKIPPED.name, catalog.RUN_FAILED.name, catalog.RUN_LOST.name,
    "g completed", "No product drafts found", "ssed in ", "pped: ", "lost: ",
    "❌", "ERROR", "FATAL", "PANIC", "CRITICAL", "Error: ", "level=error", '"error"',
)  # fmt: skip
"""Every line that `read` has anything to say of holds one of these. They are cut so that their first bytes are rare in logs:
the search looks for those, 16 bytes at a time, and a frequent beginning costs it threefold."""

_CONSTRAINT = re.compile(r"""oreign key constraint[^`"\n]{0,40}\\?[`"]{1,2}([\w.$-]+)""")
_COMPLETED = re.compile(r"Background image processing completed")
_NO_DRAFTS = re.compile(r"No product drafts found(?: \((\w+)\))?.*skipping")
_CONSOLE = re.compile(r"(?:\x1b\[\d+m)?\d\d:\d\d:\d\d .{8} (?:\x1b\[\d*m)*")
_CONSOLE_RUN = re.compile(
    r"(?:✅ [\w.-]+ (?P<done>processed in )|⚠️ +[\w.-]+ skipped: (?P<skip>\w+)|(?:❌|💀) [\w.-]+ (?:failed|lost): (?P<error>.*))"
)
_PG_CSV = re.compile(r'^(\d{4}-[^,]*),.*?,(?:ERROR|FATAL|PANIC),(\w{5}),"((?:[^"]|"")*)')
_LOUD = re.compile(r"❌|\b(?:ERROR|FATAL|PANIC|CRITICAL)\b|\w*Error: |\blevel=error\b")
_QUIET = re.compile(r"\b(?:DEBUG|INFO|NOTICE|LOG|DETAIL|HINT|CONTEXT|QUERY|STATEMENT)\b")
_VARIES = re.compile(r"""\d+|0x[0-9a-f]+|\b[0-9a-f-]{16,}\b|\bc[a-z0-9]{20,}\b|"[^"]*"|'[^']*'|`[^`]*`""")

_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)")
_MONTH_NAMES: Final = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
_SYSLOG = re.compile(rf"\b({_MONTH_NAMES}) +(\d{{1,2}}) (\d\d:\d\d):\d\d")
_CLOCK = re.compile(r"(?:\x1b\[\d+m)?(\d\d:\d\d):\d\d\b")
_MONTHS: Final = {name: number for number, name in enumerate(_MONTH_NAMES.split("|"), start=1)}


class _Json(msgspec.Struct):
    """The fields that log lines have under these names, whoever wrote them; most have few."""

    event: Any = ""
    release: Any = ""
    timestamp: Any = ""
    time: Any = ""
    level: Any = ""
    severity: Any = ""
    error_severity: Any = ""
    message: Any = ""
    msg: Any = ""
    log: Any = ""
    reason: Any = ""
    constraint: Any = ""
    sqlstate: Any = ""
    state_code: Any = ""
    error_type: Any = ""


_decode = msgspec.json.Decoder(_Json).decode


def read(line: bytes) -> Finding | None:
    """What the line says; its line break may be left out."""
    brace = line.find(b"{")
    if brace >= 0 and line.endswith((b"}", b"}\r", b"}\n")):
        try:
            return _from_json(_decode(line[brace:]))
        except msgspec.MsgspecError:
            pass
    return _from_text(line.decode("utf-8", "replace"))


def minute(line: str) -> str:
    """The minute that a line begins with: `2025-10-11 17:16`, `10-11 17:16` without a year, `17:16` without a day, ''."""
    head = line[:80]
    if found := _ISO.search(head):
        return f"{found[1]} {found[2]}"
    if found := _SYSLOG.search(head):
        return f"{_MONTHS[found[1]]:02}-{int(found[2]):02} {found[3]}"
    found = _CLOCK.match(head)
    return found[1] if found else ""


# JSON

Told = tuple[Kind, str]
"""Kind and key."""


def _from_json(line: _Json) -> Finding | None:
    at = _moment(line.timestamp or line.time)
    if isinstance(line.log, str) and line.log:
        return _within(line.log, at, "")
    release = line.release if isinstance(line.release, str) else ""
    if told := _own_event(line) or _by_state(line):
        return Finding(*told, at, release)
    if str(line.event).partition(".")[0] in {"run", "images"}:
        return None  # a run is told once, by the event of its end
    inner = _within(_text(line), at, release)
    if inner is not None and inner.kind is not Kind.ERROR:
        return inner
    level = str(line.error_severity or line.level or line.severity).lower()
    if level in {"error", "fatal", "critical", "panic"}:
        return Finding(Kind.ERROR, varied(_text(line) or str(line.event) or "?"), at, release)
    return None


def _text(line: _Json) -> str:
    return next((one for one in (line.message, line.msg) if isinstance(one, str) and one), "")


def _within(text: str, at: str, release: str) -> Finding | None:
    """What a line says that another one carries."""
    found = read(text.encode()) if text.lstrip()[:1] == "{" else _from_text(text)
    return replace(found, minute=found.minute or at, release=found.release or release) if found else None


def _own_event(line: _Json) -> Told | None:
    """The end of a run, as Freshfetch logs it."""
    match line.event:
        case catalog.RUN_PROCESSED.name:
            return Kind.COMPLETED, ""
        case catalog.RUN_SKIPPED.name:
            return Kind.SKIPPED, str(line.reason)
        case catalog.RUN_FAILED.name | catalog.RUN_LOST.name:
            if line.sqlstate == FK_VIOLATION:
                return Kind.FK_ERROR, str(line.constraint) or UNNAMED
            return Kind.ERROR, str(line.error_type) or "?"
    return None


def _by_state(line: _Json) -> Told | None:
    """A foreign key error by its SQLSTATE, in whatever language PostgreSQL speaks."""
    if FK_VIOLATION not in {line.state_code, line.sqlstate}:
        return None
    return Kind.FK_ERROR, _constraint(_text(line)) or UNNAMED


def _moment(value: Any) -> str:
    """The minute of a timestamp: a text, or seconds, ms, µs or ns since 1970."""
    if isinstance(value, str):
        # Most are ISO 8601, and there are many: no need to search.
        return f"{value[:10]} {value[11:16]}" if value[10:11] == "T" else minute(value)
    if not isinstance(value, int | float) or value <= 0:
        return ""
    while value > 1e11:
        value /= 1000
    return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M}"


# Text


def _from_text(line: str) -> Finding | None:
    at = minute(line)
    if csv := _PG_CSV.match(line):
        told: Told | None = _from_csv(csv[2], csv[3].replace('""', '"'))
    elif console := _CONSOLE.match(line):
        told = _from_console(line[console.end() :])
    else:
        told = _from_words(line)
    return Finding(*told, at) if told else None


def _from_csv(sqlstate: str, message: str) -> Told:
    if sqlstate == FK_VIOLATION:
        return Kind.FK_ERROR, _constraint(message) or UNNAMED
    return Kind.ERROR, varied(message)


def _from_words(line: str) -> Told | None:
    if (constraint := _constraint(line)) and not _quiet(line, "oreign key constraint"):
        return Kind.FK_ERROR, constraint
    if _COMPLETED.search(line):
        return Kind.COMPLETED, ""
    if skipped := _NO_DRAFTS.search(line):
        return Kind.SKIPPED, skipped[1] or "no_drafts"
    if (loud := _LOUD.search(line)) and not _QUIET.search(line, 0, loud.start()):
        return Kind.ERROR, varied(line[loud.start() :])
    return None


def _from_console(text: str) -> Told | None:
    """Freshfetch's console: a run's last line counts, and not what the job itself says of the same."""
    run = _CONSOLE_RUN.match(text)
    if run is None:
        return (Kind.ERROR, varied(text)) if text.startswith(("❌", "💥")) else None
    if run["done"]:
        return Kind.COMPLETED, ""
    if run["skip"]:
        return Kind.SKIPPED, run["skip"]
    constraint = _constraint(run["error"])
    return (Kind.FK_ERROR, constraint) if constraint else (Kind.ERROR, varied(text))


def _constraint(text: str) -> str:
    found = _CONSTRAINT.search(text)
    return found[1] if found else ""


def _quiet(line: str, word: str) -> bool:
    """PostgreSQL's STATEMENT, LOG or CONTEXT, which only quote."""
    return _QUIET.search(line, 0, line.index(word)) is not None


def varied(text: str) -> str:
    """An error with numbers, ids and quoted texts taken out, so that its like fall together; at most 100 characters."""
    return " ".join(_VARIES.sub("…", text[:400]).split())[:100]
