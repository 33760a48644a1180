"""What installed packages bring to rehearse: entry points in the group `freshfetch.rehearsals`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points

from toolkit.errors import UsageError
from toolkit.rehearse.words import Options, Rehearsal, Scenario


def rehearsals() -> dict[str, Rehearsal]:
    """By name."""
    return {entry.name: entry.load() for entry in entry_points(group="freshfetch.rehearsals")}


def rehearsal(name: str = "") -> Rehearsal:
    """The one of that name; the only one, or the first by name, without. Raises UsageError: exit code 1 would say that a schedule
    went wrong."""
    found = rehearsals()
    if name in found:
        return found[name]
    if name or not found:
        raise UsageError(
            f"no rehearsal {name!r} is installed" if name else "no rehearsal is installed",
            remedy=f"installed: {', '.join(sorted(found)) or 'none'}",
        )
    return found[min(found)]


def all_scenarios(chosen: Rehearsal, options: Options) -> Mapping[str, Scenario]:
    """The table's bodies and the scenarios of today's job."""
    return {**chosen.table(options), **chosen.scenarios(options)}


def scenario(chosen: Rehearsal, name: str, options: Options) -> Scenario:
    """The scenario of that name. Raises UsageError, naming those there are."""
    known = all_scenarios(chosen, options)
    if name not in known:
        raise UsageError(f"no scenario {name!r}", remedy=f"there are: {', '.join(known)}")
    return known[name]
