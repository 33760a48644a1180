"""A receipt as Markdown, for the incident channel: verdict, ways back, what to type, the checks. Short.

    print(render(receipt, runbooks))

Texts that came from elsewhere are escaped, so that none starts a table, a link or a mention. Known weakness: chats that know
only a part of Markdown show tables and backslashes as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from toolkit.verify.report import words
from toolkit.verify.verdict import Finding, Receipt, Verdict

LONG: Final = 300
"""Characters of what a check says that are shown."""
_SPECIAL: Final = re.compile(r"[\\`*\[\]<>|~]|(?<!\w)_|_(?!\w)")
_MENTION: Final = re.compile(r"(?<!\w)@(?=\w)")


def render(receipt: Receipt, runbooks: Mapping[str, str] = {}) -> str:
    """The whole text. `runbooks`: the path of each check's runbook, by the check's name."""
    shown = words.cleaned(receipt)
    blocks = [
        f"## {words.MARKS[shown.verdict]} {escaped(words.headline(shown))}",
        escaped(_cut(words.why(shown))),
        *_rescues(shown),
        *_fenced("Next:", words.commands(shown)),
        _table(shown, runbooks),
        *([_blind(shown)] if words.blind(shown) else []),
        *([_events(shown)] if shown.events else []),
        _about(shown),
    ]
    return "\n\n".join(blocks) + "\n"


def escaped(text: str) -> str:
    """A text that Markdown shows as it is."""
    return _MENTION.sub("@\u200b", _SPECIAL.sub(lambda found: "\\" + found.group(), text))


def _cut(text: str) -> str:
    return text if len(text) <= LONG else text[: LONG - 1] + "…"


def _rescues(receipt: Receipt) -> list[str]:
    blocks = []
    for number, way in enumerate(receipt.rescues, 1):
        soon = words.span(way.seconds) if way.seconds is None else f"safe after {words.span(way.seconds)}"
        blocks += _fenced(
            f"**{number}. {escaped(way.name)}**: {soon} ({escaped(way.measured)})", (way.command,)
        )
    return blocks


def _fenced(above: str, commands: Sequence[str]) -> list[str]:
    """Commands as they are to be typed, in a fence that none of them can end."""
    if not commands:
        return []
    longest = max((len(ticks) for command in commands for ticks in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return ["\n".join([above, f"{fence}sh", *commands, fence])]


def _table(receipt: Receipt, runbooks: Mapping[str, str]) -> str:
    if not receipt.findings:
        return "No check was looked at."
    rows = [
        f"| {escaped(phase)} | {words.MARKS[one.verdict]} {one.verdict} | {escaped(one.check)} | {_said(one, runbooks)} |"
        for phase, findings in words.phases(receipt)
        for one in findings
    ]
    return "\n".join(["| phase | verdict | check | found |", "|---|---|---|---|", *rows])


def _said(finding: Finding, runbooks: Mapping[str, str]) -> str:
    said = escaped(_cut(finding.judgement.said))
    if finding.verdict in {Verdict.REGRESSION, Verdict.INCONCLUSIVE} and finding.check in runbooks:
        said += f" ({escaped(runbooks[finding.check])})"
    return said


def _blind(receipt: Receipt) -> str:
    told = (
        f"- {escaped(_cut(source))}: {escaped(', '.join(checks))}"
        for source, checks in words.blind(receipt).items()
    )
    return "\n".join(
        ["Sources that were not believed or did not answer, and the checks that wanted them:", "", *told]
    )


def _events(receipt: Receipt) -> str:
    told = (
        f"- {escaped(one.kind)} {words.when(one.at)}: {escaped(_cut(one.what))} ({escaped(one.who)})"
        for one in receipt.events
    )
    return "\n".join(["Inside the window:", "", *told])


def _about(receipt: Receipt) -> str:
    later = "".join(f"; {escaped(phase)} not before {words.when(at)}" for phase, at in receipt.later.items())
    left = f"; **{receipt.left} rows of test orders still in the catalog**" if receipt.left else ""
    races = f"; races: {escaped(receipt.certificate)}" if receipt.certificate else ""
    return (
        f"Evidence since {words.when(receipt.since)} ({escaped(receipt.since_what)}), looked at"
        f" {words.when(receipt.looked_at)} by {escaped(receipt.who)}; verification {receipt.verification_id}{later}{left}{races}"
    )  # fmt: skip
