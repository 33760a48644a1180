"""Logs: structlog, one JSON line an event in a pipe, the report's readable lines on a terminal.

    configure(stream=sys.stderr, style="auto", release=settings.release, environ_no_color=False)   # `app`,
    once log = get_logger(worker="w1").bind(job_id=…, job_name=…, queue=…) catalog.emit(log,
    catalog.RUN_SKIPPED, **log_fields(record))

JSON keys at top level: timestamp (ISO 8601, UTC, microseconds), level, event (a dotted name), release,
trace_id, span_id, trace_flags (inside a span), whatever is bound (job_id, job_name, queue), then the event's
fields. Secrets are masked, in keys and in texts. An exception is told once: type, message and frames, at the
first line that carries it.

The standard library's loggers (rq, alembic, …) write to the same stream from WARNING up. A line that cannot
be written is lost and never fails the job. Known weakness: a reader that stops reading its pipe stops whoever
writes to it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import msgspec
import structlog
from opentelemetry.trace import get_current_span
from structlog.types import EventDict, FilteringBoundLogger

from toolkit import redact
from toolkit.telemetry import catalog

Log = FilteringBoundLogger
Style = Literal["auto", "console", "json"]
MAX_FRAMES = 50
"""Innermost stack frames that a line keeps of an exception."""
_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m", "debug": "\x1b[2m"}
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_TOLD = "_toolkit_told"


def configure(
    *,
    stream: TextIO | None = None,
    style: str = "auto",
    release: str,
    level: int = logging.INFO,
    colour: bool | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Send all logs of this process to `stream` (default: stderr). Called by `app`, once, before any work.

    `style` auto is console on a terminal and JSON elsewhere; `colour` None is yes on a terminal (the caller
    knows of NO_COLOR and passes False)."""
    out = stream or sys.stderr
    terminal = out.isatty()
    human = style == "console" or (style == "auto" and terminal)
    render = (
        _Console(now, colour=terminal if colour is None else colour and human)
        if human
        else _Json(now, release)
    )
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines(out),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [old for old in root.handlers if isinstance(old, _Foreign)]:
        root.removeHandler(handler)
    root.addHandler(_Foreign(logging.WARNING))


def get_logger(**bound: Any) -> Log:
    """A logger with these fields on every line; `bind(…)` gives one with more."""
    log: Log = structlog.get_logger(**bound)
    return log.bind()


class _Lines:
    """Writes a line at once, in one system call, so that the lines of several processes do not mix."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        try:
            self._fd: int | None = stream.fileno()
        except (OSError, ValueError):
            self._fd = None

    def __call__(self, *_: Any) -> _Lines:
        return self

    def msg(self, line: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._fd is None:
                self._stream.write(line.decode())
                self._stream.flush()
                return
            while line:
                line = line[os.write(self._fd, line) :]

    debug = info = warning = error = critical = msg


class _Json:
    """The event as one JSON line."""

    def __init__(self, now: Callable[[], datetime], release: str) -> None:
        self._now = now
        self._release = release
        self._encoder = msgspec.json.Encoder()

    def __call__(self, _: Any, level: str, event: EventDict) -> bytes:
        line: dict[str, Any] = {
            "timestamp": self._now().isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": level,
            "event": event.pop("event"),
            "release": self._release,
        }
        event.pop("_line", None)
        _add_span(line)
        error = _exception(event)
        line |= redact.fields(event)
        if error is not None:
            line["exception"] = _told_once(error)
        try:
            return self._encoder.encode(line) + b"\n"
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
            return json.dumps(line, default=str, skipkeys=True).encode("utf-8", "replace") + b"\n"


class _Console:
    """The event as the line that a person reads: time, short job id, the catalog's line."""

    def __init__(self, now: Callable[[], datetime], *, colour: bool) -> None:
        self._now = now
        self._colour = colour

    def __call__(self, _: Any, level: str, event: EventDict) -> bytes:
        name, template = event.pop("event"), event.pop("_line", None)
        error = _exception(event)
        fields = redact.fields(event)
        text = _filled(str(name), template, fields)
        job = str(fields.get("job_id") or "")
        prefix = f"{self._now().astimezone():%H:%M:%S} {job[-8:]:8} "
        if self._colour:
            prefix = f"{_DIM}{prefix}{_PLAIN}"
            text = f"{_COLOURS[level]}{text}{_PLAIN}" if level in _COLOURS else text
        if error is not None:
            text += "".join(f"\n{' ' * 18}{line}" for line in _told_lines(error))
        return f"{prefix}{text}\n".encode("utf-8", "backslashreplace")


class _Missing(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return "?"


def _filled(name: str, template: str | None, fields: Mapping[str, Any]) -> str:
    if template is not None:
        try:
            return template.format_map(_Missing(fields))
        except (ValueError, TypeError, IndexError, KeyError, AttributeError):
            pass  # a field is missing or of another type than the line's format wants: show what there is
    shown = (f"{key}={value}" for key, value in fields.items() if key not in {"job_id", "job_name", "queue"})
    return " ".join([name, *shown])


def _add_span(line: dict[str, Any]) -> None:
    context = get_current_span().get_span_context()
    if context.is_valid:
        line["trace_id"] = f"{context.trace_id:032x}"
        line["span_id"] = f"{context.span_id:016x}"
        line["trace_flags"] = f"{context.trace_flags:02x}"


def _exception(event: EventDict) -> BaseException | None:
    """Take `exc_info` out of the event: an exception, a sys.exc_info() triple, or true for the current
    one.
    """
    given = event.pop("exc_info", None)
    if not given:
        return None
    if isinstance(given, BaseException):
        return given
    if isinstance(given, tuple):
        return given[1] if isinstance(given[1], BaseException) else None
    return sys.exc_info()[1]


def _first_time(error: BaseException) -> bool:
    if getattr(error, _TOLD, False):
        return False
    with contextlib.suppress(
        AttributeError, TypeError
    ):  # an exception with slots is told again; better than never
        setattr(error, _TOLD, True)
    return True


def _told_once(error: BaseException) -> dict[str, Any]:
    """Type and message always, frames and causes the first time only."""
    told: dict[str, Any] = {"type": type(error).__qualname__, "message": redact.text(str(error))}
    if not _first_time(error):
        return told
    told["frames"] = [
        {"file": frame.filename, "line": frame.lineno, "function": frame.name}
        for frame in traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    ]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        told["cause"] = _told_once(cause)
    return told


def _told_lines(error: BaseException) -> list[str]:
    if not _first_time(error):
        return []
    return redact.text("".join(traceback.format_exception(error))).splitlines()


class _Foreign(logging.Handler):
    """Takes in what other libraries say through the standard library."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and getattr(error, _TOLD, False):
            return  # the same exception, told again by whoever passed it on
        level = "error" if record.levelno >= logging.ERROR else "warning"
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        log = structlog.get_logger()
        getattr(log, level)(
            catalog.FOREIGN.name,
            _line=catalog.FOREIGN.line,
            logger=record.name,
            message=message,
            exc_info=error,
        )
