"""Wait for something to become true, instead of sleeping for as long as it may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T], *, within: float = 10.0) -> T:
    """Call `look` until its answer is true, and return it. AssertionError after `within` seconds without."""
    deadline = time.monotonic() + within
    while not (answer := look()):
        assert time.monotonic() < deadline, f"not within {within} s: {look}, last {answer!r}"
        time.sleep(0.01)
    return answer
