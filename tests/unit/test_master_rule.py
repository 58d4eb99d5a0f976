"""Where the master runs: A fails, it moves; B fails, it stays; never two at once."""

import itertools
from typing import Any

import pytest

from asetwin.model import master
from asetwin.model.master import Verdict
from asetwin.model.plan import CreateMaster, CreateMasterService, DeletePod, RetryStart
from asetwin.resources import times
from asetwin.resources.core import Pod, Service
from asetwin.resources.devices import MasterPhase, PowerState
from unit.builders import (
    NOW,
    claim,
    cluster,
    device,
    failure,
    lease,
    master_pod,
    node,
    pod,
    views,
    worker,
)

LOST_A = (failure("fa", node="a"), worker("wa", power=PowerState.OFF))
LOST_B = (failure("fb", node="b"), worker("wb", power=PowerState.OFF))
UNFENCED_A = (failure("fa", node="a"), worker("wa", power=PowerState.ON))
UNKNOWN_A = (node("na", is_ready=False),)


def at(
    home: str = "a", epoch: int = 3, *, phase: str = "Serving", pod_name: str | None = None
) -> dict[str, Any]:
    """``status.master`` of the device."""
    name = f"ase-master-{epoch}" if pod_name is None else pod_name
    since = "2027-01-15T07:00:00Z"
    return {"node": home, "epoch": epoch, "phase": phase, "pod": name, "since": since}


def fresh(home: str = "a", epoch: int = 3) -> dict[str, Any]:
    """``status.master`` when the epoch has just been decided, and no pod of it was seen."""
    return at(home, epoch, phase="Waiting", pod_name="")


def rule(
    status: dict[str, Any] | None,
    *objects: Any,
    spec: dict[str, Any] | None = None,
    has_quorum: bool = True,
) -> Verdict:
    """The rule on the standard device with these objects."""
    given = {"master": status} if status else {}
    seen = cluster(device(spec={"master": spec or {}}, status=given), *objects)
    return master.rule(seen.devices["ase"], views(seen), seen, has_quorum=has_quorum, now=NOW)


def where(verdict: Verdict) -> tuple[str, int] | None:
    """Node and epoch that the verdict decides for."""
    return (verdict.status.node, verdict.status.epoch) if verdict.status else None


def deleted(verdict: Verdict) -> dict[str, bool]:
    """Names of the pods to be deleted, and whether by force."""
    return {one.name: one.force for one in verdict.steps if isinstance(one, DeletePod)}


def created(verdict: Verdict) -> list[CreateMaster]:
    return [one for one in verdict.steps if isinstance(one, CreateMaster)]


# --- The first one --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objects", "spec", "node_name"),
    [
        pytest.param((), {}, "a", id="slot-a"),
        pytest.param((), {"preferredNode": "b"}, "b", id="preferred"),
        pytest.param(LOST_B, {"preferredNode": "b"}, "a", id="preferred-is-lost"),
        pytest.param(LOST_A, {}, "b", id="slot-a-is-lost"),
        pytest.param((), {"preferredNode": "nobody"}, "a", id="preferred-is-unknown"),
    ],
)
def test_the_first_master_starts_on_the_preferred_node_that_is_in_service(
    objects: tuple[Any, ...], spec: dict[str, Any], node_name: str
) -> None:
    verdict = rule(None, *objects, spec=spec)
    assert where(verdict) == (node_name, 1)
    assert verdict.steps == ()


def test_its_epoch_is_above_every_one_that_the_cluster_remembers() -> None:
    # The AseDevice was deleted and created anew; its Lease and an old pod are still there.
    assert where(rule(None, lease(4))) == ("a", 5)
    assert where(rule(None, lease(4), master_pod(9))) == ("a", 10)


@pytest.mark.parametrize(
    ("objects", "has_quorum"),
    [((*LOST_A, *LOST_B), True), ((), False)],
    ids=["no-node-in-service", "no-quorum"],
)
def test_without_a_node_or_quorum_there_is_no_master(
    objects: tuple[Any, ...], has_quorum: bool
) -> None:
    verdict = rule(None, *objects, has_quorum=has_quorum)
    assert (where(verdict), created(verdict)) == (None, [])


def test_its_pod_waits_for_the_journal() -> None:
    missing = claim("ase-journal", namespace="asetwin-system", is_bound=False)
    verdict = rule(fresh(), missing)
    assert (verdict.steps, verdict.message) == ((), "waits for ase-journal")


def test_a_pod_that_runs_does_not_lose_its_place_when_the_journal_goes() -> None:
    gone = claim("ase-journal", namespace="asetwin-system", is_deleting=True)
    verdict = rule(at(), master_pod(3), lease(3), gone)
    assert (verdict.steps, verdict.is_serving) == ((), True)


def test_its_pod_starts_in_the_turn_after_the_epoch_was_written_down() -> None:
    verdict = rule(fresh())
    assert verdict.steps == (
        CreateMaster(
            device="ase",
            device_uid="uid-ase",
            epoch=3,
            ase_node="a",
            node="na",
            boot_seconds=2,
        ),
    )


# --- Moving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("home", "objects", "expected"),
    [
        pytest.param("a", (), ("a", 3), id="nothing-happens"),
        pytest.param("a", LOST_A, ("b", 4), id="its-node-is-lost"),
        pytest.param("a", LOST_B, ("a", 3), id="the-other-is-lost"),
        pytest.param("b", LOST_A, ("b", 3), id="on-b-and-a-is-lost"),
        pytest.param("b", LOST_B, ("a", 4), id="on-b-and-b-is-lost"),
        pytest.param("a", (*LOST_A, *LOST_B), ("a", 3), id="both-are-lost"),
        pytest.param("a", UNFENCED_A, ("a", 3), id="lost-but-not-proven"),
        pytest.param("a", UNKNOWN_A, ("a", 3), id="merely-not-ready"),
        pytest.param("a", (failure(component="PSU1"),), ("a", 3), id="degraded"),
    ],
)
def test_it_moves_only_off_a_node_that_is_proven_to_be_lost(
    home: str, objects: tuple[Any, ...], expected: tuple[str, int]
) -> None:
    running = master_pod(3, node=f"n{home}")
    assert where(rule(at(home), running, *objects)) == expected
    # Without quorum it stays, whatever has happened.
    assert where(rule(at(home), running, *objects, has_quorum=False)) == (home, 3)


def test_it_does_not_move_back_by_itself() -> None:
    assert where(rule(at("b"), master_pod(3, node="nb"))) == ("b", 3)
    assert where(rule(at("b"), master_pod(3, node="nb"), spec={"preferredNode": "a"})) == ("b", 3)


@pytest.mark.parametrize(
    ("home", "objects", "spec", "expected"),
    [
        pytest.param("b", (), {"preferredNode": "a"}, ("a", 4), id="goes-back"),
        pytest.param("b", (), {}, ("a", 4), id="slot-a-is-preferred-by-default"),
        pytest.param("a", (), {"preferredNode": "a"}, ("a", 3), id="is-there"),
        pytest.param("b", UNKNOWN_A, {"preferredNode": "a"}, ("b", 3), id="not-ready-yet"),
        pytest.param("a", UNKNOWN_A, {"preferredNode": "a"}, ("a", 3), id="home-is-not-left"),
        pytest.param("a", UNKNOWN_A, {"preferredNode": "b"}, ("a", 3), id="not-without-proof"),
    ],
)
def test_it_goes_back_to_the_preferred_node_where_that_is_asked_for(
    home: str, objects: tuple[Any, ...], spec: dict[str, Any], expected: tuple[str, int]
) -> None:
    verdict = rule(
        at(home), master_pod(3, node=f"n{home}"), *objects, spec={**spec, "failback": True}
    )
    assert where(verdict) == expected


def test_it_moves_when_its_node_is_no_member_any_more() -> None:
    seen = cluster(device(status={"master": at("a")}), master_pod(3), without=["a", "wa"])
    verdict = master.rule(seen.devices["ase"], views(seen), seen, has_quorum=True, now=NOW)
    assert where(verdict) == ("b", 4)
    assert deleted(verdict) == {"ase-master-3": False}


def test_it_moves_when_its_node_has_lost_its_worker_only_after_its_pod_is_gone() -> None:
    running = rule(at("a"), master_pod(3), node("na", is_ready=False))
    assert where(running) == ("a", 3)
    ended = rule(at("a"), node("na", is_ready=False))
    assert where(ended) == ("b", 4)


# --- One after the other --------------------------------------------------------------------------


def test_a_new_epoch_deletes_the_old_pod_by_force_only_on_a_node_that_is_off() -> None:
    verdict = rule(at("a"), master_pod(3), *LOST_A)
    assert where(verdict) == ("b", 4)
    assert (deleted(verdict), created(verdict)) == ({"ase-master-3": True}, [])


@pytest.mark.parametrize("has_quorum", [True, False])
@pytest.mark.parametrize("deleting", [None, NOW + 5])
def test_no_pod_starts_while_one_of_an_older_epoch_exists(
    has_quorum: bool, deleting: float | None
) -> None:
    older = master_pod(2, node="nb", deleting=deleting)
    verdict = rule(fresh(), older, has_quorum=has_quorum)
    assert created(verdict) == []
    assert deleted(verdict) == ({} if deleting else {"ase-master-2": False})


def test_no_rule_ever_creates_beside_another_master_pod() -> None:
    """All small situations: status, pods, losses, quorum."""
    statuses = [None, *(make(home) for home in "ab" for make in (at, fresh))]
    spots: list[tuple[Pod, ...]] = [
        (),
        *((master_pod(epoch, node=name),) for epoch in (2, 3) for name in ("na", "nb")),
        (master_pod(2, node="na"), master_pod(3, node="nb")),
        (master_pod(2, node="na", phase="Failed"),),
    ]
    losses = [(), LOST_A, LOST_B, UNFENCED_A, UNKNOWN_A, (*LOST_A, *LOST_B)]
    seen_creations = 0
    for status, pods, loss, has_quorum in itertools.product(statuses, spots, losses, (True, False)):
        verdict = rule(status, *pods, *loss, has_quorum=has_quorum)
        made = created(verdict)
        seen_creations += len(made)
        if made:
            assert pods == ()
            assert has_quorum
            assert where(verdict) == (made[0].ase_node, made[0].epoch)
        before = status["epoch"] if status else 0
        after = verdict.status.epoch if verdict.status else 0
        assert after >= before
    assert seen_creations > 0


def test_a_pod_that_is_missing_means_the_next_epoch() -> None:
    verdict = rule(at("a", phase="Serving"))
    assert (where(verdict), created(verdict)) == (("a", 4), [])


def test_a_pod_that_has_ended_means_the_next_epoch() -> None:
    verdict = rule(at("a"), master_pod(3, phase="Failed"))
    assert (where(verdict), deleted(verdict)) == (("a", 4), {"ase-master-3": False})


def test_one_epoch_has_one_pod_also_over_an_outage_of_everything() -> None:
    # 1. Both nodes are lost: the master waits, its pod goes. 2. A returns, and is not in
    # service yet. 3. It is in service again.
    down = rule(at("a"), master_pod(3), *LOST_A, *LOST_B)
    assert (where(down), deleted(down)) == (("a", 3), {"ase-master-3": True})
    assert down.status is not None
    waiting = down.status.wire()
    assert (waiting["phase"], waiting["pod"]) == ("Waiting", "ase-master-3")
    returning = rule(waiting, node("na", owned='{"device":"ase","cordon":true}'), *LOST_B)
    assert (where(returning), created(returning)) == (("a", 3), [])
    back = rule(waiting, *LOST_B)
    assert (where(back), created(back)) == (("a", 4), [])


def test_a_device_without_quorum_starts_no_pod() -> None:
    assert created(rule(fresh(), has_quorum=False)) == []
    assert created(rule(at("a"), has_quorum=False)) == []


# --- A start that is late -------------------------------------------------------------------------


def booting(seconds: float) -> dict[str, Any]:
    """``status.master`` whose pod was first seen so long ago."""
    return {**at(phase="Booting"), "since": times.render(NOW - seconds)}


@pytest.mark.parametrize(
    ("seconds", "retries", "attempt", "wake_in"),
    [
        pytest.param(0, 0, None, 2.5, id="just-seen"),
        pytest.param(2.4, 0, None, 0.1, id="not-late-yet"),
        pytest.param(2.5, 0, 1, 2.5, id="late"),
        pytest.param(2.6, 1, None, 2.4, id="asked"),
        pytest.param(5, 1, 2, 5, id="late-again"),
        pytest.param(10, 2, 3, None, id="for-the-last-time"),
        pytest.param(60, 3, None, None, id="given-up"),
        pytest.param(7, 0, 2, 3, id="the-operator-was-away"),
        pytest.param(7, 9, None, 3, id="somebody-wrote-nonsense"),
    ],
)
def test_the_start_of_a_master_that_does_not_run_is_asked_for_again_a_few_times(
    seconds: float, retries: int, attempt: int | None, wake_in: float | None
) -> None:
    waiting = master_pod(3, phase="Pending", is_ready=False, start_retries=retries)
    verdict = rule(booting(seconds), waiting)
    expected = RetryStart("asetwin-system", "ase-master-3", attempt) if attempt else None
    assert verdict.steps == ((expected,) if expected else ())
    assert verdict.wake_at == (pytest.approx(NOW + wake_in) if wake_in else None)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"phase": "Running", "is_ready": False}, id="runs"),
        pytest.param({"phase": "Pending", "is_ready": False, "deleting": NOW + 5}, id="ends"),
    ],
)
def test_a_master_that_runs_or_ends_is_not_asked_to_start(fields: dict[str, Any]) -> None:
    verdict = rule(booting(30), master_pod(3, **fields))
    assert (verdict.steps, verdict.wake_at) == ((), None)


# --- What it says ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "objects", "phase"),
    [
        pytest.param(fresh(), (), MasterPhase.WAITING, id="no-pod"),
        pytest.param(
            fresh(), (master_pod(3, is_ready=False),), MasterPhase.BOOTING, id="not-ready"
        ),
        pytest.param(fresh(), (master_pod(3),), MasterPhase.BOOTING, id="no-lease"),
        pytest.param(
            fresh(), (master_pod(3), lease(2)), MasterPhase.BOOTING, id="lease-of-the-older"
        ),
        pytest.param(
            fresh(),
            (master_pod(3), lease(3, holder="ase-master-2")),
            MasterPhase.BOOTING,
            id="lease-held-by-another",
        ),
        pytest.param(
            fresh(),
            (master_pod(3), lease(3, holder="")),
            MasterPhase.BOOTING,
            id="lease-released",
        ),
        pytest.param(fresh(), (master_pod(3), lease(3)), MasterPhase.SERVING, id="serves"),
        pytest.param(
            at(),
            (master_pod(3, deleting=NOW), lease(3)),
            MasterPhase.BOOTING,
            id="being-deleted",
        ),
        pytest.param(at(), (master_pod(3), lease(3), *UNFENCED_A), MasterPhase.WAITING, id="lost"),
    ],
)
def test_it_serves_only_when_ready_with_the_lease_of_its_epoch(
    status: dict[str, Any], objects: tuple[Any, ...], phase: MasterPhase
) -> None:
    verdict = rule(status, *objects)
    assert verdict.status is not None
    assert verdict.status.phase is phase
    assert verdict.is_serving is (phase is MasterPhase.SERVING)


def test_the_moment_of_its_phase_moves_with_the_phase_alone() -> None:
    serving = rule(at(phase="Serving"), master_pod(3), lease(3))
    booting = rule(at(phase="Serving"), master_pod(3))
    assert serving.status is not None
    assert booting.status is not None
    assert serving.status.since < NOW
    assert booting.status.since == NOW


def test_another_devices_master_and_other_pods_are_none_of_its_business() -> None:
    strangers = (
        master_pod(9, device="other"),
        pod("ase-master-9", namespace="default"),
        pod("ase-master-8", namespace="asetwin-system"),
    )
    verdict = rule(fresh(), *strangers)
    assert deleted(verdict) == {}
    assert [one.epoch for one in created(verdict)] == [3]


def test_its_service_is_created_once() -> None:
    seen = cluster()
    assert master.service(seen.devices["ase"], seen) == CreateMasterService("ase", "uid-ase")
    there = cluster(Service("asetwin-system", "ase-master"))
    assert master.service(there.devices["ase"], there) is None
    elsewhere = cluster(Service("default", "ase-master"))
    assert master.service(elsewhere.devices["ase"], elsewhere) is not None
