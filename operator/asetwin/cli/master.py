"""``asetwin master``: listed here; :mod:`asetwin.cli.main` runs it without Typer."""

from asetwin.cli import main


def command() -> int:
    """Run a device's master stand-in; the operator starts it.

    It takes no options. The environment says which device (ASETWIN_DEVICE),
    epoch (ASETWIN_EPOCH) and pod (ASETWIN_POD) it is; ASETWIN_POD_UID,
    ASETWIN_NODE, ASETWIN_BOOT_SECONDS, ASETWIN_LEASE_SECONDS and ASETWIN_PORT
    may be absent. It serves while it holds the Lease DEVICE-master with the
    highest epoch, and ends when a higher one appears.
    """
    return main.run_master()
