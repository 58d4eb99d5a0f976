"""The list of verbs, and what all of them share: how an error ends the program.

A verb returns its exit status, and raises :class:`~asetwin.cli.common.Problem`
for what the person at the keyboard has to know. A traceback means a bug.
"""

import sys
from typing import Any, NoReturn, cast

import typer
from typer.core import TyperGroup

from asetwin.cli import (
    check,
    common,
    fail,
    fuzz,
    master,
    operator,
    power_agent,
    repair,
    simulate,
    status,
    timeline,
    update,
    version,
)

# Typer exports one of its usage errors; all of them have the base of this one.
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])

HELP = """
A working twin of a two-node Azure Stack Edge device on kind.

\b
Examples:
  # How is the device, where is its master?
  asetwin status
  # Both power supplies of node A fail: the device fails over
  asetwin fail node-a PSU1
  asetwin fail node-a PSU2
  # Watch it, in seconds since the detection
  asetwin timeline --follow
  # Both nodes are updated in turn
  asetwin update ase --type DeviceSoftware --version 3.3.2604
  # Repair whatever is broken
  asetwin repair --all
  # Would these workloads survive the loss of a node?
  asetwin check -f manifests/
  # The same without a cluster, under a virtual clock
  asetwin simulate manifests/samples/scenarios

\b
Exit status: 0 good, 1 findings, 2 bad input or no cluster.
Results go to stdout, errors to stderr with "error: " in front.
"""


class Verbs(TyperGroup):
    """A group of verbs that ends by asetwin's conventions instead of Typer's."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Parse, run one verb, and exit with its status."""
        try:
            status = super().main(*args, **(kwargs | {"standalone_mode": False}))
        except common.Problem as problem:
            common.warn(f"error: {problem}")
            sys.exit(problem.exit_status)
        except UsageError as error:
            common.warn(f"error: {_lower(error.format_message())}")
            if error.ctx is not None:
                common.warn(f"see '{error.ctx.command_path} --help'")
            sys.exit(2)
        except typer.Abort:
            sys.exit(1)
        sys.exit(status if isinstance(status, int) else 0)


def _lower(message: str) -> str:
    """As the second half of a sentence, without its full stop."""
    return (message[:1].lower() + message[1:]).removesuffix(".")


app = typer.Typer(
    cls=Verbs,
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for verb in (
    check,
    status,
    fail,
    repair,
    update,
    timeline,
    simulate,
    fuzz,
    operator,
    power_agent,
    master,
    version,
):
    app.command(verb.__name__.rpartition(".")[2].replace("_", "-"))(verb.command)
