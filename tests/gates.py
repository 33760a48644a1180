"""The image job with a search that obeys the product's name, for worker processes: TOOLKIT_JOBS=tests.gates:SPEC.

    wait:NAME   says that it is there (file NAME.reached) and goes on when the test says so (file NAME.open)
    fail:KIND   fails in passing
    none        finds nothing
    kill        ends its own process by SIGKILL
    stuck       holds the interpreter in C code, where no alarm is heard
    else        finds two images

The files are in the folder TOOLKIT_TEST_GATES. RETRYING is the same with retries after a second.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from jobs.images.job import ImageResources
from jobs.images.search.protocol import Candidate, Product, SearchOutcome, SearchResult
from jobs.images.spec import SPEC as IMAGES
from toolkit.errors import TransientError
from toolkit.jobspec import RetryPolicy
from toolkit.settings import Settings

VARIABLE = "TOOLKIT_TEST_GATES"


@dataclasses.dataclass(frozen=True)
class GatedSearch:
    """The search of one process."""

    folder: Path

    def __call__(self, product: Product) -> SearchResult:
        command, _, argument = product.name.partition(":")
        if command == "wait":
            self._wait(argument)
        elif command == "fail":
            raise TransientError("it passes", kind=argument)
        elif command == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif command == "stuck":
            sum(range(10**13))
        urls = [
            f"https://images.test/{product.draft_id}/{n}.png" for n in range(0 if command == "none" else 2)
        ]
        candidates = tuple(Candidate(url, "memory", 640, 480, "image/png") for url in urls)
        outcome = SearchOutcome.FOUND if candidates else SearchOutcome.NOTHING_FOUND
        return SearchResult(candidates, outcome, "memory")

    def _wait(self, name: str) -> None:
        with (self.folder / f"{name}.reached").open("a") as reached:
            reached.write(f"{os.getpid()}\n")
        deadline = time.monotonic() + 60
        while not (self.folder / f"{name}.open").exists() and time.monotonic() < deadline:
            time.sleep(0.01)


@contextmanager
def gated(settings: Settings, _tracer: object) -> Iterator[ImageResources]:
    """JobSpec.resources."""
    folder = settings.section("TEST", "GATES", Path, Path())
    with ThreadPoolExecutor(8, thread_name_prefix="search") as pool:
        yield ImageResources(search=GatedSearch(folder), pool=pool)


SPEC = dataclasses.replace(IMAGES, resources=gated, retry=RetryPolicy(attempts=3, base=1.0, jitter=0.0))
SHORT = dataclasses.replace(SPEC, timeout=2.0)
