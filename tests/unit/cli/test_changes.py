"""update, fail and repair as a person or a script meets them."""

from typing import Any

import pytest

from asetwin import cli
from asetwin.cli import fail
from unit.cli.shell import GROUP, Cluster, run, run_json

# --- update ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "name", "spec"),
    [
        (
            ["--version", "3.3.2604"],
            "ase-device-software-3.3.2604",
            {"type": "DeviceSoftware", "version": "3.3.2604"},
        ),
        (
            ["--type", "kubernetes", "--drain-timeout", "5m", "--on-drain-timeout", "fail"],
            "ase-kubernetes",
            {"type": "Kubernetes", "drainTimeoutSeconds": 300, "onDrainTimeout": "Fail"},
        ),
        (
            ["--type", "Kubernetes", "--version", "v1.36.0_B", "--allow-unready"],
            "ase-kubernetes-v1.36.0-b",
            {"type": "Kubernetes", "version": "v1.36.0_B", "allowUnready": True},
        ),
    ],
    ids=["device-software", "impatient", "unready"],
)
def test_update_creates_an_update(
    device: Cluster, argv: list[str], name: str, spec: dict[str, Any]
) -> None:
    result = run("update", "ase", *argv)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{name} created: {spec['type']} of ase")
    (made,) = device.lists[f"{GROUP}/deviceupdates"]
    assert made["metadata"]["name"] == name
    defaults = {"device": "ase", "onDrainTimeout": "Wait", "allowUnready": False}
    assert made["spec"] == defaults | spec


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["asx"], "there is no AseDevice 'asx'; known: ase"),
        (["ase", "--version", "-1"], "--version -1: must be at most 63 letters"),
        (["ase", "--version", "x" * 64], "must be at most 63 letters"),
        (["ase", "--drain-timeout", "25h"], "--drain-timeout 25h: must be at most 24h"),
        (["ase", "--drain-timeout", "soon"], "--drain-timeout soon: not a time, write 30s"),
    ],
    ids=["device", "version", "long-version", "long", "no-time"],
)
def test_update_names_what_is_wrong(device: Cluster, argv: list[str], message: str) -> None:
    result = run("update", *argv)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert device.names("deviceupdates") == []


def test_an_update_that_exists_is_a_finding(device: Cluster) -> None:
    run("update", "ase")
    result = run("update", "ase")
    assert result.exit_code == 1
    assert "kubectl delete dup ase-device-software" in result.stderr


# --- fail -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "name", "spec", "text"),
    [
        (
            ["node-a", "psu1"],
            "node-a-psu1",
            {"component": "PSU1", "action": "Fail"},
            "PSU1 of node-a fails",
        ),
        (
            ["node-a", "OsDisk", "--for", "90"],
            "node-a-osdisk",
            {"component": "OSDisk", "action": "Fail", "durationSeconds": 90},
            "OSDisk of node-a fails for 90 s",
        ),
        (
            ["node-a", "--reboot"],
            "node-a-node",
            {"component": "Node", "action": "Reboot"},
            "node-a reboots",
        ),
        (
            ["node-a", "node", "--reboot", "--for", "1m30s"],
            "node-a-node",
            {"component": "Node", "action": "Reboot", "durationSeconds": 90},
            "node-a reboots for 90 s",
        ),
    ],
    ids=["small-letters", "for-a-time", "reboot", "reboot-for-a-time"],
)
def test_fail_creates_a_failure(
    device: Cluster, argv: list[str], name: str, spec: dict[str, Any], text: str
) -> None:
    result = run("fail", *argv)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{name} created: {text}\n"
    assert device.lists[f"{GROUP}/hardwarefailures"] == [
        {
            "apiVersion": "asetwin.dev/v1alpha1",
            "kind": "HardwareFailure",
            "metadata": {"name": name},
            "spec": {"node": "node-a", **spec},
        }
    ]


def test_fail_for_machines(device: Cluster) -> None:
    assert run_json("fail", "node-b", "GPU1") == {
        "name": "node-b-gpu1",
        "node": "node-b",
        "component": "GPU1",
        "action": "Fail",
    }


def test_fail_twice_is_a_finding(device: Cluster) -> None:
    run("fail", "node-a", "PSU1")
    result = run("fail", "node-a", "PSU1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "error: node-a-psu1 exists already; end it with 'asetwin repair node-a PSU1' first\n"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["node-c", "PSU1"], "there is no AseNode 'node-c'; known: node-a, node-b"),
        (["node-a", "PSU3"], "node-a has no component 'PSU3'; it has PSU1, PSU2, Port1, "),
        (["node-a"], "COMPONENT is missing"),
        (["node-a", "PSU1", "--reboot"], "only the whole node can reboot: 'asetwin fail node-a"),
        (["node-a", "PSU1", "--for", "soon"], "--for soon: not a time, write 30s, 5m or 1h30m"),
        (["node-a", "PSU1", "--for", "0s"], "--for 0s: must be from 1s to 168h (a week)"),
    ],
)
def test_fail_refuses_what_makes_no_sense(device: Cluster, argv: list[str], message: str) -> None:
    result = run("fail", *argv)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}")
    assert device.names("hardwarefailures") == []


def test_fail_in_a_cluster_without_nodes() -> None:
    assert run("fail", "node-a", "DIMM").stderr == (
        "error: there is no AseNode 'node-a'; known: there is none\n"
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1h30m", 5400), ("45", 45), ("1h1m1s", 3661), ("168h", 604800)],
)
def test_durations(text: str, seconds: int) -> None:
    assert fail.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "5x", "-5s", "1.5s", "5 s", "٣s", "30s5m", "169h"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(cli.common.Problem):
        fail.parse_duration(text)


# --- repair ---------------------------------------------------------------------------------------


@pytest.fixture
def broken(device: Cluster) -> Cluster:
    for node, component in (("node-a", "PSU1"), ("node-a", "PSU2"), ("node-b", "PSU1")):
        name = f"{node}-{component}".lower()
        device.add("hardwarefailures", name, spec={"node": node, "component": component})
    device.add("hardwarefailures", "lost", spec={"node": "node-x", "component": "DIMM"})
    return device


@pytest.mark.parametrize(
    ("argv", "left"),
    [
        (["node-a"], ["node-b-psu1", "lost"]),
        (["node-a", "psu2"], ["node-a-psu1", "node-b-psu1", "lost"]),
        (["--all", "PSU1"], ["node-a-psu2", "lost"]),
        (["--all"], []),
        (["node-x"], ["node-a-psu1", "node-a-psu2", "node-b-psu1"]),
    ],
    ids=" ".join,
)
def test_repair_deletes_what_is_meant(broken: Cluster, argv: list[str], left: list[str]) -> None:
    before = broken.names("hardwarefailures")
    result = run("repair", *argv)
    assert (result.exit_code, result.stderr) == (0, "")
    assert broken.names("hardwarefailures") == left
    deleted = sorted(set(before) - set(left))
    assert [line.split()[0] for line in result.stdout.splitlines()] == deleted


def test_repair_says_what_it_did(broken: Cluster) -> None:
    text = "node-a-psu2 deleted: PSU2 of node-a is repaired\n"
    assert run("repair", "node-a", "PSU2").stdout == text
    assert run_json("repair", "node-b") == {
        "repaired": [{"name": "node-b-psu1", "node": "node-b", "component": "PSU1"}]
    }


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--all"], "nothing to repair"),
        (["node-a"], "nothing to repair on node-a"),
        (["node-a", "DIMM"], "nothing to repair on node-a: DIMM works"),
    ],
    ids=" ".join,
)
def test_repair_of_nothing_is_good(device: Cluster, argv: list[str], text: str) -> None:
    result = run("repair", *argv)
    assert (result.exit_code, result.stdout) == (0, f"{text}\n")
    assert run_json("repair", *argv) == {"repaired": []}


def test_repair_passes_over_what_somebody_else_repairs_meanwhile(
    broken: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = broken.delete

    async def late(path: str, **how: Any) -> dict[str, Any]:
        broken.lists[f"{GROUP}/hardwarefailures"].pop(0)
        return await delete(path, **how)

    monkeypatch.setattr(broken, "delete", late)
    result = run("repair", "node-a", "PSU1")
    assert (result.exit_code, result.stdout) == (0, "nothing to repair on node-a: PSU1 works\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "NODE is missing"),
        (["node-c"], "there is no AseNode 'node-c'; known: node-a, node-b"),
        (["node-a", "PSU7"], "there is no component 'PSU7'; known: PSU1, "),
        (["--all", "node-a"], "--all means every node: leave out 'node-a', or --all"),
        (["node-a", "PSU1", "--all"], "--all means every node: leave out 'node-a', or --all"),
    ],
)
def test_repair_refuses_what_makes_no_sense(broken: Cluster, argv: list[str], message: str) -> None:
    result = run("repair", *argv)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}")
    assert len(broken.names("hardwarefailures")) == 4
