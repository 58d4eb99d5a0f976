"""Pods that have lost their GPU move where one is free, or are named (design 4.1, C18)."""

from dataclasses import replace
from typing import Any

import pytest

from asetwin.model import gpus
from asetwin.model.marks import Mark
from asetwin.model.snapshot import Snapshot
from asetwin.resources import core
from asetwin.resources.devices import AseDeviceStatus, GpuMove
from unit.builders import (
    GPU,
    NOW,
    ase_node,
    cluster,
    deployment,
    device,
    failure,
    node,
    pod,
    pods,
    replica,
    views,
    with_status,
)


def offering(name: str, count: int, **fields: Any) -> core.Node:
    """A Node with this many GPUs of ours."""
    room = {"cpu": 4000, "memory": 8 * 1024**3, "pods": 110, GPU: count}
    owned = Mark("ase", gpus=count).render() or ""
    return node(name, allocatable=room, capacity={GPU: count}, owned=owned, **fields)


def infer(number: int = 0, *, at: str = "na", of: str = "infer", **fields: Any) -> core.Pod:
    return replica(number, of, node=at, requests={GPU: 1}, **fields)


def ask(seen: Snapshot, *, is_free: bool = True, now: float = NOW) -> gpus.Verdict:
    found = views(seen, now=now)
    return gpus.rule(seen.devices["ase"], found, pods(seen), seen, is_free=is_free, now=now)


def names(verdict: gpus.Verdict) -> list[str]:
    return [one.name for one in verdict.deletions]


BROKEN = failure(component="GPU1")


def test_a_pod_moves_to_the_free_gpu_of_the_other_node() -> None:
    seen = cluster(BROKEN, offering("na", 0), offering("nb", 1), *deployment("infer"), infer())
    verdict = ask(seen)
    assert names(verdict) == ["infer-0"]
    assert not verdict.deletions[0].force
    assert verdict.move is not None
    assert [one.want for one in verdict.move.workloads] == [1]
    assert not ask(seen, is_free=False).deletions


def test_a_node_that_still_offers_it_is_waited_for() -> None:
    seen = cluster(BROKEN, offering("na", 1), offering("nb", 1), *deployment("infer"), infer())
    assert ask(seen) == gpus.Verdict()


def test_a_kubelet_that_reports_none_for_a_while_costs_no_pod() -> None:
    seen = cluster(offering("na", 0), offering("nb", 1), *deployment("infer"), infer())
    assert ask(seen) == gpus.Verdict()


def test_gpus_of_a_real_device_plugin_are_not_ours_to_judge() -> None:
    foreign = replace(offering("na", 0), owned="")
    seen = cluster(BROKEN, foreign, offering("nb", 1), *deployment("infer"), infer())
    assert ask(seen) == gpus.Verdict()


def test_without_a_free_one_the_pod_stays_and_is_named() -> None:
    train = infer(0, of="train", at="nb")
    seen = cluster(
        BROKEN, offering("na", 0), offering("nb", 1), *deployment("infer"), infer(), train
    )
    verdict = ask(seen)
    assert names(verdict) == []
    (named,) = verdict.stranded
    assert (named.pod, named.reason) == ("default/infer-0", "GPU")
    assert "needs 1, b has 0 free" in named.message
    assert "pods without a GPU: 1, as default/infer-0" in gpus.message(verdict)


def test_a_gpu_that_fails_at_the_same_moment_is_no_place() -> None:
    """Its Node still offers it: the write that takes it away belongs to this very turn."""
    both = (BROKEN, failure("other", node="b", component="GPU1"))
    seen = cluster(*both, offering("na", 0), offering("nb", 1), *deployment("infer"), infer())
    verdict = ask(seen)
    assert names(verdict) == []
    assert [one.pod for one in verdict.stranded] == ["default/infer-0"]


def test_a_replacement_whose_gpu_is_gone_too_is_named() -> None:
    started = cluster(BROKEN, offering("na", 0), offering("nb", 1), *deployment("infer"), infer())
    move = ask(started).move
    waits = infer(1, at="", is_ready=False, unschedulable="2 Insufficient nvidia.com/gpu.")
    status = AseDeviceStatus(gpu_move=move)
    seen = cluster(
        with_status(device(), status),
        BROKEN,
        offering("na", 0),
        offering("nb", 0),
        *deployment("infer"),
        waits,
    )
    verdict = ask(seen, now=NOW + 2)
    assert [(one.pod, one.reason) for one in verdict.stranded] == [("default/infer-1", "GPU")]
    assert "0 of 1 pods" in gpus.message(verdict)
    assert "infer-1 (2 Insufficient" in gpus.message(verdict)


@pytest.mark.parametrize(
    ("hard", "goes"), [("1", True), ("0", False)], ids=["takes-its-place", "full"]
)
def test_a_pod_whose_replacement_a_tenants_quota_refuses_stays(hard: str, goes: bool) -> None:
    tenant = core.Limit("default", "tenant", hard={"pods": hard})
    seen = cluster(
        BROKEN,
        offering("na", 0),
        offering("nb", 1),
        *deployment("infer"),
        infer(),
        quotas=(tenant,),
    )
    verdict = ask(seen)
    assert bool(verdict.deletions) is goes
    assert ["tenant" in found.message for found in verdict.stranded] == ([] if goes else [True])


def test_a_failed_leftover_takes_no_gpu() -> None:
    leftover = infer(1, at="nb", phase="Failed", is_ready=False)
    seen = cluster(
        BROKEN, offering("na", 0), offering("nb", 1), *deployment("infer"), infer(), leftover
    )
    assert names(ask(seen)) == ["infer-0"]


def test_the_newest_of_the_least_important_loses_it() -> None:
    old, new = infer(0, created=1), infer(1, created=2)
    vital = infer(2, created=3, demands=core.Demands(priority=10))
    seen = cluster(
        ase_node("a", hardware={"gpus": 3}),
        BROKEN,
        offering("na", 2),
        offering("nb", 1),
        *deployment("infer", replicas=3),
        old,
        new,
        vital,
    )
    assert names(ask(seen)) == ["infer-1"]


def test_a_bare_pod_is_named_because_nothing_recreates_it() -> None:
    bare = pod("bare", requests={GPU: 1})
    verdict = ask(cluster(BROKEN, offering("na", 0), offering("nb", 1), bare))
    assert names(verdict) == []
    assert "nothing recreates it" in verdict.stranded[0].message


def remembered(seen: Snapshot, move: GpuMove) -> Snapshot:
    told = with_status(device(), AseDeviceStatus(gpu_move=move))
    return replace(seen, devices={"ase": told})


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_gpu_that_is_repaired_before_its_pod_has_gone_keeps_it(is_ready: bool) -> None:
    """As when the request that deletes it was refused again and again."""
    pod = infer(is_ready=True)
    parts = (offering("na", 0), offering("nb", 1), *deployment("infer"), pod)
    move = ask(cluster(BROKEN, *parts)).move
    assert move is not None
    assert names(ask(remembered(cluster(BROKEN, *parts), move))) == ["infer-0"]
    repaired = cluster(*parts[:-1], replace(pod, is_ready=is_ready))
    assert ask(remembered(repaired, move)) == gpus.Verdict()
    # Nor does it go for a node that is none of the device's any more.
    orphaned = remembered(cluster(BROKEN, *parts), move)
    nodes = {name: one for name, one in orphaned.ase_nodes.items() if name != "a"}
    assert names(ask(replace(orphaned, ase_nodes=nodes))) == []


def test_the_move_is_remembered_until_the_replacement_is_ready() -> None:
    parts = (BROKEN, offering("na", 0), offering("nb", 1), *deployment("infer"))
    move = ask(cluster(*parts, infer())).move
    assert move is not None
    # Killed before the deletion: the next process does it.
    assert names(ask(remembered(cluster(*parts, infer()), move))) == ["infer-0"]
    starting = infer(1, at="nb", is_ready=False)
    waiting = ask(remembered(cluster(*parts, starting), move), now=NOW + 1)
    assert (waiting.move is not None, names(waiting), waiting.wake_at) == (True, [], NOW + 60)
    assert "0 of 1 pods" in gpus.message(waiting)
    assert ask(remembered(cluster(*parts, starting), move), now=NOW + 60).move is None
    ready = replace(starting, is_ready=True)
    assert ask(remembered(cluster(*parts, ready), move), now=NOW + 1) == gpus.Verdict()
