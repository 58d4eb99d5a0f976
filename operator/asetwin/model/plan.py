"""What the rules ask for: a closed set of steps, in stages.

Steps of one stage do not depend on each other and may run at once; a stage
starts when all of the one before it have succeeded, and the first failure
ends the turn. Every step is idempotent and conditional on what it was decided
from (uid, resourceVersion), so a plan that is carried out halfway, twice or
late does no harm: the next turn derives what is left.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asetwin.resources.core import Binding, Taint

EPSILON = 1e-6
"""What adding two moments may lose, in seconds."""


@dataclass(frozen=True, slots=True)
class WriteStatus:
    """Merge-patch the status of one of our own objects; None removes a field.

    ``resource_version`` makes it a compare-and-set: the AseDevice's status is
    the operator's memory, and two operators must not both advance it.
    """

    plural: str
    name: str
    patch: Mapping[str, Any]
    resource_version: str | None = None


@dataclass(frozen=True, slots=True)
class SetFinalizers:
    """Replace the finalizers of an AseDevice."""

    name: str
    finalizers: tuple[str, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class PatchNode:
    """Set a Node's cordon and taints together with the mark that says what of it is ours."""

    name: str
    resource_version: str
    unschedulable: bool
    taints: tuple[Taint, ...]
    owned: str | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class PatchGpus:
    """Advertise this many GPUs on a Node (None: stop advertising any), with the mark."""

    name: str
    resource_version: str
    gpus: int | None
    owned: str | None


@dataclass(frozen=True, slots=True)
class Recheck:
    """Read one object anew, and end the turn where it is not what the plan was made from.

    What cannot be undone is not done on an old view: a watch may be broken
    without our knowing. Nothing is written.
    """

    plural: str
    name: str
    namespace: str | None = None
    power: str = ""
    """What a PinnedWorker's agent has to be seeing still. An earlier write of this plan may have
    brought the news of something else, which no rule has looked at yet."""


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete one pod; ``force`` is for pods whose Node is proven to be off."""

    namespace: str
    name: str
    uid: str
    force: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Evict:
    """Ask the API server to evict one pod: a disruption budget may refuse it."""

    namespace: str
    name: str
    uid: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class CreateMaster:
    """Start the master stand-in of one epoch on one Node."""

    device: str
    device_uid: str
    epoch: int
    ase_node: str
    node: str
    boot_seconds: int
    version: str = ""


@dataclass(frozen=True, slots=True)
class RetryStart:
    """Note on a pod of ours that its start is asked for again, for the ``attempt``-th time.

    A kubelet that has failed to start a pod lets it wait, but syncs a pod whose
    annotations change at once.
    """

    namespace: str
    name: str
    attempt: int


@dataclass(frozen=True, slots=True)
class CreateMasterService:
    """The Service in front of a device's master."""

    device: str
    device_uid: str


@dataclass(frozen=True, slots=True)
class WriteQuota:
    """Create our ResourceQuota, or set it to these hard limits (none: lifted)."""

    namespace: str
    device: str
    hard: Mapping[str, str]
    stale_keys: tuple[str, ...] = ()
    """Limits that it has now and that go."""
    lifted_for: str = ""
    resource_version: str | None = None


@dataclass(frozen=True, slots=True)
class CreateLimitRange:
    """Create our LimitRange, so that pods without requests pass a quota on requests."""

    namespace: str
    device: str


@dataclass(frozen=True, slots=True)
class DeleteLimit:
    """Delete a ResourceQuota or LimitRange of ours."""

    plural: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class DeleteSystemObject:
    """Delete a Service, Lease or claim of ours in asetwin-system."""

    plural: str
    name: str


@dataclass(frozen=True, slots=True)
class WriteVolume:
    """Create the PersistentVolume of a share, or bring it to this.

    ``kept_for`` names the only claim that may have it. ``released`` lets go of
    the claim that is gone, so that the next one can bind.
    """

    device: str
    name: str
    capacity: str
    protocol: str
    kept_for: Binding | None = None
    released: bool = False
    resource_version: str | None = None


@dataclass(frozen=True, slots=True)
class DeleteVolume:
    """Delete the PersistentVolume of a share; what is on the share stays.

    With ``resource_version`` only if nobody has bound it meanwhile.
    """

    name: str
    uid: str
    resource_version: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class CreateClaim:
    """The claim through which the masters of a device reach its journal."""

    device: str
    device_uid: str
    name: str


@dataclass(frozen=True, slots=True)
class Announce:
    """A Kubernetes Event; posting one with the same ``key`` again changes nothing."""

    regarding: Mapping[str, str]
    reason: str
    message: str
    key: str
    is_warning: bool = False


Step = (
    WriteStatus
    | SetFinalizers
    | PatchNode
    | PatchGpus
    | Recheck
    | DeletePod
    | Evict
    | CreateMaster
    | RetryStart
    | CreateMasterService
    | WriteQuota
    | CreateLimitRange
    | DeleteLimit
    | DeleteSystemObject
    | WriteVolume
    | DeleteVolume
    | CreateClaim
    | Announce
)
Stage = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages in order, and the moment to be asked again if nothing happens before."""

    stages: tuple[Stage, ...] = ()
    wake_at: float | None = None

    @property
    def steps(self) -> Stage:
        """All steps in order."""
        return tuple(step for stage in self.stages for step in stage)


@dataclass(slots=True)
class Draft:
    """A plan in the making: rules add to it, :func:`finish` orders it."""

    stages: list[list[Step]] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)

    def stage(self, *steps: Step | None) -> None:
        """Add a stage; empty ones are dropped."""
        real = [step for step in steps if step is not None]
        if real:
            self.stages.append(real)

    def wake(self, at: float | None) -> None:
        """Ask to be asked again at ``at``; the soonest wins.

        NB: rounded up to the milliseconds in which ``now`` is counted. Asked a
        fraction too early, a rule would answer the same and ask for the same
        moment again, without end where no time passes in between.
        """
        if at is not None:
            is_whole = at == round(at * 1000) / 1000
            self.wakes.append(at if is_whole else math.ceil((at + EPSILON) * 1000) / 1000)

    def finish(self) -> Plan:
        """The plan."""
        soonest = min(self.wakes, default=None)
        if soonest is not None:
            # Decisions are made in whole milliseconds. Asked a hair before the moment, a rule
            # would find nothing due and ask for the same moment again, at once and for ever.
            soonest = math.ceil(soonest * 1000) / 1000
        return Plan(tuple(tuple(one) for one in self.stages), soonest)
