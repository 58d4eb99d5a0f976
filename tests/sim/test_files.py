"""Scenario files: what is read, and what is refused with the field and the remedy."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from asetwin.model import master
from asetwin.sim import files, plays
from asetwin.sim.files import FileError

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"


def parse(**content: Any) -> files.Scenario:
    return files.parse(content, SAMPLES / "scenarios" / "x.yaml")


def at(seconds: float | str, **what: Any) -> dict[str, Any]:
    return {"at": seconds, **what}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1.5s", 1.5), ("5m", 300), ("1h30m", 5400), (12, 12), (0.25, 0.25)],
)
def test_times_are_read_as_people_write_them(text: str | float, seconds: float) -> None:
    assert files.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "5", "-3s", "1d", None, True, -1, "9000h"])
def test_what_is_no_time_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=r"is not (a time|between)"):
        files.seconds(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param({"evnts": []}, "evnts: there is no such field", id="field"),
        pytest.param({"events": [at(1)]}, r"events\[0\]: .*exactly one thing", id="nothing"),
        pytest.param(
            {"events": [at(1, fail="node-a/Node", repair="all")]}, "has fail and repair", id="two"
        ),
        pytest.param({"events": [at("soon", fail="x/y")]}, r"events\[0\].at: .*30s", id="time"),
        pytest.param(
            {"events": [at(1, fail="node-c/PSU1")]},
            r"\[0\].fail: there is no node node-c; known: "
            "node-a, node-b",
            id="node",
        ),
        pytest.param({"events": [at(1, fail="node-a/PSU3")]}, "write one of PSU1, PSU2", id="part"),
        pytest.param({"events": [at(1, fail="node-a")]}, "write node-a/Node", id="no-part"),
        pytest.param({"events": [at(1, repair="node-x")]}, "write all, NODE", id="repair"),
        pytest.param({"events": [at(1, reboot="b")]}, "reboot: there is no node b", id="reboot"),
        pytest.param({"events": [at(1, witness="off")]}, "'online' or 'offline'", id="witness"),
        pytest.param(
            {"events": [at(1, update="Firmware")]},
            r"events\[0\].update.type: .*'DeviceSoftware' or 'Kubernetes'",
            id="update",
        ),
        pytest.param(
            {"events": [at(1, update={"type": "Kubernetes", "drainTimeoutSeconds": 0})]},
            r"update.drainTimeoutSeconds: ",
            id="update-patience",
        ),
        pytest.param(
            {"events": [at(5, stop="node-a"), at(3, start="node-a")]}, "order of time", id="order"
        ),
        pytest.param({"events": [at(5, stop="node-a")], "end": 4}, "end: is before", id="end"),
        pytest.param(
            {"events": [at(1, apply="none.yaml")]}, r"\[0\].apply: there is no file none", id="file"
        ),
        pytest.param(
            {"events": [at(1, apply={"kind": "Pod"})]}, "needs apiVersion, kind", id="object"
        ),
        pytest.param(
            {"events": [at(1, scale={"name": "web", "replicas": 1})]}, "namespace/name", id="scale"
        ),
        pytest.param({"expect": [{"at": 3}]}, r"expect\[0\]: nothing is expected", id="expect"),
        pytest.param({"expect": [at(3, recovered=4)]}, "leave out at", id="whole"),
        pytest.param({"expect": [{"nodes": {"c": "Up"}}]}, "there is no node c", id="expect-node"),
        pytest.param({"expect": [{"device": "Fine"}]}, r"expect\[0\].device", id="state"),
        pytest.param({"expect": [{"ready": {"web": 1}}]}, "'web' is not namespace", id="workload"),
        pytest.param({"device": {"reserv": {}}}, "device.reserv: there is no such", id="device"),
        pytest.param({"device": {"reserve": {"percent": "x"}}}, "reserve.percent", id="spec"),
        pytest.param(
            {"workloads": [{"name": "web", "cpu": "much"}]}, r"workloads\[0\].cpu: 'much'", id="cpu"
        ),
        pytest.param(
            {"workloads": [{"name": "web", "node": "c"}]}, r"workloads\[0\].node", id="pin"
        ),
        pytest.param(
            {"workloads": [{"name": "web", "nodeLocal": "1Gi"}]}, "kind: StatefulSet", id="local"
        ),
        pytest.param({"nodes": {}}, "one or two nodes, not 0", id="nodes"),
        pytest.param({"start": ["../workload.yaml"]}, "there is no AseDevice", id="start"),
        pytest.param(
            {"start": ["../device.yaml"], "workloads": []}, "leave out workloads", id="both"
        ),
    ],
)
def test_a_file_that_is_no_scenario_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(FileError, match=message) as refusal:
        files.parse(
            content, Path("folder/x.yaml") if "start" not in content else SAMPLES / "failures/x"
        )
    assert str(refusal.value).startswith(("folder/x.yaml: ", str(SAMPLES)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("- a", "is no scenario", id="list"),
        pytest.param("a: [", "is not YAML", id="yaml"),
        pytest.param("", "is no scenario", id="empty"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(FileError, match=message):
        files.read(path)
    with pytest.raises(FileError, match="cannot be read"):
        files.read(tmp_path / "none.yaml")


def test_the_default_is_the_sample_device_with_the_sample_workload_in_real_time() -> None:
    scenario = parse()
    device = next(one for one in scenario.objects if one["kind"] == "AseDevice")
    assert device["spec"]["timing"] == {"profile": "Realistic"}
    sample = next(iter(yaml.safe_load_all((SAMPLES / "device.yaml").read_text())))
    assert device["spec"]["shares"] == sample["spec"]["shares"]
    web = next(one for one in scenario.objects if one["kind"] == "Deployment")
    assert (web["metadata"]["name"], web["spec"]["replicas"]) == ("web", 6)


def test_manifests_may_stand_in_for_everything() -> None:
    scenario = parse(start=["../device.yaml", "../workload.yaml"], timing="Fast")
    assert scenario.pins == {"node-a": "asetwin-worker", "node-b": "asetwin-worker2"}
    assert plays.play(scenario).objections == []


def test_a_scenario_that_does_not_say_goes_on_for_half_an_hour() -> None:
    assert parse(events=[at("1m", fail="node-a/PSU1")]).end == 60 + files.SETTLE_SECONDS


# --- Verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "objection"),
    [
        pytest.param(
            {"device": "Offline"}, "the device is NeedsAttention, not Offline", id="state"
        ),
        pytest.param({"nodes": {"node-a": "Up"}}, "node-a is Down, not Up", id="node"),
        pytest.param({"master": "node-a"}, "serves from node-b, not from node-a", id="master"),
        pytest.param({"ready": {"shop/web": 5}}, "has 6 Ready pods, not 5", id="ready"),
        pytest.param(
            {"placed": {"shop/web": {"node-a": 1}}}, "has 0 Ready pods on node-a", id="placed"
        ),
        pytest.param({"failovers": 2}, "there were 1 failovers, not 2", id="failovers"),
        pytest.param({"recovered": 100}, "the failover took 182.3 s, more than 100 s", id="took"),
        pytest.param({"outage": {"master": 9}}, "master had no Ready pod for 182.1", id="outage"),
        pytest.param({"outage": {"x/y": 9}}, "x/y never had a Ready pod", id="never"),
        pytest.param(
            {"unplaceable": {"shop/web": "GPU"}}, "held by nothing, not by GPU", id="unplaceable"
        ),
    ],
)
def test_what_is_not_as_expected_is_an_objection(expected: dict[str, Any], objection: str) -> None:
    events = [at(5, fail="node-a/Node")]
    result = plays.play(parse(events=events, expect=[expected], end=400))
    assert len(result.objections) == 1
    assert objection in result.objections[0]
    assert result.objections[0].startswith("expect[0]: ")


def test_a_master_whose_claim_is_refused_at_first_hardly_starts_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The kubelet alone would let it wait for ten seconds and more.
    def outage(refusals: float) -> float:
        events = [at(5, fail="node-a/Node")]
        given = parse(events=events, mountRefusals=refusals, timing="Fast", end=60)
        return plays.play(given).outages["master"]

    usual = outage(0)
    assert usual + 1 < outage(1) < usual + 3
    monkeypatch.setattr(master, "RETRY_SECONDS", ())
    assert usual + 9 < outage(1) < usual + 16


def test_time_offline_is_measured() -> None:
    events = [at(5, fail=["node-a/Node", "node-b/Node"]), at(105, repair="all")]
    result = plays.play(parse(events=events, expect=[{"offline": 99}], timing="Fast", end=300))
    assert "the device was Offline for 10" in result.objections[0]


def test_what_the_cluster_refuses_is_an_objection_and_the_run_goes_on() -> None:
    events = [at(5, repair="node-a/PSU1"), at(9, fail="node-a/PSU1")]
    result = plays.play(parse(events=events, end=20))
    assert [one for one in result.objections if "events[0].repair: refused" in one]
    assert any(row.event.startswith("NeedsAttention") for row in result.rows)


def test_a_run_is_the_same_every_time() -> None:
    events = [at(5, faults={"rate": 0.2, "seconds": 60}), at(6, fail="node-a/Node")]
    first, second = (
        plays.play(parse(events=events, seed=7, jitter=0.4, timing="Fast", end=200))
        for _ in range(2)
    )
    assert first.rows == second.rows
    other = plays.play(parse(events=events, seed=8, jitter=0.4, timing="Fast", end=200))
    assert first.rows != other.rows
