"""``asetwin version``."""

import asetwin
from asetwin.cli import common


def command(output: common.Form = common.Output.TEXT) -> None:
    """Print the version."""
    if output is common.Output.JSON:
        common.emit_json({"version": asetwin.__version__})
    else:
        print(f"asetwin {asetwin.__version__}")
