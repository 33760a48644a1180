"""How a replay ended: its exit code, and the command to type next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.cli import render, words
from toolkit.cli import replay_screen as screen

if TYPE_CHECKING:
    from toolkit.cli.replay_call import Call
    from toolkit.ledger.replay_views import Item, Landed, Plan
    from toolkit.replay.execute import Ended, Told

DONE, WRONG, PARTLY, UNSAFE, STILL, INTERRUPTED = 0, 1, 3, 5, 8, 130
"""Exit codes (design, section 6)."""


def exit_code(
    verdicts: dict[str, int], ended: Ended, told: Told, seen: Landed | None, *, forced: bool = False
) -> int:
    """The exit code of a plan that was carried out. Pure."""
    if ended.how == "stopped":
        return PARTLY
    if seen is not None and seen.bad:
        return WRONG
    if seen is not None and seen.in_air:
        return STILL
    planned = {name: number for name, number in verdicts.items() if not (forced and name == "LOOP")}
    left = Counter(planned) + told.changed
    if not refused(left):
        return DONE
    return PARTLY if told.moved else refused(left)


def worst(codes: Sequence[int]) -> int:
    """The exit code of several plans: the one that most needs somebody. Pure."""
    return min(codes, key=(INTERRUPTED, WRONG, UNSAFE, PARTLY, STILL, DONE).index)


def refused(verdicts: dict[str, int]) -> int:
    """The exit code when no job at all was moved. Pure."""
    for name, code in (("LOOP", UNSAFE), ("UNDECODABLE", WRONG), ("STILL-RUNNING", STILL)):
        if verdicts.get(name):
            return code
    return DONE


def nothing(call: Call, plan: Plan, items: Sequence[Item]) -> int:
    """No job of the plan is to be run: say so; the exit code."""
    if call.as_json:
        render.as_json(screen.document(plan, items))
    render.say("no job is to be run; nothing was moved")
    render.next_steps(*instead(plan, items))
    return refused(plan.verdicts)


def instead(plan: Plan, items: Sequence[Item]) -> list[str]:
    """What to type where a plan has no job to run; `items`: some of its jobs. Pure."""
    then = {"LOOP": [execute(plan, "--force")], "UNDECODABLE": [], "STILL-RUNNING": ["toolkit status"]}
    for verdict, commands in then.items():
        if plan.verdicts.get(verdict):
            example = next((one.job_id for one in items if one.verdict == verdict), "")
            return [*([f"toolkit jobs show {example[: words.SHORT]}"] if example else []), *commands]
    return ["toolkit jobs failed"]


def execute(plan: Plan, options: str) -> str:
    """The command that carries a frozen plan out; a selection needs a reason by then. Pure."""
    why = "" if plan.named or plan.reason else ' --reason "why"'
    return f"toolkit replay --execute {plan.hash} {options}{why}".rstrip()


def next_steps(call: Call, plan: Plan, ended: Ended, seen: Landed | None) -> None:
    """The command to type next."""
    limits = f" {again}" if (again := call.again()) else ""
    if ended.how == "interrupted":
        render.say("interrupted; every job is either asked again or as it was")
        render.next_steps(f"toolkit replay --resume {plan.hash}{limits}")
    elif ended.remainder is not None:
        render.say(f"what is left is plan {ended.remainder.hash}: {render.many(ended.remainder.jobs, 'job')}")
        render.next_steps("toolkit jobs failed", f"toolkit replay --execute {ended.remainder.hash}{limits}")
    elif seen is not None and seen.bad:
        if call.max_failures is not None and seen.bad >= call.max_failures:
            render.say(
                f"--max-failures {call.max_failures} was reached when all of them were in the air already"
            )
        render.next_steps("toolkit jobs failed", "toolkit replay history")
    elif plan.named and plan.jobs == 1:
        render.next_steps(
            f"toolkit jobs show {plan.selection['job'][0]}", f"toolkit trace {plan.selection['job'][0]}"
        )
    else:
        render.next_steps("toolkit replay history", "toolkit jobs failed")
