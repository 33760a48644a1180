"""What the data of an RQ job asks for, whatever serialised it: the registered job it stands for, and its ids. Pure; runs nothing.

A job's function is taken for a registered job when it has its name, or when its own name contains the registered one, word
for word: `app.jobs.process_background_image_processing` for `background-image-processing`. Payloads of an older form go
through JobSpec.upcast, with objects as plain mappings of their attributes, in camelCase too, as payloads have them.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from toolkit.broker.pickles.read import decode as decode_pickle
from toolkit.broker.pickles.words import Limits
from toolkit.errors import PayloadRefused
from toolkit.jobspec import JobSpec, Registry

LARGEST: Final = Limits().bytes
"""Bytes of a job's data that are read, compressed or not."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a job asks for: the function as RQ has it, the registered job it stands for, and today's payload as JSON, or None:
    then `refused` says why its ids cannot be had. `serializer`: json, pickle, or '' when it is neither."""

    function: str = ""
    job_name: str = ""
    serializer: str = ""
    payload: str | None = None
    refused: str = ""


def read(registry: Registry, queue: str, data: bytes) -> Asked:
    """What RQ's `data` field asks for; `refused` when no ids can be had from it. Never raises for what is in it."""
    function, name, serializer = "", "", ""
    try:
        raw = _decompressed(data)
        serializer = "json" if raw[:1] == b"[" else "pickle"
        function, old = _call(raw, serializer)
        spec = _spec(registry, queue, function)
        name = spec.name
        return Asked(function, name, serializer, _todays(spec, old).decode(), "")
    except (PayloadRefused, msgspec.MsgspecError, RecursionError) as error:
        return Asked(function, name, serializer, None, str(error) or type(error).__name__)


def _decompressed(data: bytes) -> bytes:
    """RQ compresses with zlib; older ones did not."""
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(data, LARGEST + 1)
    except zlib.error:
        return data
    if len(raw) > LARGEST:
        raise PayloadRefused(f"its data inflates to more than {LARGEST:,} bytes")
    return raw


def _call(raw: bytes, serializer: str) -> tuple[str, dict[str, Any]]:
    """The function's name and its arguments as one mapping: a mapping given as the only argument is the payload, as
    other queues have it; other positional ones are under `args`."""
    call = msgspec.json.decode(raw) if serializer == "json" else attributes(decode_pickle(raw))
    match call:
        case [str() as function, _, list() | tuple() as args, dict() as keywords]:
            pass
        case _:
            raise PayloadRefused("its data is not RQ's function, instance, arguments and keywords")
    if len(args) == 1 and isinstance(args[0], dict):
        keywords, args = args[0] | keywords, ()
    return function, keywords | ({"args": list(args)} if args else {})


def attributes(value: Any) -> Any:
    """Inert records of objects as plain mappings of their attributes, or lists of their items. Names in snake_case are
    there in camelCase too, as payloads have them."""
    if isinstance(value, list | tuple):
        return [attributes(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "__class__" in value:
        if isinstance(value.get("items"), list):
            return attributes(value["items"])
        if isinstance(state := value.get("state"), dict):
            inside = state.get("__dict__")  # pydantic
            value = inside if isinstance(inside, dict) else state
    plain = {key: attributes(item) for key, item in value.items()}
    return {_camel(key): item for key, item in plain.items() if isinstance(key, str)} | plain


def _camel(name: str) -> str:
    first, *rest = name.strip("_").split("_")
    return first + "".join(part.capitalize() for part in rest)


def _spec(registry: Registry, queue: str, function: str) -> JobSpec:
    if function in registry.specs:
        return registry.specs[function]
    asked = _words(function.rpartition(".")[2])
    for spec in registry.specs.values():
        if spec.queue == queue and _words(spec.name) in asked:
            return spec
    raise PayloadRefused(f"its function {function[:200]!r} is no registered job's")


def _words(name: str) -> str:
    return "-" + "-".join(re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)).lower() + "-"


def _todays(spec: JobSpec, old: dict[str, Any]) -> bytes:
    try:
        return spec.encode(old)
    except PayloadRefused:
        if spec.upcast is None:
            raise
    return spec.encode(spec.upcast(old))
