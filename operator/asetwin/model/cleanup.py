"""Undoing what is ours: a device that is deleted, and what one left behind (design 3)."""

from collections.abc import Iterable

from asetwin import constants
from asetwin.model import failover, marks, master, power, references, reports, shares
from asetwin.model.plan import (
    DeleteLimit,
    DeletePod,
    DeleteSystemObject,
    DeleteVolume,
    Draft,
    Plan,
    SetFinalizers,
    Step,
)
from asetwin.model.snapshot import Snapshot
from asetwin.resources.devices import AseDevice


def gone_devices(snapshot: Snapshot) -> set[str]:
    named = {one.device for one in (*snapshot.quotas, *snapshot.limit_ranges) if one.device}
    named |= {mark.device for one in snapshot.nodes.values() if (mark := marks.read(one))}
    named |= {one.device for one in snapshot.volumes.values()}
    named |= {
        one.labels.get(constants.LABEL_DEVICE, "")
        for one in snapshot.pods
        if failover.is_master(one)
    }
    return {one for one in named if one and one not in snapshot.devices}


def release_all(draft: Draft, snapshot: Snapshot, device: str) -> None:
    """Undo everything in the cluster that is ours for one device."""
    draft.stage(*releases(snapshot, device))
    draft.stage(
        *(
            DeleteLimit(plural, one.namespace, one.name, one.uid)
            for plural, limits in (
                ("resourcequotas", snapshot.quotas),
                ("limitranges", snapshot.limit_ranges),
            )
            for one in limits
            if one.device == device
        )
    )
    name = master.object_name(device)
    off = {one.spec.node_name: one for one in snapshot.workers.values() if power.is_proven_off(one)}
    masters = [
        pod
        for pod in snapshot.pods
        if failover.is_master(pod)
        and pod.labels.get(constants.LABEL_DEVICE) == device
        and (pod.deleting is None or pod.node in off)
    ]
    standing = {pod.node for pod in masters if pod.node in off}
    draft.stage(*(step for node in sorted(standing) for step in power.rechecks(off[node])))
    draft.stage(
        *(
            DeletePod(
                pod.namespace,
                pod.name,
                pod.uid,
                # Nobody is left there who could end it in order.
                force=pod.node in off,
                why="its AseDevice is gone",
            )
            for pod in masters
        ),
        *(
            DeleteSystemObject("services", one.name)
            for one in snapshot.services
            if one.namespace == constants.SYSTEM_NAMESPACE and one.name == name
        ),
    )
    is_master_gone = not any(
        failover.is_master(pod) and pod.labels.get(constants.LABEL_DEVICE) == device
        for pod in snapshot.pods
    )
    if is_master_gone:
        # Not before its pod is gone: a master that finds no Lease makes itself a new one.
        draft.stage(
            *(
                DeleteSystemObject("leases", one.name)
                for one in snapshot.leases
                if one.namespace == constants.SYSTEM_NAMESPACE and one.name == name
            )
        )
        _release_shares(draft, snapshot, device)


def _release_shares(draft: Draft, snapshot: Snapshot, device: str) -> None:
    """Delete a device's volumes and the claim for its journal; what is on the shares stays.

    A volume that somebody's claim holds is on its way out until that claim
    goes, and serves it until then; nobody has to wait for it.
    """
    claim = shares.find_claim(device, snapshot)
    volumes = [
        DeleteVolume(one.name, one.uid, why="its AseDevice is gone")
        for one in snapshot.volumes.values()
        if one.device == device and not one.is_deleting
    ]
    draft.stage(
        DeleteSystemObject("persistentvolumeclaims", claim.name)
        if claim is not None and not claim.is_deleting
        else None,
        *volumes,
    )


def clean_up(device: AseDevice, snapshot: Snapshot, now: float) -> Plan:
    """A device that is being deleted: undo what is ours, then let it go.

    What the cluster no longer has needs no undoing, so this ends whatever else
    is missing: its AseNodes, its workers, the Nodes themselves.
    """
    draft = Draft()
    # Before the device goes: who would say afterwards that its machines may run?
    owed = _give_power_back(draft, device, snapshot, now)
    release_all(draft, snapshot, device.name)
    held = device.metadata.finalizers
    is_over = not owed and not draft.stages and not _has_master_pod(device, snapshot)
    if is_over and constants.FINALIZER in held:
        left = tuple(one for one in held if one != constants.FINALIZER)
        draft.stage(SetFinalizers(device.name, left, device.metadata.resource_version))
    return draft.finish()


def _give_power_back(draft: Draft, device: AseDevice, snapshot: Snapshot, now: float) -> bool:
    """Desire On for every worker, and answer whether the power agent still has to see to it.

    An agent that is silent is not waited for: it finds out when it is back.
    """
    owed = False
    agent = power.find_agent(snapshot, now)
    for member in references.resolve(snapshot).members.get(device.name, ()):
        worker = member.worker
        seen = worker.status.power if worker is not None else None
        if worker is None or seen is None:
            continue
        status = worker.status.model_copy(update={"power": power.given_back(seen)})
        draft.stage(*(step for step, _ in reports.write(worker, status)))
        owed = owed or (agent.is_alive and power.is_owed(seen))
    draft.wake(agent.fades_at if owed else None)
    return owed


def _has_master_pod(device: AseDevice, snapshot: Snapshot) -> bool:
    return any(
        failover.is_master(pod) and pod.labels.get(constants.LABEL_DEVICE) == device.name
        for pod in snapshot.pods
    )


def releases(snapshot: Snapshot, device: str, *, except_for: Iterable[str] = ()) -> list[Step]:
    """Take our marks off Nodes that are not this device's any more."""
    steps: list[Step] = []
    for node in snapshot.nodes.values():
        mark = marks.read(node)
        if mark is None or mark.device != device or node.name in except_for:
            continue
        step = marks.put_back(node, why="no longer pinned") or marks.advertise(node, device, None)
        if step is not None:
            steps.append(step)
    return steps
