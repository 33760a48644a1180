"""Jobs in words, for the commands that show them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final

from toolkit.cli import render
from toolkit.run import Reason

if TYPE_CHECKING:
    from toolkit.ledger.views import JobLine, JobView

SHORT: Final = 8
"""Characters of a job id on a terminal; any unique beginning is taken."""

MEANINGS: Final[Mapping[str, str]] = {
    Reason.TRANSIENT: "something outside failed in a way that passes: a connection, a 5xx, a time-out",
    Reason.INTEGRITY: "the database refused a write; trying again would not help: a bug, or a changed schema",
    Reason.PAYLOAD_REFUSED: "the payload carries what a payload must not, or lacks what it must; mend who asked for it",
    Reason.TIMEOUT: "the run took longer than the job's time limit",
    Reason.SUPERSEDED: "the run had been given up as lost and woke late; it wrote nothing, another run has the job",
    Reason.ERROR: "the job's code raised what it did not expect: a bug",
    Reason.KILLED: "the worker process died under the run (killed, crashed, out of memory)",
    Reason.LEASE_EXPIRED: "the whole host of the worker fell silent",
}
"""What a reason of a failed or lost run means to an engineer."""


def what(line: JobLine, now: datetime) -> str:
    """What became of a job, in a few words."""
    error = line.error_type or line.reason or ""
    if line.state == "running":
        return (
            f"run {line.runs}, for {render.seconds((now - line.started_at).total_seconds())}"
            if line.started_at
            else ""
        )
    if line.state == "waiting":
        if line.held_by:
            last = f"{line.last_outcome}: {error}; " if line.last_outcome is not None else ""
            return f"{last}held by {line.held_by}"
        if line.last_outcome is not None:
            wait = (line.due_at - now).total_seconds()
            again = f"in {render.seconds(wait)}" if wait > 0 else "now"
            return f"{line.last_outcome}: {error}; again {again}"
        return "in the queue" if line.pushed_at else "not pushed to the queue yet"
    if line.state == "processed":
        return counts(line.counts or {})
    return f"{line.reason}: {error}" if error and error != line.reason else line.reason or ""


def meaning(view: JobView, now: datetime) -> str:
    """What the job's state means to whoever is on call; '' when it speaks for itself."""
    line, last = view.line, view.last
    text = MEANINGS.get(last.reason, "") if last is not None else ""
    match line.state:
        case "waiting" if line.held_by or last is not None:
            held = f"kept in the ledger until `toolkit toggle on {line.held_by}`"
            again = held if line.held_by else f"it runs again by itself, due {when(line.due_at, now)}"
            return f"{text}; {again}".lstrip("; ")
        case "waiting":
            return "waits for a worker" if line.pushed_at else "waits for a relay (`toolkit worker` runs one)"
        case "skipped":
            return "there was nothing to do any more; that is no error"
        case "lost":
            return f"{text}; three killed workers, or six lost runs, so it is not tried again by itself"
        case "failed":
            return f"{text}; its retries are used up" if last and last.reason == Reason.TRANSIENT else text
    return ""


def counts(found: Mapping[str, int]) -> str:
    """The counts that are not 0."""
    return ", ".join(f"{name} {count}" for name, count in found.items() if count)


def when(moment: datetime, now: datetime) -> str:
    """A time for people, with how far off it is."""
    off = render.ago(moment, now) if moment <= now else f"in {render.seconds((moment - now).total_seconds())}"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC ({off})"


def plain(text: object) -> str:
    """One line that a terminal shows as it stands: no line breaks, tabs or escape sequences of whoever wrote it."""
    return "".join(character if character.isprintable() else " " for character in str(text)).strip()
