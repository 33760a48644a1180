"""Waiting for something, with an end."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(look: Callable[[], object], *, within: float, what: str, every: float = 0.05) -> bool:
    """Look until the answer is true; TimeoutError naming `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within:.0f} s")
        # what is waited for is in other processes
        time.sleep(every)
    return True
