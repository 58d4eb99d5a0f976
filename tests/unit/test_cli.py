"""The command line as a person or a script meets it: exit status, stdout, stderr."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio.config import ConfigException
from typer.testing import CliRunner, Result

import asetwin
from asetwin import cli
from asetwin.cli import fail, main, timeline
from asetwin.cli.app import app
from asetwin.kube import client, errors
from asetwin.resources.devices import KINDS

GROUP = "/apis/asetwin.dev/v1alpha1"
EVENTS = "/api/v1/events"


class Cluster:
    """The API server, as far as the command line sees it."""

    def __init__(self) -> None:
        self.lists: dict[str, list[dict[str, Any]]] = {f"{GROUP}/{plural}": [] for plural in KINDS}
        self.lists[EVENTS] = []
        self.broken: Exception | None = None
        self.contexts: list[str | None] = []
        self.selectors: list[dict[str, str]] = []

    def add(self, plural: str, name: str, **parts: Any) -> None:
        body = {"metadata": {"name": name, "uid": f"uid-{name}"}, **parts}
        self.lists[f"{GROUP}/{plural}"].append(body)

    def names(self, plural: str) -> list[str]:
        return [body["metadata"]["name"] for body in self.lists[f"{GROUP}/{plural}"]]

    @asynccontextmanager
    async def connect(self, *, context: str | None = None) -> AsyncIterator["Cluster"]:
        self.contexts.append(context)
        if isinstance(self.broken, ConfigException):
            raise self.broken
        yield self

    async def get(self, path: str, **params: str) -> dict[str, Any]:
        if self.broken:
            raise self.broken
        self.selectors.append(params)
        return {"items": list(self.lists[path])}

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if body["metadata"]["name"] in [one["metadata"]["name"] for one in self.lists[path]]:
            raise errors.AlreadyExists("exists", status=409)
        self.lists[path].append(body)
        return body

    async def delete(self, path: str, *, uid: str | None = None) -> dict[str, Any]:
        collection, _, name = path.rpartition("/")
        found = [one for one in self.lists[collection] if one["metadata"]["name"] == name]
        if not found:
            raise errors.NotFound("not found", status=404)
        assert uid in (None, found[0]["metadata"]["uid"])
        self.lists[collection].remove(found[0])
        return {}


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """For every test, so that none can reach the cluster of whoever runs it."""
    made = Cluster()
    monkeypatch.setattr(client, "connect", made.connect)
    return made


@pytest.fixture
def device(cluster: Cluster) -> Cluster:
    """A device with both nodes, in order."""
    cluster.add(
        "asedevices",
        "ase",
        status={
            "state": "Online",
            "master": {"node": "node-a", "epoch": 3, "phase": "Serving", "since": AT},
            "votes": {"total": 3, "present": 3, "needed": 2},
            "reserve": {"percent": 50, "summary": "cpu 30 % of 50 %"},
        },
    )
    for name, slot, node in (("node-a", "A", "worker"), ("node-b", "B", "worker2")):
        cluster.add(
            "asenodes",
            name,
            spec={"device": "ase", "slot": slot},
            status={"state": "Up", "worker": f"worker-{slot.lower()}"},
        )
        cluster.add(
            "pinnedworkers",
            f"worker-{slot.lower()}",
            spec={"aseNode": name, "nodeName": f"asetwin-{node}", "gpus": 1},
            status={"power": {"desired": "On", "observed": "On"}},
        )
    return cluster


AT = "2026-11-25T08:00:00.000Z"


def run(*argv: str) -> Result:
    return CliRunner().invoke(app, list(argv), prog_name="asetwin")


def run_json(*argv: str) -> Any:
    result = run(*argv, "-o", "json")
    assert result.stderr == ""
    return json.loads(result.stdout)


# --- All verbs ------------------------------------------------------------------------------------


def test_help_lists_every_verb_whole() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for verb in ("status", "fail", "repair", "update", "timeline", "operator", "master", "version"):
        assert f"\n  {verb} " in result.stdout
    verbs = result.stdout.partition("Commands:")[2]
    assert "..." not in verbs, "a verb's first sentence is too long for the list"
    assert "Exit status: 0 good, 1 findings, 2 bad input or no cluster." in result.stdout


@pytest.mark.parametrize("verb", ["status", "fail", "repair", "timeline", "update"])
def test_help_of_a_verb_shows_examples_and_exit_status(verb: str) -> None:
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert f"\n    asetwin {verb}" in result.stdout
    assert "Exit status: 0" in result.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["explode"], "error: no such command 'explode'"),
        (["status", "--colour"], "error: no such option: --colour"),
        (["fail"], "error: missing argument 'NODE'"),
        (["status", "-o", "yaml"], "error: invalid value for '--output' / '-o'"),
        (["operator", "--port", "70000"], "error: invalid value for '--port'"),
    ],
)
def test_bad_usage_is_one_line_and_a_hint(argv: list[str], message: str) -> None:
    result = run(*argv)
    assert (result.exit_code, result.stdout) == (2, "")
    first, hint = result.stderr.splitlines()
    assert first.startswith(message)
    assert hint.startswith("see 'asetwin")
    assert hint.endswith("--help'")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            ConfigException("no current\n context"),
            "no cluster to talk to: no current context (set KUBECONFIG, or choose with --context)",
        ),
        (
            errors.Unavailable("GET /: connection refused", status=0),
            "the cluster does not answer: GET /: connection refused",
        ),
        (
            errors.NotFound("GET /: not found", status=404),
            "the cluster does not know asetwin's resources, apply crds/ first: GET /: not found",
        ),
        (errors.Forbidden("GET /: no", status=403), "the cluster refused: GET /: no"),
    ],
    ids=["no-config", "away", "no-crds", "forbidden"],
)
@pytest.mark.parametrize(
    "argv",
    [["status"], ["fail", "node-a", "PSU1"], ["repair", "--all"], ["timeline"], ["timeline", "-f"]],
    ids=" ".join,
)
def test_a_cluster_that_is_not_there_is_one_line(
    cluster: Cluster, argv: list[str], broken: Exception, message: str
) -> None:
    cluster.broken = broken
    result = run(*argv)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {message}\n"


def test_context_reaches_the_cluster(device: Cluster) -> None:
    run("status", "--context", "kind-other")
    run("repair", "--all")
    assert device.contexts == ["kind-other", None]


def test_version() -> None:
    assert run("version").stdout == f"asetwin {asetwin.__version__}\n"
    assert run_json("version") == {"version": asetwin.__version__}


# --- status ---------------------------------------------------------------------------------------


def test_status_shows_the_whole_picture(device: Cluster) -> None:
    result = run("status")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        "DEVICE  STATE   MASTER            EPOCH  VOTES   RESERVE           FAILOVER",
        "ase     Online  node-a (Serving)  3      3 of 3  cpu 30 % of 50 %  none",
        "",
        "NODE    DEVICE  SLOT  STATE  WORKER    FAILED  SUMMARY",
        "node-a  ase     A     Up     worker-a  –",
        "node-b  ase     B     Up     worker-b  –",
        "",
        "WORKER    ON      NODE             POWER  GPUS  SUMMARY",
        "worker-a  node-a  asetwin-worker   On     1",
        "worker-b  node-b  asetwin-worker2  On     1",
    ]


def test_status_of_a_failing_device_is_a_finding_and_fits_in_100_columns(device: Cluster) -> None:
    status = device.lists[f"{GROUP}/asedevices"][0]["status"]
    status["state"] = "NeedsAttention"
    status["failover"] = {
        "id": "f1",
        "trigger": "node-a: all 2 power supplies failed",
        "from": "node-a",
        "to": "node-b",
        "phase": "RecoveredInPart",
        "detectedAt": AT,
        "recoveredAt": "2026-11-25T08:00:03.250Z",
        "displaced": 6,
        "recovered": 5,
        "unplaceableCount": 1,
    }
    device.lists[f"{GROUP}/asenodes"][0]["status"] |= {
        "state": "Down",
        "failedComponents": ["PSU1", "PSU2"],
        "summary": "all 2 power supplies failed: no power; and so on, at some length",
    }
    device.lists[f"{GROUP}/pinnedworkers"][0]["status"]["power"]["desired"] = "Off"
    device.add(
        "hardwarefailures",
        "node-a-psu1",
        spec={"node": "node-a", "component": "PSU1"},
        status={"phase": "Active"},
    )
    result = run("status")
    assert result.exit_code == 1
    assert max(len(line.rstrip()) for line in result.stdout.splitlines()) <= 100
    text = " ".join(result.stdout.split())
    assert "On, to be Off" in text
    assert "node-a-psu1 node-a PSU1 Fail Active" in text
    assert "\x1b" not in result.stdout, "colours are for terminals"


def test_status_of_fresh_objects_without_any_status(cluster: Cluster) -> None:
    cluster.add("asedevices", "ase")
    cluster.add("asenodes", "node-a", spec={"device": "ase", "slot": "A"})
    cluster.add("pinnedworkers", "worker-a", spec={"aseNode": "node-a", "nodeName": "n"})
    cluster.add("hardwarefailures", "x", spec={"node": "node-a", "component": "DIMM"})
    result = run("status")
    assert result.exit_code == 1
    assert "Unknown" in result.stdout
    assert "Pending" in result.stdout


def test_status_without_a_device_says_so() -> None:
    result = run("status")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "there is no AseDevice in this cluster\n"


def test_status_for_machines(device: Cluster) -> None:
    device.add("hardwarefailures", "x", spec={"node": "node-a", "component": "DIMM"})
    answer = run_json("status")
    assert answer["devices"][0]["name"] == "ase"
    assert answer["devices"][0]["master"]["node"] == "node-a"
    assert [one["slot"] for one in answer["nodes"]] == ["A", "B"]
    assert answer["workers"][0]["power"] == {"desired": "On", "observed": "On"}
    failure = {"name": "x", "node": "node-a", "component": "DIMM", "action": "Fail"}
    assert answer["failures"] == [failure]


def test_status_shows_an_update_and_what_it_waits_for(device: Cluster) -> None:
    spec = {"device": "ase", "type": "DeviceSoftware", "version": "3.3.2604"}
    summary = (
        "DeviceSoftware 3.3.2604: waiting for node-b: FailoverReady is False: vision/detector GPU"
    )
    status = {"phase": "Waiting", "progress": "1/2", "stage": "Pending", "summary": summary}
    device.add("deviceupdates", "u", spec=spec, status=status)
    result = run("status")
    assert max(len(line.rstrip()) for line in result.stdout.splitlines()) <= 100
    text = " ".join(result.stdout.split())
    assert "UPDATE DEVICE PHASE STAGE NODES SUMMARY u ase Waiting Pending 1/2 Device" in text
    (told,) = run_json("status")["updates"]
    assert (told["name"], told["version"], told["phase"]) == ("u", "3.3.2604", "Waiting")


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


# --- timeline -------------------------------------------------------------------------------------


def event(number: int, seconds: float, message: str, **fields: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"ase.{number}",
            "uid": f"e{number}",
            "resourceVersion": str(number),
            "creationTimestamp": "2026-11-25T07:00:00Z",
        },
        "involvedObject": {"kind": "AseDevice", "name": "ase"},
        "reason": "FailoverStarted",
        "message": message,
        "eventTime": f"2026-11-25T08:00:{seconds:09.6f}Z",
        **fields,
    }


@pytest.fixture
def story(device: Cluster) -> Cluster:
    status = device.lists[f"{GROUP}/asedevices"][0]["status"]
    past = {"id": "f0", "trigger": "t", "from": "node-b", "phase": "Recovered"}
    status["history"] = [past | {"detectedAt": "2026-11-25T07:59:00Z"}]
    status["failover"] = past | {"id": "f1", "detectedAt": "2026-11-25T08:00:02Z"}
    device.lists[EVENTS] = [
        event(3, 4.5, "third", type="Warning"),
        event(1, 1.0, "first"),
        event(11, 2.0, "and after it"),
        event(2, 2.0, "second"),
    ]
    return device


def test_timeline_is_in_order_and_counts_from_the_detection(story: Cluster) -> None:
    answer = run_json("timeline")["events"]
    assert [(one["t"], one["event"]) for one in answer] == [
        (-1.0, "first"),
        (0.0, "second"),
        (0.0, "and after it"),
        (2.5, "third"),
    ]
    assert answer[3] == {
        "t": 2.5,
        "time": "2026-11-25T08:00:04.500Z",
        "object": "AseDevice/ase",
        "reason": "FailoverStarted",
        "event": "third",
        "type": "Warning",
        "count": 1,
        "uid": "e3",
    }
    assert {"fieldSelector": "involvedObject.apiVersion=asetwin.dev/v1alpha1"} in story.selectors


def test_timeline_for_people(story: Cluster) -> None:
    result = run("timeline")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["-1.0", "s", "AseDevice/ase", "FailoverStarted", "first"]
    assert lines[3].split()[0] == "+2.5"


def test_timeline_wraps_long_messages_in_their_column(story: Cluster) -> None:
    story.lists[EVENTS] = [event(1, 2.0, "word " * 30)]
    lines = [line.rstrip() for line in run("timeline").stdout.splitlines()]
    assert len(lines) > 1
    assert max(map(len, lines)) <= 100
    assert lines[1].index("word") == lines[0].index("word")


def test_timeline_counts_repetitions_and_takes_their_last_time(story: Cluster) -> None:
    story.lists[EVENTS] = [
        event(1, 2.0, "again", count=3, lastTimestamp="2026-11-25T08:00:09Z"),
        event(
            2, 2.0, "anew", series={"count": 2, "lastObservedTime": "2026-11-25T08:00:08.000000Z"}
        ),
        event(3, 2.0, "old style", eventTime=None, lastTimestamp="2026-11-25T08:00:03Z"),
        event(4, 2.0, "no time", eventTime=None),
    ]
    answer = run_json("timeline")["events"]
    assert [(one["t"], one["count"]) for one in answer] == [(-3602.0, 1), (1, 1), (6, 2), (7, 3)]
    assert "again (x3)" in run("timeline").stdout


def test_timeline_before_any_failover_has_no_zero(device: Cluster) -> None:
    device.lists[EVENTS] = [event(1, 1.0, "first")]
    assert run_json("timeline")["events"][0]["t"] is None
    assert run("timeline").stdout.split()[0] == "–"


def test_timeline_without_events_says_so(device: Cluster) -> None:
    result = run("timeline")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "there are no Events of asetwin's objects\n"
    assert run_json("timeline") == {"events": []}


async def test_following_tells_each_event_once_and_survives_an_absence(
    story: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[tuple[str, int]] = []
    turns = iter(range(9))

    async def sleep(_seconds: float) -> None:
        turn = next(turns)
        story.broken = errors.Unavailable("away", status=0) if turn in (1, 2) else None
        if turn == 4:
            story.lists[EVENTS].append(event(12, 9.0, "fourth"))
            story.lists[EVENTS][0]["count"] = 2
        if turn == 7:
            raise asyncio.CancelledError

    monkeypatch.setattr(timeline.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await timeline.watch(story, lambda one: told.append((one.event, one.count)))
    assert told == [
        ("first", 1),
        ("second", 1),
        ("and after it", 1),
        ("third", 1),
        ("third", 2),
        ("fourth", 1),
    ]
    assert capsys.readouterr().err == "warning: away; trying again\n"


def test_following_ends_well_with_ctrl_c(story: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(timeline.asyncio, "sleep", sleep)
    result = run("timeline", "--follow", "-o", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [json.loads(line)["t"] for line in result.stdout.splitlines()] == [-1.0, 0.0, 0.0, 2.5]


# --- Processes ------------------------------------------------------------------------------------


def test_operator_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from asetwin import operator

    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(operator, "run", lambda **options: seen.append(options))
    assert run("operator").exit_code == 0
    argv = ["--context", "kind-x", "--port", "0", "--log-level", "debug", "--log-format", "json"]
    assert run("operator", *argv).exit_code == 0
    assert seen == [
        {"context": None, "port": 8080, "log_level": "info", "log_format": "text"},
        {"context": "kind-x", "port": 0, "log_level": "debug", "log_format": "json"},
    ]


@pytest.fixture
def restored_signals() -> Iterator[None]:
    import signal

    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("restored_signals")
def test_master_ends_with_the_status_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from asetwin.standin import master

    monkeypatch.setattr(master, "main", lambda: 2)
    monkeypatch.setattr(sys, "argv", ["asetwin", "master"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert run("master").exit_code == 2


def test_plugin_speaks_of_itself_as_kubectl_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/kubectl-ase", "--help"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 0
    assert "Usage: kubectl ase " in capsys.readouterr().out


def test_light_starts_import_nothing_heavy() -> None:
    """Half a second for a help text is too much, and so is Typer for a failover's master."""
    script = """
import sys
sys.argv = ["asetwin", "--help"]
from asetwin.cli import main
try:
    main.main()
except SystemExit:
    pass
heavy = {"kopf", "kubernetes", "aiohttp", "pydantic", "yaml"} & set(sys.modules)
assert not heavy, heavy
for name in [name for name in sys.modules if name.partition(".")[0] in ("typer", "rich")]:
    del sys.modules[name]
from asetwin.standin import master
heavy = {"kopf", "rich", "typer", "prometheus_client"} & set(sys.modules)
assert not heavy, heavy
"""
    package = Path(asetwin.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
