"""What the memory of an update asks of a node and of the master now (design 4.5, 4.9).

The memory is the status of the DeviceUpdate whose turn it is. It is read here,
before nodes are judged; :mod:`asetwin.model.updates` advances it afterwards.
When the DeviceUpdate is deleted nothing is asked any more, and the node is
taken back like every other one that is healthy and out by our hand.
"""

from dataclasses import dataclass

from asetwin.model.snapshot import Snapshot
from asetwin.resources.updates import DeviceUpdate, Stage, UpdateType

OUT = frozenset({Stage.DRAINING, Stage.REBOOTING, Stage.RESTARTING})
"""The stages in which a node is kept out of service."""


@dataclass(frozen=True, slots=True)
class Leave:
    """A node that is away for an update, or about to be."""

    update: str
    stage: Stage
    token: str = ""
    """Names the restart of its kubelet."""
    is_forced: bool = False

    @property
    def is_out(self) -> bool:
        """Whether it is to be kept out of service."""
        return self.stage in OUT

    @property
    def is_off(self) -> bool:
        """Whether its machine is to be off."""
        return self.stage is Stage.REBOOTING

    @property
    def is_restarting(self) -> bool:
        """Whether its kubelet may be silent for a moment."""
        return self.stage is Stage.RESTARTING

    @property
    def is_drained(self) -> bool:
        """Whether its pods have left."""
        return self.stage in (Stage.REBOOTING, Stage.RESTARTING, Stage.RETURNING, Stage.UPDATED)

    @property
    def words(self) -> str:
        """What is being done to it; "" where nothing is."""
        verb = {
            Stage.DRAINING: "drained",
            Stage.REBOOTING: "rebooted",
            Stage.RESTARTING: "its kubelet restarted",
        }.get(self.stage)
        return f"{verb} for update {self.update}" if verb else ""


@dataclass(frozen=True, slots=True)
class MasterOrder:
    """What an update asks of the master."""

    leaves: str | None = None
    """The AseNode that it is to leave, if there is another one in service."""
    version: str | None = None
    """The version that it is to have; None: the one that it has."""


def queue(device: str, snapshot: Snapshot) -> list[DeviceUpdate]:
    """The updates of a device that are not finished, the one whose turn it is first."""
    waiting = [
        one
        for one in snapshot.updates.values()
        if one.spec.device == device and not one.is_finished and not one.is_deleting
    ]

    def rank(one: DeviceUpdate) -> tuple[bool, float, str]:
        # Creation times have whole seconds only: of two, the one that has begun goes on.
        has_begun = one.status.started_at is not None
        return not has_begun, one.metadata.creation_timestamp, one.name

    return sorted(waiting, key=rank)


def active(device: str, snapshot: Snapshot) -> DeviceUpdate | None:
    """The update of a device whose turn it is."""
    return next(iter(queue(device, snapshot)), None)


def of_node(update: DeviceUpdate | None, name: str) -> Leave | None:
    """What an update asks of one AseNode; None where it asks nothing."""
    progress = update.status.node(name) if update is not None else None
    if update is None or progress is None or progress.stage in (Stage.PENDING, Stage.UPDATED):
        return None
    is_forced = progress.drain is not None and progress.drain.forced
    return Leave(update.name, progress.stage, update.token(name), is_forced)


def of_master(update: DeviceUpdate | None) -> MasterOrder:
    """What an update asks of the master."""
    if update is None:
        return MasterOrder()
    status, leaves, version = update.status, None, None
    for node in status.nodes:
        is_away = node.stage not in (Stage.PENDING, Stage.UPDATED, Stage.RETURNING)
        if is_away and update.spec.type is UpdateType.DEVICE_SOFTWARE:
            leaves = node.name
    if status.master is not None:
        if status.master.stage is Stage.MOVING_MASTER:
            leaves = status.master.from_node
        elif status.master.stage in (Stage.UPDATING_MASTER, Stage.UPDATED):
            version = update.version
    return MasterOrder(leaves, version)
