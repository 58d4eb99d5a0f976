"""asetwin's own kinds as typed objects: AseDevice, AseNode, PinnedWorker, HardwareFailure.

DeviceUpdate is in :mod:`asetwin.resources.updates`.

The schema that users meet is ``crds/``; these classes mirror it field by
field and ``tests/unit/test_crds.py`` fails when one of the two moves alone.
Reading is lenient (unknown fields are ignored), because the API server has
validated before; a field that is absent has its default here too.
"""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from asetwin.resources.conditions import Condition
from asetwin.resources.times import Time
from asetwin.resources.updates import DeviceUpdate
from asetwin.resources.wire import Metadata as Metadata
from asetwin.resources.wire import Resource as Resource
from asetwin.resources.wire import Wire as Wire

# --- AseDevice ----------------------------------------------------------------------------------


class Witness(Wire):
    """The third vote of a two-node device (design 4.2)."""

    type: Literal["Cloud", "Local", "None"] = "Cloud"
    online: bool = True


class LabelRequirement(Wire):
    """One ``matchExpressions`` entry of a label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class LabelSelector(Wire):
    """A Kubernetes label selector; an empty one selects everything."""

    match_labels: dict[str, str] = Field(default_factory=dict)
    match_expressions: tuple[LabelRequirement, ...] = ()


class Reserve(Wire):
    """How much of the device workloads may request (design 4.8)."""

    percent: int = 50
    rebalance: bool = False
    namespace_selector: LabelSelector | None = None
    excluded_namespaces: tuple[str, ...] = ()


class Master(Wire):
    """Where the master stand-in starts and whether it goes back (design 4.7)."""

    preferred_node: str | None = None
    failback: bool = False


class Profile(StrEnum):
    """Named sets of defaults for ``spec.timing`` (design 4.10)."""

    FAST = "Fast"
    REALISTIC = "Realistic"


class Timing(Wire):
    """How long things take, in seconds; an absent value comes from the profile."""

    profile: Profile = Profile.REALISTIC
    heartbeat_timeout_seconds: int | None = None
    fencing_timeout_seconds: int | None = None
    master_boot_seconds: int | None = None
    stable_seconds: int | None = None
    drain_timeout_seconds: int | None = None
    reboot_seconds: int | None = None

    def seconds(self, name: str) -> int:
        """One duration by its field name: the value stated, else the profile's."""
        stated: int | None = getattr(self, f"{name}_seconds")
        return TIMING_DEFAULTS[self.profile][name] if stated is None else stated


TIMING_DEFAULTS: dict[Profile, dict[str, int]] = {
    Profile.FAST: {
        "heartbeat_timeout": 3,
        "fencing_timeout": 5,
        "master_boot": 2,
        "stable": 3,
        "drain_timeout": 60,
        "reboot": 5,
    },
    Profile.REALISTIC: {
        "heartbeat_timeout": 20,
        "fencing_timeout": 60,
        "master_boot": 180,
        "stable": 60,
        "drain_timeout": 600,
        "reboot": 600,
    },
}


class Share(Wire):
    """An SMB or NFS share of the device, offered as a PersistentVolume of its name."""

    name: str
    protocol: Literal["NFS", "SMB"] = "NFS"
    capacity: str = "10Gi"


class Quarantine(Wire):
    """How often a node may fail before it has to be taken back by hand (design 4.6)."""

    failures: int = 3
    window_seconds: int = 3600


class AseDeviceSpec(Wire):
    """What a person states about the device."""

    witness: Witness = Witness()
    reserve: Reserve = Reserve()
    master: Master = Master()
    timing: Timing = Timing()
    fencing: Literal["Required", "BestEffort"] = "Required"
    quarantine: Quarantine = Quarantine()
    shares: tuple[Share, ...] = ()
    paused: tuple[str, ...] = ()


class DeviceState(StrEnum):
    """The device's state as its own local UI words it."""

    READY_TO_SETUP = "ReadyToSetup"
    ONLINE = "Online"
    NEEDS_ATTENTION = "NeedsAttention"
    OFFLINE = "Offline"
    MAINTENANCE = "Maintenance"


class Votes(Wire):
    """The cluster quorum: who has a vote, who casts it, how many are needed."""

    total: int = 0
    present: int = 0
    needed: int = 0
    holders: tuple[str, ...] = ()
    summary: str = ""


class MasterPhase(StrEnum):
    """What the master stand-in is doing."""

    WAITING = "Waiting"
    BOOTING = "Booting"
    SERVING = "Serving"


class MasterStatus(Wire):
    """Where the master is; ``epoch`` only ever grows."""

    node: str
    epoch: int
    phase: MasterPhase = MasterPhase.WAITING
    since: Time
    pod: str = ""
    version: str | None = None


class ReserveRow(Wire):
    """One resource of the reserve, in Kubernetes quantities."""

    resource: str
    used: str
    budget: str
    capacity: str


class ReserveStatus(Wire):
    """What workloads request against what they may."""

    percent: int
    summary: str = ""
    resources: tuple[ReserveRow, ...] = ()


class DisplacedWorkload(Wire):
    """One controller that lost pods with the node, and how far it has come back.

    ``want`` is the number of its pods that served when the node was lost;
    it has recovered when as many are Ready on nodes that are in service.
    """

    namespace: str
    kind: str
    name: str
    uid: str
    displaced: int
    want: int
    ready: int = 0


class PodProblem(Wire):
    """A pod that does not run, with the reason in the scheduler's terms."""

    pod: str
    reason: str
    message: str = ""


class FailoverPhase(StrEnum):
    """How far a failover has come."""

    DRAINING = "Draining"
    FENCING = "Fencing"
    MOVING = "Moving"
    RECOVERED = "Recovered"
    RECOVERED_IN_PART = "RecoveredInPart"
    REPAIRED = "RepairedBefore"
    TAKEN_BACK = "TakenBack"
    REBALANCING = "Rebalancing"


class Move(Wire):
    """What a rebalance has done about one workload, and what bounds it.

    ``pod`` was asked to go and its replacement is not Ready yet; ``before`` and
    ``want`` are its pods on the fuller node and its Ready ones at that moment.
    """

    namespace: str
    kind: str
    name: str
    uid: str
    moved: int = 0
    pod: str | None = None
    pod_uid: str | None = None
    asked_at: Time | None = None
    attempts: int = 0
    before: int = 0
    want: int = 0
    waits_since: Time | None = None
    ended: str | None = None
    message: str | None = None


class RebalanceOutcome(StrEnum):
    """How a rebalance has ended."""

    BALANCED = "Balanced"
    BLOCKED = "Blocked"
    INTERRUPTED = "Interrupted"


class Rebalance(Wire):
    """The return of a failover's node: pods go back to it (design 4.6).

    ``came_to`` is the phase that the failover itself has reached; ``outcome``
    is there when no more pods are moved, and only the undoing is left.
    """

    started_at: Time
    from_node: str = Field(alias="from")
    to_node: str = Field(alias="to")
    came_to: FailoverPhase | None = None
    message: str = ""
    moved: int = 0
    planned: int = 0
    moves: tuple[Move, ...] = ()
    kept_count: int = 0
    kept: tuple[PodProblem, ...] = ()
    outcome: RebalanceOutcome | None = None
    ended_at: Time | None = None


class RebalanceRecord(Wire):
    """A finished rebalance as ``history`` keeps it."""

    outcome: RebalanceOutcome
    message: str = ""
    moved: int = 0
    started_at: Time
    ended_at: Time


class Failover(Wire):
    """One loss of a node, from detection to recovery; the operator's memory of it.

    With ``update`` it is a planned leave for the DeviceUpdate of that name: the
    pods are evicted and nothing is fenced.
    """

    id: str
    trigger: str
    update: str | None = None
    from_node: str = Field(alias="from")
    to_node: str | None = Field(default=None, alias="to")
    phase: FailoverPhase = FailoverPhase.FENCING
    detected_at: Time
    fenced_at: Time | None = None
    fenced_by: str | None = None
    evacuated_at: Time | None = None
    master_ready_at: Time | None = None
    pods_ready_at: Time | None = None
    recovered_at: Time | None = None
    master_epoch: int | None = None
    displaced: int = 0
    recovered: int = 0
    lost: int = 0
    lost_pods: tuple[str, ...] = ()
    workloads: tuple[DisplacedWorkload, ...] = ()
    unplaceable_count: int = 0
    unplaceable: tuple[PodProblem, ...] = ()
    rebalance: Rebalance | None = None

    @property
    def is_shared_out(self) -> bool:
        """Whether its node is back and no more pods are moved: the reserve holds again."""
        return self.rebalance is not None and self.rebalance.outcome is not None

    @property
    def came_to(self) -> FailoverPhase:
        """How far the failover itself has come, also while its node is back already."""
        if self.rebalance is not None and self.rebalance.came_to is not None:
            return self.rebalance.came_to
        return self.phase


class FailoverRecord(Wire):
    """A finished failover as ``history`` keeps it."""

    id: str
    trigger: str
    update: str | None = None
    from_node: str = Field(alias="from")
    to_node: str | None = Field(default=None, alias="to")
    phase: FailoverPhase
    detected_at: Time
    fenced_at: Time | None = None
    master_ready_at: Time | None = None
    pods_ready_at: Time | None = None
    recovered_at: Time | None = None
    ended_at: Time | None = None
    displaced: int = 0
    recovered: int = 0
    lost: int = 0
    rebalance: RebalanceRecord | None = None


class GpuPod(Wire):
    """A pod that has lost its GPU."""

    namespace: str
    name: str
    uid: str


class GpuMove(Wire):
    """Pods on their way from a failed GPU to a free one; the operator's memory of it."""

    id: str
    node: str
    started_at: Time
    pods: tuple[GpuPod, ...] = ()
    workloads: tuple[DisplacedWorkload, ...] = ()


class AseDeviceStatus(Wire):
    """What the operator reports about the device."""

    observed_generation: int | None = None
    state: DeviceState | None = None
    summary: str | None = None
    votes: Votes | None = None
    master: MasterStatus | None = None
    reserve: ReserveStatus | None = None
    failover: Failover | None = None
    rebalance: Rebalance | None = None
    gpu_move: GpuMove | None = None
    history: tuple[FailoverRecord, ...] = ()
    conditions: tuple[Condition, ...] = ()


class AseDevice(Resource):
    """The appliance as a whole."""

    spec: AseDeviceSpec = AseDeviceSpec()
    status: AseDeviceStatus = AseDeviceStatus()


# --- AseNode ------------------------------------------------------------------------------------


class Hardware(Wire):
    """How many of each part a device node has."""

    power_supplies: int = 2
    ports: int = 6
    data_disks: int = 5
    gpus: int = 1


class AseNodeSpec(Wire):
    """One device node: which device, which slot, which hardware."""

    device: str
    slot: Literal["A", "B"]
    hardware: Hardware = Hardware()
    failures_forgiven_until: Time | None = None


class NodeState(StrEnum):
    """What a device node is doing."""

    UP = "Up"
    DOWN = "Down"
    ISOLATED = "Isolated"
    REBOOTING = "Rebooting"
    UPDATING = "Updating"
    RETURNING = "Returning"
    QUARANTINED = "Quarantined"
    UNKNOWN = "Unknown"


class NodeLoss(Wire):
    """What the loss of a node would come to, while not every pod would run without it.

    ``problems`` are the first of ``problem_count``, sorted by namespace and name.
    """

    pods: int
    problem_count: int
    problems: tuple[PodProblem, ...] = ()


class AseNodeStatus(Wire):
    """What the operator reports about one device node."""

    observed_generation: int | None = None
    state: NodeState | None = None
    summary: str | None = None
    worker: str | None = None
    node_name: str | None = None
    failed_components: tuple[str, ...] = ()
    failed_summary: str | None = None
    version: str | None = None
    booted_at: Time | None = None
    recent_failures: tuple[Time, ...] = ()
    resources: tuple[ReserveRow, ...] = ()
    if_lost: NodeLoss | None = None
    conditions: tuple[Condition, ...] = ()


class AseNode(Resource):
    """One device node of an AseDevice."""

    spec: AseNodeSpec
    status: AseNodeStatus = AseNodeStatus()


# --- PinnedWorker -------------------------------------------------------------------------------


class WorkerSize(Wire):
    """The size of the worker VM; what a Node offers beyond it is not counted."""

    cpu: str | None = None
    memory: str | None = None


class PinnedWorkerSpec(Wire):
    """The pin: this Kubernetes Node is the worker VM of that device node."""

    ase_node: str
    node_name: str
    gpus: int | None = None
    size: WorkerSize | None = None


class PowerState(StrEnum):
    """Power of the worker VM."""

    ON = "On"
    OFF = "Off"
    ISOLATED = "Isolated"
    UNKNOWN = "Unknown"


class Power(Wire):
    """The contract with the power agent: the operator desires, the agent observes.

    ``proof`` is what the agent saw, in words; the container's own start and
    finish times tell a restart that happened while nobody looked.
    """

    desired: PowerState = PowerState.ON
    observed: PowerState = PowerState.UNKNOWN
    observed_at: Time | None = None
    method: str | None = None
    proof: str | None = None
    started_at: Time | None = None
    finished_at: Time | None = None


class KubeletRestart(Wire):
    """A contract like that of power: the operator asks, the power agent does it and says so.

    Each restart has a name of its own; it is done when the two are the same.
    """

    asked: str | None = None
    done: str | None = None
    done_at: Time | None = None


class PinnedWorkerStatus(Wire):
    """What is known about the worker VM."""

    observed_generation: int | None = None
    summary: str | None = None
    power: Power | None = None
    kubelet: KubeletRestart | None = None
    version: str | None = None
    address: str | None = None
    gpus: int | None = None
    conditions: tuple[Condition, ...] = ()


class PinnedWorker(Resource):
    """The worker VM of one device node, pinned to it for good."""

    spec: PinnedWorkerSpec
    status: PinnedWorkerStatus = PinnedWorkerStatus()


# --- HardwareFailure ----------------------------------------------------------------------------


class FailureAction(StrEnum):
    """What happens to the component."""

    FAIL = "Fail"
    REBOOT = "Reboot"


class FailurePhase(StrEnum):
    """Where a failure stands, for people."""

    PENDING = "Pending"
    ACTIVE = "Active"
    EXPIRED = "Expired"
    REJECTED = "Rejected"


class HardwareFailureSpec(Wire):
    """Which component of which device node fails, how, and for how long."""

    node: str
    component: str
    action: FailureAction = FailureAction.FAIL
    duration_seconds: int | None = None


class HardwareFailureStatus(Wire):
    """What was really done."""

    observed_generation: int | None = None
    phase: FailurePhase | None = None
    summary: str | None = None
    started_at: Time | None = None
    expires_at: Time | None = None
    proof: str | None = None
    conditions: tuple[Condition, ...] = ()


class HardwareFailure(Resource):
    """A failed component: apply it to fail, delete it to repair."""

    spec: HardwareFailureSpec
    status: HardwareFailureStatus = HardwareFailureStatus()


KINDS: dict[str, type[Resource]] = {
    "asedevices": AseDevice,
    "asenodes": AseNode,
    "pinnedworkers": PinnedWorker,
    "hardwarefailures": HardwareFailure,
    "deviceupdates": DeviceUpdate,
}
"""Plural name in the API → class."""
