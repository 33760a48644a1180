"""From an exception to a Failure: reason, SQLSTATE, constraint, fingerprint. Pure.

The fingerprint names a kind of error: exception type, the in-app frames without line numbers, and the message with its
ids, numbers and quoted parts taken out, and what follows the host in a URL. The same bug on another draft, or after a line
was added above it, has the same fingerprint; a new place or a new message has a new one.
"""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Sequence

import psycopg

from toolkit import redact
from toolkit.errors import DependencyUnreachable, PayloadRefused, Superseded, TransientError, UnknownJob
from toolkit.ledger.database import cause_of, is_connection_loss
from toolkit.run import Failure, Reason

SUPERSEDED_STATE = "TK001"
"""SQLSTATE that toolkit.hold_run raises."""

_PASSING_STATES = ("40001", "40P01", "55P03", "53", "57014")
"""Serialization failure, deadlock, lock time-out, out of resources, cancelled: another attempt may succeed."""

_VARYING = re.compile(
    r"(https?://[\w.:\[\]-]*[\w\]])\S*|0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\bc[0-9a-z]{20,}\b|\d+|'[^']*'|\"[^\"]*\"|\([^)]*\)",
    re.IGNORECASE,
)


def failure_of(
    error: BaseException, *, in_app: Sequence[str], timeouts: tuple[type[BaseException], ...] = ()
) -> Failure:
    """What `error` is, for the record. `in_app`: module prefixes whose frames count; `timeouts`: the job time limit's
    exception types."""
    cause = cause_of(error)
    sqlstate = (cause.sqlstate or "") if isinstance(cause, psycopg.Error) else ""
    constraint = (cause.diag.constraint_name or "") if isinstance(cause, psycopg.Error) else ""
    reason = _reason(cause, sqlstate, timeouts)
    return Failure(
        reason=reason,
        error_type=cause.kind if isinstance(cause, TransientError) else type(cause).__qualname__,
        message=redact.text(said(cause))[:2000],
        sqlstate=sqlstate,
        constraint=constraint,
        fingerprint=fingerprint(cause, in_app),
        traceback=redact.text(_writable("".join(traceback.format_exception(cause))))[-8000:],
        retryable=reason is Reason.TRANSIENT,
    )


def _reason(cause: BaseException, sqlstate: str, timeouts: tuple[type[BaseException], ...]) -> Reason:
    if isinstance(cause, PayloadRefused | UnknownJob):
        return Reason.PAYLOAD_REFUSED
    if isinstance(cause, Superseded) or sqlstate == SUPERSEDED_STATE:
        return Reason.SUPERSEDED
    if sqlstate.startswith("23"):
        return Reason.INTEGRITY
    if isinstance(cause, timeouts):
        return Reason.TIMEOUT
    passing = isinstance(cause, TransientError | DependencyUnreachable) or is_connection_loss(cause)
    return Reason.TRANSIENT if passing or sqlstate.startswith(_PASSING_STATES) else Reason.ERROR


def said(error: BaseException) -> str:
    """What an exception says, as text that every ledger can keep: an error must not be lost by its own message."""
    try:
        return _writable(str(error))
    except Exception:  # noqa: BLE001  __str__ is the job's code, too
        return f"({type(error).__qualname__} cannot be told as text)"


def _writable(text: str) -> str:
    """PostgreSQL takes neither NUL nor half of a surrogate pair."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _kept(varying: re.Match[str]) -> str:
    """What a fingerprint keeps of a part that varies: of a URL its host, which is a cause; of an id nothing."""
    return varying[1] or "?"


def fingerprint(error: BaseException, in_app: Sequence[str]) -> str:
    """Twelve hex digits that name the kind of error. Frames outside `in_app` modules (and no `toolkit` ones) do not count."""
    prefixes = tuple(in_app)
    frames = [
        f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}"
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).startswith(prefixes)
    ]
    first_line = said(error).partition("\n")[0]
    identity = "\n".join([type(error).__qualname__, *frames, _VARYING.sub(_kept, first_line)])
    return hashlib.sha256(identity.encode()).hexdigest()[:12]
