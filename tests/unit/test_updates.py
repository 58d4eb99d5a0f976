"""What an update does next, what it waits for, and what it leaves in its status."""

from dataclasses import replace
from typing import Any

import pytest

from asetwin.model import decide, evening, facts, leaves, master, nodes, references, updates
from asetwin.model.marks import Mark
from asetwin.model.plan import DeletePod, Evict, PatchNode, Recheck, WriteStatus
from asetwin.model.snapshot import Snapshot
from asetwin.resources import core, times
from asetwin.resources.devices import AseDevice, NodeState, PowerState, Rebalance, RebalanceOutcome
from asetwin.resources.updates import DeviceUpdate, DeviceUpdateStatus, Stage, UpdatePhase
from unit.builders import (
    NOW,
    ase_node,
    cluster,
    condition,
    deployment,
    device,
    failure,
    lease,
    master_pod,
    metadata,
    node,
    pods,
    replica,
    with_status,
    worker,
)

STAMP = times.render(NOW)


def update(name: str = "u", *, created: float = 0.0, **parts: Any) -> DeviceUpdate:
    spec = {"device": "ase", "type": "DeviceSoftware"} | parts.pop("spec", {})
    status = parts.pop("status", {})
    meta = metadata(name, created=created, **parts)
    return DeviceUpdate.read({"metadata": meta, "spec": spec, "status": status})


def serving(home: str = "a", **spec: Any) -> AseDevice:
    told = {"node": home, "epoch": 1, "phase": "Serving", "since": STAMP, "pod": "ase-master-1"}
    return device(status={"master": told}, spec={"timing": {"profile": "Fast"}, **spec})


def at_rest(*objects: Any, home: str = "a", **fields: Any) -> Snapshot:
    """The standard device with its master serving."""
    given = {type(one) for one in objects}
    standard = [] if AseDevice in given else [serving(home)]
    made = [one for one in objects if isinstance(one, DeviceUpdate)]
    rest = [one for one in objects if not isinstance(one, DeviceUpdate)]
    seen = cluster(*standard, master_pod(1, node=f"n{home}"), lease(1), *rest, **fields)
    return replace(seen, updates={one.name: one for one in made})


def ask(seen: Snapshot, now: float = NOW) -> updates.Verdict:
    found = references.resolve(seen)
    known = facts.gather(seen.devices["ase"], seen, found, now)
    order = leaves.of_master(leaves.active("ase", seen))
    moves = master.rule(
        seen.devices["ase"], known.views, seen, has_quorum=known.has_quorum, now=now, order=order
    )
    return updates.rule(known, moves)


def status_of(seen: Snapshot, name: str = "u", now: float = NOW) -> DeviceUpdateStatus:
    return next(status for one, status in ask(seen, now).statuses if one.name == name)


def in_stage(stage: Stage, name: str = "b", **node: Any) -> dict[str, Any]:
    rows = [{"name": name, "stage": stage.value, "since": STAMP} | node]
    rows += [{"name": one} for one in ("a", "b") if one != name]
    return {"startedAt": STAMP, "nodes": rows}


# --- The order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["a", "b"])
def test_device_software_begins_with_the_node_without_the_master(home: str) -> None:
    status = status_of(at_rest(update(), home=home))
    other = "b" if home == "a" else "a"
    assert [one.name for one in status.nodes] == [other, home]
    assert status.nodes[0].stage is Stage.DRAINING
    assert (status.phase, status.progress) == (UpdatePhase.RUNNING, "0/2")


@pytest.mark.parametrize("home", ["a", "b"])
def test_kubernetes_begins_with_the_master_and_then_with_the_node_that_it_has_left(
    home: str,
) -> None:
    status = status_of(at_rest(update(spec={"type": "Kubernetes"}), home=home))
    assert status.master is not None
    assert (status.master.stage, status.master.from_node) == (Stage.MOVING_MASTER, home)
    assert status.nodes[0].name == home
    assert {one.stage for one in status.nodes} == {Stage.PENDING}


def test_the_master_is_asked_to_leave_first_and_to_be_updated_then() -> None:
    base = {"startedAt": STAMP, "nodes": [{"name": "a"}, {"name": "b"}]}
    for stage, expected in (
        ("MovingMaster", leaves.MasterOrder(leaves="a")),
        ("UpdatingMaster", leaves.MasterOrder(version="v2")),
        ("Updated", leaves.MasterOrder(version="v2")),
    ):
        part = {"fromNode": "a", "stage": stage}
        one = update(spec={"type": "Kubernetes", "version": "v2"}, status=base | {"master": part})
        assert leaves.of_master(one) == expected


def test_one_update_has_its_turn_and_the_next_one_is_told_whose_it_is() -> None:
    seen = at_rest(update("z", created=1), update("a", created=2))
    told = {one.name: status for one, status in ask(seen).statuses}
    assert told["z"].phase is UpdatePhase.RUNNING
    assert told["a"].phase is UpdatePhase.QUEUED
    assert told["a"].waiting_for == "update z of ase to end"


def test_of_two_that_are_equally_old_the_one_that_has_begun_goes_on() -> None:
    begun = update("z", created=1, status=in_stage(Stage.DRAINING))
    assert leaves.queue("ase", at_rest(update("a", created=1), begun))[0].name == "z"


def test_what_is_over_or_deleted_or_another_devices_has_no_turn() -> None:
    over = update("over", status={"result": "Failed"})
    gone = update("gone", deleting=True)
    other = update("other", spec={"device": "else"})
    assert leaves.queue("ase", at_rest(over, gone, other)) == []


# --- What it waits for ----------------------------------------------------------------------------


def waits_for(seen: Snapshot) -> str:
    status = status_of(seen)
    assert status.phase in (UpdatePhase.WAITING, UpdatePhase.PAUSED)
    assert status.nodes == ()
    assert status.started_at is None
    return status.waiting_for or ""


FOREIGN = node("na", unschedulable=True)


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        pytest.param([failure(node="a")], "a, which is Down", id="other-node"),
        pytest.param([failure(node="b")], "b, which is Down", id="own-node"),
        pytest.param([FOREIGN], "Node na to be uncordoned", id="foreign-cordon"),
        pytest.param(
            [serving(witness={"online": False})], "the witness, which is offline", id="witness"
        ),
        pytest.param([device()], "the master, which starts", id="no-master"),
    ],
)
def test_nothing_begins_while_something_is_not_well(objects: list[Any], words: str) -> None:
    found = waits_for(at_rest(update(), *objects))
    # A lost node has a failover first of all.
    assert words in found or "failover" in found


def test_an_open_failover_is_waited_for() -> None:
    assert "failover a-" in waits_for(at_rest(update(), failure(node="a")))


def test_without_a_witness_no_node_can_be_done_without_that_holds_the_last_vote() -> None:
    lone = serving("b", witness={"type": "None"})
    assert "a quorum without a: 0 of 1 votes" in waits_for(at_rest(update(), lone, home="b"))


def test_one_node_alone_has_nobody_to_do_without_it() -> None:
    seen = at_rest(update(), without=("b", "wb"))
    assert "a is the only one" in waits_for(seen)


def test_failover_ready_of_the_node_that_leaves_is_asked_and_may_be_overruled() -> None:
    unready = condition("FailoverReady", "False").model_copy(
        update={"message": "vision/detector GPU"}
    )
    leaving = ase_node("b", conditions=[unready])
    words = waits_for(at_rest(update(), leaving))
    said = "FailoverReady is False, and spec.allowUnready is not set"
    assert words == f"b: {said}: vision/detector GPU"
    bold = update(spec={"allowUnready": True})
    assert status_of(at_rest(bold, leaving)).nodes[0].stage is Stage.DRAINING
    # The other node's is no matter: it stays.
    staying = ase_node("a", conditions=[unready])
    assert status_of(at_rest(update(), staying)).nodes[0].stage is Stage.DRAINING


def test_a_pause_begins_nothing() -> None:
    assert waits_for(at_rest(update(spec={"paused": True}))) == "spec.paused to be false"
    paused = serving(paused=["lunch"])
    assert waits_for(at_rest(update(), paused)) == "the pause of the device to end: lunch"


# --- A node that leaves ---------------------------------------------------------------------------

LEFT = Mark("ase", cordon=True).render() or ""


def draining(*objects: Any, home: str = "a", **spec: Any) -> Snapshot:
    status = in_stage(Stage.DRAINING, drain={"since": STAMP})
    web = [*deployment(replicas=2), replica(0, node="nb"), replica(1, node="nb")]
    return at_rest(update(spec=spec, status=status), *web, *objects, home=home)


def test_a_leave_opens_a_record_that_is_no_loss() -> None:
    seen = draining()
    found = facts.gather(seen.devices["ase"], seen, references.resolve(seen), NOW)
    assert found.record is not None
    assert (found.record.update, found.record.from_node, found.record.displaced) == ("u", "b", 2)
    assert found.record.phase.value == "Draining"
    view = found.views[1]
    assert (view.state, view.is_lost, view.returns_at) == (NodeState.UPDATING, False, None)
    assert len(ask(seen).evictions) == 1


@pytest.mark.parametrize("how", ["Force", "Wait"])
def test_before_pods_are_deleted_by_force_the_update_is_read_once_more(how: str) -> None:
    """It may have been cancelled behind a watch that is broken."""
    seen = draining(device(finalizers=["asetwin.dev/cleanup"]), onDrainTimeout=how)
    seen = replace(seen, devices={"ase": with_status(seen.devices["ase"], opened(seen))})
    late = decide.decide(seen, "ase", NOW + 3600)
    kinds = [type(step) for step in late.steps]
    asked = [(step.plural, step.name) for step in late.steps if isinstance(step, Recheck)]
    assert asked == ([("deviceupdates", "u")] if how == "Force" else [])
    assert kinds.count(DeletePod) == (2 if how == "Force" else 0)
    if how == "Force":
        assert kinds.index(Recheck) < kinds.index(DeletePod)


@pytest.mark.parametrize(
    ("objects", "spec", "words"),
    [
        pytest.param([failure(node="a")], {}, "it is the last good one", id="other-lost"),
        pytest.param([failure(node="b")], {}, "b, which is Down", id="own-lost"),
        pytest.param([], {"paused": True}, "spec.paused", id="paused"),
    ],
)
def test_a_leave_is_taken_back(objects: list[Any], spec: dict[str, Any], words: str) -> None:
    verdict = ask(draining(*objects, **spec))
    ((_, status),) = verdict.statuses
    assert status.nodes[0].stage is Stage.PENDING
    assert words in (status.waiting_for or "")
    assert verdict.evictions == ()


def test_beside_a_node_without_a_worker_none_is_drained_or_cordoned() -> None:
    """Its pin was deleted after the drain had been written down and before the cordon was there."""
    seen = draining(device(finalizers=["asetwin.dev/cleanup"]))
    begun = with_status(seen.devices["ase"], opened(seen))
    workers = {name: one for name, one in seen.workers.items() if name != "wa"}
    found = replace(seen, devices={"ase": begun}, workers=workers)
    steps = decide.decide(found, "ase", NOW + 1).steps
    cordoned = [one.name for one in steps if isinstance(one, PatchNode) and one.unschedulable]
    assert (cordoned, [one for one in steps if isinstance(one, Evict)]) == ([], [])
    status = status_of(found, now=NOW + 1)
    assert status.nodes[0].stage is Stage.PENDING
    assert "a, which is Unknown" in (status.waiting_for or "")


def test_a_node_whose_leave_was_taken_back_returns_without_delay() -> None:
    out = node("nb", unschedulable=True, owned=LEFT)
    seen = at_rest(update(status=in_stage(Stage.PENDING)), out)
    found = facts.gather(seen.devices["ase"], seen, references.resolve(seen), NOW)
    assert found.views[1].returns_at is not None
    kept = at_rest(update(status=in_stage(Stage.DRAINING)), out)
    again = facts.gather(kept.devices["ase"], kept, references.resolve(kept), NOW)
    assert again.views[1].returns_at is None


def test_a_reboot_is_counted_from_the_proof_that_the_machine_is_off() -> None:
    status = in_stage(Stage.REBOOTING, drainedAt=STAMP)
    seen = at_rest(update(status=status), node("nb", unschedulable=True, owned=LEFT))
    assert status_of(seen).nodes[0].off_at is None
    off = worker("wb", power=PowerState.OFF)
    proven = replace(seen, workers={**seen.workers, "wb": off})
    first = status_of(proven)
    assert first.nodes[0].off_at == NOW
    known = {**proven.updates, "u": with_status(proven.updates["u"], first)}
    later = replace(proven, updates=known)
    assert status_of(later, now=NOW + 4.9).nodes[0].stage is Stage.REBOOTING
    assert status_of(later, now=NOW + 5.0).nodes[0].stage is Stage.RETURNING


def test_a_node_that_is_not_off_yet_stays_when_the_other_one_is_lost() -> None:
    """As when the power agent was away between the drain and the reboot."""
    rebooting = update(status=in_stage(Stage.REBOOTING, drainedAt=STAMP))
    seen = at_rest(rebooting, failure(node="a"), node("nb", unschedulable=True, owned=LEFT))
    status = status_of(seen)
    assert status.nodes[0].stage is Stage.PENDING
    assert "it is the last good one" in (status.waiting_for or "")
    off = replace(seen, workers={**seen.workers, "wb": worker("wb", power=PowerState.OFF)})
    assert status_of(off).nodes[0].stage is Stage.REBOOTING


def test_a_planned_reboot_is_no_failure_of_the_node() -> None:
    up = [condition("Available"), condition("WorkerReady")]
    status = in_stage(Stage.REBOOTING)
    seen = at_rest(update(status=status), ase_node("b", conditions=up))
    found = facts.gather(seen.devices["ase"], seen, references.resolve(seen), NOW)
    view = found.views[1]
    assert view.is_lost
    assert view.state is NodeState.UPDATING
    assert view.record.failures == ()
    assert view.judged.desired.value == "Off"
    broken = at_rest(update(status=status), ase_node("b", conditions=up), failure(node="b"))
    again = facts.gather(broken.devices["ase"], broken, references.resolve(broken), NOW)
    assert (again.views[1].state, len(again.views[1].record.failures)) == (NodeState.DOWN, 1)


def test_a_kubelet_that_restarts_is_not_suspected() -> None:
    silent = core.Lease("kube-node-lease", "nb", "nb", duration=4)
    fresh = core.Lease("kube-node-lease", "na", "na", duration=4)
    renewed = {"kube-node-lease/nb": NOW - 30, "kube-node-lease/na": NOW}
    for stage, state in (
        (Stage.RESTARTING, NodeState.UPDATING),
        (Stage.PENDING, NodeState.ISOLATED),
    ):
        seen = at_rest(update(status=in_stage(stage)), silent, fresh, renewed=renewed)
        found = facts.gather(seen.devices["ase"], seen, references.resolve(seen), NOW)
        assert found.views[1].state is state


@pytest.mark.parametrize(
    ("change", "is_out"),
    [
        pytest.param({}, False, id="serving"),
        pytest.param({"is_ready": False}, True, id="not-ready"),
        pytest.param({"deleting": NOW + 5}, True, id="ending"),
    ],
)
def test_a_workload_without_any_ready_pod_is_out(change: dict[str, Any], is_out: bool) -> None:
    seen = draining()
    first = with_status(seen.devices["ase"], opened(seen))
    changed = tuple(
        replace(one, **change) if one.name.startswith("web") else one for one in seen.pods
    )
    status = status_of(replace(seen, devices={"ase": first}, pods=changed))
    assert [one.name for one in status.outages] == (["web"] if is_out else [])
    assert status.outage_count == int(is_out)
    if not is_out:
        return
    later = {**seen.updates, "u": with_status(seen.updates["u"], status)}
    over = status_of(replace(seen, devices={"ase": first}, updates=later), now=NOW + 1.5)
    (row,) = over.outages
    assert (row.milliseconds, row.since, over.outage_count) == (1500, None, 1)


def test_a_workload_that_goes_or_is_scaled_down_is_not_out() -> None:
    seen = draining()
    first = with_status(seen.devices["ase"], opened(seen))
    pods_left = tuple(one for one in seen.pods if not one.name.startswith("web"))
    changes: tuple[dict[str, Any], ...] = (
        {"workloads": {}},
        {"workloads": {uid: replace(one, replicas=0) for uid, one in seen.workloads.items()}},
        {"namespaces": {"default": core.Namespace("default", is_terminating=True)}},
    )
    for change in changes:
        gone = replace(seen, devices={"ase": first}, pods=pods_left, **change)
        assert status_of(gone).outages == ()


def opened(seen: Snapshot) -> Any:
    """The device's status with the record of the leave that this turn opens."""
    found = facts.gather(seen.devices["ase"], seen, references.resolve(seen), NOW)
    return seen.devices["ase"].status.model_copy(update={"failover": found.record})


def test_an_update_whose_device_is_gone_forgets_how_far_it_was() -> None:
    one = update(spec={"device": "gone"}, status=in_stage(Stage.DRAINING))
    (write,) = [
        step
        for step in decide.decide_unbound(at_rest(one), NOW).steps
        if isinstance(step, WriteStatus)
    ]
    assert (write.plural, write.name) == ("deviceupdates", "u")
    assert write.patch["phase"] == "Rejected"
    assert write.patch["nodes"] is None
    assert "spec.device: there is no AseDevice gone; there is ase" in write.patch["summary"]


@pytest.mark.parametrize(
    ("unheard", "stage"),
    [
        pytest.param((), Stage.RETURNING, id="heard"),
        pytest.param(("kube-node-lease/nb",), Stage.RESTARTING, id="only-found"),
    ],
)
def test_a_restart_is_over_when_the_kubelet_was_heard_after_it(
    unheard: tuple[str, ...], stage: Stage
) -> None:
    """An operator that was started meanwhile has found the Lease only, whatever its age."""
    one = update(status=in_stage(Stage.RESTARTING))
    told = {"asked": one.token("b"), "done": one.token("b"), "doneAt": times.render(NOW - 5)}
    leases = [
        core.Lease("kube-node-lease", "nb", "nb", duration=4),
        core.Lease("asetwin-system", "asetwin-power-agent", "agent-1"),
    ]
    renewed = {"kube-node-lease/nb": NOW - 1, "asetwin-system/asetwin-power-agent": NOW}
    restarted = worker("wb", status={"kubelet": told})
    seen = at_rest(one, restarted, *leases, renewed=renewed, unheard=unheard)
    assert status_of(seen).nodes[0].stage is stage


def test_nothing_begins_while_pods_are_shared_out_evenly() -> None:
    seen = at_rest(update())
    known = facts.gather(seen.devices["ase"], seen, references.resolve(seen), NOW)
    memory = Rebalance(started_at=NOW, from_node="a", to_node="b")
    moving = replace(known, even=evening.Verdict(memory=memory))
    moves = master.rule(seen.devices["ase"], known.views, seen, has_quorum=True, now=NOW)
    ((_, status),) = updates.rule(moving, moves).statuses
    assert status.waiting_for == "pods to be shared out evenly"
    ended = memory.model_copy(update={"outcome": RebalanceOutcome.BLOCKED, "ended_at": NOW})
    after = replace(known, even=evening.Verdict(memory=ended))
    ((_, status),) = updates.rule(after, moves).statuses
    assert status.nodes[0].stage is Stage.DRAINING


def test_a_version_that_is_not_stated_is_the_name_of_the_update() -> None:
    assert update("spring-2026").version == "spring-2026"
    assert update("x" * 63 + "-.y").version == "x" * 63
    assert update(spec={"version": "3.3"}).version == "3.3"


def test_a_lost_node_without_the_update_is_judged_as_ever() -> None:
    """``nodes.view`` with no leave answers what it always did."""
    seen = cluster()
    (first, _) = references.resolve(seen).members["ase"]
    one = nodes.view(first, seen.nodes["na"], seen.devices["ase"], NOW)
    assert (one.leave, one.is_held_out, one.state) == (None, False, NodeState.UP)
    assert pods(seen).by_node == {}
