"""FailoverReady: may this node be lost now, and if not, which pod would not run (design 4.8)?

Asked in every turn and answered from memory while nothing has changed that
matters: equal input gives an equal answer, so remembering one is no state of
the rules. :mod:`asetwin.model.reports` makes conditions of it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from asetwin import constants
from asetwin.model import budgets, failover, losses, quorum, quotas
from asetwin.model.losses import Loss, Scene
from asetwin.model.nodes import View
from asetwin.model.placement import rooms
from asetwin.model.snapshot import Snapshot
from asetwin.resources.conditions import Reason
from asetwin.resources.core import Node, Pod
from asetwin.resources.devices import AseDevice, NodeLoss, PodProblem, Votes

MESSAGE_NAMES = 5
_REMEMBERED = 8
"""Devices whose last answer is kept."""
_memory: dict[str, tuple[tuple[Any, ...], dict[str, Loss]]] = {}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one device node may be lost."""

    node: str
    is_ready: bool | None
    """None where the question does not arise: the node is not in service."""
    reason: Reason
    message: str
    loss: NodeLoss | None = None
    """The pods that would not run; None where all would."""


def judge(
    device: AseDevice,
    views: Sequence[View],
    pods: failover.Pods,
    snapshot: Snapshot,
    votes: Votes,
) -> dict[str, Verdict]:
    """The verdict on each device node, by its name."""
    found = _losses(device, views, pods, snapshot)
    return {view.name: _verdict(view, device, views, votes, found.get(view.name)) for view in views}


def _verdict(
    view: View, device: AseDevice, views: Sequence[View], votes: Votes, loss: Loss | None
) -> Verdict:
    name = view.name
    if not view.in_service:
        text = f"{name} is not in service: {view.summary}"
        return Verdict(name, None, Reason.OUT_OF_SERVICE, text)
    others = [one for one in views if one.name != name]
    if not others:
        text = "one node: there is nowhere to fail over to"
        return Verdict(name, False, Reason.SINGLE_NODE, text)
    left = [one for one in others if one.in_service]
    if not left or loss is None:
        text = f"{others[0].name} is not in service: {others[0].summary}"
        return Verdict(name, False, Reason.NO_SURVIVOR, text)
    after = quorum.count(
        [
            quorum.Member(
                one.name, one.member.ase_node.spec.slot, one is not view and one.is_voting
            )
            for one in views
        ],
        device.spec.witness,
        votes,
    )
    if not quorum.is_reached(after):
        text = quorum.explain(after, [one.name for one in views], device.spec.witness)
        return Verdict(name, False, Reason.QUORUM_AT_RISK, f"the device would be Offline: {text}")
    if not loss.victims:
        return Verdict(name, True, Reason.EVERY_POD_FITS, f"every pod would run on {left[0].name}")
    return _named(name, left[0].name, loss)


def _named(name: str, survivor: str, loss: Loss) -> Verdict:
    problems = [
        PodProblem(pod=one.pod.key, reason=one.misfit.reason, message=one.misfit.message[:300])
        for one in loss.victims[: constants.STATUS_LIST_LIMIT]
    ]
    told = [
        f"{one.pod} {one.reason}"
        + (f" ({one.message})" if one.message.startswith("needs ") else "")
        for one in problems[:MESSAGE_NAMES]
    ]
    count = len(loss.victims)
    more = f" and {count - len(told)} more" if count > len(told) else ""
    text = f"{count} of {max(count, loss.moving)} pods would not run on {survivor}: "
    return Verdict(
        name,
        False,
        Reason.PODS_WOULD_NOT_RUN,
        text + ", ".join(told) + more,
        NodeLoss(pods=loss.moving, problem_count=count, problems=tuple(problems)),
    )


def summarize(verdicts: dict[str, Verdict]) -> Verdict | None:
    """The verdict on the device: its worst one; None where it has no nodes."""
    if not verdicts:
        return None
    told = sorted(verdicts.values(), key=lambda one: one.node)
    bad = [one for one in told if one.is_ready is False]
    unknown = [one for one in told if one.is_ready is None]
    if bad:
        text = "; ".join(f"without {one.node}: {one.message}" for one in bad)
        return replace(bad[0], message=text, loss=None)
    if unknown:
        return replace(unknown[0], loss=None)
    text = "every pod would run without " + " or ".join(one.node for one in told)
    return replace(told[0], message=text, loss=None)


def _losses(
    device: AseDevice, views: Sequence[View], pods: failover.Pods, snapshot: Snapshot
) -> dict[str, Loss]:
    """By AseNode, for those whose loss another one in service could take over."""
    serving = {one.name: one.node.name for one in views if one.in_service and one.node is not None}
    if len(serving) < 2:
        return {}
    # NB: compared part by part, where what has not changed is the same object: cheap.
    key = (
        tuple(serving.items()),
        snapshot.pods,
        snapshot.nodes,
        snapshot.claims,
        snapshot.volumes,
        snapshot.budgets,
        snapshot.namespaces,
        snapshot.workloads,
        foreign := quotas.foreign(device, snapshot),
        snapshot.limit_ranges if foreign else (),
    )
    known = _memory.get(device.name)
    if known is not None and known[0] == key:
        return known[1]
    waiting = [pod for pod in snapshot.pods if _is_waiting(pod)]
    titles = {node: name for name, node in serving.items()}
    scene = Scene(
        nodes={**snapshot.nodes, **{name: _settled(snapshot.nodes[name]) for name in titles}},
        pods=pods.by_node,
        workloads=snapshot.workloads,
        waiting=waiting,
        titles=titles,
        namespaces=snapshot.namespaces,
        tied=pods.tied,
        guarded=lambda: _guarded(snapshot),
        quotas=foreign,
        defaulted=quotas.defaulted(snapshot),
    )
    found = {
        name: losses.foresee(scene, node, [one for one in serving.values() if one != node])
        for name, node in serving.items()
    }
    while len(_memory) >= _REMEMBERED and device.name not in _memory:
        del _memory[next(iter(_memory))]
    _memory[device.name] = (key, found)
    return found


def _settled(node: Node) -> Node:
    """A Node in service without the taints that Kubernetes takes off it in a moment."""
    gone = rooms.passing(node)
    return replace(node, taints=tuple(one for one in node.taints if one not in gone))


def _is_waiting(pod: Pod) -> bool:
    return not pod.node and pod.deleting is None and not pod.is_over


def _guarded(snapshot: Snapshot) -> frozenset[str]:
    """The pods that a disruption budget does not let go now."""
    held = budgets.Budgets(snapshot.budgets)
    if not snapshot.budgets:
        return frozenset()
    by_namespace: dict[str, bool] = defaultdict(bool)
    for one in snapshot.budgets:
        by_namespace[one.namespace] = True
    return frozenset(
        pod.key
        for pod in snapshot.pods
        if by_namespace[pod.namespace] and held.refusal(pod) is not None
    )
