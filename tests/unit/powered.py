"""PinnedWorkers as a power agent has seen them."""

from asetwin.resources.devices import PinnedWorker, PowerState
from asetwin.resources.times import render
from unit.builders import NOW, worker

LONG_AGO = NOW - 200.0
THEIRS = "container exited with 137"


def pinned(
    observed: PowerState,
    *,
    desired: PowerState = PowerState.ON,
    at: float = LONG_AGO,
    method: str = "Docker",
    proof: str = THEIRS,
) -> PinnedWorker:
    """The worker ``wa`` with what an agent has seen of it."""
    seen = {"desired": desired.value, "observed": observed.value, "observedAt": render(at)}
    return worker("wa", status={"power": seen | {"method": method, "proof": proof}})
