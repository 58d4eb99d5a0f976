"""What the check has found, one line of thought each: who, when, why, and what to change."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is; the first two make the check fail."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Word(StrEnum):
    """Reasons beside those of design 4.8, for what is no matter of one Node."""

    OVER_RESERVE = "OverReserve"
    QUOTA = "Quota"
    BUDGET = "Budget"
    ROLLOUT = "Rollout"
    SINGLE_REPLICA = "SingleReplica"
    NO_REQUESTS = "NoRequests"


MEANING = {
    "Capacity": "a node has not enough cpu, memory or another resource",
    "GPU": "no GPU is free",
    "NodeAffinity": "its node selector or node affinity allows no other node",
    "PodAffinity": "the pod that it must run beside is not there",
    "PodAntiAffinity": "pods that must not share a node would have to",
    "TopologySpread": "DoNotSchedule spread cannot be kept on one node",
    "HostPort": "the host port is taken",
    "Taint": "taints and tolerations",
    "NodeLocalVolume": "its data stays with one node",
    "PodSlots": "a node takes no more pods",
    "NoController": "nothing recreates the pod",
    "Gated": "scheduling gates keep it from the scheduler",
    Word.OVER_RESERVE: "requests are above the reserve of the device",
    Word.QUOTA: "a ResourceQuota of the namespace refuses the pod",
    Word.BUDGET: "a disruption budget never lets the pod go",
    Word.ROLLOUT: "a rolling update would not finish",
    Word.SINGLE_REPLICA: "one replica: a failover is an outage",
    Word.NO_REQUESTS: "requests are missing",
}
"""Every reason that a finding can have, in a few words."""

HINTS = {
    "Capacity": "lower the requests or the replicas, so that one node can carry all of them",
    "GPU": "give it a higher PriorityClass than the other GPU pods, or run one GPU pod per device",
    "NodeAffinity": "select nodes by a label that both nodes have, or prefer instead of require",
    "PodAffinity": "prefer instead of require, or let both be one workload",
    "PodAntiAffinity": "use preferredDuringSchedulingIgnoredDuringExecution, or one replica",
    "TopologySpread": "use whenUnsatisfiable: ScheduleAnyway or nodeTaintsPolicy: Honor",
    "HostPort": "use a Service instead of the host port, or one replica",
    "Taint": "tolerate only the taints that it has to stand, by key",
    "NodeLocalVolume": "keep the data on a share of the device, or replicate it in the application",
    "PodSlots": "run fewer pods; a node takes a fixed number",
    "NoController": "make it a Deployment with one replica, or a Job",
    "Gated": "remove the schedulingGates, or run what removes them on the device",
    Word.OVER_RESERVE: "lower requests or replicas until the device can lose a node",
    Word.QUOTA: "raise the quota, lower the replicas, or state in every container what it counts",
    Word.BUDGET: "allow one pod to go: maxUnavailable: 1, or more replicas",
    Word.ROLLOUT: "use strategy Recreate, or maxUnavailable: 1 with maxSurge: 0",
    Word.SINGLE_REPLICA: "run two replicas with preferred anti-affinity if seconds matter",
    Word.NO_REQUESTS: "state requests for cpu and memory in every container",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where the workload is written."""

    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about one workload."""

    workload: str
    """``namespace/Kind/name``."""
    loss_of: str
    """``A`` or ``B``; ``none`` where both nodes are there."""
    reason: str
    severity: Severity
    message: str
    hint: str
    source: Source

    @property
    def fails(self) -> bool:
        """Whether the check ends with findings because of it."""
        return self.severity is not Severity.INFO


_ORDER = {one: number for number, one in enumerate(Severity)}


def in_order(found: list[Finding]) -> list[Finding]:
    """The worst first, then as they are written."""
    return sorted(
        found,
        key=lambda one: (
            _ORDER[one.severity],
            one.source.file,
            one.source.line,
            one.workload,
            one.loss_of,
            one.reason,
        ),
    )
