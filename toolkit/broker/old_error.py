"""What RQ's text of an error says, for a failed job of which there is only that text. Pure."""

from __future__ import annotations

import re
import zlib
from base64 import b64decode
from binascii import Error as Base64Error

import psycopg

from toolkit.failures import fingerprint
from toolkit.run import Failure, Reason

_MOST = 256 * 1024
_FRAME = re.compile(r'\s+File "')
_SAID = re.compile(r"(?P<kind>[A-Za-z_][\w.]{0,200})(?P<message>(: .*)?)")
_CAUSE = re.compile(r": \((?P<kind>psycopg2?(?:\.errors)?\.\w{1,100})\) ")


def kept_error(result: bytes | None, exc_info: bytes | None) -> str:
    """The text: today's RQ keeps it in a stream of results (base64 of zlib), an older one in the job's hash (zlib)."""
    try:
        return _inflated(b64decode(result) if result else exc_info or b"")
    except Base64Error:
        return ""


def failure_of_text(text: str) -> Failure:
    """What RQ's traceback says: the exception's type, message, SQLSTATE and constraint, and a fingerprint of its own, since
    the frames are only text here."""
    kind, message = _last_words(text)
    found = getattr(psycopg.errors, kind, None)
    sqlstate = (found.sqlstate or "") if isinstance(found, type) and issubclass(found, psycopg.Error) else ""
    constraint = re.search(r'constraint "([^"]{1,128})"', message)
    stand_in = type(kind, (Exception,), {})(message)
    return Failure(
        reason=Reason.INTEGRITY if sqlstate.startswith("23") else Reason.ERROR,
        error_type=kind,
        message=message[:2000],
        sqlstate=sqlstate,
        constraint=constraint[1] if constraint else "",
        fingerprint=fingerprint(stand_in, ()),
        traceback=text[-8000:],
    )


def _last_words(text: str) -> tuple[str, str]:
    """Exception type and first line of the message: what follows the last frame. An SQLAlchemy error is told by its cause."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return "unknown", "RQ kept no error"
    frames = [number for number, line in enumerate(lines) if _FRAME.match(line)]
    after = lines[frames[-1] + 1 if frames else 0 :]
    line = next((line for line in after if not line[0].isspace()), lines[0])
    told = _SAID.fullmatch(line)
    if told is None:
        return "unknown", line
    cause = _CAUSE.match(told["message"])
    message = told["message"][cause.end() :] if cause else told["message"].removeprefix(": ")
    return (cause or told)["kind"].rpartition(".")[2], message or line


def _inflated(data: bytes) -> str:
    try:
        raw = zlib.decompressobj().decompress(data, _MOST)
    except zlib.error:
        raw = data[:_MOST]
    return raw.decode(errors="replace").replace("\0", "")
