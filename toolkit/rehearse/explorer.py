"""All schedules of a scenario, depth first by running it again; or a sample of them, with a shrinker.

At each point the actors that can go on are the branches. A schedule is run from the start, following the branches chosen
so far, then the first that is left; the deepest point with a branch left is next. `exhausted` is True only when no branch
was left anywhere and every run did the same as the one before, up to where they part.

Reduction (`reduce=True`) leaves out schedules that only swap neighbours which cannot affect each other:
statements that touch no row (BEGIN, SET, SAVEPOINT) are never a branch, and sleep sets (Godefroid, 1996) skip the order
that was seen already of two turns whose tables differ. What a turn touches is read from pg_locks; a turn that waited, woke
somebody or ran outside a transaction counts as touching everything. A test holds its outcomes against brute force.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from toolkit.rehearse.words import LOCAL, Outcome, Story

Play = Callable[[Callable[[Mapping[str, str]], str]], Story]

DIVERGED_TRIES = 3

Footprint = Mapping[str, bool] | None
"""Tables that a turn touched, and whether by more than reading; None: everything."""


@dataclass(slots=True)
class Exploration:
    """What came of it. `examples` holds for each outcome the story that is easiest to read. `redundant` runs were begun
    and turned out to repeat others; they are not among the `schedules`."""

    schedules: int = 0
    exhausted: bool = False
    diverged: int = 0
    redundant: int = 0
    seconds: float = 0.0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    examples: dict[Outcome, Story] = field(default_factory=dict)
    seen: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, story: Story) -> None:
        """Count a story."""
        self.schedules += 1
        self.outcomes[story.outcome] += 1
        self.seen.append(story.schedule)
        best = self.examples.get(story.outcome)
        if best is None or readability(story) < readability(best):
            self.examples[story.outcome] = story


def readability(story: Story) -> tuple[int, int, tuple[str, ...]]:
    """Short stories first, then those with few changes of the actor, then by the alphabet."""
    return (len(story.steps), story.switches, story.schedule)


@dataclass(slots=True)
class _Node:
    """A point of a schedule: who could go on with what, who was tried, who need not be."""

    ready: dict[str, str]
    branches: list[str]
    sleep: dict[str, Footprint]
    tried: dict[str, Footprint] = field(default_factory=dict)
    chosen: str = ""

    def next_branch(self) -> str | None:
        return next((one for one in self.branches if one not in self.tried and one not in self.sleep), None)


class _Path:
    """Chooses: along the nodes there are, then on by the first branch, making nodes."""

    def __init__(self, nodes: list[_Node], *, reduce: bool) -> None:
        self.nodes = nodes
        self.reduce = reduce
        self.fixed = len(nodes)
        self.again()

    def again(self) -> None:
        """From the start."""
        del self.nodes[self.fixed :]
        self.at = 0
        self.diverged = False
        self.redundant = False

    def __call__(self, ready: Mapping[str, str]) -> str:
        here, self.at = self.at, self.at + 1
        if here < self.fixed:
            node = self.nodes[here]
            if self.diverged or dict(ready) != node.ready:
                self.diverged = True
                return node.chosen if node.chosen in ready else next(iter(ready))
            return node.chosen
        if self.diverged or self.redundant:
            return next(iter(ready))
        node = _Node(dict(ready), self._branches(ready), sleep={})
        self.nodes.append(node)
        node.chosen = node.next_branch() or next(iter(ready))
        return node.chosen

    def _branches(self, ready: Mapping[str, str]) -> list[str]:
        if self.reduce:
            local = next((name for name, sql in ready.items() if sql.startswith(LOCAL)), None)
            if local is not None:
                return [local]
        return list(ready)


def explore(
    play: Play,
    *,
    reduce: bool = False,
    limit: int | None = None,
    stop: Callable[[Story], bool] = lambda _story: False,
    progress: Callable[[int], None] = lambda _number: None,
    clock: Callable[[], float] = time.monotonic,
) -> Exploration:
    """Play all schedules; fewer with `reduce`, at most `limit`, and none after one for which `stop` is true."""
    found = Exploration()
    nodes: list[_Node] = []
    started = clock()
    tries = 0
    while True:
        path = _Path(nodes, reduce=reduce)
        story = play(path)
        if path.diverged or story.disturbed:
            path.again()
            tries += 1
            if tries < DIVERGED_TRIES:
                continue
            found.diverged += 1
        else:
            redundant = _asleep(nodes, story) if reduce else False
            if redundant:
                found.redundant += 1
            else:
                found.add(story)
                progress(found.schedules)
        tries = 0
        if (not path.diverged and not story.disturbed and stop(story)) or (
            limit is not None and found.schedules >= limit
        ):
            break
        if not _backtrack(nodes):
            found.exhausted = found.diverged == 0
            break
    found.seconds = clock() - started
    return found


def _asleep(nodes: list[_Node], story: Story) -> bool:
    """Carry the sleep sets along the story just played; True when it turned out to be a repetition. Nodes beyond that
    point are cut off."""
    sleep: dict[str, Footprint] = {}
    for place, node in enumerate(nodes):
        touched = story.steps[place].touched
        node.sleep = dict(sleep)
        if node.chosen in node.sleep:
            del nodes[place + 1 :]
            return True
        already = {**node.sleep, **{who: what for who, what in node.tried.items() if who != node.chosen}}
        sleep = {who: what for who, what in already.items() if _independent(what, touched)}
        node.tried[node.chosen] = touched
    return False


def _backtrack(nodes: list[_Node]) -> bool:
    """Take the deepest branch that is left; False when none is."""
    while nodes:
        node = nodes[-1]
        node.tried.setdefault(node.chosen, node.sleep.get(node.chosen))
        branch = node.next_branch()
        if branch is not None:
            node.chosen = branch
            return True
        nodes.pop()
    return False


def _independent(one: Footprint, other: Footprint) -> bool:
    if one is None or other is None:
        return False
    return not any((written or other[table]) for table, written in one.items() if table in other)


def sample(
    play: Play,
    *,
    number: int,
    seed: int,
    stop: Callable[[Story], bool] = lambda _story: False,
    progress: Callable[[int], None] = lambda _number: None,
    clock: Callable[[], float] = time.monotonic,
) -> Exploration:
    """Play `number` schedules at random, the same ones for the same seed; each is counted once."""
    found = Exploration()
    started = clock()
    known: set[tuple[str, ...]] = set()
    for place in range(number):
        dice = random.Random(f"{seed}/{place}")  # noqa: S311  chooses schedules, keeps no secret
        story = play(_Dice(dice))
        if story.schedule in known or story.disturbed:
            continue
        known.add(story.schedule)
        found.add(story)
        progress(found.schedules)
        if stop(story):
            break
    found.seconds = clock() - started
    return found


class _Dice:
    """Chooses at random."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._state = dice.getstate()

    def again(self) -> None:
        """The same choices once more."""
        self._dice.setstate(self._state)

    def __call__(self, ready: Mapping[str, str]) -> str:
        return self._dice.choice(list(ready))


class Follow:
    """Chooses along a schedule; where its next actor cannot go on, whoever can, and goes on from there."""

    def __init__(self, schedule: Sequence[str]) -> None:
        self.schedule = tuple(schedule)
        self.again()

    def again(self) -> None:
        """From the start."""
        self.left = list(self.schedule)
        self.strayed = False

    def __call__(self, ready: Mapping[str, str]) -> str:
        for place, name in enumerate(self.left):
            if name in ready:
                self.strayed |= place > 0
                return self.left.pop(place)
        self.strayed = True
        return next(iter(ready))


def shrink(play: Play, story: Story, bad: Callable[[Story], bool], *, tries: int = 200) -> Story:
    """A story that is bad as well, with as few changes of the actor as can be found by moving turns next to their
    actor's last one, one at a time; at most `tries` runs."""
    best = story
    left = tries
    improved = True
    while improved and left > 0:
        improved = False
        for candidate in _simpler(best.schedule):
            left -= 1
            if left < 0:
                break
            told = play(Follow(candidate))
            if not told.disturbed and bad(told) and readability(told) < readability(best):
                best, improved = told, True
                break
    return best


def _simpler(schedule: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Schedules in which one block of turns was moved before or after its neighbour. Pure."""
    blocks: list[list[str]] = []
    for name in schedule:
        if blocks and blocks[-1][0] == name:
            blocks[-1].append(name)
        else:
            blocks.append([name])
    made: list[tuple[str, ...]] = []
    for place in range(len(blocks) - 1):
        moved = [*blocks[:place], blocks[place + 1], blocks[place], *blocks[place + 2 :]]
        made.append(tuple(name for block in moved for name in block))
    for place in range(len(blocks) - 1):  # a part of a block only
        one, other = blocks[place], blocks[place + 1]
        if len(one) > 1:
            moved = [*blocks[:place], one[:-1], other, one[-1:], *blocks[place + 2 :]]
            made.append(tuple(name for block in moved for name in block))
        if len(other) > 1:
            moved = [*blocks[:place], other[:1], one, other[1:], *blocks[place + 2 :]]
            made.append(tuple(name for block in moved for name in block))
    return made
