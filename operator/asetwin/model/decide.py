"""From a snapshot to a plan: the rules composed, per device and for what has none.

The order of the stages is the order of safety: first what is known is
written down (statuses are the operator's memory, and no later stage starts
before that write has succeeded), then limits are lifted, then the Node goes
out of service, then its pods go, and the master last.
"""

from collections.abc import Sequence
from dataclasses import replace

from asetwin import constants
from asetwin.model import (
    cleanup,
    failover,
    failures,
    gpus,
    leaves,
    marks,
    master,
    power,
    quotas,
    references,
    reports,
    reserve,
    shares,
    stories,
    updates,
)
from asetwin.model.facts import Facts, gather
from asetwin.model.nodes import View
from asetwin.model.plan import (
    DeletePod,
    Draft,
    PatchGpus,
    PatchNode,
    Plan,
    Recheck,
    SetFinalizers,
    Step,
)
from asetwin.model.snapshot import Snapshot
from asetwin.resources.devices import AseDevice

WAIT_SECONDS = 1.0
"""How often to look at what no watch event tells of, while it is awaited."""


def decide(snapshot: Snapshot, name: str, now: float) -> Plan:
    """What has to be done about one AseDevice now; ``now`` is in seconds since the epoch."""
    # The API keeps milliseconds; deciding on finer ones would never match what is read back.
    now = round(now * 1000) / 1000
    device = snapshot.devices.get(name)
    if device is None:
        return Plan()
    if device.is_deleting:
        return cleanup.clean_up(device, snapshot, now)
    hold = _finalizer(device)
    if hold is not None:
        # Nothing else in this turn: every other step stands on the version that this one changes.
        return Plan(((hold,),))
    found = references.resolve(snapshot)
    facts = gather(device, snapshot, found, now)
    order = leaves.of_master(leaves.active(name, snapshot))
    moves = master.rule(
        device, facts.views, snapshot, has_quorum=facts.has_quorum, now=now, order=order
    )
    if facts.record is not None:
        facts = _followed(facts, moves)
    limits = reserve.rule(
        device, snapshot, facts.weighed, facts.workload, lifted_for=facts.lifted_for
    )
    offered = shares.rule(device, snapshot)
    planned = updates.rule(facts, moves)
    draft = Draft()
    statuses = [
        *reports.write(device, reports.device_status(facts, moves, limits, offered)),
        *reports.member_statuses(facts, found),
        *(one for update, status in planned.statuses for one in reports.write(update, status)),
    ]
    draft.stage(*stories.tell(statuses), *(step for step, _ in statuses))
    if not facts.is_paused:
        _act(draft, facts, moves, limits, planned)
        # Last: a share that cannot be had must not hold up a failover. The master's own share
        # comes before its first pod all the same, because it waits for it.
        draft.stage(*offered.steps)
    draft.wake(facts.back.wake_at if facts.back is not None else None)
    draft.wake(facts.lost_gpus.wake_at)
    draft.wake(moves.wake_at)
    for moment in planned.wakes:
        draft.wake(moment)
    for view in facts.views:
        # NB: a moment that has passed, as during a pause, would make the loop spin.
        soon = [view.returns_at, view.judged.wake_at]
        for moment in (one for one in soon if one is not None and one > now):
            draft.wake(moment)
        draft.wake(now + WAIT_SECONDS if view.is_waiting else None)
        for end in view.failure.expires:
            draft.wake(end)
    return draft.finish()


def _followed(facts: Facts, moves: master.Verdict) -> Facts:
    """The facts with the open failover brought up to date."""
    record = facts.record
    assert record is not None
    where = moves.status.node if moves.status else record.from_node
    is_ready = moves.is_serving and where != record.from_node
    # A pod that moves back is charged twice for a moment, which is no refusal to tell of.
    is_open = record.rebalance is None
    books = quotas.in_force(facts.device, facts.snapshot, facts.now) if is_open else None
    updated = failover.follow(
        record, facts.views, facts.pods, is_master_ready=is_ready, now=facts.now, books=books
    )
    if is_ready and updated.master_epoch is None and moves.status is not None:
        updated = updated.model_copy(update={"master_epoch": moves.status.epoch})
    return replace(facts, record=updated)


def _act(
    draft: Draft,
    facts: Facts,
    moves: master.Verdict,
    limits: reserve.Verdict,
    planned: updates.Verdict,
) -> None:
    """The stages that change something else than our own statuses."""
    marked, evacuated = _node_steps(facts), _evacuation(facts)
    taking = (*marked, *evacuated, *moves.steps)
    draft.stage(*_rechecks(facts, taking, is_forced=bool(planned.deletions or evacuated)))
    draft.stage(*limits.limit_ranges)
    draft.stage(*limits.quotas)
    draft.stage(*marked)
    draft.stage(*evacuated)
    draft.stage(*facts.lost_gpus.deletions)
    draft.stage(*(facts.back.evictions if facts.back is not None else ()))
    draft.stage(*planned.evictions, *planned.deletions)
    # A master pod on the lost node may be in both lists; once is enough.
    gone = {step.uid for step in evacuated}
    draft.stage(
        master.service(facts.device, facts.snapshot) if moves.status else None,
        *(one for one in moves.steps if not (isinstance(one, DeletePod) and one.uid in gone)),
    )


def _rechecks(facts: Facts, steps: Sequence[Step], *, is_forced: bool) -> list[Recheck]:
    """What pods are about to be taken away for, to be read once more.

    Two accidents behind a watch that had been broken for minutes: a node had been
    started again, and its pods were taken away on a proof that was long outdated;
    an update had been cancelled, and pods were deleted because its drain was late.
    """
    found = [*_of_fenced(facts, steps), *gpus.rechecks(facts.lost_gpus, facts.views)]
    record = facts.record
    if is_forced and record is not None and record.update is not None:
        found.append(Recheck("deviceupdates", record.update))
    return found


def _of_fenced(facts: Facts, steps: Sequence[Step]) -> list[Recheck]:
    """What proves off the nodes from which the steps take something away."""
    takes_away = any(
        step.force
        if isinstance(step, DeletePod)
        else isinstance(step, PatchNode)
        and any(taint.key == constants.TAINT_NODE_DOWN for taint in step.taints)
        for step in steps
    )
    if not takes_away:
        return []
    fenced = [one.member.worker for one in facts.views if one.is_fenced]
    return [step for worker in fenced if worker is not None for step in power.rechecks(worker)]


def _evacuation(facts: Facts) -> tuple[DeletePod, ...]:
    """The pods to delete from the lost node: only with proof, quorum and a survivor."""
    record = facts.record
    lost = next((one for one in facts.views if record and one.name == record.from_node), None)
    if record is None or lost is None or not lost.is_fenced or not facts.has_quorum:
        return ()
    if record.update is not None and not (lost.leave is not None and lost.leave.is_forced):
        # Planned: nobody is made to go.
        return ()
    survives = any(one.in_service for one in facts.views)
    return failover.evacuation(record, lost, facts.pods) if survives else ()


def _node_steps(facts: Facts) -> list[Step]:
    """Cordons, taints and GPUs of the device's Nodes, and of those it has no claim to any more."""
    name, steps = facts.device.name, list[Step]()
    pinned = set[str]()
    for view in facts.views:
        if view.node is None:
            continue
        pinned.add(view.node.name)
        step: PatchNode | PatchGpus | None = None
        if view.is_lost:
            # Without proof or a survivor nothing may be evicted: the Node is only cordoned.
            is_moving = facts.record is not None and facts.record.from_node == view.name
            # For an update its pods were asked to go, and nothing has to be torn loose.
            is_moving = is_moving and facts.record is not None and facts.record.update is None
            step = marks.put_out(
                view.node,
                name,
                tainted=is_moving and view.is_fenced and facts.has_quorum,
                why=f"{view.name}: {view.summary}",
            )
        elif view.is_held_out and _is_leaving(view, facts):
            step = marks.put_out(view.node, name, tainted=False, why=view.summary)
        elif view.returns_at is not None and view.returns_at <= facts.now:
            step = marks.put_back(view.node, why=f"{view.name} is back")
        # One write per Node and turn: both would carry the same resourceVersion.
        step = step or _steering(view, facts)
        step = step or marks.advertise(view.node, name, view.gpus)
        if step is not None:
            steps.append(step)
    steps.extend(cleanup.releases(facts.snapshot, name, except_for=pinned))
    return steps


def _is_leaving(view: View, facts: Facts) -> bool:
    """Whether the record of this leave is open, so that the limits are lifted before.

    Without another node in service it stays: it is the last good one.
    """
    record = facts.record
    if record is None or record.update is None or record.from_node != view.name:
        return False
    return any(one.in_service for one in facts.views if one.name != view.name)


def _steering(view: View, facts: Facts) -> PatchNode | None:
    """The taint that keeps the scheduler off the fuller node while pods are moved back."""
    assert view.node is not None
    back = facts.back
    wanted = (
        back is not None
        and not back.is_over
        and back.is_steered
        and back.memory.from_node == view.name
    )
    why = f"pods go back to {back.memory.to_node}" if back and wanted else "pods are shared out"
    return marks.steer(view.node, facts.device.name, wanted=wanted, why=why)


def decide_unbound(snapshot: Snapshot, now: float) -> Plan:
    """What has to be done about objects that lead to no device, and what dead ones left behind.

    The latter covers a device that went away while no operator was there to
    hold it: somebody took the finalizer off by hand.
    """
    now = round(now * 1000) / 1000
    found = references.resolve(snapshot)
    draft, written = Draft(), reports.Written()
    for ase_node in snapshot.ase_nodes.values():
        if ase_node.spec.device not in snapshot.devices:
            answer = found.ase_nodes[ase_node.name]
            written += reports.write(ase_node, reports.refused_node(ase_node, answer, now))
    for worker in snapshot.workers.values():
        if not _leads_to_device(worker.spec.ase_node, snapshot):
            answer = found.workers[worker.name]
            written += reports.write(worker, reports.refused_worker(worker, answer, now))
    for failure in snapshot.failures.values():
        if not _leads_to_device(failure.spec.node, snapshot):
            answer = found.failures[failure.name]
            written += reports.write(failure, failures.rejected(failure, answer, now))
    for update in snapshot.updates.values():
        if update.spec.device not in snapshot.devices and not update.is_finished:
            answer = found.updates[update.name]
            written += reports.write(update, reports.refused_update(update, answer, now))
    draft.stage(*stories.tell(written), *(step for step, _ in written))
    for device in sorted(cleanup.gone_devices(snapshot)):
        cleanup.release_all(draft, snapshot, device)
    return draft.finish()


def _leads_to_device(ase_node: str, snapshot: Snapshot) -> bool:
    found = snapshot.ase_nodes.get(ase_node)
    return found is not None and found.spec.device in snapshot.devices


def _finalizer(device: AseDevice) -> SetFinalizers | None:
    held = device.metadata.finalizers
    if constants.FINALIZER in held:
        return None
    return SetFinalizers(
        device.name, (*held, constants.FINALIZER), device.metadata.resource_version
    )
