"""Where the master stand-in runs, and under which epoch (design 4.7).

The epoch in ``AseDevice.status.master`` is the authority; it is advanced by a
compare-and-set on the AseDevice before a pod of that epoch exists. A new pod
starts only when no pod of an older epoch is left. A fails: the master moves to
B. B fails: it stays. It does not go back by itself, because every move is an
outage of the control plane.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from asetwin import constants
from asetwin.model import failover, leaves, shares
from asetwin.model.nodes import View
from asetwin.model.plan import CreateMaster, CreateMasterService, DeletePod, RetryStart, Step
from asetwin.model.snapshot import Snapshot
from asetwin.resources.core import Lease, Pod
from asetwin.resources.devices import AseDevice, MasterPhase, MasterStatus

NO_ORDER = leaves.MasterOrder()

RETRY_SECONDS = (2.5, 5.0, 10.0)
"""How long after it was first seen the start of a master that does not run is asked for again.

A kubelet that asks for the pod's claim before the API server's node authorizer
has heard of the pod is refused, and lets the pod wait for 10 to 15 s. But it
syncs a pod whose annotations change at once. Source: the kubelet's pod workers
(backOffPeriod, UpdatePod), kubernetes/kubernetes issue 113429.
"""


def pod_name(device: str, epoch: int) -> str:
    """``<device>-master-<epoch>``."""
    return f"{device}-master-{epoch}"


def object_name(device: str) -> str:
    """The name of the master's Service and Lease."""
    return f"{device}-master"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The master's next status and the steps towards it."""

    status: MasterStatus | None
    steps: tuple[Step, ...]
    message: str
    wake_at: float | None = None

    @property
    def is_serving(self) -> bool:
        """Whether it answers under its epoch."""
        return self.status is not None and self.status.phase is MasterPhase.SERVING


def rule(
    device: AseDevice,
    views: Sequence[View],
    snapshot: Snapshot,
    *,
    has_quorum: bool,
    now: float,
    order: leaves.MasterOrder = NO_ORDER,
) -> Verdict:
    """Decide on the master; without quorum it stays where it is.

    ``order`` is what an update asks: to leave a node, to have a version.
    """
    before = device.status.master
    pods = [
        pod
        for pod in snapshot.pods
        if failover.is_master(pod) and pod.labels.get(constants.LABEL_DEVICE) == device.name
    ]
    lease = _lease(device, snapshot)
    if before is None:
        first = _first(device, views)
        if first is None or not has_quorum:
            return Verdict(None, _remove(pods, views), "waits for a node in service")
        epoch = 1 + max([lease.epoch if lease else 0, *(_epoch(pod) for pod in pods)])
        return Verdict(
            MasterStatus(node=first.name, epoch=epoch, since=now),
            (),
            f"starts on {first.name} with epoch {epoch}",
        )
    current = next((pod for pod in pods if pod.name == pod_name(device.name, before.epoch)), None)
    target = _target(device, before, current, views, order) if has_quorum else None
    if target is not None:
        return Verdict(
            MasterStatus(
                node=target.name,
                epoch=before.epoch + 1,
                since=now,
                version=order.version or before.version,
            ),
            _remove(pods, views),
            f"moves to {target.name} with epoch {before.epoch + 1}",
        )
    return _settle(
        device, before, current, pods, lease, views, now, has_quorum=has_quorum, snapshot=snapshot
    )


def _settle(
    device: AseDevice,
    before: MasterStatus,
    current: Pod | None,
    pods: Sequence[Pod],
    lease: Lease | None,
    views: Sequence[View],
    now: float,
    *,
    has_quorum: bool,
    snapshot: Snapshot,
) -> Verdict:
    """The master stays at its node and epoch: see to its pod, and say how far it is."""
    home = next((one for one in views if one.name == before.node), None)
    others = [pod for pod in pods if pod is not current]
    stale = _remove(others, views)
    if home is None or home.node is None or home.is_lost:
        # A device that is Offline has no master either: the VM died with its node.
        why = f"{before.node} is off"
        gone = _remove(pods, views, why) if home is not None and home.is_fenced else ()
        status = _phase(before, MasterPhase.WAITING, now)
        return Verdict(status, gone, f"waits for {before.node}")
    if current is None:
        create = CreateMaster(
            device=device.name,
            device_uid=device.metadata.uid,
            epoch=before.epoch,
            ase_node=home.name,
            node=home.node.name,
            boot_seconds=device.spec.timing.seconds("master_boot"),
            version=before.version or "",
        )
        # NB: only when every older pod is gone; two masters must never be able to serve. And
        # only the first pod of an epoch: another one is started under the next.
        may_start = has_quorum and not others and not before.pod
        status = _phase(before, MasterPhase.WAITING, now)
        if may_start and not shares.has_journal(device.name, snapshot):
            return Verdict(status, stale, f"waits for {shares.journal_name(device.name)}")
        return Verdict(status, (create,) if may_start else stale, "waits for its pod")
    holder = (lease.holder, lease.epoch) if lease is not None else None
    is_serving = current.is_serving and holder == (current.name, before.epoch)
    phase = MasterPhase.SERVING if is_serving else MasterPhase.BOOTING
    status = _phase(before, phase, now, pod=current.name)
    verb = "serves" if is_serving else "boots"
    text = f"{verb} on {before.node} under epoch {before.epoch}"
    retry, wake_at = _retry(current, now - status.since, now)
    return Verdict(status, (*stale, *retry), text, wake_at)


def _retry(current: Pod, age: float, now: float) -> tuple[tuple[RetryStart, ...], float | None]:
    """Whether its kubelet is to be asked again, and when next; never while it runs or ends."""
    if current.phase != "Pending" or current.deleting is not None:
        return (), None
    # Where several are due, as for an operator that has been away, one is enough.
    attempt = sum(1 for seconds in RETRY_SECONDS if seconds <= age)
    # NB: one that is refused must not make the loop spin, so only what is to come wakes it.
    wake_at = next((now + seconds - age for seconds in RETRY_SECONDS if seconds > age), None)
    if attempt <= current.start_retries:
        return (), wake_at
    return (RetryStart(current.namespace, current.name, attempt),), wake_at


def service(device: AseDevice, snapshot: Snapshot) -> CreateMasterService | None:
    """The Service in front of the master, if it is missing."""
    name = object_name(device.name)
    if any(
        one.namespace == constants.SYSTEM_NAMESPACE and one.name == name
        for one in snapshot.services
    ):
        return None
    return CreateMasterService(device.name, device.metadata.uid)


def _first(device: AseDevice, views: Sequence[View]) -> View | None:
    up = [one for one in views if one.in_service]
    preferred = [one for one in up if one.name == device.spec.master.preferred_node]
    return next(iter([*preferred, *up]), None)


def _target(
    device: AseDevice,
    before: MasterStatus,
    current: Pod | None,
    views: Sequence[View],
    order: leaves.MasterOrder,
) -> View | None:
    """Where it has to move; None where it stays. A new pod always means a new epoch."""
    home = next((one for one in views if one.name == before.node), None)
    up = [one for one in views if one.in_service]
    if home is None:
        # Its AseNode was deleted: the pod ends the ordinary way, then the next one starts.
        return next(iter(up), None)
    if home.is_lost:
        others = [one for one in up if one.name != before.node]
        return next(iter(others), None) if home.is_fenced else None
    has_ended = current is None and bool(before.pod)
    is_broken = current is not None and current.is_over
    if has_ended or is_broken:
        return home if home.in_service else next(iter(up), None)
    if order.leaves == home.name:
        return next((one for one in up if one is not home), None)
    if order.version is not None and order.version != before.version and home.in_service:
        # An update of the master is a new pod, so it is a new epoch too.
        return home
    if not device.spec.master.failback or not home.in_service:
        return None
    # Without a preferredNode that is slot A. Never to whichever node happens to be up: a home
    # that is merely not Ready at the moment is not left without proof.
    name = device.spec.master.preferred_node or views[0].name
    if name == order.leaves:
        return None
    return next((one for one in up if one.name == name and one is not home), None)


def _remove(
    pods: Sequence[Pod], views: Sequence[View], why: str = "older epoch"
) -> tuple[DeletePod, ...]:
    """Delete these master pods: by force where the Node is proven to be off."""
    off = {one.node.name for one in views if one.node is not None and one.is_fenced}
    return tuple(
        DeletePod(pod.namespace, pod.name, pod.uid, force=pod.node in off, why=why)
        for pod in pods
        if pod.deleting is None or pod.node in off
    )


def _phase(
    before: MasterStatus, phase: MasterPhase, now: float, pod: str | None = None
) -> MasterStatus:
    if before.phase is phase and before.pod == (pod or before.pod):
        return before
    since = before.since if before.phase is phase else now
    return before.model_copy(
        update={"phase": phase, "since": since, "pod": before.pod if pod is None else pod}
    )


def _lease(device: AseDevice, snapshot: Snapshot) -> Lease | None:
    name = object_name(device.name)
    return next(
        (
            one
            for one in snapshot.leases
            if one.namespace == constants.SYSTEM_NAMESPACE and one.name == name
        ),
        None,
    )


def _epoch(pod: Pod) -> int:
    text = pod.labels.get(constants.LABEL_EPOCH, "")
    return int(text) if text.isdecimal() else 0
