"""What names in a pickle may mean: the few calls that are carried out by our own code, and the names that stay names.

Whatever else of the standard library a pickle names is refused, and so are calls of functions: no plain data needs them.
"""

from __future__ import annotations

import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Final

from toolkit.broker.pickles.words import Global, Inert, Refusal

_KEY_PARTS: Final = 50
"""Parts of a key, nested ones counted."""


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return set(map(cheap, items))


def _encoded(text: str, encoding: str) -> bytes:
    if encoding not in {"latin1", "latin-1"}:
        raise Refusal(f"bytes in encoding {encoding[:40]!r}")
    return text.encode("latin-1")


def _bytearray(content: str | bytes = b"", encoding: str = "latin-1") -> bytearray:
    return bytearray(_encoded(content, encoding) if isinstance(content, str) else bytes(memoryview(content)))


def _decimal(text: str) -> Decimal:
    if not isinstance(text, str) or len(text) > 1000:
        raise Refusal("a Decimal that is not a short text")
    return Decimal(text)


def _reconstructed(kind: Global, _base: Global, content: Any) -> Inert:
    return Inert(kind.name, () if content is None else (content,))


def _new(kind: Global, *args: Any) -> Inert:
    return Inert(kind.name, args)


def with_keywords(kind: Global, args: tuple[Any, ...], keywords: dict[str, Any]) -> Inert:
    made = Inert(kind.name, tuple(args))
    made.entries.extend(keywords.items())
    return made


CALLS: Final[Mapping[str, Callable[..., Any]]] = {
    "_codecs.encode": _encoded,
    "builtins.bytearray": _bytearray,
    "builtins.bytes": lambda: b"",  # protocols 0 to 2 have no opcode for it
    "builtins.frozenset": lambda items=(): frozenset(_set(items)),
    "builtins.set": _set,
    "collections.OrderedDict": lambda pairs=(): {cheap(key): value for key, value in pairs},
    "collections.defaultdict": lambda _factory=None: {},
    "collections.deque": lambda items=(), _most=None: list(items),
    "copyreg.__newobj__": _new,
    "copyreg.__newobj_ex__": with_keywords,
    "copyreg._reconstructor": _reconstructed,
    "datetime.date": date,
    "datetime.datetime": datetime,
    "datetime.time": time,
    "datetime.timedelta": timedelta,
    "datetime.timezone": timezone,
    "decimal.Decimal": _decimal,
    "django.db.models.base.model_unpickle": lambda model: Inert(_model_name(model)),
}
"""Calls that pickles of plain data and of models make, by our own harmless code. The only ones that are carried out."""

_INERT: Final = frozenset({
    "builtins.dict", "builtins.float", "builtins.int", "builtins.list", "builtins.object", "builtins.str", "builtins.tuple",
    "types.SimpleNamespace", "uuid.SafeUUID", "uuid.UUID", "zoneinfo.ZoneInfo", "zoneinfo.ZoneInfo._unpickle",
})  # fmt: skip
"""Further names of the standard library that models carry. They stay names."""


def named(module: Any, name: Any) -> Global:
    """A name, under which the standard library of today knows it. Refuses those of the standard library that no list has."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise TypeError("a global that is not named by text")
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    full = f"{module}.{name}"[:200]
    standard = module.partition(".")[0] in sys.stdlib_module_names or module in {"", "__builtins__"}
    if standard and full not in CALLS and full not in _INERT:
        raise Refusal(f"it names {full}", full)
    return Global(full)


def class_of(kind: Any) -> str:
    if not isinstance(kind, Global):
        raise TypeError("an object of what is no class")
    return kind.name


def called(callee: Any, args: Any) -> Any:
    """What a call would have given: data, or an inert object when the name is a class's. Refuses calls of functions."""
    name = class_of(callee)
    if not isinstance(args, tuple):
        raise TypeError("a call without arguments")
    if name in CALLS:
        return CALLS[name](*args)
    last = name.rpartition(".")[2].lstrip("_")
    if not last[:1].isupper() and name not in _INERT:
        raise Refusal(f"it calls {name}", name)
    return Inert(name, args)


def _model_name(model: Any) -> str:
    return model.name if isinstance(model, Global) else ".".join(str(part)[:100] for part in model)


def cheap(value: Any) -> Any:
    """A key or member that is cheap to hash: a nested tuple of a few bytes can take for ever."""
    left = _KEY_PARTS
    todo = [value]
    while todo:
        part = todo.pop()
        left -= 1
        if left < 0:
            raise Refusal("a key of too many parts")
        if isinstance(part, tuple | frozenset):
            todo.extend(list(part)[: _KEY_PARTS + 1])
    return value
