"""Functions that are imported when they are first called: a JobSpec can be read without what its job needs to run.

A command that only asks which jobs there are starts fast that way (`scripts/bench verify`). Known weakness: mypy does
not see through it, and a name that is not there is told at the first call.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


def later(where: str) -> Any:
    """The function `module:name`, imported when it is first called. Raises ImportError or AttributeError then."""
    module, _, name = where.partition(":")

    @cache
    def found() -> Any:
        return getattr(import_module(module), name)

    def call(*arguments: Any, **named: Any) -> Any:
        return found()(*arguments, **named)

    return call
