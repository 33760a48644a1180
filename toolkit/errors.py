"""The error tree. Every error says what is wrong (the message) and what to do (the remedy), and has an exit code.

    ToolkitError                  1   something is wrong
    ├── UsageError                2   the call or a setting is wrong
    │   ├── SettingError          2
    │   ├── InputFileError        2   a broken file: line and column
    │   ├── PayloadRefused        2   a payload carries what a payload must not carry
    │   └── UnknownJob            2   no job of that name is registered
    ├── NotFound                  1   no such job, run or trace
    ├── AlreadyImported           5   the order is there already
    ├── Refused                   5   it would touch what it must not touch
    ├── FlipLost                  5   somebody else flipped the toggle meanwhile
    ├── DependencyUnreachable     4   PostgreSQL, the broker or a tool does not answer
    ├── NotInitialised            2   schema `toolkit` is missing or older than this release
    ├── Superseded                1   another run holds the job now; nothing was written
    ├── PartlyDone                3   some of it is done, and the rest is not
    ├── StillRunning              8   it was begun, and has not ended
    └── TransientError            1   worth another attempt (raised by job bodies)

Exit codes (design, section 6): 0 fine, 1 something is wrong, 2 usage or configuration, 3 partly done or inconclusive,
4 a dependency cannot be reached, 5 refused as unsafe, 8 still running, 130 interrupted.
"""

from __future__ import annotations

from typing import ClassVar


class ToolkitError(Exception):
    """Root of the tree. `str(error)` is what is wrong, `error.remedy` is what to do about it."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class UsageError(ToolkitError):
    """The call cannot be carried out as it was written."""

    exit_code = 2


class SettingError(UsageError):
    """An environment variable has a value that cannot be used."""


class InputFileError(UsageError):
    """A file cannot be read as what it should be. `line` and `column` count from 1; 0 means the file as a whole."""

    def __init__(self, message: str, *, line: int = 0, column: int = 0, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.line = line
        self.column = column


class PayloadRefused(UsageError):
    """A payload has a field, type or size that payloads must not have; `field` names it ('' for the whole)."""

    def __init__(self, message: str, *, field: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.field = field


class UnknownJob(UsageError):
    """A job name that no installed package has registered."""


class NotFound(ToolkitError):
    """Nothing in the ledger answers to that id."""


class AlreadyImported(ToolkitError):
    """The merchant already has a purchase order of that number."""

    exit_code = 5


class Refused(ToolkitError):
    """The command could do it, and will not: it would touch what it must not touch."""

    exit_code = 5


class FlipLost(ToolkitError):
    """A toggle moved on between the look and the flip; nothing was changed."""

    exit_code = 5


class DependencyUnreachable(ToolkitError):
    """A server that is needed does not answer."""

    exit_code = 4


class NotInitialised(UsageError):
    """The database has no schema `toolkit`, or one of another revision."""


class Superseded(ToolkitError):
    """The run is no longer the holder of its job (it was given up as lost); whatever it had in hand is not written."""


class PartlyDone(ToolkitError):
    """Some of what was asked for is done."""

    exit_code = 3


class StillRunning(ToolkitError):
    """What was begun has not ended in the time there was."""

    exit_code = 8


class TransientError(ToolkitError):
    """Something outside failed in a way that passes: another attempt is worth it. `kind` is low in cardinality."""

    def __init__(self, message: str, *, kind: str, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.kind = kind
