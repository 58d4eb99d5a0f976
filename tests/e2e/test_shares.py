"""Shares outlive a node, volumes on a node's own disks do not; the journal proves one master."""

import json
import subprocess

import pytest

from asetwin.kube import bodies
from asetwin.model import plan
from e2e.shares import SHARES, journal, journal_file, on_share, read
from e2e.twin import DEVICE, NODE_A, NODE_B, SYSTEM, Json, Twin, epoch, is_ready


def sample(twin: Twin, *kinds: str) -> list[Json]:
    """Objects of the shares sample, in the test's namespace."""
    chosen = [one for one in twin.sample("shares.yaml") if one["kind"] in kinds]
    for one in chosen:
        one["metadata"]["namespace"] = twin.namespace
    return chosen


def home_of(twin: Twin, name: str) -> str:
    """The device node on which the pod of that name, or name prefix, is Ready."""

    def find() -> str | None:
        for ase_node, node in twin.nodes.items():
            for pod in twin.pods():
                is_it = pod["metadata"]["name"].startswith(name) and is_ready(pod)
                if is_it and pod["spec"].get("nodeName") == node:
                    return ase_node
        return None

    return str(twin.wait(f"{name} to be Ready", find, within=60))


def other(ase_node: str) -> str:
    return NODE_B if ase_node == NODE_A else NODE_A


def test_what_was_written_to_a_share_is_there_after_a_failover(twin: Twin) -> None:
    twin.apply(*sample(twin, "PersistentVolumeClaim", "Deployment"))
    home = home_of(twin, "ledger")
    before = twin.wait("three lines", lambda: _own_lines(twin, home, least=3))

    twin.fail(home, "PSU1", "PSU2")
    twin.wait("the pod on the other node", lambda: twin.ready_on(other(home)), within=60)
    twin.wait("lines of the other node", lambda: _own_lines(twin, other(home), least=3))

    (pod,) = twin.pods_on(other(home))
    seen = twin.kubectl(
        "exec", "-n", twin.namespace, pod["metadata"]["name"], "--", "cat", "/data/ledger.log"
    ).splitlines()
    assert [line for line in seen if line in before] == before
    assert twin.condition("AseDevice", DEVICE, "SharesReady")["status"] == "True"


def test_a_pod_whose_volume_is_on_the_lost_node_is_named_and_waits_for_it(twin: Twin) -> None:
    twin.apply(*sample(twin, "StatefulSet"))
    home = home_of(twin, "scratch-0")
    claim = twin.get("PersistentVolumeClaim", "data-scratch-0", twin.namespace)

    twin.fail(home, "Motherboard")
    problem = twin.wait(
        "the pod to be named",
        lambda: next(
            (
                one
                for one in (twin.status().get("failover") or {}).get("unplaceable") or ()
                if one["pod"] == f"{twin.namespace}/scratch-0"
            ),
            None,
        ),
    )
    assert problem["reason"] == "NodeLocalVolume"
    assert problem["message"] == (
        f"claim data-scratch-0 is bound to {claim['spec']['volumeName']}, "
        f"which stays on {twin.nodes[home]}"
    )
    twin.wait(
        "the failover to end in part",
        lambda: (twin.status().get("failover") or {}).get("phase") == "RecoveredInPart",
    )
    twin.wait_told("AseDevice", DEVICE, "FailedOverInPart")

    twin.repair_all()
    twin.wait_steady()
    assert home_of(twin, "scratch-0") == home


def test_a_kubelet_tries_a_start_anew_that_is_asked_for_again(twin: Twin) -> None:
    """What model.master stands on: one kubelet, two pods that it cannot start, one is asked for."""
    node = twin.nodes[NODE_A]
    (claim,) = sample(twin, "PersistentVolumeClaim")
    (ledger,) = sample(twin, "Deployment")
    pod_spec = {**ledger["spec"]["template"]["spec"], "nodeName": node}
    for name in ("asked", "waiting"):
        meta = {"name": name, "namespace": twin.namespace}
        twin.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod_spec})

    def refused() -> set[str]:
        events = twin.all("Event", twin.namespace)
        return {one["involvedObject"]["name"] for one in events if one["reason"] == "FailedMount"}

    def is_bound() -> bool:
        found = twin.get("PersistentVolumeClaim", claim["metadata"]["name"], twin.namespace)
        return bool(found["status"].get("phase") == "Bound")

    twin.wait("both to be refused", lambda: refused() == {"asked", "waiting"})
    twin.apply(claim)
    twin.wait("the claim", is_bound)
    step = plan.RetryStart(twin.namespace, "asked", 1)
    patch = json.dumps(bodies.retry_patch(step))
    twin.kubectl("patch", "pod", "asked", "-n", twin.namespace, "--type=merge", "-p", patch)

    def phases() -> dict[str, str]:
        return {pod["metadata"]["name"]: pod["status"]["phase"] for pod in twin.pods()}

    twin.wait("the one that is asked for", lambda: phases()["asked"] == "Running")
    assert phases()["waiting"] == "Pending"
    twin.wait("the other one, by itself", lambda: phases()["waiting"] == "Running")


def test_the_journal_has_no_gap_and_no_overlap_over_two_failovers(twin: Twin) -> None:
    first = twin.master()
    assert first is not None
    begin = epoch(first)
    for _ in range(2):
        master = twin.master()
        assert master is not None
        home = next(n for n, node in twin.nodes.items() if node == master["spec"]["nodeName"])
        twin.fail(home, "Node")
        twin.wait_master_on(other(home))
        twin.repair_all()
        twin.wait_steady()

    proof = journal(twin)
    assert proof.problems == ()
    assert proof.torn == 0
    lately = [one for one in proof.reigns if one.epoch >= begin]
    assert [one.epoch for one in lately] == [begin, begin + 1, begin + 2]
    assert all(len(one.nodes) == 1 for one in lately)
    assert lately[0].nodes != lately[1].nodes != lately[2].nodes
    # Never before the older one's Lease has run out, which it holds for three seconds.
    print("seconds without a master:", [f"{gap:.2f}" for gap in proof.gaps[-2:]])
    assert all(gap >= 1 for gap in proof.gaps[-2:])


def test_a_master_that_cannot_write_its_journal_does_not_serve(twin: Twin) -> None:
    before = twin.master()
    assert before is not None
    name = journal_file(twin)
    path = f"{SHARES}/{DEVICE}-journal/{name}"
    on_share(twin, "sh", "-c", f"mv {path} {path}.kept && mkdir {path}")
    try:
        twin.wait("the master not to be Ready", lambda: twin.master() is None)
        told = twin.kubectl("-n", SYSTEM, "logs", before["metadata"]["name"])
        assert f"/journal/{name} cannot be written: Is a directory" in told
        twin.wait(
            "the device to say so",
            lambda: twin.condition("AseDevice", DEVICE, "MasterReady").get("status") == "False",
        )
    finally:
        on_share(twin, "sh", "-c", f"rmdir {path}; mv {path}.kept {path}")
    after = twin.wait("the master to be Ready", twin.master)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert journal(twin).problems == ()


def test_a_share_is_not_taken_from_whoever_holds_it_and_is_free_afterwards(twin: Twin) -> None:
    claim = {
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "mine", "namespace": twin.namespace},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "volumeName": "extra",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    try:
        _state_shares(twin, '{"name":"data","capacity":"1Gi"},{"name":"extra","capacity":"1Gi"}')
        twin.wait("the share", lambda: _phase(twin, "extra") == "Available")
        twin.apply(claim)
        twin.wait("the claim to be bound", lambda: _phase(twin, "extra") == "Bound")

        _state_shares(twin, '{"name":"data","capacity":"1Gi"}')
        told = twin.wait(
            "the device to say who holds it",
            lambda: (
                condition
                if (condition := twin.condition("AseDevice", DEVICE, "SharesReady")).get("reason")
                == "ShareInUse"
                else None
            ),
        )
        assert f"{twin.namespace}/mine holds it" in told["message"]
        assert _phase(twin, "extra") == "Bound"

        # Stated again, given back, and taken by another claim.
        _state_shares(twin, '{"name":"data","capacity":"1Gi"},{"name":"extra","capacity":"2Gi"}')
        twin.delete("PersistentVolumeClaim", "mine", twin.namespace)
        twin.wait("the share to be free", lambda: _phase(twin, "extra") == "Available")
        twin.wait(
            "its new capacity",
            lambda: twin.get("PersistentVolume", "extra")["spec"]["capacity"]["storage"] == "2Gi",
        )
        claim["metadata"] = {"name": "yours", "namespace": twin.namespace}
        twin.apply(claim)
        twin.wait("the next claim to be bound", lambda: _phase(twin, "extra") == "Bound")
    finally:
        twin.delete("PersistentVolumeClaim", "yours", twin.namespace)
        twin.apply_sample("device.yaml")
        twin.wait("the share to go", lambda: twin.find("PersistentVolume", "extra") is None)


@pytest.mark.parametrize("change", [{"name": f"{DEVICE}-journal"}])
def test_nobody_states_the_masters_own_share(twin: Twin, change: dict[str, str]) -> None:
    body = f'{{"spec":{{"shares":[{{"name":"{change["name"]}"}}]}}}}'
    with pytest.raises(subprocess.CalledProcessError) as refused:
        twin.kubectl_quietly("patch", "ased", DEVICE, "--type=merge", "-p", body)
    assert "is the masters' own" in str(refused.value.stderr)
    claim = twin.get("PersistentVolumeClaim", f"{DEVICE}-journal", SYSTEM)
    assert claim["status"]["phase"] == "Bound"


def _own_lines(twin: Twin, ase_node: str, *, least: int) -> list[str] | None:
    """The lines that the pod on that node has written for this test, if there are enough."""
    names = [pod["metadata"]["name"] for pod in twin.pods_on(ase_node)]
    lines = [one for one in read(twin, "data/ledger.log") if any(f"pod={n} " in one for n in names)]
    return lines if len(lines) >= least else None


def _state_shares(twin: Twin, shares: str) -> None:
    patch = f'{{"spec":{{"shares":[{shares}]}}}}'
    twin.kubectl("patch", "ased", DEVICE, "--type=merge", "-p", patch)


def _phase(twin: Twin, name: str) -> str | None:
    volume = twin.find("PersistentVolume", name) or {}
    phase: str | None = (volume.get("status") or {}).get("phase")
    return phase
