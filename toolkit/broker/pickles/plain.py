"""A pickle reader's values as plain data, each bound counted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

from toolkit.broker.pickles.words import SCALARS, Global, Inert, Limits, Refusal


class Plain:
    """The machine's values as plain data, each bound counted."""

    def __init__(self, limits: Limits, tick: Callable[[], None]) -> None:
        self._limits = limits
        self._tick = tick
        self._values = 0
        self._text = 0
        self._told: set[int] = set()

    def of(self, value: Any, depth: int) -> Any:
        self._tick()
        self._values += 1
        if self._values > self._limits.values:
            raise Refusal(f"it stands for more than {self._limits.values:,} values")
        if depth > self._limits.depth:
            raise Refusal(f"it is nested deeper than {self._limits.depth}, or holds itself")
        if isinstance(value, str | bytes | bytearray):
            self._text += len(value)
            if self._text > self._limits.text:
                raise Refusal(f"it stands for more than {self._limits.text:,} characters")
        if isinstance(value, SCALARS):
            return _scalar(value)
        return self._container(value, depth + 1)

    def _container(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return {self._hashable(key, depth): self.of(item, depth) for key, item in value.items()}
        if isinstance(value, list):
            return [self.of(item, depth) for item in value]
        if isinstance(value, tuple):
            return tuple(self.of(item, depth) for item in value)
        if isinstance(value, set | frozenset):
            items = [self.of(item, depth) for item in value]
            return items if any(isinstance(item, Inert | Global) for item in value) else type(value)(items)
        if isinstance(value, Inert):
            return self._object(value, depth)
        return {"__class__": "builtins.type", "name": value.name} if isinstance(value, Global) else value

    def _hashable(self, key: Any, depth: int) -> Any:
        return key.name if isinstance(key, Inert | Global) else self.of(key, depth)

    def _object(self, made: Inert, depth: int) -> Any:
        state = _state(made)
        if made.name == "uuid.UUID" and isinstance(state, dict) and isinstance(state.get("int"), int):
            return str(UUID(int=state["int"]))
        record: dict[str, Any] = {"__class__": made.name}
        if id(made) in self._told:
            if isinstance(state, dict):
                record["state"] = {
                    self._hashable(key, depth): self.of(value, depth)
                    for key, value in state.items()
                    if isinstance(value, SCALARS)
                }
            return record
        self._told.add(id(made))
        parts = {"args": list(made.args), "state": state, "items": made.items}
        record |= {name: self.of(part, depth) for name, part in parts.items() if part not in (None, [])}
        if made.entries:
            record["entries"] = [[self.of(key, depth), self.of(value, depth)] for key, value in made.entries]
        return record


def _state(made: Inert) -> Any:
    """An object with slots pickles (attributes, slots); both are its state."""
    match made.state:
        case (None | dict() as attributes, dict() as slots):
            return (attributes or {}) | slots
        case state:
            return state


def _scalar(value: Any) -> Any:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value) if isinstance(value, timedelta | timezone | Decimal) else value
