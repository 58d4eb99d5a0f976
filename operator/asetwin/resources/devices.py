"""asetwin's own kinds as typed objects: AseDevice, AseNode, PinnedWorker, HardwareFailure.

The schema that users meet is ``crds/``; these classes mirror it field by
field and ``tests/unit/test_crds.py`` fails when one of the two moves alone.
Reading is lenient (unknown fields are ignored), because the API server has
validated before; a field that is absent has its default here too.
"""

from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from asetwin.constants import API_VERSION
from asetwin.resources.conditions import Condition
from asetwin.resources.times import Time


class Wire(BaseModel):
    """A part of a custom resource: camelCase in the API, snake_case in Python."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore"
    )

    def wire(self) -> dict[str, Any]:
        """The JSON form; fields without a value and empty lists are left out."""
        form: dict[str, Any] = _without_empty(self.model_dump(mode="json", by_alias=True))
        return form


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_empty(one) for key, one in value.items()}
        # An empty list in a printer column reads "[]", which looks like something.
        return {key: one for key, one in kept.items() if one is not None and one != []}
    return [_without_empty(one) for one in value] if isinstance(value, list) else value


class Metadata(Wire):
    """The part of an object's metadata that the rules look at."""

    name: str
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: Time = 0.0
    deletion_timestamp: Time | None = None
    finalizers: tuple[str, ...] = ()


class Resource(Wire):
    """What all four kinds share."""

    metadata: Metadata

    @property
    def name(self) -> str:
        """The object's name; all kinds are cluster-scoped."""
        return self.metadata.name

    @property
    def is_deleting(self) -> bool:
        """Whether somebody has asked for its deletion."""
        return self.metadata.deletion_timestamp is not None

    @classmethod
    def read(cls, body: dict[str, Any]) -> Self:
        """From the API's JSON; pydantic's ValidationError names the field that is wrong."""
        return cls.model_validate(body)

    @property
    def reference(self) -> dict[str, str]:
        """As an Event's ``involvedObject`` wants it."""
        return {
            "apiVersion": API_VERSION,
            "kind": type(self).__name__,
            "name": self.name,
            "uid": self.metadata.uid,
        }


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


class AseDeviceSpec(Wire):
    """What a person states about the device."""

    witness: Witness = Witness()
    reserve: Reserve = Reserve()
    master: Master = Master()
    timing: Timing = Timing()
    fencing: Literal["Required", "BestEffort"] = "Required"
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

    FENCING = "Fencing"
    MOVING = "Moving"
    RECOVERED = "Recovered"
    RECOVERED_IN_PART = "RecoveredInPart"
    REPAIRED = "RepairedBefore"


class Failover(Wire):
    """One loss of a node, from detection to recovery; the operator's memory of it."""

    id: str
    trigger: str
    from_node: str = Field(alias="from")
    to_node: str | None = Field(default=None, alias="to")
    phase: FailoverPhase = FailoverPhase.FENCING
    detected_at: Time
    fenced_at: Time | None = None
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


class FailoverRecord(Wire):
    """A finished failover as ``history`` keeps it."""

    id: str
    trigger: str
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


class AseDeviceStatus(Wire):
    """What the operator reports about the device."""

    observed_generation: int | None = None
    state: DeviceState | None = None
    summary: str | None = None
    votes: Votes | None = None
    master: MasterStatus | None = None
    reserve: ReserveStatus | None = None
    failover: Failover | None = None
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


class AseNodeStatus(Wire):
    """What the operator reports about one device node."""

    observed_generation: int | None = None
    state: NodeState | None = None
    summary: str | None = None
    worker: str | None = None
    node_name: str | None = None
    failed_components: tuple[str, ...] = ()
    resources: tuple[ReserveRow, ...] = ()
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


class PinnedWorkerStatus(Wire):
    """What is known about the worker VM."""

    observed_generation: int | None = None
    summary: str | None = None
    power: Power | None = None
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
}
"""Plural name in the API → class."""
