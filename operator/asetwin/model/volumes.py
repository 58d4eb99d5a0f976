"""Volumes that stay with their node: which pods they hold back (design 4.4).

A PersistentVolume of ``ase-node-local`` lies on one node's data disks and says
so in its node affinity. When that node is lost, its pods cannot run anywhere
else, whatever the scheduler names first.
"""

from collections.abc import Iterable, Mapping

from asetwin.model.snapshot import Snapshot
from asetwin.resources.core import Node, Pod, Volume

Tied = Mapping[tuple[str, str], Volume]
"""Namespace and name of a claim → the volume behind it, where it is tied to Nodes."""


def find_tied(snapshot: Snapshot) -> Tied:
    """The claims whose volumes cannot be mounted everywhere."""
    return {
        (claim.namespace, claim.name): volume
        for claim in snapshot.claims
        if (volume := snapshot.volumes.get(claim.volume)) is not None and volume.node_terms
    }


def explain_tie(pod: Pod, tied: Tied, nodes: Iterable[Node]) -> str:
    """Why a pod fits on none of these Nodes because of a volume; "" where that is not so."""
    nodes = list(nodes)
    for name in pod.claims:
        volume = tied.get((pod.namespace, name))
        if volume is not None and not any(volume.is_reachable_from(node) for node in nodes):
            return f"claim {name} is bound to {volume.name}, which stays on {_place(volume)}"
    return ""


def _place(volume: Volume) -> str:
    values = sorted({value for term in volume.node_terms for one in term for value in one.values})
    return ", ".join(values[:3]) or "other nodes"
