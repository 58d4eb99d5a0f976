"""DeviceUpdate as a typed object: a planned update of a device, node by node (design 4.9).

Its status is the memory of the update, as ``status.failover`` of the AseDevice
is that of a failover: each stage is written there before anything is done
about it, so that an operator that is killed in between goes on from it.
"""

from enum import StrEnum
from typing import Literal

from asetwin.resources.conditions import Condition
from asetwin.resources.times import Time
from asetwin.resources.wire import Resource, Wire

LABEL_LIMIT = 63
"""Characters of a label's value, which the version becomes."""


class UpdateType(StrEnum):
    """What is updated."""

    DEVICE_SOFTWARE = "DeviceSoftware"
    KUBERNETES = "Kubernetes"


class OnDrainTimeout(StrEnum):
    """What happens when a node is not drained in time."""

    WAIT = "Wait"
    FAIL = "Fail"
    FORCE = "Force"


class DeviceUpdateSpec(Wire):
    """What is updated, to what, and how patiently."""

    device: str
    type: UpdateType
    version: str | None = None
    paused: bool = False
    allow_unready: bool = False
    drain_timeout_seconds: int | None = None
    on_drain_timeout: OnDrainTimeout = OnDrainTimeout.WAIT


class UpdatePhase(StrEnum):
    """Where an update stands, for people."""

    QUEUED = "Queued"
    WAITING = "Waiting"
    RUNNING = "Running"
    PAUSED = "Paused"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    REJECTED = "Rejected"


class Stage(StrEnum):
    """What is being done to a node, or to the master."""

    PENDING = "Pending"
    MOVING_MASTER = "MovingMaster"
    UPDATING_MASTER = "UpdatingMaster"
    DRAINING = "Draining"
    REBOOTING = "Rebooting"
    RESTARTING = "Restarting"
    RETURNING = "Returning"
    UPDATED = "Updated"


class BlockedPod(Wire):
    """A pod that cannot leave now, and why."""

    pod: str
    reason: str
    message: str = ""


class Ask(Wire):
    """An eviction that was asked for and that the cluster does not show yet."""

    pod_uid: str
    asked_at: Time


class Drain(Wire):
    """How far the pods have left a node."""

    since: Time
    total: int = 0
    moved: int = 0
    blocked_count: int = 0
    blocked: tuple[BlockedPod, ...] = ()
    asked: tuple[Ask, ...] = ()
    held_since: Time | None = None
    forced: bool = False


class NodeProgress(Wire):
    """One node's part of the update."""

    name: str
    stage: Stage = Stage.PENDING
    since: Time | None = None
    message: str | None = None
    drain: Drain | None = None
    drained_at: Time | None = None
    off_at: Time | None = None
    updated_at: Time | None = None


class MasterProgress(Wire):
    """The master's part of a Kubernetes update."""

    stage: Stage = Stage.PENDING
    from_node: str
    since: Time | None = None
    moved_at: Time | None = None
    updated_at: Time | None = None


class Outage(Wire):
    """How long a workload had no Ready pod at all while the update went on.

    ``since`` is there while it has none now.
    """

    namespace: str
    kind: str
    name: str
    uid: str
    milliseconds: int = 0
    since: Time | None = None


class DeviceUpdateStatus(Wire):
    """What the operator reports about the update; also its memory."""

    observed_generation: int | None = None
    phase: UpdatePhase | None = None
    stage: Stage | None = None
    summary: str | None = None
    waiting_for: str | None = None
    progress: str | None = None
    started_at: Time | None = None
    finished_at: Time | None = None
    result: Literal["Succeeded", "Failed"] | None = None
    reason: str | None = None
    master: MasterProgress | None = None
    nodes: tuple[NodeProgress, ...] = ()
    outage_count: int = 0
    outages: tuple[Outage, ...] = ()
    conditions: tuple[Condition, ...] = ()

    def node(self, name: str) -> NodeProgress | None:
        """One node's progress."""
        return next((one for one in self.nodes if one.name == name), None)


class DeviceUpdate(Resource):
    """A planned update of one device."""

    spec: DeviceUpdateSpec
    status: DeviceUpdateStatus = DeviceUpdateStatus()

    @property
    def version(self) -> str:
        """What is recorded: the version stated, else the update's own name."""
        return self.spec.version or self.name[:LABEL_LIMIT].rstrip("-.")

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is done about it, whatever its spec says."""
        return self.status.result is not None

    def token(self, node: str) -> str:
        """Names the restart of one node's kubelet that this update asks for."""
        return f"{self.metadata.uid}/{node}"
