"""Sabotage: what keeps the job right is taken away, in the source, and some scenario must notice, or the proof is void.

Each mutant runs in a process of its own, in which an import hook changes the source of one module; nothing is written to
the disk. A mutant that no longer fits the source is void as well: it must be written anew.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

import msgspec

from toolkit.errors import ToolkitError
from toolkit.rehearse import installed
from toolkit.rehearse.race import Method, race
from toolkit.rehearse.room import Room
from toolkit.rehearse.words import Mutant, Options

PATIENCE = 300.0
"""Seconds for one mutant."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a mutant. `by`: the scenario that noticed ('' for none), after how many schedules, and what it saw.
    `void`: why it could not be judged."""

    mutant: str
    about: str
    by: str = ""
    schedules: int = 0
    saw: str = ""
    void: str = ""

    @property
    def caught(self) -> bool:
        """True when some scenario noticed."""
        return bool(self.by)


class _Order(msgspec.Struct, frozen=True):
    """What the mutant's process is told on its standard input."""

    rehearsal: str
    mutant: Mutant
    server_url: str
    template: str


def judge(room: Room, rehearsal: str, mutants: Sequence[Mutant], *, at_once: int = 2) -> Iterator[Verdict]:
    """Each mutant's verdict, in order; `at_once` processes at a time."""
    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(lambda one: _judge(room, rehearsal, one), mutants)


def _judge(room: Room, rehearsal: str, mutant: Mutant) -> Verdict:
    order = msgspec.json.encode(_Order(rehearsal, mutant, room.server_url, room.name))
    command = [sys.executable, "-B", "-m", "toolkit.rehearse.mutants"]
    try:
        done = subprocess.run(command, input=order, capture_output=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return Verdict(mutant=mutant.name, about=mutant.about, void=f"no verdict within {PATIENCE:.0f} s")
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return Verdict(mutant=mutant.name, about=mutant.about, void=last[0] if last else "its process died")
    return msgspec.json.decode(done.stdout, type=Verdict)


class _Sabotage(MetaPathFinder):
    """Finds one module, and loads it with its source changed."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin, self._mutant)
        return spec


class _Loader(SourceFileLoader):
    """Reads the changed source; never a cached compilation of the honest one."""

    def __init__(self, fullname: str, path: str, mutant: Mutant) -> None:
        super().__init__(fullname, path)
        self._mutant = mutant

    def path_stats(self, path: str) -> dict[str, float]:
        raise OSError(path)

    def get_data(self, path: str) -> bytes:
        return mutated(super().get_data(path).decode(), self._mutant).encode()


def mutated(source: str, mutant: Mutant) -> str:
    """The source with the mutant's change. Raises ValueError when it does not fit. Pure."""
    pattern = mutant.old if mutant.pattern else re.escape(mutant.old)
    changed, places = re.subn(pattern, lambda _: mutant.new, source)
    if places != 1:
        raise ValueError(
            f"{mutant.name} does not fit {mutant.module}: {mutant.old!r} is there {places} times, not once"
        )
    return changed


def _in_own_process(order: _Order) -> Verdict:
    """Race the likeliest scenarios with the sabotaged source until one notices."""
    mutant = order.mutant
    if mutant.module in sys.modules:
        raise ToolkitError(f"{mutant.module} was imported before it could be changed")
    sys.meta_path.insert(0, _Sabotage(mutant))
    chosen = installed.rehearsal(order.rehearsal)
    known = installed.all_scenarios(chosen, Options())
    tried = 0
    with Room.beside(order.server_url, order.template, f"m{os.getpid()}_") as room:
        for name in mutant.caught_by:
            report, _ = race(room, known[name], method=Method(stop_at_first=True))
            tried += report.schedules
            if report.findings:
                return Verdict(
                    mutant=mutant.name,
                    about=mutant.about,
                    by=name,
                    schedules=tried,
                    saw="; ".join(report.findings),
                )
    return Verdict(mutant=mutant.name, about=mutant.about, schedules=tried)


if __name__ == "__main__":
    verdict = _in_own_process(msgspec.json.decode(sys.stdin.buffer.read(), type=_Order))
    sys.stdout.buffer.write(msgspec.json.encode(verdict))
