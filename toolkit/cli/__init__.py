"""The command line `toolkit`: one file a command; parse, call, render. Only here: click, rich, `sys.exit`.

A command's module is imported when the command is called, so that `toolkit --help` starts fast. Commands of jobs join by
entry point, group `freshfetch.commands`. Data goes to stdout, talk to stderr.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib.metadata import EntryPoint, entry_points

import click

from toolkit.errors import DependencyUnreachable, ToolkitError, UsageError

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("", "The main job, shown once, on the embedded servers."),
    "up": ("toolkit.cli.servers:up", "Start the embedded PostgreSQL and Valkey."),
    "down": ("toolkit.cli.servers:down", "Stop the embedded servers."),
    "init": ("toolkit.cli.init:command", "Migrate schema toolkit and write its roles."),
    "import": ("", "Import a purchase order, CSV or JSON."),
    "worker": ("toolkit.cli.worker:command", "Run this host's supervisor and worker processes."),
    "status": ("toolkit.cli.status:command", "Servers, workers, queue, intents and settings."),
    "jobs": ("toolkit.cli.jobs:command", "What ran and what failed."),
    "trace": ("toolkit.cli.trace:command", "The trace of a job as a waterfall."),
    "replay": ("toolkit.cli.replay:command", "Run failed jobs again, by plan, on live data."),
    "verify-deploy": ("toolkit.cli.verify:command", "Is this deployment good? The checklist, with evidence."),
    "attest": ("toolkit.cli.verify_more:attest", "Vouch for what no source can tell."),
    "doctor": ("toolkit.cli.doctor:command", "What is wrong with queue and ledger, and what mends it."),
    "dashboards": ("toolkit.cli.dashboards:command", "Push the dashboards to a Grafana."),
    "logs": ("toolkit.cli.logs:command", "Count what a log of any origin tells of the job."),
    "capture": ("toolkit.cli.capture:command", "Save a failed job as one portable, redacted file."),
    "toggle": ("toolkit.cli.toggle:command", "Switch asynchronous processing, with a receipt."),
    "rehearse": ("toolkit.cli.rehearse:command", "Race job code in a sealed, throw-away database."),
}
"""Name → where its command lives ('' for a job's, found by entry point), and its line in `toolkit --help`."""


class LazyGroup(click.Group):
    """Lists commands from the table above; imports one only to run it or to show its help."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """The table's names, then those that other packages brought."""
        brought = {entry.name for entry in entry_points(group="freshfetch.commands")}
        return [*COMMANDS, *sorted(brought - COMMANDS.keys())]

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name, imported now."""
        where = COMMANDS.get(name, ("", ""))[0]
        entries = (
            [EntryPoint(name, where, "")]
            if where
            else list(entry_points(group="freshfetch.commands", name=name))
        )
        if not entries:
            return None
        command: click.Command = entries[0].load()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, which looks for the nearest name among commands that are imported already: none."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(
                error.command_name, possibilities=self.list_commands(ctx), ctx=ctx
            ) from None

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Short lines from the table: no import."""
        rows = [(name, COMMANDS[name][1] if name in COMMANDS else "") for name in self.list_commands(_ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


EPILOG = """\b
Exit codes: 0 fine, 1 something is wrong, 2 usage or configuration, 3 partly done
or inconclusive, 4 a dependency cannot be reached, 5 refused as unsafe, 8 still
running, 130 interrupted.

\b
Start here:  toolkit demo
On call:     toolkit status;  toolkit jobs failed;  toolkit jobs show ID
"""


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="freshfetch", prog_name="toolkit")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Background jobs that fetch fresh, tell the truth, and can be run again.

    Works on DATABASE_URL and REDIS_URL, or on the embedded servers that `toolkit up` starts. `toolkit status` shows every
    setting in force.
    """
    if "NO_COLOR" in os.environ:
        ctx.color = False


def main() -> None:
    """Entry point of the `toolkit` script."""
    try:
        code = cli.main(standalone_mode=False, prog_name="toolkit")
        sys.stdout.flush()
    except ToolkitError as error:
        _complain(str(error), error.remedy)
        code = error.exit_code
    except click.exceptions.Abort:
        code = 130
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        code = 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # `toolkit … | head`: whoever read has enough. Python would complain once more while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except Exception as error:
        if (known := _known(error)) is None:
            raise
        _complain(str(known).partition("\n")[0], known.remedy)
        code = known.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _known(error: Exception) -> ToolkitError | None:
    """What may come from PostgreSQL or the broker in the middle of anything; None when it is a fault of ours."""
    from toolkit.broker.connection import BROKER_AWAY
    from toolkit.ledger.database import cause_of, is_connection_loss

    if getattr(cause_of(error), "sqlstate", None) == "42501":
        return UsageError(
            f"this login may not do that: {error}",
            remedy="GRANT toolkit_operator TO it, or the role of toolkit/ledger/roles.sql that has this right",
        )
    if isinstance(error, BROKER_AWAY) or is_connection_loss(error):
        server = "the broker" if isinstance(error, BROKER_AWAY) else "PostgreSQL"
        return DependencyUnreachable(
            f"{server} went away meanwhile: {error}",
            remedy="`toolkit status` tells when it is back, and what was done until then; this command can be typed again",
        )
    return None


def _complain(message: str, remedy: str) -> None:
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    click.echo(click.style("error: ", fg="red", bold=True) + message, err=True, color=colour)
    for line in remedy.splitlines():
        click.echo(click.style("   do: ", fg="cyan") + line, err=True, color=colour)
