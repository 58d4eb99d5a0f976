"""The same scenario file in simulation and on kind: the same story, told in the same order.

What is compared are the Events of each object, by family: how far a failover
is, where the master goes, the states of the device and of its nodes, power.
Between families and objects the order is a matter of milliseconds.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import groupby
from pathlib import Path

import pytest

from asetwin.sim import files, plays
from asetwin.sim.clock import START
from e2e import engine
from e2e.twin import DEVICE, NODE_A, NODE_B, Json, Twin
from e2e.workloads import budget, deployment, places

FOLDER = Path(__file__).parent / "scenarios"
FILES = sorted(FOLDER.glob("*.yaml"))
REPLICAS = 6
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "failover": ("NodeLost", "NodeFenced", "PodsRemoved", "NodeReturned"),
    "recovery": ("PodsReady", "FailedOver"),
    "master": ("MasterMoving", "MasterServing"),
    "device": ("DeviceOnline", "DeviceNeedsAttention", "DeviceOffline"),
    "node": ("NodeDown", "NodeIsolated", "NodeRebooting", "NodeReturning", "NodeUp"),
    "hardware": ("ComponentFailed", "ComponentRepaired"),
    "power": ("PowerOn", "PowerOff", "PowerIsolated"),
    "update": (
        *("UpdateStarted", "MovingMaster", "UpdatingMaster", "MasterUpdated"),
        *("NodeUpdated", "NodeWaitsForMaster", "NodeDraining", "NodeRebooting", "NodeRestarting"),
        *("NodeReturning", "UpdateSucceeded", "UpdateFailed"),
    ),
}
"""What is told in one turn has one moment: then it counts in this order."""

KINDS = ("AseDevice", "AseNode", "PinnedWorker", "DeviceUpdate")
Story = dict[str, list[str]]


def story(events: Iterable[Json], since: float) -> Story:
    """The reasons per object and family, in order, from a moment on."""
    told: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for one in events:
        about, reason = one["involvedObject"], one["reason"]
        moment = str(one.get("eventTime") or "")
        if about.get("kind") not in KINDS or not moment:
            continue
        if datetime.fromisoformat(moment).timestamp() < since:
            continue
        for family, reasons in FAMILIES.items():
            # Of an update the same words are told of its nodes.
            if reason in reasons and (family == "update") == (about["kind"] == "DeviceUpdate"):
                row = (moment, reasons.index(reason), reason)
                told[f"{about['name']} {family}"].append(row)
    # Two parts that fail or are repaired together are told in one turn or in two.
    return {
        key: [reason for reason, _ in groupby(reason for _, _, reason in sorted(rows))]
        for key, rows in told.items()
    }


def simulated(path: Path) -> Story:
    """What the simulation tells of a scenario, from when its device is in service."""
    play = plays.Play(files.read(path))
    result = play.run()
    assert result.passed, result.objections
    return story(play.world.server.listed("events"), START + play.timeline.zero + 1)


def happen(twin: Twin, event: files.Event, unforetold: str) -> None:
    """Do on kind what an event of a scenario says."""
    (verb,) = event.verbs()
    given = getattr(event, verb)
    if verb == "fail":
        parts: dict[str, list[str]] = defaultdict(list)
        for one in given:
            node, _, component = one.partition("/")
            parts[node].append(component)
        for node, components in parts.items():
            twin.fail(node, *components, unforetold=unforetold)
    elif verb == "reboot":
        for node in given:
            twin.fail(node, "Node", action="Reboot", unforetold=unforetold)
    elif verb == "repair":
        twin.wait_as_foretold()
        for one in twin.all("HardwareFailure"):
            if "all" in given or one["spec"]["node"] in given:
                twin.delete("HardwareFailure", one["metadata"]["name"])
    elif verb == "update":
        twin.apply(given.body(DEVICE))
    elif verb == "witness":
        patch = f'{{"spec":{{"witness":{{"online":{str(given == "online").lower()}}}}}}}'
        twin.kubectl("patch", "ased", DEVICE, "--type=merge", "-p", patch)
    elif verb in ("stop", "start", "pause"):
        command = {"stop": "kill"}.get(verb, verb)
        if verb == "start":
            twin.wait_as_foretold()
            engine.docker(command, twin.nodes[given])
        else:
            engine.lose(twin, given, command, unforetold=unforetold)
    else:
        raise AssertionError(f"{verb} is not played on kind")


def is_settled(twin: Twin) -> bool:
    """Whether what the last event has begun has come as far as it will without another."""
    status = twin.status()
    phase = str((status.get("failover") or {}).get("phase", "Recovered"))
    # What a hand has stopped stays Off though On is desired: it waits for the hand.
    is_still = all(
        twin.condition("PinnedWorker", one, "PowerSettled").get("status") == "True"
        or (twin.status("PinnedWorker", one).get("power") or {}).get("observed") == "Off"
        for one in WORKERS
    )
    return phase.startswith("Recovered") and is_still


WORKERS = ("worker-a", "worker-b")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kind_and_simulation_tell_the_same_story(twin: Twin, path: Path) -> None:
    expected = simulated(path)
    twin.bring_master_to(NODE_A)
    twin.apply(deployment(twin, "web", REPLICAS), budget(twin, "web", "web", maxUnavailable=1))
    spread = [NODE_A] * (REPLICAS // 2) + [NODE_B] * (REPLICAS // 2)
    twin.wait("pods on both nodes", lambda: places(twin, "web") == spread, within=60)
    twin.wait_steady()
    since = time.time()
    before = 0.0
    try:
        for event in files.read(path).content.events:
            # A scenario leaves so much time because it wants the last event to be over by then.
            if event.at - before > 10:
                time.sleep(2)
                twin.wait("the last event to be over", lambda: is_settled(twin), within=90)
            else:
                time.sleep(min(2.0, event.at - before))
            happen(twin, event, "what came before it is in its way" if before else "")
            before = event.at
        if event.update is not None:
            name = event.update.object_name
            twin.wait(
                "the update", lambda: "result" in twin.status("DeviceUpdate", name), within=200
            )
        if event.verbs() in (["pause"], ["reboot"]):
            twin.wait("its failover", lambda: "failover" in twin.status(), within=60)
        twin.wait_steady(within=150)
        twin.wait("the reserve to be kept again", lambda: _is_over(twin))
        told = heard(twin, since, expected)
    finally:
        engine.make_right(twin)
    assert told == expected


def heard(twin: Twin, since: float, expected: Story) -> Story:
    """What kind tells, once it is as expected or has had its time to be."""
    told: Story = {}

    def is_so() -> bool:
        nonlocal told
        told = story(twin.all("Event", "default"), since)
        return told == expected

    with contextlib.suppress(AssertionError):
        # The caller says what differs.
        twin.wait("the same story", is_so, within=10)
    return told


def _is_over(twin: Twin) -> bool:
    """The last of a return is that the reserve is kept again."""
    return twin.condition("AseDevice", DEVICE, "ReserveKept").get("status") == "True"
