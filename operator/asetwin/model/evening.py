"""Regular operation: a node above its share of the reserve while the sum is fine (design 4.8).

The API server's quotas know the sum only, and the scheduler fills nodes as it
likes. With ``spec.reserve.rebalance`` pods are evicted from the fuller node
as after a return (:mod:`asetwin.model.rebalance`), with the same bounds: PDBs
hold, one pod per workload, the next when the last one is Ready. Its memory is
``status.rebalance``. :mod:`asetwin.model.facts` asks it while no failover is
open.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from asetwin import constants
from asetwin.model import failover, rebalance
from asetwin.model.nodes import View
from asetwin.model.placement.rooms import Room
from asetwin.model.snapshot import Snapshot
from asetwin.resources import quantities
from asetwin.resources.devices import AseDevice, Failover, Rebalance, RebalanceOutcome

PATIENCE_SECONDS = 300.0
"""After an attempt that has not evened out the nodes: another one before would do the same."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about a node that is too full."""

    back: rebalance.Verdict | None = None
    memory: Rebalance | None = None

    @property
    def lifted_for(self) -> str:
        """What the quotas are lifted for while pods move; empty where none do."""
        memory = self.memory
        return f"{memory.from_node}-evened" if memory and memory.outcome is None else ""


def excess(view: View, pods: failover.Pods, percent: int) -> str:
    """What is requested on a node above its share, in words; empty where nothing is."""
    if view.node is None:
        return ""
    room = Room.of(view.node, pods.by_node.get(view.node.name, ()), view.name)
    parts = []
    # While a device plugin registers anew its GPUs are in use all the same, and not too many.
    hidden = constants.GPU_RESOURCE if rebalance.lacks_gpus(view) else ""
    for name in (one for one in room.excess(percent) if one != hidden):
        share = -(-view.node.allocatable.get(name, 0) * percent // 100)
        amounts = [quantities.render(name, one) for one in (room.used[name], share)]
        parts.append(f"{name}: {amounts[0]} requested, {amounts[1]} are its share")
    return "; ".join(parts)


def rule(
    device: AseDevice,
    views: Sequence[View],
    pods: failover.Pods,
    snapshot: Snapshot,
    *,
    is_free: bool,
    now: float,
) -> Verdict:
    """The next step; ``is_free`` is False during a failover and a pause, which go first.

    The verdict's memory has to be written before its evictions are carried out.
    """
    memory = device.status.rebalance
    if not is_free:
        return Verdict()
    if memory is not None and memory.ended_at is not None:
        retries_at = memory.ended_at + PATIENCE_SECONDS
        is_even = memory.outcome is RebalanceOutcome.BALANCED
        verdict = rebalance.rule(_record(memory), views, pods, snapshot, device, now)
        if verdict.is_over and (is_even or now >= retries_at):
            return Verdict()
        return Verdict(replace(verdict, wake_at=retries_at), memory)
    if memory is None:
        memory = _begun(device, views, pods, now)
    if memory is None:
        return Verdict()
    verdict = rebalance.rule(_record(memory), views, pods, snapshot, device, now)
    return Verdict(verdict, verdict.memory)


def _begun(
    device: AseDevice, views: Sequence[View], pods: failover.Pods, now: float
) -> Rebalance | None:
    """The memory of a new attempt; None where none is wanted or none is needed."""
    if not device.spec.reserve.rebalance or len(views) != 2:
        return None
    if not all(one.in_service for one in views):
        return None
    percent = device.spec.reserve.percent
    full = [one for one in views if excess(one, pods, percent)]
    if len(full) != 1:
        return None
    (source,), (target,) = full, [one for one in views if one is not full[0]]
    is_closed = target.node is None or target.node.unschedulable
    if is_closed or _is_filling(source, pods, now):
        return None
    return Rebalance(started_at=now, from_node=source.name, to_node=target.name)


def _is_filling(view: View, pods: failover.Pods, now: float) -> bool:
    """Whether pods are still starting there: none of them could be asked to go."""
    on_node = pods.by_node.get(view.node.name, ()) if view.node is not None else ()
    return any(
        not one.is_ready and not one.is_over and now - one.created < failover.STARTING_SECONDS
        for one in on_node
    )


def _record(memory: Rebalance) -> Failover:
    """The return of a node that has displaced nothing: what the rule for returns wants to see."""
    return Failover(
        id="",
        trigger="",
        from_node=memory.to_node,
        to_node=memory.from_node,
        detected_at=memory.started_at,
        rebalance=memory,
    )
