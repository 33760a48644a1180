"""One scenario, raced to the end, and what is said about it: counts by outcome, findings, and the best counterexample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from toolkit.rehearse import isolation_spec
from toolkit.rehearse.explorer import Exploration, Follow, explore, readability, sample, shrink
from toolkit.rehearse.room import Room, Theatre
from toolkit.rehearse.server_log import ServerLog
from toolkit.rehearse.words import Outcome, Scenario, Story, findings

DISAGREES = "the server's log has other errors than the clients were told"


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """One outcome, in how many schedules, and what is wrong with it."""

    schedules: int
    endings: dict[str, str]
    errors: dict[str, str]
    facts: dict[str, int]
    findings: tuple[str, ...]


class RaceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a race came to. `errors`: "actor SQLSTATE" → schedules in which the server said so. `server_log`: whether its
    log has exactly the errors that the clients were told (None: there was no log to read); that it has others is a finding."""

    scenario: str
    about: str
    schedules: int
    exhausted: bool
    reduced: bool
    sampled: bool
    redundant: int
    diverged: int
    seconds: float
    outcomes: tuple[Ended, ...]
    errors: dict[str, int]
    facts: dict[str, int]
    findings: tuple[str, ...]
    server_log: bool | None


@dataclass(frozen=True, slots=True)
class Counterexample:
    """The failing story that is easiest to read, told with locks, and the same as a spec."""

    story: Story
    spec: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How to go through the schedules. `samples` None: all of them. `reduce` None: as the scenario says."""

    reduce: bool | None = None
    samples: int | None = None
    seed: int = 0
    limit: int | None = None
    stop_at_first: bool = False


def race(
    room: Room,
    scenario: Scenario,
    *,
    method: Method = Method(),
    log: ServerLog | None = None,
    progress: Callable[[int], None] = lambda _number: None,
) -> tuple[RaceReport, Counterexample | None]:
    """Race a scenario in a copy of the room."""

    def stop(story: Story) -> bool:
        return method.stop_at_first and bool(findings(scenario, story))

    reduce = scenario.reduce if method.reduce is None else method.reduce
    with room.theatre(scenario) as theatre:
        if method.samples is not None:
            found = sample(
                theatre.play, number=method.samples, seed=method.seed, stop=stop, progress=progress
            )
        else:
            play = partial(theatre.play, footprints=True) if reduce else theatre.play
            found = explore(play, reduce=reduce, limit=method.limit, stop=stop, progress=progress)
        agreed = log.agreed(theatre.name, theatre.told) if log else None
        worst = _worst(scenario, found, theatre)
    return _report(scenario, found, reduced=reduce, sampled=method.samples is not None, agreed=agreed), worst


def replay(room: Room, scenario: Scenario, schedule: tuple[str, ...]) -> Counterexample:
    """Play one schedule again, and tell it."""
    with room.theatre(scenario) as theatre:
        return _told(scenario, theatre, schedule)


def _worst(scenario: Scenario, found: Exploration, theatre: Theatre) -> Counterexample | None:
    """The failing story that is easiest to read, shrunk when not all were seen."""
    bad = [story for story in found.examples.values() if findings(scenario, story)]
    if not bad:
        return None
    best = min(bad, key=readability)
    if not found.exhausted:
        wrong = findings(scenario, best)[0].split(":")[0]
        best = shrink(
            theatre.play, best, lambda story: any(one.startswith(wrong) for one in findings(scenario, story))
        )
    return _told(scenario, theatre, best.schedule)


def _told(scenario: Scenario, theatre: Theatre, schedule: tuple[str, ...]) -> Counterexample:
    story = theatre.play(Follow(schedule), watch=True)
    scenario.reset(theatre.control)
    spec = isolation_spec.export(story, theatre.control, name=scenario.name, isolation=scenario.isolation)
    return Counterexample(story, spec)


def _report(
    scenario: Scenario, found: Exploration, *, reduced: bool, sampled: bool, agreed: bool | None
) -> RaceReport:
    wrong = {outcome: tuple(findings(scenario, story)) for outcome, story in found.examples.items()}
    errors: Counter[str] = Counter()
    facts: Counter[str] = Counter()
    for outcome, number in found.outcomes.items():
        errors.update({f"{who} {error.split(' ')[0]}": number for who, error in outcome.errors})
        facts.update({name: number for name, _ in outcome.facts if not name.startswith("~")})
    return RaceReport(
        scenario=scenario.name,
        about=scenario.about,
        schedules=found.schedules,
        exhausted=found.exhausted,
        reduced=reduced,
        sampled=sampled,
        redundant=found.redundant,
        diverged=found.diverged,
        seconds=round(found.seconds, 3),
        outcomes=tuple(
            _ended(outcome, number, wrong[outcome]) for outcome, number in ordered(found.outcomes)
        ),
        errors=dict(sorted(errors.items())),
        facts=dict(sorted(facts.items())),
        findings=(
            *sorted({one for many in wrong.values() for one in many}),
            *([DISAGREES] if agreed is False else ()),
        ),
        server_log=agreed,
    )


def ordered(outcomes: Counter[Outcome]) -> list[tuple[Outcome, int]]:
    """Outcomes in an order that is the same in every run."""
    return sorted(outcomes.items(), key=lambda item: (item[0].endings, item[0].errors, item[0].facts))


def _ended(outcome: Outcome, number: int, wrong: tuple[str, ...]) -> Ended:
    errors: dict[str, str] = {}
    for who, error in outcome.errors:
        errors[who] = f"{errors[who]}; {error}" if who in errors else error
    return Ended(
        schedules=number,
        endings=dict(outcome.endings),
        errors=errors,
        facts={name.removeprefix("~"): count for name, count in outcome.facts},
        findings=wrong,
    )
