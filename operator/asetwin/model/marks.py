"""What of a Node is ours: its cordon, its taints, its advertised GPUs (design 3).

``spec.unschedulable`` has no owner field and a taint has none either, so the
mark says who set them. It is written in the same PATCH as the change, under
the Node's resourceVersion: neither can exist without the other. A cordon or
taint that was there before us is not recorded and so is never undone.
"""

import json
from dataclasses import dataclass, replace
from functools import lru_cache

from asetwin import constants
from asetwin.model.plan import PatchGpus, PatchNode
from asetwin.resources.core import Node, Taint


@dataclass(frozen=True, slots=True)
class Mark:
    """The content of our annotation."""

    device: str
    cordon: bool = False
    taints: tuple[str, ...] = ()
    gpus: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing on the Node is ours any more."""
        return not self.cordon and not self.taints and self.gpus is None

    def render(self) -> str | None:
        """The annotation's text; None where it goes."""
        if self.is_empty:
            return None
        content: dict[str, object] = {"device": self.device}
        if self.cordon:
            content["cordon"] = True
        if self.taints:
            content["taints"] = list(self.taints)
        if self.gpus is not None:
            content["gpus"] = self.gpus
        return json.dumps(content, separators=(",", ":"))


def read(node: Node) -> Mark | None:
    """The mark on a Node; None where there is none, or one that nobody can read."""
    return _parse(node.owned) if node.owned else None


@lru_cache(maxsize=1024)
def _parse(text: str) -> Mark | None:
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or not isinstance(content.get("device"), str):
            return None
        gpus = content.get("gpus")
        return Mark(
            device=content["device"],
            cordon=content.get("cordon") is True,
            taints=tuple(str(one) for one in content.get("taints") or ()),
            gpus=gpus if isinstance(gpus, int) else None,
        )
    except (ValueError, TypeError):
        # Somebody edited it by hand. Without a readable mark nothing is known to be ours,
        # so nothing is undone: a left-over cordon is better than a foreign one removed.
        return None


STEERING = Taint(constants.TAINT_REBALANCING, constants.TAINT_REBALANCING_EFFECT)
"""On the fuller node after a return; the Node stays in service with it."""
GUARDS = (
    Taint("node.kubernetes.io/unschedulable", "NoSchedule"),
    Taint(constants.TAINT_NODE_DOWN, constants.TAINT_EFFECT),
    Taint(constants.TAINT_OUT_OF_SERVICE, constants.TAINT_EFFECT, "nodeshutdown"),
)
"""What keeps pods off a lost and fenced Node; the first is Kubernetes' own, of the cordon."""


def is_out_of_service(node: Node, device: str) -> bool:
    """Whether this device holds the Node out of service."""
    mark = read(node)
    has_cordoned = mark is not None and mark.device == device and mark.cordon
    return has_cordoned or keeps_pods_off(node, device)


def keeps_pods_off(node: Node, device: str) -> bool:
    """Whether this device has taken the pods off the Node, and lets no other one there."""
    mark = read(node)
    if mark is None or mark.device != device:
        return False
    return any(one != STEERING.identity for one in mark.taints)


def is_steered(node: Node, device: str) -> bool:
    """Whether our steering taint is on the Node."""
    mark = read(node)
    is_ours = mark is not None and mark.device == device and STEERING.identity in mark.taints
    return is_ours and STEERING.identity in {one.identity for one in node.taints}


def steer(node: Node, device: str, *, wanted: bool, why: str = "") -> PatchNode | None:
    """Set or remove the steering taint; None where it is as wanted, or somebody else's."""
    mark = read(node) or Mark(device)
    is_there = STEERING.identity in {one.identity for one in node.taints}
    is_ours = STEERING.identity in mark.taints
    if wanted == is_ours and is_ours == is_there:
        return None
    if is_there and not is_ours:
        return None
    taints = tuple(one for one in node.taints if one.identity != STEERING.identity)
    owned = tuple(one for one in mark.taints if one != STEERING.identity)
    if wanted:
        taints, owned = (*taints, STEERING), (*owned, STEERING.identity)
    return PatchNode(
        name=node.name,
        resource_version=node.resource_version,
        unschedulable=node.unschedulable,
        taints=taints,
        owned=replace(mark, taints=owned).render(),
        why=why,
    )


def is_closed(node: Node) -> bool:
    """Whether nothing can run on the Node, whoever has seen to that."""
    present = {taint.identity for taint in node.taints}
    wanted = (constants.TAINT_NODE_DOWN, constants.TAINT_OUT_OF_SERVICE)
    return node.unschedulable and all(
        Taint(key, constants.TAINT_EFFECT).identity in present for key in wanted
    )


def has_foreign_cordon(node: Node) -> bool:
    """Whether somebody else has cordoned the Node."""
    mark = read(node)
    return node.unschedulable and not (mark is not None and mark.cordon)


def put_out(node: Node, device: str, *, tainted: bool, why: str = "") -> PatchNode | None:
    """Cordon the Node, and taint it if ``tainted``; None where that is so already."""
    wanted = (constants.TAINT_NODE_DOWN, constants.TAINT_OUT_OF_SERVICE) if tainted else ()
    present = {taint.identity for taint in node.taints}
    missing = [
        taint
        for taint in (Taint(key, constants.TAINT_EFFECT, _value(key)) for key in wanted)
        if taint.identity not in present
    ]
    if node.unschedulable and not missing:
        return None
    mark = read(node) or Mark(device)
    mark = replace(
        mark,
        device=device,
        cordon=mark.cordon or not node.unschedulable,
        taints=(
            *mark.taints,
            *(one.identity for one in missing if one.identity not in mark.taints),
        ),
    )
    return PatchNode(
        name=node.name,
        resource_version=node.resource_version,
        unschedulable=True,
        taints=(*node.taints, *missing),
        owned=mark.render(),
        why=why,
    )


def put_back(node: Node, *, why: str = "") -> PatchNode | None:
    """Undo our cordon and our taints, and nothing else; None where there are none."""
    mark = read(node)
    if mark is None or not (mark.cordon or mark.taints):
        return None
    return PatchNode(
        name=node.name,
        resource_version=node.resource_version,
        unschedulable=node.unschedulable and not mark.cordon,
        taints=tuple(one for one in node.taints if one.identity not in mark.taints),
        owned=replace(mark, cordon=False, taints=()).render(),
        why=why,
    )


def advertise(node: Node, device: str, gpus: int | None) -> PatchGpus | None:
    """Make the Node offer this many GPUs (None: none of ours); None where it does already.

    GPUs that a real device plugin offers are not ours and stay as they are.
    """
    mark = read(node)
    ours = mark.gpus if mark is not None else None
    offered = node.capacity.get(constants.GPU_RESOURCE)
    # Also while it offers none: a plugin reports 0 until it has found its devices again.
    is_foreign = ours is None and offered is not None
    if is_foreign or (gpus == ours and (offered == gpus or gpus is None)):
        return None
    mark = replace(mark or Mark(device), gpus=gpus)
    return PatchGpus(node.name, node.resource_version, gpus, mark.render())


def _value(key: str) -> str:
    # Kubernetes' documentation for the out-of-service taint uses this value.
    return "nodeshutdown" if key == constants.TAINT_OUT_OF_SERVICE else ""
