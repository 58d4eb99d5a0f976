"""What the agent needs from whatever switches and watches the machines.

One driver per kind of machine: :mod:`asetwin.power.docker` for the containers
of kind; a driver for the management controllers of real machines would
implement the same few methods. Drivers look and do; they never decide.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class EngineError(Exception):
    """What the driver talks to cannot be reached, or does not answer in time."""


class CommandError(Exception):
    """A command was understood and refused; the message says why."""


class Machine(StrEnum):
    """What a machine is doing, as far as can be seen."""

    RUNNING = "Running"
    PAUSED = "Paused"
    RESTARTING = "Restarting"
    STOPPED = "Stopped"
    MISSING = "Missing"
    """There is no machine of that name."""
    REFUSED = "Refused"
    """There is one, but it is not ours to touch."""
    UNREACHABLE = "Unreachable"
    """Nothing can be seen."""


class Network(StrEnum):
    """The network of a running machine."""

    OPEN = "Open"
    CUT = "Cut"
    """By us, all of it."""
    PARTLY_CUT = "PartlyCut"
    """By us, interrupted half-way."""
    DETACHED = "Detached"
    """By somebody else."""
    UNKNOWN = "Unknown"
    """It does not run, or could not be asked."""


class Command(StrEnum):
    """What a machine can be told; each does nothing where its goal is reached."""

    KILL = "kill"
    """Off at once, as when the power goes; also when it is paused."""
    START = "start"
    CUT = "cut"
    """Its network goes; it keeps running and keeps its address."""
    RESTORE = "restore"
    """Undoes a cut of ours, and nothing else."""
    RESTART_KUBELET = "restart the kubelet of"
    """Its containers run on; the machine has to run, too."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a machine.

    Times are seconds since the epoch by the machine's own account; None where
    it has none or where it cannot be seen. ``detail`` is the proof in words.
    """

    machine: Machine
    detail: str
    network: Network = Network.UNKNOWN
    started_at: float | None = None
    finished_at: float | None = None


class Driver(Protocol):
    """How the agent looks at machines and switches them; by the name of their Node."""

    method: str
    """As ``status.power.method`` names it."""

    async def observe(self, name: str) -> Reading:
        """Look at one machine; raises EngineError."""
        ...

    async def apply(self, name: str, command: Command) -> None:
        """Carry out one command; raises EngineError and CommandError.

        It refuses a machine that is not ours, whatever the last reading said.
        """
        ...

    def events(self) -> AsyncGenerator[str | None, None]:
        """The names of machines to look at, as things happen to them.

        None means all of them: it comes first, once events can no longer be
        missed. Never ends; raises EngineError when the connection is lost.
        """
        ...
