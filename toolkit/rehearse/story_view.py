"""A story for people: a column for each actor, who holds and who waits, and the cause in one line. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from toolkit.rehearse.words import CRASH, Scenario, Step, Story, findings

COLUMN = 46
"""Characters of an actor's column."""

_WRITES = re.compile(r'\b(DELETE FROM|UPDATE|INSERT INTO)\s+("?[\w.]+"?)', re.IGNORECASE)


def short(sql: str, width: int = COLUMN - 2) -> str:
    """A statement in one line: the verb and what it is about, at most `width` characters."""
    text = " ".join(sql.split())
    if text.startswith(CRASH):
        return f"⚡ kill -9 of {text.removeprefix(CRASH).strip()}"
    if text.startswith("WITH"):
        verbs = [f"{verb.upper()} {table}" for verb, table in _WRITES.findall(text)]
        text = f"WITH … {', '.join(verbs)}" if verbs else text
    if text.startswith("SELECT toolkit."):
        text = text.split("(")[0] + "(…)"
    return textwrap.shorten(text, width, placeholder=" …") if len(text) > width else text


def draw(scenario: Scenario, story: Story) -> str:
    """The story as a timeline of as many columns as there are actors."""
    names = [actor.name for actor in scenario.actors]
    lines = ["  # " + "".join(name.ljust(COLUMN) for name in names) + "holds and waits"]
    lines.append("─" * (len(lines[0])))
    for number, step in enumerate(story.steps, start=1):
        lines += _turn(names, number, step)
    lines.append("")
    lines += [f"    {name} ended: {ending}" for name, ending in story.outcome.endings]
    lines += [f"    found: {one}" for one in findings(scenario, story)]
    lines.append(f"    cause: {cause(scenario, story)}")
    return "\n".join(line.rstrip() for line in lines)


def _turn(names: Sequence[str], number: int, step: Step) -> list[str]:
    place = names.index(step.actor)
    cells = [""] * len(names)
    cells[place] = short(step.sql)
    notes = [f"{step.actor} waits for {' and '.join(step.waits_for)}"] if step.waits_for else []
    notes += [f"{name} goes on" for name in step.woke]
    notes += [f"{name} holds {', '.join(tables)}" for name, tables in sorted(step.locks.items()) if tables]
    lines = [f"{number:3} " + "".join(cell.ljust(COLUMN) for cell in cells) + "; ".join(notes)]
    for name, error in step.errors.items():
        marks = [""] * len(names)
        marks[names.index(name)] = f"✗ {error}"
        lines.append("    " + "".join(cell.ljust(COLUMN) for cell in marks))
    return lines


def cause(scenario: Scenario, story: Story) -> str:
    """Why it went wrong, in one line."""
    for number, step in enumerate(story.steps, start=1):
        for name, error in step.errors.items():
            if error.startswith("23503"):
                return _missing_parent(story, number, name, error)
    wrong = findings(scenario, story)
    if not wrong:
        return "nothing went wrong"
    last = next((step for step in reversed(story.steps) if step.actor in scenario.jobs), None)
    what = f"; the job's last turn was {short(last.sql)}" if last else ""
    return f"{wrong[0]}{what}"


def _missing_parent(story: Story, number: int, name: str, error: str) -> str:
    """23503: what the statement points to was deleted by somebody between the look and the write."""
    constraint = error.partition(" ")[2].split(";")[0]
    before = list(enumerate(story.steps[:number], start=1))
    write = max((n for n, step in before if step.actor == name), default=number)
    deletes = [
        (n, step)
        for n, step in before
        if step.actor != name and step.sql.lstrip().upper().startswith("DELETE")
    ]
    if not deletes:
        return f"the write of {name} in turn {write} points to a row that is not there ({constraint})"
    at, step = deletes[-1]
    commits = [
        n
        for n, later in enumerate(story.steps, start=1)
        if n > at and later.actor == step.actor and later.sql.startswith("COMMIT")
    ]
    ended = f", committed in turn {commits[0]}" if commits else ""
    looked = [n for n, one in before if one.actor == name and one.sql.lstrip().upper().startswith("SELECT")]
    seen = (
        f" after {name} had looked in turn {looked[-1]}"
        if looked and looked[-1] < (commits or [0])[0]
        else ""
    )
    return (
        f"{step.actor} deleted the row in turn {at}{ended}{seen}, and nothing that {name} held kept it until the write "
        f"in turn {write} ({constraint})"
    )
