"""What must not leave the process in a log line or a span: values of secret keys, credentials inside of
texts. Pure.

A key is secret when it contains one of SECRET_WORDS (`db_password`, `Set-Cookie`, `apiKey`). In texts,
passwords of URLs, `word=value` pairs of those words, and bearer tokens are masked. Known weakness: a secret
in a plain sentence passes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

SECRET_WORDS = (
    "password",
    "passwd",
    "secret",
    "token",
    "authorization",
    "cookie",
    "api_key",
    "apikey",
    "dsn",
)
MASK = "***"

_WORDS = "|".join(word.replace("_", "[-_]?") for word in SECRET_WORDS)
_SECRET_KEY = re.compile(_WORDS, re.IGNORECASE)
_URL = re.compile(r"(://[^\s/:@]*):[^\s/@]+@")
_PAIR = re.compile(rf"((?:{_WORDS})[\w-]*[\"']?\s*[=:]\s*[\"']?)(?!\s)[^\s&\"',;]+", re.IGNORECASE)
_BEARER = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)


@lru_cache(maxsize=1024)
def secret_key(key: str) -> bool:
    """True when the value under this key must be masked."""
    return _SECRET_KEY.search(key) is not None


def text(value: str) -> str:
    """The text with credentials masked; the same object when there is nothing that looks like one."""
    if "@" in value:
        value = _URL.sub(rf"\1:{MASK}@", value)
    if "earer " in value or "asic " in value:
        value = _BEARER.sub(rf"\1 {MASK}", value)
    if "=" in value or ":" in value:
        value = _PAIR.sub(rf"\1{MASK}", value)
    return value


def value(item: Any) -> Any:
    """Any value as plain data (None, bool, int, float, str, list, dict) with secrets masked, nested ones
    too.
    """
    kind = type(item)
    if kind is str:
        return text(item)
    if kind is int or kind is float or kind is bool or item is None:
        return item
    if isinstance(item, Mapping):
        return fields(item)
    if isinstance(item, list | tuple | set | frozenset):
        return [value(part) for part in item]
    return _built(item)


def fields(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """A mapping as `value` makes it; keys become strings."""
    return {
        (name := key if type(key) is str else str(key)): MASK if secret_key(name) else value(item)
        for key, item in mapping.items()
    }


def _built(item: Any) -> Any:
    """Structs, dataclasses, dates, enums and ids as plain data; whatever else as its text."""
    try:
        plain = msgspec.to_builtins(item)
    except (TypeError, ValueError):
        return text(str(item))
    return text(str(item)) if type(plain) not in _PLAIN else value(plain)


_PLAIN = frozenset({str, int, float, bool, list, dict, type(None)})
