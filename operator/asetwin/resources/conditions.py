"""Conditions: the machine-readable half of a status, and the reasons they carry.

``state`` and ``phase`` fields are for people and are derived from these.
Reasons are one per cause; each appears in at least one golden plan, which a
test checks.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from asetwin.resources.times import Time

Status = Literal["True", "False", "Unknown"]


class Condition(BaseModel):
    """One condition as in ``metav1.Condition``."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)

    type: str
    status: Status
    reason: str
    message: str = ""
    last_transition_time: Time
    observed_generation: int | None = None


class Reason(StrEnum):
    """Why a condition has its status. The words are part of the API."""

    # References and input, on every kind (condition Accepted).
    ACCEPTED = "Accepted"
    DEVICE_NOT_FOUND = "DeviceNotFound"
    ASE_NODE_NOT_FOUND = "AseNodeNotFound"
    NODE_NOT_FOUND = "NodeNotFound"
    NODE_TAKEN = "NodeTaken"
    SLOT_TAKEN = "SlotTaken"
    WORKER_TAKEN = "WorkerTaken"
    NO_SUCH_COMPONENT = "NoSuchComponent"
    CONTROL_PLANE_NODE = "ControlPlaneNode"
    ADDRESSED_ELSEWHERE = "ReferenceNotAccepted"

    # AseDevice.
    NO_NODES = "NoNodes"
    QUORUM = "Quorum"
    QUORUM_LOST = "QuorumLost"
    DATA_DISKS_LOST = "DataDisksLost"
    ALL_HEALTHY = "AllHealthy"
    HARDWARE_FAILED = "HardwareFailed"
    WITNESS_OFFLINE = "WitnessOffline"
    NODE_OUT = "NodeOutOfService"
    SINGLE_NODE = "SingleNode"
    WITHIN_RESERVE = "WithinReserve"
    OVER_RESERVE = "OverReserve"
    LIFTED = "LiftedForFailover"
    FOREIGN_OBJECT = "ForeignObject"
    NAMESPACE_SHARED = "NamespaceOfAnotherDevice"
    SHARES_OFFERED = "SharesOffered"
    SHARE_PENDING = "SharePending"
    SHARE_IN_USE = "ShareInUse"
    SHARE_CANNOT_SHRINK = "ShareCannotShrink"
    MASTER_SERVING = "MasterServing"
    MASTER_BOOTING = "MasterBooting"
    MASTER_WAITING = "MasterWaiting"
    FAILING_OVER = "FailingOver"
    RECOVERED = "Recovered"
    RECOVERED_IN_PART = "RecoveredInPart"
    NO_FAILOVER = "NoFailover"
    GPUS_SUFFICE = "GpusSuffice"
    GPU_PODS_MOVING = "GpuPodsMoving"
    GPU = "GPU"
    REBALANCING = "Rebalancing"
    BALANCED = "Balanced"
    REBALANCE_BLOCKED = "RebalanceBlocked"
    REBALANCE_INTERRUPTED = "RebalanceInterrupted"
    EVERY_POD_FITS = "EveryPodFits"
    PODS_WOULD_NOT_RUN = "PodsWouldNotRun"
    NO_SURVIVOR = "NoSurvivor"
    QUORUM_AT_RISK = "QuorumAtRisk"
    PLANNED_LEAVE = "PlannedLeave"
    PAUSED = "Paused"
    ACTIVE = "Active"

    # AseNode.
    COMPONENTS_WORK = "ComponentsWork"
    COMPONENT_FAILED = "ComponentFailed"
    NODE_READY = "NodeReady"
    NODE_NOT_READY = "NodeNotReady"
    NO_WORKER = "NoWorker"
    IN_SERVICE = "InService"
    OUT_OF_SERVICE = "OutOfService"
    RETURNING = "Returning"
    FOREIGN_CORDON = "ForeignCordon"
    SUSPECTED = "Suspected"
    POWER_LOST = "PowerLost"
    TOO_MANY_FAILURES = "TooManyFailures"
    FEW_FAILURES = "FewFailures"

    # PinnedWorker.
    POWER_AS_DESIRED = "PowerAsDesired"
    POWER_PENDING = "PowerPending"
    WAITING_FOR_PROOF = "WaitingForProof"
    POWER_CONTRADICTED = "PowerContradicted"

    # DeviceUpdate; UPDATING also says why an AseNode is away.
    UPDATING = "Updating"
    QUEUED = "Queued"
    NOT_HEALTHY = "NotHealthy"
    FAILOVER_NOT_READY = "FailoverNotReady"
    DRAIN_BLOCKED = "DrainBlocked"
    DRAIN_TIMED_OUT = "DrainTimedOut"
    UPDATED = "Updated"

    # HardwareFailure.
    INJECTED = "Injected"
    EXPIRED = "Expired"


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of one type, or None."""
    for one in conditions:
        if one.type == kind:
            return one
    return None


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether a condition is there and True."""
    found = find(conditions, kind)
    return found is not None and found.status == "True"
