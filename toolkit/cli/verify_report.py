"""What `toolkit verify-deploy` prints: a receipt, to stdout and to files; the newest verifications; a dry run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from toolkit.app import App
from toolkit.cli import render

if TYPE_CHECKING:
    from toolkit.ledger.verifications import Verification
    from toolkit.verify.asked import Asked
    from toolkit.verify.verdict import Receipt
    from toolkit.verify.window import Window

STDOUT: Final = Path("-")


def show(receipt: Receipt, given: dict[str, Any]) -> bool:
    """Print and write the receipt; False when a file could not be written. Whoever reads stdout may have enough of it."""
    from toolkit import verification
    from toolkit.cli import verify_view
    from toolkit.verify.report import html, junit, markdown

    runbooks = verification.runbooks()
    with render.until_enough():
        if given["as_json"]:
            render.as_json(receipt)
        elif given["markdown"] == STDOUT:
            click.echo(markdown.render(receipt, runbooks), nl=False)
        else:
            verify_view.show(receipt, runbooks)
    written = True
    for path, write in (("junit", junit.render), ("markdown", markdown.render), ("html", html.render)):
        if given[path] is not None and given[path] != STDOUT:
            written &= _write(given[path], write(receipt, runbooks))
    return written


def _write(path: Path, text: str) -> bool:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        render.say(f"error: {path} cannot be written: {error.strerror}")
        return False
    render.say(f"written: {path}")
    return True


def listed(app: App, *, as_json: bool) -> int:
    """--list."""
    from toolkit.ledger import verifications
    from toolkit.ledger.reading import reading

    with reading(app.database) as session:
        found = verifications.listed(session)
    if as_json:
        render.as_json([dataclasses.replace(one, receipt=None) for one in found])
        return 0
    if not found:
        render.say("nothing was verified yet")
        render.next_steps("toolkit verify-deploy")
        return 0
    rows = [
        (
            one.verification_id,
            one.release,
            _verdict(one),
            f"{one.started_at:%Y-%m-%d %H:%M:%S} UTC",
            one.who,
            one.runner or "-",
        )
        for one in found
    ]
    render.table(("id", "release", "verdict", "started", "who", "run by"), rows)
    newest = found[0]
    if newest.finished_at is None and not newest.runner:
        render.next_steps(f"toolkit verify-deploy --resume {newest.verification_id}")
    return 0


def _verdict(one: Verification) -> str:
    """`proven so far` where a later phase was still to come, as its report said."""
    later = one.verdict == "proven" and one.receipt and msgspec.json.decode(one.receipt).get("later")
    return f"{one.verdict} so far" if later else one.verdict


def dry_run(app: App, begun: Window, asked: Asked, *, as_json: bool) -> int:
    """--dry-run."""
    from toolkit import verification

    found = verification.dry(app, begun, asked)
    if as_json:
        render.as_json([{"check": one.check.name, "phase": one.check.phase, "rule": one.check.rule, "symptom": one.check.symptom,
                         "asks": one.statements, "trouble": one.trouble} for one in found])  # fmt: skip
        return 0
    for one in found:
        render.heading(f"{one.check.phase.value}: {one.check.name}")
        click.echo(f"rule     {one.check.rule}")
        click.echo(f"symptom  {one.check.symptom}")
        for statement in one.statements:
            click.echo(f"asks     {statement}")
        if one.trouble:
            click.echo(f"trouble  {one.trouble}")
    return 0
