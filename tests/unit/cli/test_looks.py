"""status and timeline as a person or a script meets them."""

import asyncio
import json
from typing import Any

import pytest

from asetwin.cli import timeline
from asetwin.kube import errors
from unit.cli.shell import AT, EVENTS, GROUP, Cluster, run, run_json

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

    monkeypatch.setattr(asyncio, "sleep", sleep)
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

    monkeypatch.setattr(asyncio, "sleep", sleep)
    result = run("timeline", "--follow", "-o", "json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [json.loads(line)["t"] for line in result.stdout.splitlines()] == [-1.0, 0.0, 0.0, 2.5]
