"""The simulated machines and power agent, and that nothing moves without the agent's proof."""

import pytest

from asetwin.model.power import AGENT_LEASE
from asetwin.power.drivers import Machine, Network
from asetwin.sim import agents, bodies, invariants, kubelets
from asetwin.sim.bodies import Json
from asetwin.sim.world import Options, World
from sim import stories

A, B = "asetwin-worker", "asetwin-worker2"
REPLICAS = 6
"""Of the sample workload."""


def with_agent(*, seed: int = 0, jitter: float = 0.0, is_quiet: bool = False) -> World:
    """A device in service, whose power the agent keeps."""
    world = World(seed=seed, options=Options(jitter=jitter, is_quiet=is_quiet))
    invariants.watch(world)
    world.agent.start()
    stories.set_up(world)
    return world


def power_of(world: World, name: str = "worker-a") -> Json:
    power: Json = world.server.read("pinnedworkers", name)["status"]["power"]
    return power


def renewed(world: World, name: str, namespace: str = "kube-node-lease") -> str:
    return str(world.server.read("leases", name, namespace)["spec"]["renewTime"])


# --- Leases of the kubelets -----------------------------------------------------------------------


def test_every_kubelet_renews_its_lease() -> None:
    world = World()
    world.run(5)
    before = [renewed(world, name) for name in world.kubelets]
    world.run(kubelets.BEAT_SECONDS)
    assert all(renewed(world, name) > old for name, old in zip(world.kubelets, before, strict=True))


@pytest.mark.parametrize("what", ["stop", "pause", "silence", "cut"])
def test_a_machine_that_nobody_hears_does_not_renew(what: str) -> None:
    world = World()
    world.run(5)
    getattr(world.machines[A], what)()
    before, other = renewed(world, A), renewed(world, B)
    world.run(30)
    assert renewed(world, A) == before
    assert renewed(world, B) > other


@pytest.mark.parametrize("what", ["stop", "pause", "silence"])
def test_a_start_ends_whatever_a_hand_has_done(what: str) -> None:
    world = World()
    world.run(5)
    getattr(world.machines[A], what)()
    world.run(30)
    before = renewed(world, A)
    world.machines[A].start()
    world.run(agents.BOOT_SECONDS + kubelets.BEAT_SECONDS)
    assert renewed(world, A) > before
    assert world.machines[A].machine is Machine.RUNNING


@pytest.mark.parametrize(("what", "undo"), [("pause", "start"), ("cut", "restore")])
def test_a_machine_that_is_struck_while_it_boots_is_heard_when_that_is_over(
    what: str, undo: str
) -> None:
    world = World()
    world.run(5)
    machine = world.machines[A]
    machine.stop()
    world.run(5)
    machine.start()
    getattr(machine, what)()
    before = renewed(world, A)
    world.run(30)
    assert renewed(world, A) == before
    getattr(machine, undo)()
    world.run(kubelets.BEAT_SECONDS)
    assert renewed(world, A) > before


def test_a_lease_goes_with_its_node_and_comes_back_with_it() -> None:
    world = World()
    world.run(5)
    world.server.delete("nodes", A)
    world.run(kubelets.BEAT_SECONDS)
    assert world.server.find("leases", A, "kube-node-lease") is None


# --- The machines ---------------------------------------------------------------------------------


def test_a_machine_that_was_stopped_before_it_has_booted_does_not_boot() -> None:
    world = World()
    machine = world.machines[A]
    machine.stop()
    machine.start()
    world.run(agents.BOOT_SECONDS / 2)
    machine.stop()
    world.run(10)
    assert not world.kubelets[A].is_on


def test_a_restart_is_another_run() -> None:
    world = World()
    world.run(5)
    world.machines[A].restart()
    assert world.machines[A].started_at == world.timeline.wall()
    assert world.kubelets[A].is_on


# --- The agent ------------------------------------------------------------------------------------


def test_the_agent_tells_what_it_sees() -> None:
    world = with_agent()
    seen = power_of(world)
    assert (seen["observed"], seen["method"]) == ("On", "Docker")
    assert renewed(world, AGENT_LEASE, "asetwin-system")


def test_what_a_person_has_stopped_stays_off() -> None:
    world = with_agent()
    world.machines[A].stop()
    world.run(30)
    assert (power_of(world)["observed"], power_of(world)["desired"]) == ("Off", "On")
    assert world.machines[A].machine is Machine.STOPPED


def test_what_the_agent_has_stopped_it_starts_again_even_after_its_own_death() -> None:
    world = with_agent()
    world.apply(stories.FAILURE)
    world.run_until(lambda: power_of(world)["observed"] == "Off", within=5)
    world.agent.kill()
    world.run(20)
    world.delete_all(stories.FAILURE)
    world.agent.start()
    world.run_until(lambda: power_of(world)["observed"] == "On", within=10)
    assert world.machines[A].started_at > world.timeline.wall() - 10


def test_an_agent_that_is_killed_leaves_its_lease_and_one_that_leaves_does_not() -> None:
    world = with_agent()
    world.agent.kill()
    world.run(60)
    lease = world.server.read("leases", AGENT_LEASE, "asetwin-system")
    assert lease["spec"]["holderIdentity"] == agents.HOLDER
    world.agent.start()
    world.run(5)
    world.agent.leave()
    lease = world.server.read("leases", AGENT_LEASE, "asetwin-system")
    assert lease["spec"]["holderIdentity"] == ""


def test_a_storage_port_is_cut_before_the_power_goes() -> None:
    world = with_agent()
    seen: list[tuple[str, str]] = []

    def look() -> None:
        now = power_of(world)["desired"], power_of(world)["observed"]
        if not seen or seen[-1] != now:
            seen.append(now)

    world.step_observers.append(look)
    port = {"kind": "HardwareFailure", "apiVersion": "asetwin.dev/v1alpha1"}
    world.apply(
        port | {"metadata": {"name": "p"}, "spec": {"node": "node-a", "component": "Port3"}}
    )
    world.run(5)
    assert seen == [
        ("On", "On"),
        ("Isolated", "On"),
        ("Isolated", "Isolated"),
        ("Off", "Isolated"),
        ("Off", "Off"),
    ]
    assert world.machines[A].network is Network.OPEN


# --- Fencing, whatever happens --------------------------------------------------------------------


def test_with_required_fencing_a_silent_node_keeps_its_pods() -> None:
    # Case C20, first run: its containers go on, and nobody can prove the contrary.
    world = World()
    invariants.watch(world)
    stories.set_up(world)
    before = {bodies_of(one) for one in world.pods("shop")}
    world.machines[A].silence()
    # Kubernetes itself lets a Deployment's pods go after five minutes.
    world.run(200)
    assert {bodies_of(one) for one in world.pods("shop")} == before
    assert world.server.read("asenodes", "node-a")["status"]["state"] == "Isolated"


def bodies_of(pod: Json) -> tuple[str, str]:
    return pod["metadata"]["uid"], pod["spec"].get("nodeName", "")


def _count_writes() -> int:
    world = with_agent()
    before = world.operator.wire.writes
    stories.fail_and_repair(world)
    return world.operator.wire.writes - before


WRITES = _count_writes()


@pytest.mark.parametrize("number", range(1, WRITES + 1, 12))
def test_the_operator_may_die_at_any_write_while_an_agent_keeps_the_power(number: int) -> None:
    world = with_agent()
    world.crash_after(number)
    stories.fail_and_repair(world)
    assert any("killed after" in text for _, text in world.trace)
    assert [one.settings.node for one in world.masters() if one.is_serving] == ["node-b"]
    assert power_of(world)["observed"] == "On"


HANDS = ("stop", "start", "pause", "silence", "restart")


@pytest.mark.parametrize("seed", range(3))
def test_whatever_hands_do_nothing_moves_without_proof_and_all_is_well_in_the_end(
    seed: int,
) -> None:
    # The invariants hold at every step: forced deletions only from machines that stand still,
    # and never two masters.
    world = with_agent(seed=seed, jitter=0.3, is_quiet=True)
    rng = world.timeline.rng
    for _ in range(12):
        world.run(rng.uniform(0.0, 15.0))
        node = rng.choice((A, B))
        deed = rng.choice((*HANDS, "agent-gone", "agent-back", "operator"))
        if deed == "agent-gone":
            world.agent.kill()
        elif deed == "agent-back":
            world.agent.start()
        elif deed == "operator":
            world.crash_after(rng.randint(1, 9))
        else:
            getattr(world.machines[node], deed)()
    world.agent.start()
    for machine in world.machines.values():
        machine.start()
    forgiven = {"spec": {"failuresForgivenUntil": "2026-01-01T01:00:00Z"}}
    for name in ("node-a", "node-b"):
        world.patch("AseNode", name, forgiven)
    world.run_until(lambda: stories.is_calm(world), within=200)
    world.run(1)  # The nodes' statuses are written after the device's.
    assert [world.machines[node].machine for node in (A, B)] == [Machine.RUNNING] * 2
    nodes = [world.server.read("asenodes", name)["status"] for name in ("node-a", "node-b")]
    assert [one["state"] for one in nodes] == ["Up", "Up"]
    web = world.pods("shop")
    assert len(web) == REPLICAS
    assert all(bodies.is_ready(one) for one in web)


# --- What was taken is given back -----------------------------------------------------------------


@pytest.mark.parametrize(
    "gone",
    [("AseDevice", "ase"), ("AseNode", "node-a"), ("PinnedWorker", "worker-a")],
    ids=["device", "node", "worker"],
)
@pytest.mark.parametrize("component", ["Node", "Port3"])
def test_a_machine_that_is_off_by_our_hand_runs_again_when_nobody_claims_it_any_more(
    gone: tuple[str, str], component: str
) -> None:
    # A device that was deleted in the middle of a failover left its node's container off.
    world = with_agent()
    body = {"kind": "HardwareFailure", "apiVersion": "asetwin.dev/v1alpha1"}
    world.apply(
        body | {"metadata": {"name": "f"}, "spec": {"node": "node-a", "component": component}}
    )
    world.run_until(lambda: power_of(world)["observed"] == "Off", within=10)
    world.delete(*gone)
    machine = world.machines[A]
    world.run_until(lambda: machine.is_running and machine.network is Network.OPEN, within=20)
    if gone[0] == "AseDevice":
        world.run_until(lambda: not world.server.listed("asedevices"), within=20)
        assert power_of(world)["desired"] == "On"
    world.run(1)


def test_a_device_goes_only_when_its_machines_run_again_and_waits_for_no_silent_agent() -> None:
    world = with_agent()
    body = {"kind": "HardwareFailure", "apiVersion": "asetwin.dev/v1alpha1"}
    world.apply(body | {"metadata": {"name": "f"}, "spec": {"node": "node-a", "component": "Node"}})
    world.run_until(lambda: power_of(world)["observed"] == "Off", within=10)
    world.agent.kill()
    world.delete("AseDevice", "ase")
    world.run(2)
    assert world.server.listed("asedevices")
    world.run_until(lambda: not world.server.listed("asedevices"), within=20)
    assert world.machines[A].machine is Machine.STOPPED
    # It finds out when it is back.
    world.agent.start()
    world.run_until(lambda: world.machines[A].is_running, within=5)
    world.run(1)


def test_what_a_person_has_stopped_stays_so_when_the_device_goes() -> None:
    world = with_agent()
    world.machines[A].stop()
    world.run(5)
    world.delete("AseDevice", "ase")
    world.run_until(lambda: not world.server.listed("asedevices"), within=20)
    world.run(5)
    assert world.machines[A].machine is Machine.STOPPED


def test_a_fence_once_begun_is_finished_whatever_the_kubelet_says_meanwhile() -> None:
    # A frozen machine is thawed to be killed. Its kubelet renewed its Lease in between, the
    # operator took the node for alive, and it was switched on again with its pods lost.
    world = with_agent()
    before = {bodies_of(one)[0] for one in world.pods("shop")}
    world.machines[A].pause()
    world.run_until(lambda: not world.machines[A].is_running, within=30)
    world.run_until(lambda: bool(world.device().status.failover), within=2)
    world.run_until(lambda: stories.is_calm(world), within=120)
    world.run(1)
    assert {bodies_of(one)[0] for one in world.pods("shop")} != before
    assert world.device().status.history[0].from_node == "node-a"
    assert world.machines[A].is_running


@pytest.mark.parametrize("after", [1, 3, 6, 9, 12, 15])
def test_an_operator_that_comes_back_to_a_machine_that_is_off_believes_its_agent(
    after: int,
) -> None:
    # It found the Lease of the dead kubelet and took it for a sign of life, for ever.
    world = with_agent()
    world.crash_after(after)
    body = {"kind": "HardwareFailure", "apiVersion": "asetwin.dev/v1alpha1"}
    world.apply(body | {"metadata": {"name": "f"}, "spec": {"node": "node-a", "component": "Node"}})
    world.run(30)
    conditions = world.server.read("pinnedworkers", "worker-a")["status"]["conditions"]
    (settled,) = [one for one in conditions if one["type"] == "PowerSettled"]
    assert settled["reason"] == "PowerAsDesired"
    world.delete("HardwareFailure", "f")
    world.run_until(lambda: stories.is_calm(world), within=120)
    world.run(1)
