"""`scripts/bench [COMMAND]`: one module a benchmark, one line here; without a command, the image job."""

from __future__ import annotations

import sys

import click

from scripts.benchmarks import image_job, logs, rehearse, replay, toggle, verify
from toolkit.errors import ToolkitError


@click.group()
def bench() -> None:
    """Benchmarks of Freshfetch, each on embedded servers of its own."""


bench.add_command(image_job.command, "image-job")
bench.add_command(toggle.command, "toggle")
bench.add_command(replay.command, "replay")
bench.add_command(rehearse.command, "rehearse")
bench.add_command(logs.command, "logs")
bench.add_command(verify.command, "verify")


def main(arguments: list[str]) -> None:
    """Run one benchmark; errors are told as the toolkit tells them."""
    if not arguments or arguments[0] not in {*bench.commands, "--help"}:
        arguments = ["image-job", *arguments]
    try:
        bench.main(arguments, prog_name="scripts/bench")
    except ToolkitError as error:
        sys.exit(f"error: {error}\n{error.remedy}")


if __name__ == "__main__":
    main(sys.argv[1:])
