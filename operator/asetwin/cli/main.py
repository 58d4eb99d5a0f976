"""The console script: where every process of asetwin starts.

``asetwin master`` goes past the command line, because a failover waits for
that process and the parsing of arguments that it does not take would come
first. Everything else goes to :mod:`asetwin.cli.app`.
"""

import signal
import sys
from pathlib import Path
from types import FrameType

PLUGIN = "kubectl-ase"
"""kubectl finds the program under this name when somebody types ``kubectl ase``."""


def main() -> None:
    """Run ``sys.argv``; ends with SystemExit."""
    if sys.argv[1:] == ["master"]:
        sys.exit(run_master())
    from asetwin.cli.app import app

    is_plugin = Path(sys.argv[0]).name == PLUGIN
    app(prog_name="kubectl ase" if is_plugin else "asetwin")


def run_master() -> int:
    """The master stand-in; returns its exit status."""
    # Process 1 of a container ignores SIGTERM until it handles it: a Pod deleted while it still
    # imports would hold up the failover for its whole grace period.
    signal.signal(signal.SIGTERM, _end)
    from asetwin.standin import master

    return master.main()


def _end(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
