"""One device node: lost or not, fenced or not, in service or on its way back (4.3, 4.4, 4.6)."""

from dataclasses import dataclass

from asetwin.model import failures, hardware, marks
from asetwin.model.conditions import Conditions
from asetwin.model.references import Member
from asetwin.resources.conditions import Condition, Reason
from asetwin.resources.core import Node
from asetwin.resources.devices import (
    AseDevice,
    NodeState,
    PinnedWorkerStatus,
    Power,
    PowerState,
)

SIMULATED = "Simulated"
"""Power method without a power agent: the Node keeps running, desired counts as observed."""


@dataclass(frozen=True, slots=True)
class View:
    """What is true of one device node now."""

    member: Member
    node: Node | None
    failure: failures.InForce
    verdict: hardware.Verdict
    state: NodeState
    is_lost: bool
    is_fenced: bool
    is_out: bool
    """Whether our cordon or taints are on its Node."""
    returns_at: float | None
    """When a healthy node that is still out will be taken back."""
    conditions: tuple[Condition, ...]
    summary: str

    @property
    def name(self) -> str:
        """The AseNode's name."""
        return self.member.ase_node.name

    @property
    def in_service(self) -> bool:
        """Whether workloads may land on it and be expected to run there."""
        return self.state is NodeState.UP

    @property
    def is_voting(self) -> bool:
        """Whether its machine takes part in the infrastructure cluster."""
        return not self.is_lost

    @property
    def gpus(self) -> int:
        """How many GPUs it offers: what the worker has, less what failed."""
        worker = self.member.worker
        has = self.member.ase_node.spec.hardware.gpus
        if worker is not None and worker.spec.gpus is not None:
            has = min(has, worker.spec.gpus)
        return max(0, has - self.verdict.failed_gpus)


def view(member: Member, node: Node | None, device: AseDevice, now: float) -> View:
    """Judge one device node from its failures, its power and its Node."""
    timing = device.spec.timing
    ase_node = member.ase_node
    failure = failures.in_force(member.failures, timing, now)
    verdict = hardware.judge(failure.components, ase_node.spec.hardware)
    power = _power(member)
    is_off = power.observed is PowerState.OFF
    # NB: not "or is_off". Right after a repair the power is still seen as off while this very
    # turn switches it on: its pods must not be taken away from it then.
    is_lost = verdict.is_lost or failure.is_rebooting
    is_out = node is not None and marks.is_out_of_service(node, device.name)
    conditions = Conditions(ase_node.status.conditions, ase_node.metadata.generation, now)
    conditions.set(
        "Accepted", True, Reason.ACCEPTED, f"in slot {ase_node.spec.slot} of {device.name}"
    )
    _set_hardware(conditions, verdict)
    available = _set_available(conditions, is_lost, verdict, failure)
    ready = _set_worker_ready(conditions, member, node)
    is_healthy = available.status == "True" and ready.status == "True"
    returns_at = None
    if is_healthy and is_out:
        since = max(available.last_transition_time, ready.last_transition_time)
        returns_at = since + timing.seconds("stable")
    state = _state(member, node, failure, verdict, is_lost=is_lost, is_off=is_off, is_out=is_out)
    why = verdict.summary or ("rebooting" if failure.is_rebooting else "")
    summary = _set_in_service(conditions, state, node, stable=timing.seconds("stable"), why=why)
    return View(
        member=member,
        node=node,
        failure=failure,
        verdict=verdict,
        state=state,
        is_lost=is_lost,
        is_fenced=is_lost and is_off,
        is_out=is_out,
        returns_at=returns_at,
        conditions=conditions.result(),
        summary=summary,
    )


def desired_power(one: View) -> PowerState:
    """What the worker VM's power should be: off as soon as its node is lost, for the proof."""
    return PowerState.OFF if one.verdict.is_lost or one.failure.is_rebooting else PowerState.ON


def worker_status(one: View, now: float) -> PinnedWorkerStatus | None:
    """The status of the node's PinnedWorker; None where it has none."""
    worker = one.member.worker
    if worker is None:
        return None
    desired = desired_power(one)
    before = worker.status.power or Power()
    observed_at = now if before.observed is not desired else before.observed_at
    power = Power(desired=desired, observed=desired, observed_at=observed_at, method=SIMULATED)
    conditions = Conditions(worker.status.conditions, worker.metadata.generation, now)
    conditions.set(
        "Accepted",
        True,
        Reason.ACCEPTED,
        f"Node {worker.spec.node_name} is the worker VM of AseNode {one.name}",
    )
    conditions.set(
        "PowerSettled", True, Reason.POWER_AS_DESIRED, f"{desired.value} (simulated power)"
    )
    return PinnedWorkerStatus(
        observed_generation=worker.metadata.generation,
        summary=f"Node {worker.spec.node_name}, power {desired.value} (simulated)",
        power=power,
        gpus=one.gpus,
        conditions=conditions.result(),
    )


def _power(member: Member) -> Power:
    worker = member.worker
    return (worker.status.power if worker else None) or Power()


def _set_hardware(conditions: Conditions, verdict: hardware.Verdict) -> None:
    if verdict.failed:
        conditions.set("HardwareHealthy", False, Reason.COMPONENT_FAILED, verdict.summary)
    else:
        conditions.set("HardwareHealthy", True, Reason.COMPONENTS_WORK, "every component works")


def _set_available(
    conditions: Conditions, is_lost: bool, verdict: hardware.Verdict, failure: failures.InForce
) -> Condition:
    if not is_lost:
        return conditions.set("Available", True, Reason.COMPONENTS_WORK, "powered and connected")
    why = verdict.summary or ("rebooting" if failure.is_rebooting else "its worker VM is off")
    return conditions.set("Available", False, Reason.COMPONENT_FAILED, why)


def _set_worker_ready(conditions: Conditions, member: Member, node: Node | None) -> Condition:
    if node is None or member.worker is None:
        return conditions.set(
            "WorkerReady", None, Reason.NO_WORKER, "no accepted PinnedWorker names this AseNode"
        )
    if node.is_ready:
        return conditions.set("WorkerReady", True, Reason.NODE_READY, f"Node {node.name} is Ready")
    return conditions.set(
        "WorkerReady", False, Reason.NODE_NOT_READY, f"Node {node.name} is not Ready"
    )


def _state(
    member: Member,
    node: Node | None,
    failure: failures.InForce,
    verdict: hardware.Verdict,
    *,
    is_lost: bool,
    is_off: bool,
    is_out: bool,
) -> NodeState:
    if member.worker is None or node is None:
        return NodeState.UNKNOWN
    if is_lost:
        if failure.is_rebooting and not verdict.is_lost:
            return NodeState.REBOOTING
        is_isolated = verdict.power is PowerState.ISOLATED and not is_off
        return NodeState.ISOLATED if is_isolated else NodeState.DOWN
    if is_out:
        return NodeState.RETURNING
    return NodeState.UP if node.is_ready else NodeState.UNKNOWN


def _set_in_service(
    conditions: Conditions, state: NodeState, node: Node | None, *, stable: int, why: str
) -> str:
    """Set InService, and answer with the node's one-line summary."""
    if state is NodeState.RETURNING:
        text = f"back; taken into service when healthy for {stable} s"
        conditions.set("InService", False, Reason.RETURNING, text)
        return text
    if state is not NodeState.UP or node is None:
        text = why or ("no accepted worker" if node is None else f"state is {state.value}")
        conditions.set("InService", False, Reason.OUT_OF_SERVICE, text)
        return text
    if marks.has_foreign_cordon(node):
        text = f"Node {node.name} was cordoned by someone else; asetwin leaves that alone"
        conditions.set("InService", False, Reason.FOREIGN_CORDON, text)
        return f"{why}; {text}" if why else text
    conditions.set("InService", True, Reason.IN_SERVICE, "workloads may run here")
    return why or "healthy"
