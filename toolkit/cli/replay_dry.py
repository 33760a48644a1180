"""`toolkit replay --dry-run`: what a run would come to, with every write rolled back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.cli import render, words
from toolkit.cli.replay_ending import DONE, WRONG

if TYPE_CHECKING:
    from toolkit.app import App


def dry_run(app: App, ids: Sequence[str], *, as_json: bool) -> int:
    """The bodies for real, and every write rolled back; the exit code."""
    runner, bad = app.dry_runner(), list[str]()
    results = []
    for job_id in ids:
        dry = runner.run(job_id)
        answer = dry.result.answer()
        if dry.failure is not None:
            bad.append(job_id)
            answer |= {
                "success": False,
                "reason": dry.failure.reason,
                "error": dry.failure.message,
                "error_type": dry.failure.error_type,
            }
        results.append({"job_id": job_id, "dry_run": True} | answer)
    if as_json:
        render.as_json(results)
    else:
        for result in results:
            render.heading(f"{result.pop('job_id')}: what a run would come to (nothing was written)")
            result.pop("dry_run")
            render.fields({name: words.plain(value) for name, value in result.items()})
    if bad:
        render.next_steps(f"toolkit jobs show {bad[0][: words.SHORT]}")
    else:
        render.next_steps("toolkit replay " + " ".join(f"--job {job_id}" for job_id in ids[:3]))
    return WRONG if bad else DONE
