"""What FailoverReady foretells before a loss, against what does not run after it (design 4.8).

Both sides are counted by who owns the pods, because a replacement has another
name. What did not run is asked of the cluster: its pods, and what the
scheduler says of them, not of the operator. :class:`e2e.twin.Twin` keeps the
one before it fails a node, and compares before anything is repaired.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import matrix

Json = dict[str, Any]

TESTS = "e2e-"
"""The namespaces of other tests, which may be on their way out, do not count."""
OURS = ("asetwin-system", "asetwin-power")
STAYS = ("DaemonSet", "Node")
"""Whose pods do not move."""


@dataclass(frozen=True)
class Foretold:
    """What was known of a device node before it was lost."""

    ase_node: str
    who: Counter[str]
    """Owner → how many of its pods would not run, by ``status.ifLost``."""
    owners: Counter[str]
    """Owner → how many pods it had."""
    bare: Mapping[str, str]
    """Pods on the lost node that nothing recreates: uid → ``namespace/Pod/name``."""
    waiting: frozenset[str]
    """The uids of pods that had no node before already."""
    records: frozenset[str]
    """The ids of the failovers before."""


def loses_node(components: Iterable[str]) -> bool:
    """Whether a node is lost with these parts, by tests/failure_matrix.yaml."""
    failed = set(components)
    return any(
        set(way.split("+")) <= failed
        for group in matrix.MATRIX["groups"].values()
        if group["node"] != "Up"
        for way in group["fails"]
    )


def keep(
    ase_node: str,
    node: str,
    namespace: str,
    *,
    if_lost: Json,
    pods: Iterable[Json],
    device: Json,
) -> Foretold | None:
    """What is foretold of losing a node; None where it names pods that are there no more.

    ``if_lost`` is the status of the AseNode, ``device`` that of the device.
    """
    alive = _counted(pods, namespace)
    owners = {_key(pod): _owner(pod) for pod in alive}
    problems = if_lost.get("problems") or []
    count = if_lost.get("problemCount", 0)
    assert count == len(problems), f"{count} pods, more than ifLost lists: deploy fewer"
    named = [one["pod"] for one in problems if _is_counted(one["pod"], namespace)]
    if not set(named) <= set(owners):
        return None
    return Foretold(
        ase_node,
        Counter(owners[key] for key in named),
        Counter(owner for owner in owners.values() if "/Pod/" not in owner),
        {
            pod["metadata"]["uid"]: _owner(pod)
            for pod in alive
            if pod["spec"].get("nodeName") == node and "/Pod/" in _owner(pod)
        },
        frozenset(pod["metadata"]["uid"] for pod in alive if not pod["spec"].get("nodeName")),
        frozenset(one["id"] for one in _records(device)),
    )


def has_ended(foretold: Foretold, device: Json) -> bool:
    """Whether the failover that followed has come as far as it will."""
    for one in _records(device):
        if one["id"] not in foretold.records and one["from"] == foretold.ase_node:
            is_history = one is not device.get("failover")
            return is_history or "recoveredAt" in one or one["phase"].startswith("Recovered")
    return False


def not_running(foretold: Foretold, namespace: str, pods: Iterable[Json]) -> Counter[str] | None:
    """Owner → how many of its pods do not run now; None while that is not decided.

    It is decided when each owner has as many pods as before, and each of them has
    a node or was refused one by the scheduler.
    """
    alive = _counted(pods, namespace)
    owned = Counter(_owner(pod) for pod in alive if "/Pod/" not in _owner(pod))
    # What has come since has its own reasons; what was there has to be there in full.
    if any(owned[owner] != number for owner, number in foretold.owners.items()):
        return None
    homeless = [
        pod
        for pod in alive
        if not pod["spec"].get("nodeName") and pod["metadata"]["uid"] not in foretold.waiting
    ]
    if not all(_is_refused(pod) for pod in homeless):
        return None
    there = {pod["metadata"]["uid"] for pod in alive}
    lost = [name for uid, name in foretold.bare.items() if uid not in there]
    return Counter([_owner(pod) for pod in homeless] + lost)


def _records(device: Json) -> list[Json]:
    """The failover in progress, if any, and those of the history, the latest first."""
    return [one for one in (device.get("failover"), *(device.get("history") or ())) if one]


def _counted(pods: Iterable[Json], namespace: str) -> list[Json]:
    """The pods that a loss moves and that nobody has asked to end."""
    return [
        pod
        for pod in pods
        if pod["status"].get("phase") not in ("Succeeded", "Failed")
        and "deletionTimestamp" not in pod["metadata"]
        and not any(f"/{kind}/" in _owner(pod) for kind in STAYS)
        and _is_counted(_key(pod), namespace)
    ]


def _is_counted(key: str, namespace: str) -> bool:
    """Whether a pod, given as ``namespace/name``, is of the test or of nobody's."""
    found = key.partition("/")[0]
    return found == namespace or (not found.startswith(TESTS) and found not in OURS)


def _is_refused(pod: Json) -> bool:
    """Whether the scheduler has found no node for it."""
    conditions = pod["status"].get("conditions") or ()
    return any(one["type"] == "PodScheduled" and one["status"] == "False" for one in conditions)


def _key(pod: Json) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def _owner(pod: Json) -> str:
    """``namespace/Kind/name`` of the controller; of the pod itself where it has none."""
    meta = pod["metadata"]
    for one in meta.get("ownerReferences") or ():
        if one.get("controller"):
            return f"{meta['namespace']}/{one['kind']}/{one['name']}"
    return f"{meta['namespace']}/Pod/{meta['name']}"
