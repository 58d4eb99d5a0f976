"""The metrics: what they say of a device, once per failover, and the page that documents them."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import unused_port
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from asetwin import health, metrics
from asetwin.kube import errors
from asetwin.kube.act import Executor, Settings
from asetwin.kube.observe import Cluster
from asetwin.loop import Loop
from asetwin.metrics import Metrics, trigger_of
from asetwin.model import hardware, plan
from asetwin.model.snapshot import Snapshot
from asetwin.power.drivers import Command
from asetwin.power.metrics import Metrics as PowerMetrics
from asetwin.power.serving import Health
from asetwin.resources.devices import AseDevice, Hardware
from asetwin.sim.world import World
from sim import stories
from unit import builders
from unit.builders import NOW, FakeApi

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
GOLDEN = Path(__file__).parent / "golden"
FAILOVER = {
    "id": "a-1",
    "trigger": "both power supplies failed: no power; Port1 failed: management network affected",
    "from": "a",
    "to": "b",
    "detectedAt": "2027-01-15T08:00:00.000Z",
}
FENCED = FAILOVER | {"fencedAt": "2027-01-15T08:00:00.400Z"}
RECOVERED = FENCED | {
    "phase": "Recovered",
    "evacuatedAt": "2027-01-15T08:00:01.000Z",
    "podsReadyAt": "2027-01-15T08:00:03.000Z",
    "masterReadyAt": "2027-01-15T08:00:06.500Z",
    "recoveredAt": "2027-01-15T08:00:06.500Z",
    "displaced": 5,
    "recovered": 3,
    "lost": 1,
    "unplaceableCount": 2,
}
CLOSED = {
    key: value for key, value in RECOVERED.items() if key not in ("evacuatedAt", "unplaceableCount")
}


def scraped(one: Metrics, snapshot: Snapshot | None = None) -> dict[tuple[str, ...], float]:
    """(sample, label values in the order of their names) → value."""
    text = one.render(snapshot or Snapshot(), now=NOW, monotonic=100.0).decode()
    return read(text)


def read(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def device(**status: object) -> AseDevice:
    return builders.device(status=status)


def counts(one: Metrics) -> dict[str, float]:
    """How often each phase was observed."""
    return {
        key[0].removeprefix("asetwin_failover_").removesuffix("_seconds_count"): value
        for key, value in scraped(one).items()
        if key[0].startswith("asetwin_failover_") and key[0].endswith("_count")
    }


# --- Failovers ------------------------------------------------------------------------------------


def test_each_phase_of_a_failover_is_observed_when_it_is_reached_and_once() -> None:
    one = Metrics()
    one.look(device())
    one.look(device(failover=FAILOVER))
    assert counts(one) == {}
    assert scraped(one)["asetwin_failovers_total", "ase", "PowerSupplies"] == 1
    one.look(device(failover=FENCED))
    one.look(device(failover=FENCED))
    assert counts(one) == {"fencing": 1}
    one.look(device(failover=RECOVERED))
    one.look(device(history=[CLOSED]))
    one.look(device(history=[CLOSED]))
    assert counts(one) == dict.fromkeys(metrics.PHASES, 1)
    found = scraped(one)
    assert found["asetwin_failovers_total", "ase", "PowerSupplies"] == 1
    sums = {
        name: round(found[f"asetwin_failover_{name}_seconds_sum", "ase", "PowerSupplies"], 3)
        for name in metrics.PHASES
    }
    assert sums == {
        "fencing": 0.4,
        "evacuation": 1.0,
        "pods_ready": 3.0,
        "master_ready": 6.5,
        "recovery": 6.5,
    }


def test_a_failover_that_ends_in_the_turn_in_which_it_recovers_is_observed_all_the_same() -> None:
    one = Metrics()
    one.look(device(failover=FENCED))
    one.look(device(history=[CLOSED]))
    assert counts(one) == {"pods_ready": 1, "master_ready": 1, "recovery": 1}


def test_what_was_reached_before_the_process_started_is_not_observed_again() -> None:
    one = Metrics()
    one.look(device(failover=FENCED, history=[CLOSED | {"id": "a-0"}]))
    assert counts(one) == {}
    one.look(device(failover=RECOVERED, history=[CLOSED | {"id": "a-0"}]))
    assert counts(one) == dict.fromkeys(set(metrics.PHASES) - {"fencing"}, 1)
    assert ("asetwin_failovers_total", "ase", "PowerSupplies") not in scraped(one)


def test_a_device_that_is_made_anew_begins_anew() -> None:
    one = Metrics()
    one.look(device(history=[CLOSED]))
    again = builders.device(uid="another", status={"history": [CLOSED]})
    one.look(again)
    assert counts(one) == {}


def test_the_series_of_a_device_go_with_it() -> None:
    one = Metrics()
    other = builders.device("other")
    for each in (device(), device(failover=RECOVERED), other):
        one.look(each)
    for name in ("ase", "other"):
        one.turned(name, "done", 0.01, ended_at=99.0)
    snapshot = builders.cluster(device(failover=RECOVERED), other)
    assert {key[1] for key in scraped(one, snapshot) if key[0].startswith("asetwin_dev")} == {
        "ase",
        "other",
    }
    one.forget("ase", {"other": other})
    left = scraped(one, builders.snapshot(other))
    assert not [key for key in left if "ase" in key[1:]]
    assert left["asetwin_loop_last_turn_age_seconds", "other"] == 1.0


@pytest.mark.parametrize("component", hardware.components(Hardware()))
def test_every_component_that_takes_a_node_out_has_its_trigger(component: str) -> None:
    kind = re.sub(r"\d", "", component)
    alone = hardware.judge([component], Hardware())
    both = hardware.judge([component, "PSU1", "PSU2", "GPU1", "Disk2"], Hardware())
    expected = {
        "Node": "Node",
        "Motherboard": "CorePart",
        "DIMM": "CorePart",
        "OSDisk": "CorePart",
        "Port": "StorageNetwork",
    }
    if alone.is_lost:
        assert trigger_of(alone.summary) == expected[kind]
    assert trigger_of(both.summary) == (
        expected[kind] if kind in hardware.FATAL else "PowerSupplies"
    )


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param("rebooting", "Reboot", id="reboot"),
        pytest.param("silent, and taken for off without proof", "Silence", id="silence"),
        pytest.param(
            "stopped by asetwin: container asetwin-worker has ended", "Silence", id="fenced"
        ),
        pytest.param("container asetwin-worker has ended", "PowerLost", id="by-hand"),
        pytest.param("its worker VM is off", "PowerLost", id="off"),
    ],
)
def test_what_takes_a_node_out_without_a_component_has_its_trigger(text: str, word: str) -> None:
    assert trigger_of(text) == word


def test_every_trigger_is_the_word_for_some_failover_of_the_golden_cases() -> None:
    told = re.compile(r"^ *trigger: '?(.*?)'?$", re.MULTILINE)
    texts = {
        text for path in GOLDEN.glob("*.output.yaml") for text in told.findall(path.read_text())
    }
    assert {trigger_of(text) for text in texts} == {
        "CorePart",
        "Node",
        "PowerLost",
        "PowerSupplies",
        "Reboot",
        "Silence",
        "StorageNetwork",
    }


def test_a_failover_of_a_whole_cluster_is_observed_once_whoever_looks_and_how_often() -> None:
    world, steady, restarted = World(), Metrics(), Metrics()
    stories.set_up(world)
    steady.look(world.device())
    world.apply(stories.FAILURE)
    is_restarted = False
    for _ in range(400):
        world.run(0.1)
        steady.look(world.device())
        # Its process starts when the node is fenced and the pods are not Ready yet.
        failover = world.device().status.failover
        is_restarted = is_restarted or (failover is not None and failover.fenced_at is not None)
        if is_restarted:
            restarted.look(world.device())
        if stories.has_recovered(world):
            world.delete_all(stories.FAILURE)
            break
    for _ in range(400):
        world.run(0.1)
        steady.look(world.device())
        restarted.look(world.device())
    assert world.device().status.history
    assert counts(steady) == dict.fromkeys(metrics.PHASES, 1)
    assert "fencing" not in counts(restarted)
    assert counts(restarted)["recovery"] == 1


# --- What is --------------------------------------------------------------------------------------


def test_the_gauges_say_what_the_statuses_say() -> None:
    status = {
        "state": "NeedsAttention",
        "votes": {"total": 3, "present": 2, "needed": 2},
        "master": {"node": "b", "epoch": 4, "phase": "Serving", "since": FAILOVER["detectedAt"]},
        "failover": RECOVERED,
        "reserve": {
            "percent": 50,
            "resources": [
                {"resource": "cpu", "used": "300m", "budget": "4", "capacity": "8"},
                {"resource": "memory", "used": "192Mi", "budget": "8Gi", "capacity": "16Gi"},
            ],
        },
    }
    found = scraped(Metrics(), builders.cluster(device(**status)))
    states = {
        key[2]: value for key, value in found.items() if key[:2] == ("asetwin_device_state", "ase")
    }
    assert {state for state, value in states.items() if value} == {"NeedsAttention"}
    assert len(states) == 5
    assert found["asetwin_votes", "ase"] == found["asetwin_votes_needed", "ase"] == 2
    assert found["asetwin_master_epoch", "ase"] == 4
    assert found["asetwin_master_serving", "ase"] == found["asetwin_failover_open", "ase"] == 1
    assert found["asetwin_displaced_pods", "ase"] == 5
    assert found["asetwin_recovered_pods", "ase"] == 3
    assert found["asetwin_unplaceable_pods", "ase"] == 2
    assert found["asetwin_lost_pods", "ase"] == 1
    assert found["asetwin_reserve_used", "ase", "cpu"] == 0.3
    assert found["asetwin_reserve_budget", "ase", "memory"] == 8 * 1024**3
    assert found["asetwin_reserve_capacity", "ase", "cpu"] == 8
    assert found["asetwin_power_agent_installed",] == found["asetwin_power_agent_up",] == 0


def test_a_power_agent_is_seen_by_its_lease() -> None:
    world = World()
    world.agent.start()
    world.run(2)
    found = scraped_at(world)
    assert (found["asetwin_power_agent_installed",], found["asetwin_power_agent_up",]) == (1, 1)
    world.agent.kill()
    world.run(15)
    found = scraped_at(world)
    assert (found["asetwin_power_agent_installed",], found["asetwin_power_agent_up",]) == (1, 0)


def scraped_at(world: World) -> dict[tuple[str, ...], float]:
    now = world.timeline.wall()
    text = Metrics().render(world.operator.cluster.snapshot(), now=now, monotonic=0.0)
    return read(text.decode())


# --- What happened --------------------------------------------------------------------------------

POD = "/api/v1/namespaces/default/pods/p"


@pytest.mark.parametrize(
    ("step", "answer", "outcome"),
    [
        pytest.param(plan.DeletePod("default", "p", "u"), {}, "done", id="done"),
        pytest.param(
            plan.DeletePod("default", "p", "u"),
            errors.NotFound("n", status=404),
            "already",
            id="gone",
        ),
        pytest.param(
            plan.DeletePod("default", "p", "u"),
            errors.Unavailable("n", status=503),
            "failed",
            id="503",
        ),
        pytest.param(
            plan.Evict("default", "p", "u"),
            errors.TooManyRequests("n", status=429),
            "refused",
            id="budget",
        ),
    ],
)
async def test_an_action_is_counted_by_its_kind_and_what_it_came_to(
    step: plan.Step, answer: object, outcome: str
) -> None:
    one = Metrics()
    api = FakeApi({("delete", POD): answer, ("create", f"{POD}/eviction"): answer})
    executor = Executor(api, Cluster(), Settings("image", "me"), report=one.acted)
    if outcome == "failed":
        with pytest.raises(errors.KubeError):
            await executor.act(plan.Plan(((step,),)))
    else:
        await executor.act(plan.Plan(((step,),)))
    counted = {key: value for key, value in scraped(one).items() if "actions_total" in key[0]}
    assert counted == {("asetwin_actions_total", type(step).__name__, outcome): 1}


def test_turns_are_counted_and_only_one_that_was_done_counts_as_the_last() -> None:
    one = Metrics()
    one.turned("ase", "done", 0.2, ended_at=90.0)
    one.turned("ase", "ended", 0.3, ended_at=95.0)
    one.turned("", "done", 0.1, ended_at=99.0)
    found = scraped(one)
    assert found["asetwin_loop_turns_total", "ase", "done"] == 1
    assert found["asetwin_loop_turns_total", "ase", "ended"] == 1
    assert found["asetwin_loop_turn_seconds_sum", "ase"] == pytest.approx(0.5)
    assert found["asetwin_loop_last_turn_age_seconds", "ase"] == 10
    assert found["asetwin_loop_last_turn_age_seconds", metrics.UNBOUND] == 1


# --- Over HTTP ------------------------------------------------------------------------------------


async def test_the_operator_serves_them() -> None:
    cluster = Cluster()
    body = {"metadata": {"name": "ase", "uid": "u", "resourceVersion": "1"}}
    cluster.apply("asedevices", body | {"status": {"state": "Online"}})
    loop = Loop(FakeApi(), cluster, Executor(FakeApi(), cluster, Settings("image", "me")))
    port = unused_port()
    async with health.serve(loop, port), ClientSession() as session:
        answer = await session.get(f"http://127.0.0.1:{port}/metrics")
        text = await answer.text()
    assert answer.status == 200
    assert answer.content_type == "text/plain"
    assert read(text)["asetwin_device_state", "ase", "Online"] == 1
    assert "process_resident_memory_bytes" in text


async def test_the_power_agent_serves_its_own() -> None:
    probes, port = Health(), unused_port()
    probes.metrics.commanded(Command.KILL, "done", 0.2)
    async with probes.serve(port), ClientSession() as session:
        text = await (await session.get(f"http://127.0.0.1:{port}/metrics")).text()
    assert read(text)["asetwin_power_command_seconds_count", "kill", "done"] == 1


# --- The page -------------------------------------------------------------------------------------


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Name → type and labels, as the page has them."""
    row = re.compile(r"^\| `(asetwin_\w+)` \| (\w+) \| ([^|]*)\|", re.MULTILINE)
    found = row.findall(DOCS.read_text())
    assert len({name for name, _, _ in found}) == len(found)
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in found}


def registered(registries: Iterable[CollectorRegistry]) -> dict[str, tuple[str, frozenset[str]]]:
    """The same, as the registries have them; every family needs a sample to show its labels."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            frozenset(name for one in family.samples for name in one.labels) - {"le"},
        )
        for registry in registries
        for family in registry.collect()
        if family.name.startswith("asetwin_")
    }


def test_the_page_and_the_registries_list_the_same_metrics() -> None:
    one, other = Metrics(), PowerMetrics()
    row = {"resource": "cpu", "used": "1", "budget": "2", "capacity": "4"}
    full = device(failover=RECOVERED, reserve={"percent": 50, "resources": [row]})
    one.look(device())
    one.look(full)
    one.turned("ase", "done", 0.1, ended_at=1.0)
    one.acted(plan.Evict("default", "p", "u"), "done")
    other.commanded(Command.KILL, "done", 0.1)
    scraped(one, builders.cluster(full))
    assert registered([one.registry, other.registry]) == documented()


def test_the_page_names_only_metrics_that_exist() -> None:
    known = documented()
    parts = ("", "_bucket", "_sum", "_count")
    allowed = {f"{name}{part}" for name in known for part in parts}
    outside = re.sub(r"^\|.*$", "", DOCS.read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"\basetwin_\w+", outside)) <= allowed
