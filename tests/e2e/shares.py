"""What is on the device's shares, read on the node that never fails."""

from asetwin.kube import bodies
from asetwin.model import journals
from e2e.engine import docker
from e2e.twin import DEVICE, Twin

SHARES = "/var/lib/asetwin/shares"


def on_share(twin: Twin, *command: str) -> str:
    """The output of a command where the shares are; CalledProcessError where it fails."""
    return docker("exec", f"{twin.kind.name}-control-plane", *command)


def read(twin: Twin, file: str) -> list[str]:
    """The lines of a file on a share."""
    return on_share(twin, "cat", f"{SHARES}/{file}").splitlines()


def journal_file(twin: Twin) -> str:
    """One file per AseDevice object, so that a device made anew starts an own one."""
    return bodies.journal_file(DEVICE, twin.device()["metadata"]["uid"])


def journal(twin: Twin) -> journals.Proof:
    """What the masters' journal proves."""
    return journals.check(read(twin, f"{DEVICE}-journal/{journal_file(twin)}"))
