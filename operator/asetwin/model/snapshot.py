"""What the rules see: the cluster at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from asetwin.resources import core
from asetwin.resources.budgets import Budget
from asetwin.resources.devices import AseDevice, AseNode, HardwareFailure, PinnedWorker
from asetwin.resources.updates import DeviceUpdate


@dataclass(frozen=True, slots=True)
class Gap:
    """A while in which we heard nobody, by our own clock."""

    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole cluster as last observed; every sequence is sorted by name."""

    devices: Mapping[str, AseDevice] = field(default_factory=dict)
    ase_nodes: Mapping[str, AseNode] = field(default_factory=dict)
    workers: Mapping[str, PinnedWorker] = field(default_factory=dict)
    failures: Mapping[str, HardwareFailure] = field(default_factory=dict)
    updates: Mapping[str, DeviceUpdate] = field(default_factory=dict)
    nodes: Mapping[str, core.Node] = field(default_factory=dict)
    pods: tuple[core.Pod, ...] = ()
    workloads: Mapping[str, core.Workload] = field(default_factory=dict)
    """By uid."""
    namespaces: Mapping[str, core.Namespace] = field(default_factory=dict)
    quotas: tuple[core.Limit, ...] = ()
    limit_ranges: tuple[core.Limit, ...] = ()
    leases: tuple[core.Lease, ...] = ()
    services: tuple[core.Service, ...] = ()
    volumes: Mapping[str, core.Volume] = field(default_factory=dict)
    claims: tuple[core.Claim, ...] = ()
    budgets: tuple[Budget, ...] = ()
    renewed: Mapping[str, float] = field(default_factory=dict)
    """``namespace/name`` of a Lease → when we last saw it renewed, by our own clock."""
    unheard: tuple[str, ...] = ()
    """Those of them that were only found, never seen to change: their holders may be dead."""
    gaps: tuple[Gap, ...] = ()
    """When no kubelet at all was heard, by our own clock, oldest first."""
