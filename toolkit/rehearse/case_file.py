"""A case: one failed job as one portable JSON file, to be run again anywhere. Frozen; reading and writing of the format."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from toolkit.errors import InputFileError
from toolkit.run import Mode

FORMAT: Final = "freshfetch-case/1"
MAX_BYTES: Final = 64 * 2**20


class Ending(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How a run ended, as far as another run can be compared with it."""

    outcome: str
    reason: str = ""
    error_type: str = ""
    sqlstate: str = ""
    constraint: str = ""


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows as the job read them; times and decimals as text."""

    table: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | bool | None, ...], ...]


class Unique(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A unique index of the database that the case comes from: its name is what an error calls the constraint."""

    table: str
    name: str
    columns: tuple[str, ...]


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that a rehearsal needs. `ran_at` is the clock; `error` what happened then; `expected` what should happen
    today (none: no longer the same error); `answers` what the world outside said; `notes` what the file cannot tell."""

    format: str
    job_name: str
    payload: dict[str, Any]
    mode: Mode
    release: str
    asked_at: datetime
    ran_at: datetime
    captured_at: datetime
    redacted: bool
    error: Ending
    message: str = ""
    fingerprint: str = ""
    tables: tuple[Table, ...] = ()
    unique: tuple[Unique, ...] = ()
    answers: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    expected: Ending | None = None


def encode(case: Case) -> bytes:
    """The file's bytes: indented, so that a person can read and a diff can show it."""
    return msgspec.json.format(msgspec.json.encode(case), indent=2) + b"\n"


def read(path: Path) -> Case:
    """The case in a file. Raises InputFileError saying what is wrong with it."""
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_BYTES:
            raise InputFileError(f"{path} has {len(raw):,} bytes; a case has at most {MAX_BYTES:,}")
        case = msgspec.json.decode(raw, type=Case)
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputFileError(
            f"{path} is not a case: {error}", remedy="`toolkit capture ID -o FILE` writes one"
        ) from error
    if case.format != FORMAT:
        raise InputFileError(f"{path} is of format {case.format!r}, this release reads {FORMAT!r}")
    return case
