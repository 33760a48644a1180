"""`toolkit jobs`: what ran and what failed, from the ledger."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click
import msgspec

from toolkit.cli import behind, render, words
from toolkit.cli.options import SINCE, Ledger, Since, json_option, ledger, limit_option
from toolkit.run import Outcome

if TYPE_CHECKING:
    from toolkit.ledger.views import FailedGroup, JobLine, JobView, RunView

STATES = ("waiting", "running", *(outcome.value for outcome in Outcome))


class _ListByDefault(click.Group):
    """Without a subcommand it is `list`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `list` before options that belong to it."""
        if not args or (args[0].startswith("-") and args[0] not in {"-h", "--help"}):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ListByDefault)
def command() -> None:
    """What ran and what failed, from the ledger. Without a subcommand: the newest jobs (`list`).

    Reading never writes, and needs no more than the role toolkit_observer. The exit code tells whether the question was
    answered, not whether jobs failed: for that there is `toolkit status`.
    """


@command.command("list")
@click.option(
    "--state", type=click.Choice(STATES), help="Only jobs in this state; lost and failed: for good."
)
@click.option("--job", "job_name", metavar="NAME", help="Only jobs of this name.")
@click.option(
    "--about", metavar="ID", help="Only jobs whose payload carries this id, e.g. a purchase order's."
)
@click.option("--since", type=SINCE, help="Only jobs asked for since then: 90s, 15m, 2h, 3d, or an ISO time.")
@limit_option
@json_option
@click.pass_context
def list_(ctx: click.Context, *, state: str | None, job_name: str | None, about: str | None, since: Since | None,
          limit: int, as_json: bool) -> None:  # fmt: skip
    """The newest jobs: what was asked for, and what became of it."""
    from toolkit.ledger.queries import list_jobs, newest_asked
    from toolkit.ledger.views import Filters

    with ledger(ctx) as seen:
        moment = since.moment(seen.now) if since else None
        found = list_jobs(
            seen.session, Filters(state=state, job_name=job_name, since=moment, about=about, limit=limit + 1)
        )
        newest = None if found else newest_asked(seen.session)
    lines, more = found[:limit], len(found) > limit
    if as_json:
        render.as_json({"jobs": lines, "more": more})
        return
    _table(lines, seen)
    if not lines:
        asked = (
            f"the newest job was asked for {render.ago(newest, seen.now)}"
            if newest
            else "no job was ever asked for"
        )
        render.say(f"no {'' if state is None else state + ' '}job matches; {asked}")
    elif more:
        render.say(f"the newest {limit}; there are more (--limit)")
    if lines:
        render.next_steps(f"toolkit jobs show {lines[0].job_id[: words.SHORT]}")


def _table(lines: Sequence[JobLine], seen: Ledger) -> None:
    if sys.stdout.isatty():
        rows = [
            (render.ago(line.asked_at, seen.now), line.state, line.job_id[:words.SHORT], words.plain(seen.subject(line)),
             line.runs, render.seconds(line.duration), words.plain(words.what(line, seen.now)))
            for line in lines
        ]  # fmt: skip
        render.table(
            ("asked", "state", "job", "about", "runs", "took", "what"),
            rows,
            right=("runs", "took"),
            whole=("job",),
        )
        return
    wide = [
        (line.job_id, line.state, line.job_name, line.asked_at.isoformat(), line.runs, _number(line.queue_wait),
         _number(line.duration), line.reason or "", line.error_type or "", words.plain(words.what(line, seen.now)),
         _compact(line.payload))
        for line in lines
    ]  # fmt: skip
    columns = (
        "job_id", "state", "job_name", "asked_at", "runs", "queue_wait", "duration", "reason", "error_type", "what", "payload",
    )  # fmt: skip
    render.table(columns, wide)


@command.command()
@click.argument("job_id", metavar="ID")
@click.option("--traceback", is_flag=True, help="With the traceback of each failed run.")
@json_option
@click.pass_context
def show(ctx: click.Context, *, job_id: str, traceback: bool, as_json: bool) -> None:
    """One job: what was asked, every run, and what to do next.

    ID is a job id or a unique beginning of it (6 characters or more), a run id, a trace id, or an id in the payload such as
    a purchase order's.
    """
    from toolkit.ledger.find import one
    from toolkit.ledger.queries import job

    with ledger(ctx) as seen:
        view = job(seen.session, one(seen.session, job_id))
    last = view.last
    if as_json:
        render.as_json(
            {
                "job": view.line,
                "answer": last.answer() if last else None,
                "gone": view.gone,
                "runs": view.runs,
            }
        )
        return
    line = view.line
    render.heading(f"{line.job_name}  {line.job_id}")
    render.fields(_about(view, seen.now))
    for run in view.runs:
        click.echo("")
        _show_run(run, seen.now, traceback=traceback)
    following = [f"toolkit trace {line.job_id[: words.SHORT]}"]
    if any(run.traceback for run in view.runs) and not traceback:
        following.append(f"toolkit jobs show {line.job_id[: words.SHORT]} --traceback")
    render.next_steps(*following)


def _about(view: JobView, now: datetime) -> dict[str, object]:
    line, last = view.line, view.last
    by = f" by release {words.plain(line.release)}" if line.release else ""
    about: dict[str, object] = {
        "state": f"{line.state}  {words.plain(words.what(line, now))}".rstrip(),
        "payload": words.plain("  ".join(f"{name}={value}" for name, value in line.payload.items())),
        "asked": f"{words.when(line.asked_at, now)}{by}, {line.mode}, queue {line.queue}",
    }
    if last is not None and (answer := last.answer()) is not None:
        about["answer"] = words.plain(_compact(answer))
    if meaning := words.meaning(view, now):
        about["means"] = meaning
    if view.gone:
        about["replay"] = words.plain(f"found it gone: {view.gone}; nothing is left to do")
    return about


def _show_run(run: RunView, now: datetime, *, traceback: bool) -> None:
    outcome = run.outcome or "running"
    colour = render.STYLES.get(outcome, "").rpartition(" ")[2] or None
    took = f"took {render.seconds(run.duration)}" if run.duration is not None else "still at it"
    head = f"{outcome}: {run.reason}" if run.reason else outcome
    click.echo(f"{click.style(f'run {run.number}', bold=True)}  {click.style(words.plain(head), fg=colour)}")
    facts: dict[str, object] = {
        "began": f"{words.when(run.started_at, now)}, after {render.seconds(run.queue_wait)} in the queue, {took}",
        "by": words.plain(_by(run)),
        "counts": words.counts(run.counts),
        "error": words.plain(": ".join(part for part in (run.error_type, run.error_message) if part)),
        "sqlstate": words.plain("  ".join(part for part in (run.sqlstate, run.constraint) if part)),
        "kind": words.plain(run.fingerprint or ""),
        "retry": f"due {words.when(run.retry_at, now)}" if run.retry_at else "",
        "replay of": run.replay_of or "",
        "lease": f"ran out {render.ago(run.lease_until, now)}: its host is gone" if _silent(run, now) else "",
        "run id": run.run_id,
        "trace": run.trace_id,
    }
    render.fields({f"  {name}": value for name, value in facts.items() if value})
    if traceback and run.traceback:
        for row in run.traceback.splitlines():
            click.echo(f"    {' ' * (len(row) - len(row.lstrip()))}{words.plain(row)}")


def _by(run: RunView) -> str:
    """Who ran it; RQ does not know all of it of a job that it ran without us."""
    where = " on ".join(filter(None, (run.worker, run.host)))
    return ", ".join(filter(None, (where, run.release and f"release {run.release}", run.mode)))


def _silent(run: RunView, now: datetime) -> bool:
    return run.outcome is None and run.lease_until is not None and run.lease_until < now


@command.command(short_help="What failed and was lost, by kind of error.")
@click.option("--since", type=SINCE, default="24h", show_default=True, help="Runs that began since then.")
@limit_option
@json_option
@click.pass_context
def failed(ctx: click.Context, *, since: Since, limit: int, as_json: bool) -> None:
    """Failed and lost runs, one line for each kind of error (its fingerprint).

    `unresolved` are its jobs that have not come to a good end since: `open` ones run again by themselves, `given up` ones
    do not; kinds that have some come first. A job that a replay found gone (SKIP-GONE) is resolved. Jobs that failed in RQ
    behind the ledger's back (plain RQ, older versions) follow; nothing of them is run to read them.
    """
    from toolkit.ledger.queries import count_runs, failed_groups

    with ledger(ctx) as seen:
        moment = since.moment(seen.now)
        groups = failed_groups(seen.session, moment, limit=limit)
        counted = count_runs(seen.session, moment)
        strays = behind.strays(seen, limit)
        registered = seen.app.registry.specs.keys()
    if as_json:
        render.as_json(
            {"since": moment, "groups": groups, "runs": counted, "strays": behind.document(strays)}
        )
        return
    _show_failed(groups, counted, since, seen.now, registered)
    behind.show(strays)


def _show_failed(groups: Sequence[FailedGroup], counted: Mapping[str, int], since: Since, now: datetime,
                 registered: Collection[str]) -> None:  # fmt: skip
    began = sum(counted.values())
    _failed_table(groups, now)
    if not groups:
        render.say(f"nothing failed {since}; {render.many(began, 'run')} began")
        return
    bad = counted["failed"] + counted["lost"]
    render.say(
        f"{bad:,} of {render.many(began, 'run')} failed or {'was' if bad == 1 else 'were'} lost {since}"
    )
    first = groups[0]
    if first.example_message:
        render.say(f"e.g. {first.error_type}: {words.plain(first.example_message)}")
    render.next_steps(
        f"toolkit jobs show {first.example_job_id[: words.SHORT]}",
        f"toolkit trace {first.example_job_id[: words.SHORT]}",
        *replay_of(groups, registered),
    )


def replay_of(groups: Sequence[FailedGroup], registered: Collection[str]) -> list[str]:
    """The command that replays the most frequent kind of which jobs were given up, for a shell; none when there is none, or
    when this release knows no such job. Lost runs have no fingerprint: they go by how they were lost. Pure."""
    for group in groups:
        kind = ("--fingerprint", group.fingerprint) if group.fingerprint else ("--error", group.error_type)
        if group.given_up and group.job_name in registered and kind[1]:
            return [f'{shlex.join(["toolkit", "replay", *kind])} --reason "why"']
    return []


def _failed_table(groups: Sequence[FailedGroup], now: datetime) -> None:
    if sys.stdout.isatty():
        rows = [
            (words.plain(group.fingerprint)[: words.SHORT] or "-", group.runs, _unresolved(group),
             render.ago(group.last_seen, now), group.example_job_id[: words.SHORT],
             words.plain(f"{'lost: ' if group.outcome == Outcome.LOST else ''}{_kind(group)}"))
            for group in groups
        ]  # fmt: skip
        columns: tuple[str, ...] = ("kind", "runs", "unresolved", "last", "example", "error")
        render.table(columns, rows, right=("runs",), whole=("kind", "example"))
        return
    wide = [
        (group.fingerprint, group.outcome, group.reason, group.job_name, group.error_type, group.sqlstate, group.constraint,
         group.runs, group.jobs, group.open, group.given_up, group.first_seen.isoformat(), group.last_seen.isoformat(),
         ",".join(group.releases), group.example_job_id, words.plain(group.example_message))
        for group in groups
    ]  # fmt: skip
    columns = (
        "fingerprint", "outcome", "reason", "job_name", "error_type", "sqlstate", "constraint", "runs", "jobs", "open",
        "given_up", "first_seen", "last_seen", "releases", "example_job_id", "example_message",
    )  # fmt: skip
    render.table(columns, wide)


def _kind(group: FailedGroup) -> str:
    return " ".join(
        part for part in (group.error_type or group.reason, group.sqlstate, group.constraint) if part
    )


def _unresolved(group: FailedGroup) -> str:
    parts = [
        f"{group.given_up} given up" if group.given_up else "",
        f"{group.open} open" if group.open else "",
    ]
    return f"{', '.join(filter(None, parts)) or 'none'} of {group.jobs}"


def _compact(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
