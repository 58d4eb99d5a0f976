"""``asetwin status``: how the devices are."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from asetwin.cli import common
from asetwin.cli.common import World

if TYPE_CHECKING:
    from asetwin.kube.client import Client
    from asetwin.resources.devices import AseDevice, AseNode, HardwareFailure, PinnedWorker
    from asetwin.resources.updates import DeviceUpdate


def command(context: common.Context = None, output: common.Form = common.Output.TEXT) -> int:
    """Show devices, nodes, workers, failures and updates.

    \b
    Examples:
      # The whole picture
      asetwin status
      # Which node has the master?
      asetwin status -o json | jq -r '.devices[].master.node'
      # Go on only while the device is well
      asetwin status && kubectl apply -f workload.yaml

    \b
    Exit status: 0 every device is Online, 1 one is not or there is none,
    2 bad input or no cluster.
    """
    world = common.in_cluster(run, context=context)
    if output is common.Output.JSON:
        common.emit_json(as_json(world))
    else:
        show(world)
    return common.GOOD if is_good(world) else common.FINDINGS


async def run(api: "Client") -> World:
    """What is in the cluster."""
    return await common.read_world(api)


def is_good(world: World) -> bool:
    """Whether there are devices and all of them are Online."""
    return bool(world.devices) and all(device.status.state == "Online" for device in world.devices)


def as_json(world: World) -> dict[str, Any]:
    """For machines: per object its name, what it belongs to, and its status."""
    return {
        "devices": [{"name": one.name, **one.status.wire()} for one in world.devices],
        "nodes": [
            {"name": one.name, "device": one.spec.device, "slot": one.spec.slot} | one.status.wire()
            for one in world.nodes
        ],
        "workers": [
            {"name": one.name, "aseNode": one.spec.ase_node, "nodeName": one.spec.node_name}
            | one.status.wire()
            for one in world.workers
        ],
        "failures": [
            {"name": one.name, **one.spec.wire(), **one.status.wire()} for one in world.failures
        ],
        "updates": [
            {"name": one.name, **one.spec.wire(), **one.status.wire()} for one in world.updates
        ],
    }


def show(world: World) -> None:
    """For people: one table per kind."""
    if not world.devices:
        common.warn("there is no AseDevice in this cluster")
    console = common.make_console()
    is_first = True
    for columns, rows in _tables(world):
        if not rows:
            continue
        if not is_first:
            console.print()
        is_first = False
        console.print(common.make_table(columns, rows))


def _tables(world: World) -> Iterator[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    yield (
        ("DEVICE", "STATE", "MASTER", "EPOCH", "VOTES", "RESERVE", "FAILOVER"),
        [_device(one) for one in world.devices],
    )
    yield (
        ("NODE", "DEVICE", "SLOT", "STATE", "WORKER", "FAILED", "SUMMARY"),
        [_node(one) for one in world.nodes],
    )
    yield (
        ("IF LOST", "READY", "BECAUSE"),
        [row for one in world.nodes if (row := _readiness(one))],
    )
    yield (
        ("WORKER", "ON", "NODE", "POWER", "GPUS", "SUMMARY"),
        [_worker(one) for one in world.workers],
    )
    yield (
        ("FAILURE", "NODE", "COMPONENT", "ACTION", "PHASE", "SUMMARY"),
        [_failure(one) for one in world.failures],
    )
    yield (
        ("UPDATE", "DEVICE", "PHASE", "STAGE", "NODES", "SUMMARY"),
        [_update(one) for one in world.updates],
    )


def _device(device: "AseDevice") -> tuple[str, ...]:
    status = device.status
    master, votes = status.master, status.votes
    return (
        device.name,
        status.state or "Unknown",
        f"{master.node} ({master.phase})" if master else "–",
        str(master.epoch) if master else "–",
        f"{votes.present} of {votes.total}" if votes else "–",
        status.reserve.summary or f"{status.reserve.percent} %" if status.reserve else "–",
        _failover(device),
    )


def _failover(device: "AseDevice") -> str:
    failover = device.status.failover
    if failover is None:
        return f"none now, {len(device.status.history)} before" if device.status.history else "none"
    text = f"{failover.from_node} → {failover.to_node or 'nowhere'}: {failover.phase}"
    text += f", {failover.recovered} of {failover.displaced} pods back"
    if failover.recovered_at is not None:
        text += f" in {failover.recovered_at - failover.detected_at:.1f} s"
    if failover.unplaceable_count:
        text += f", {failover.unplaceable_count} cannot run"
    return text


def _node(node: "AseNode") -> tuple[str, ...]:
    status = node.status
    return (
        node.name,
        node.spec.device,
        node.spec.slot,
        status.state or "Unknown",
        status.worker or "–",
        ", ".join(status.failed_components) or "–",
        status.summary or "",
    )


def _readiness(node: "AseNode") -> tuple[str, ...]:
    """Whether a node may be lost now; empty where nobody has said so."""
    from asetwin.resources import conditions

    found = conditions.find(node.status.conditions, "FailoverReady")
    return (node.name, found.status, found.message) if found else ()


def _worker(worker: "PinnedWorker") -> tuple[str, ...]:
    power = worker.status.power
    text = "–"
    if power is not None:
        is_settled = power.desired == power.observed
        text = power.observed if is_settled else f"{power.observed}, to be {power.desired}"
    gpus = worker.status.gpus if worker.status.gpus is not None else worker.spec.gpus
    return (
        worker.name,
        worker.spec.ase_node,
        worker.spec.node_name,
        text,
        "–" if gpus is None else str(gpus),
        worker.status.summary or "",
    )


def _failure(failure: "HardwareFailure") -> tuple[str, ...]:
    return (
        failure.name,
        failure.spec.node,
        failure.spec.component,
        failure.spec.action,
        failure.status.phase or "Pending",
        failure.status.summary or "",
    )


def _update(update: "DeviceUpdate") -> tuple[str, ...]:
    status = update.status
    return (
        update.name,
        update.spec.device,
        status.phase or "Waiting",
        status.stage or "–",
        status.progress or "–",
        status.summary or "",
    )
