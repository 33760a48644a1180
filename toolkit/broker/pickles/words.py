"""Words of the pickle reader: its bounds, its refusal, and what stands for names and objects. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

from toolkit.errors import PayloadRefused


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pickle may cost."""

    bytes: int = 16 * 2**20
    operations: int = 500_000
    depth: int = 60
    """Containers inside each other."""
    values: int = 200_000
    """After references to shared values are followed: a small pickle can stand for 10 ** 30 of them."""
    text: int = 32 * 2**20
    """Characters and bytes of all values together, likewise."""
    seconds: float = 5.0


class Undecodable(PayloadRefused):
    """The pickle is refused. `opcode` and `position` (in bytes) say where, `named` which global it asked for ('' for none)."""

    def __init__(self, message: str, *, opcode: str = "", position: int = 0, named: str = "") -> None:
        where = f" (opcode {opcode} at byte {position})" if opcode else ""
        super().__init__(
            f"{message}{where}", remedy="nothing of it was run; ask for the job again by its ids"
        )
        self.opcode = opcode
        self.position = position
        self.named = named


class Global:
    """A name in a pickle: inert."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Inert:
    """What would have been an object."""

    __slots__ = ("args", "entries", "items", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.args = args
        self.state: Any = None
        self.items: list[Any] = []
        self.entries: list[Any] = []


class Refusal(Exception):
    """Raised within the reader; `named` is the global."""

    def __init__(self, message: str, named: str = "") -> None:
        super().__init__(message)
        self.named = named


SCALARS = (
    str,
    bytes,
    int,
    float,
    bool,
    type(None),
    datetime,
    date,
    time,
    timedelta,
    timezone,
    Decimal,
)
