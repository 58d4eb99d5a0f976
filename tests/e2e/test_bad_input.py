"""What people get wrong is answered with a condition that says what to do; nothing else stops."""

import subprocess
from typing import Any

import pytest

from e2e.twin import DEVICE, NODE_A, Twin


def ase_node(name: str, device: str, slot: str) -> dict[str, Any]:
    return {
        "kind": "AseNode",
        "metadata": {"name": name},
        "spec": {"device": device, "slot": slot},
    }


def worker(name: str, node: str, node_name: str) -> dict[str, Any]:
    return {
        "kind": "PinnedWorker",
        "metadata": {"name": name},
        "spec": {"aseNode": node, "nodeName": node_name},
    }


def failure(name: str, node: str, component: str) -> dict[str, Any]:
    return {
        "kind": "HardwareFailure",
        "metadata": {"name": name},
        "spec": {"node": node, "component": component},
    }


SECOND = [
    {"kind": "AseDevice", "metadata": {"name": "second"}},
    ase_node("second-a", "second", "A"),
]

CASES = [
    pytest.param(
        [*SECOND, worker("second-worker", "second-a", "no-such-node")],
        ("PinnedWorker", "second-worker"),
        "NodeNotFound",
        "spec.nodeName: there is no Node no-such-node",
        id="unknown-node",
    ),
    pytest.param(
        [*SECOND, worker("second-worker", "second-a", "{node-a}")],
        ("PinnedWorker", "second-worker"),
        "NodeTaken",
        "is pinned by PinnedWorker worker-a",
        id="node-taken",
    ),
    pytest.param(
        [*SECOND, worker("second-worker", "second-a", "{control-plane}")],
        ("PinnedWorker", "second-worker"),
        "ControlPlaneNode",
        "name a worker Node",
        id="control-plane",
    ),
    pytest.param(
        [worker("second-worker", "no-such-asenode", "{node-b}")],
        ("PinnedWorker", "second-worker"),
        "AseNodeNotFound",
        "spec.aseNode: there is no AseNode no-such-asenode",
        id="unknown-asenode",
    ),
    pytest.param(
        [ase_node("node-c", DEVICE, "A")],
        ("AseNode", "node-c"),
        "SlotTaken",
        "slot A of ase is taken by AseNode node-a",
        id="slot-taken",
    ),
    pytest.param(
        [ase_node("node-c", "no-such-device", "A")],
        ("AseNode", "node-c"),
        "DeviceNotFound",
        "there is no AseDevice no-such-device",
        id="unknown-device",
    ),
    pytest.param(
        [failure("lost", "no-such-asenode", "Node")],
        ("HardwareFailure", "lost"),
        "AseNodeNotFound",
        "there is no AseNode no-such-asenode; there is node-a, node-b",
        id="failure-of-unknown-node",
    ),
    pytest.param(
        [failure("third-supply", NODE_A, "PSU3")],
        ("HardwareFailure", "third-supply"),
        "NoSuchComponent",
        "the node has no PSU3: it has PSU1, PSU2",
        id="component-that-the-node-lacks",
    ),
]


@pytest.mark.parametrize(("objects", "about", "reason", "message"), CASES)
def test_a_bad_reference_is_a_condition_and_the_device_goes_on(
    twin: Twin, objects: list[dict[str, Any]], about: tuple[str, str], reason: str, message: str
) -> None:
    names = {
        "{node-a}": twin.nodes["node-a"],
        "{node-b}": twin.nodes["node-b"],
        "{control-plane}": f"{twin.kind.name}-control-plane",
    }
    given = [
        {**one, "spec": {k: names.get(v, v) for k, v in one.get("spec", {}).items()}}
        for one in objects
    ]
    twin.apply(*given)

    refused = twin.wait(
        f"Accepted=False on {about}",
        lambda: (
            twin.condition(*about, "Accepted").get("status") == "False"
            and twin.condition(*about, "Accepted")
        ),
    )

    assert refused["reason"] == reason
    assert message in refused["message"]
    if about[0] != "HardwareFailure":
        twin.wait_told(*about, reason)
    # The other device is served all the while.
    assert twin.status()["state"] == "Online"


def test_a_device_with_one_node_goes_offline_with_it(twin: Twin) -> None:
    """One node has nowhere to fail over to: nothing is moved or evicted."""
    control_plane = f"{twin.kind.name}-control-plane"
    twin.apply(*SECOND)
    twin.wait(
        "a device that says what it is missing",
        lambda: twin.condition("AseNode", "second-a", "WorkerReady").get("reason") == "NoWorker",
    )
    twin.wait(
        "the device to need attention",
        lambda: twin.status("AseDevice", "second").get("state") == "NeedsAttention",
    )
    assert twin.footprint()[control_plane]["unschedulable"] is False


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        pytest.param(
            "HardwareFailure",
            {"node": NODE_A, "component": "Fan1"},
            "PSU1, PSU2, Port1 to Port6, Motherboard",
            id="no-such-word",
        ),
        pytest.param(
            "HardwareFailure",
            {"node": NODE_A, "component": "Node", "durationSeconds": 0},
            "durationSeconds",
            id="no-time",
        ),
        pytest.param("AseNode", {"device": DEVICE, "slot": "C"}, "slot", id="no-such-slot"),
        pytest.param("AseDevice", {"reserve": {"percent": 101}}, "percent", id="too-much"),
    ],
)
def test_nonsense_is_refused_when_it_is_applied(
    twin: Twin, kind: str, spec: dict[str, Any], words: str
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        twin.apply_quietly({"kind": kind, "metadata": {"name": "nonsense"}, "spec": spec})
    assert words in refused.value.stderr


def test_a_pin_cannot_be_changed(twin: Twin) -> None:
    for kind, name, patch, words in (
        ("pw", "worker-a", '{"spec":{"nodeName":"elsewhere"}}', "delete this PinnedWorker"),
        ("asen", NODE_A, '{"spec":{"slot":"B"}}', "delete this AseNode"),
    ):
        with pytest.raises(subprocess.CalledProcessError) as refused:
            twin.kubectl_quietly("patch", kind, name, "--type=merge", "-p", patch)
        assert words in refused.value.stderr
