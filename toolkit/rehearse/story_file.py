"""A schedule on paper: what `toolkit rehearse replay FILE` plays again. JSON, without rows or SQL of anybody's data."""

from __future__ import annotations

from pathlib import Path

import msgspec

from toolkit.errors import InputFileError
from toolkit.rehearse.words import Options, Outcome


class KeptStory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scenario's name, its options, the order of the turns, and how it ended then. `rehearsal`: whose scenario it is; files
    from before there was a second one do not say."""

    scenario: str
    options: Options
    schedule: tuple[str, ...]
    outcome: Outcome
    rehearsal: str = ""
    format: int = 1


def write(path: Path, story: KeptStory) -> None:
    """Write it, for people as well."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(story), indent=1) + b"\n")


def read(path: Path) -> KeptStory:
    """Read it. Raises InputFileError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=KeptStory)
    except OSError as error:
        raise InputFileError(
            f"{path} cannot be read: {error.strerror}", remedy="give a file that exists"
        ) from error
    except msgspec.DecodeError as error:
        raise InputFileError(
            f"{path} is not a schedule: {error}",
            remedy="write one with `toolkit rehearse race … --save FILE`",
        ) from error
