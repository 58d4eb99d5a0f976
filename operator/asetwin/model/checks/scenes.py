"""The device that manifests are checked against, and how their pods would be placed on it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from asetwin import constants
from asetwin.model import failover, quotas, references, reserve, volumes
from asetwin.model.checks.manifests import Bundle, Work, is_node_local
from asetwin.model.placement.boards import Board
from asetwin.model.placement.queues import Placed, Queue
from asetwin.model.placement.rooms import Misfit
from asetwin.model.snapshot import Snapshot
from asetwin.resources import core, quantities
from asetwin.resources.demands import Demands, Requirement
from asetwin.resources.devices import AseDevice, AseNode, PinnedWorker, Reserve

HOSTNAME = "kubernetes.io/hostname"
PRO_GPU = {"cpu": "40", "memory": "102Gi", "pods": "110", constants.GPU_RESOURCE: "1"}
"""What workloads can have on one node of an Azure Stack Edge Pro GPU; pods is kubelet's default.

Source: the device's technical specification (40 vCPUs and 102 GB for compute, one GPU).
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """The device: its nodes in the order of their slots, and what is there already."""

    nodes: tuple[core.Node, ...]
    titles: Mapping[str, str]
    """What people call a Node."""
    reserve: Reserve = field(default_factory=Reserve)
    others: tuple[core.Node, ...] = ()
    """Nodes of the cluster that are not the device's."""
    pods: Mapping[str, tuple[core.Pod, ...]] = field(default_factory=dict)
    workloads: Mapping[str, core.Workload] = field(default_factory=dict)
    namespaces: Mapping[str, core.Namespace] = field(default_factory=dict)
    tied: volumes.Tied = field(default_factory=dict)
    quotas: tuple[core.Limit, ...] = ()
    """Those that are not the device's own."""
    is_real: bool = False
    """Whether the Nodes' names are known; invented ones take the names that manifests pin to."""


def standard() -> Layout:
    """Two nodes of an Azure Stack Edge Pro GPU."""
    return _layout([("node-a", "node-a", {}), ("node-b", "node-b", {})], Reserve())


def described(
    device: AseDevice, ase_nodes: Iterable[AseNode], workers: Iterable[PinnedWorker]
) -> Layout:
    """A device from its own objects; what they leave open is as on a Pro GPU."""
    by_node = {one.spec.ase_node: one for one in workers}
    rows = []
    for one in sorted(ase_nodes, key=lambda one: one.spec.slot):
        worker = by_node.get(one.name)
        gpus, size = one.spec.hardware.gpus, worker.spec.size if worker else None
        if worker is not None and worker.spec.gpus is not None:
            gpus = min(gpus, worker.spec.gpus)
        given = {constants.GPU_RESOURCE: str(gpus)}
        for name, stated in (("cpu", size and size.cpu), ("memory", size and size.memory)):
            if stated:
                given[name] = stated
        rows.append((worker.spec.node_name if worker else one.name, one.name, given))
    return replace(_layout(rows, device.spec.reserve), is_real=True)


def observed(snapshot: Snapshot, device: AseDevice, bundle: Bundle) -> Layout:
    """A device of a cluster with all that runs there, except what the manifests replace."""
    found = references.resolve(snapshot).members[device.name]
    members = [(one.ase_node, one.worker) for one in found if one.worker is not None]
    own = {worker.spec.node_name: ase_node.name for ase_node, worker in members}
    written = {(work.kind, work.namespace, work.name) for work in bundle.works}
    pods = failover.Pods.of(snapshot)
    kept = {
        name: tuple(pod for pod in on_node if _identity(pod, pods.workloads) not in written)
        for name, on_node in pods.by_node.items()
    }
    return Layout(
        nodes=tuple(snapshot.nodes[name] for name in own if name in snapshot.nodes),
        titles=own,
        reserve=device.spec.reserve,
        others=tuple(node for name, node in snapshot.nodes.items() if name not in own),
        pods=kept,
        workloads=snapshot.workloads,
        namespaces=snapshot.namespaces,
        tied=pods.tied,
        quotas=quotas.foreign(device, snapshot),
        is_real=True,
    )


def _identity(pod: core.Pod, workloads: Mapping[str, core.Workload]) -> tuple[str, str, str]:
    owner = failover.top_owner(pod, workloads)
    kind, name = ("Pod", pod.name) if owner is None else (owner.kind, owner.name)
    return kind, pod.namespace, name


def _layout(rows: Iterable[tuple[str, str, Mapping[str, str]]], kept: Reserve) -> Layout:
    nodes, titles = [], {}
    for name, title, given in rows:
        room = {key: quantities.units(key, value) for key, value in {**PRO_GPU, **given}.items()}
        labels = {HOSTNAME: name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
        nodes.append(core.Node(name, labels=labels, allocatable=room, capacity=room))
        titles[name] = title
    return Layout(tuple(nodes), titles, kept)


def named_after(layout: Layout, bundle: Bundle) -> Layout:
    """The layout with the host names that the manifests pin their pods to.

    Without a device nobody knows what its Nodes are called; a manifest that
    names one means one of the two, and a third name is nobody's.
    """
    if layout.is_real:
        return layout
    wanted = list[str]()
    for work in bundle.works:
        for name in _pinned_to(work.pods[0].demands) if work.pods else ():
            if name not in wanted:
                wanted.append(name)
    known = [node.name for node in layout.nodes]
    wanted = [name for name in wanted if name not in known]
    nodes = [
        replace(node, labels={**node.labels, HOSTNAME: name})
        for node, name in zip(layout.nodes, wanted, strict=False)
    ]
    return replace(layout, nodes=(*nodes, *layout.nodes[len(nodes) :]))


def _pinned_to(wanted: Demands) -> list[str]:
    pinned = [wanted.node_selector[HOSTNAME]] if HOSTNAME in wanted.node_selector else []
    for term in wanted.node_terms or ():
        for one in term:
            if one.key == HOSTNAME and one.operator == "In":
                pinned.extend(one.values)
    return pinned


@dataclass(slots=True)
class Budget:
    """The reserve and what the manifests take of it."""

    budget: dict[str, int]
    used: Counter[str] = field(default_factory=Counter)

    def admit(self, pod: core.Pod) -> list[str]:
        """Count a pod, or the resources of which too little is left for it."""
        wanted = {**pod.requests, "pods": 1}
        short = [
            name
            for name, amount in wanted.items()
            if name in self.budget and self.used[name] + amount > self.budget[name]
        ]
        if not short:
            self.used.update(wanted)
        return short

    def release(self, pod: core.Pod) -> None:
        """Take back what a pod was counted with."""
        self.used.subtract({**pod.requests, "pods": 1})


@dataclass(slots=True)
class Stage:
    """The pods on the device: who is admitted, who runs where, who has no place."""

    layout: Layout
    bundle: Bundle
    board: Board
    budget: Budget
    tied: dict[tuple[str, str], core.Volume]
    refused: dict[str, list[str]] = field(default_factory=dict)
    """Of workloads that are above the reserve: what is short, once for each pod."""
    kept_out: dict[str, list[Misfit]] = field(default_factory=dict)
    """Of workloads that somebody's quota does not let in: why, once for each pod."""
    placed: dict[str, list[Placed]] = field(default_factory=dict)
    """By workload."""
    work_of: dict[str, Work] = field(default_factory=dict)
    """By pod."""

    @property
    def pods(self) -> dict[str, list[core.Pod]]:
        """Who runs on which Node."""
        return {name: list(room.pods.values()) for name, room in self.board.rooms.items()}

    @property
    def quotas(self) -> list[core.Limit]:
        """The manifests' quotas, and those of the cluster that they do not replace."""
        written = {(one.namespace, one.name) for one in self.bundle.quotas}
        kept = [one for one in self.layout.quotas if (one.namespace, one.name) not in written]
        return [*kept, *self.bundle.quotas]

    @property
    def workloads(self) -> dict[str, core.Workload]:
        """The controllers, by uid."""
        made = {
            work.id: core.Workload(work.kind, work.namespace, work.name, work.id, len(work.pods))
            for work in self.bundle.works
        }
        return {**self.layout.workloads, **made}


def build(layout: Layout, bundle: Bundle) -> Stage:
    """Admit the pods under the reserve and place them."""
    layout = named_after(layout, bundle)
    namespaces = {**layout.namespaces, **bundle.namespaces}
    tied = {**layout.tied, **_bound(bundle)}
    board = Board.of(
        (*layout.nodes, *layout.others),
        layout.pods,
        titles=layout.titles,
        namespaces=namespaces,
        tied=tied,
    )
    board.tied = tied
    stage = Stage(layout, bundle, board, _budget(layout, namespaces), tied)
    limited = reserve.workload_namespaces(layout.reserve, namespaces.values())
    there = [pod for on_node in layout.pods.values() for pod in on_node]
    books = quotas.Books.of(stage.quotas, there, defaulted=bundle.defaulted)
    waiting = list[core.Pod]()
    for work in bundle.works:
        for pod in _spread_out(work, layout):
            short = stage.budget.admit(pod) if work.namespace in limited else []
            refusal = books.admit(pod) if not short else None
            if short:
                stage.refused.setdefault(work.id, []).append(short[0])
            elif refusal is not None:
                if work.namespace in limited:
                    stage.budget.release(pod)
                stage.kept_out.setdefault(work.id, []).append(refusal)
            else:
                waiting.append(pod)
            stage.work_of[pod.key] = work
    board.expect(waiting)
    _place(stage, waiting)
    return stage


def _spread_out(work: Work, layout: Layout) -> Iterable[core.Pod]:
    """The pods of a workload; a DaemonSet has one for every node that it selects."""
    if work.kind != "DaemonSet":
        return work.pods
    (model,) = work.pods
    pinned = []
    for node in layout.nodes:
        here = (Requirement(".metadata.name", "In", (node.name,)),)
        terms = model.demands.node_terms
        both = (here,) if terms is None else tuple((*term, *here) for term in terms if term)
        wanted = replace(model.demands, node_terms=both)
        pod = replace(model, name=f"{work.name}-{node.name}", demands=wanted)
        if Board.of([replace(node, taints=())], {}).fits(replace(pod, requests={}), node.name):
            pinned.append(pod)
    return pinned


def _place(stage: Stage, waiting: list[core.Pod]) -> None:
    """In the scheduler's order; the first pod of a node-local claim decides where it stays."""

    def bind(pod: core.Pod, node: str) -> None:
        for name in pod.claims:
            key = (pod.namespace, name)
            spec = stage.bundle.claims.get(key)
            if spec is not None and key not in stage.tied and is_node_local(spec):
                host = stage.board.rooms[node].node.labels.get(HOSTNAME, node)
                here = Requirement(HOSTNAME, "In", (host,))
                stage.tied[key] = core.Volume("a volume of its disks", node_terms=((here,),))

    names = [node.name for node in stage.layout.nodes]
    queue = Queue(stage.board, names, [node.name for node in stage.layout.others], on_put=bind)
    for result in queue.run(waiting):
        if result.pod.key in stage.work_of:
            work = stage.work_of[result.pod.key]
            stage.placed.setdefault(work.id, []).append(result)


def _bound(bundle: Bundle) -> dict[tuple[str, str], core.Volume]:
    """Claims that name a volume of the manifests which stays with some Nodes."""
    return {
        key: volume
        for key, spec in bundle.claims.items()
        if (volume := bundle.volumes.get(spec.get("volumeName") or "")) is not None
        and volume.node_terms
    }


def _budget(layout: Layout, namespaces: Mapping[str, core.Namespace]) -> Budget:
    capacity, taken = Counter[str](), defaultdict[str, Counter[str]](Counter)
    for node in layout.nodes:
        capacity.update({name: node.allocatable.get(name, 0) for name in reserve.RESOURCES})
    limited = reserve.workload_namespaces(layout.reserve, namespaces.values())
    own = {node.name for node in layout.nodes}
    for name, pods in layout.pods.items():
        for pod in pods:
            is_limited = pod.namespace in limited
            if not pod.is_over and (is_limited or name in own):
                taken["limited" if is_limited else "reserved"].update({**pod.requests, "pods": 1})
    budget = {
        name: max(0, amount * layout.reserve.percent // 100 - taken["reserved"][name])
        for name, amount in capacity.items()
    }
    return Budget(budget, taken["limited"])
