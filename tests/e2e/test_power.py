"""Failures as the engine and a person's hands make them: fact, suspicion, proof (design 4.3).

Every test here works on the containers of the kind nodes; the power agent
sees it, and the operator acts on what the agent has seen.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e import engine
from e2e.engine import docker
from e2e.twin import DEVICE, NODE_A, NODE_B, Json, Twin, is_ready
from e2e.workloads import budget, deployment, of, places, preferred, uids, wait_moved_to

AGENT_NAMESPACE = "asetwin-power"
AGENT = "asetwin-power-agent"
WORKERS = {NODE_A: "worker-a", NODE_B: "worker-b"}
STARTED_SOON = "it is started again before its failover has ended"


@pytest.fixture(autouse=True)
def hands_off(twin: Twin) -> Iterator[None]:
    """What these tests do by hand is undone by hand, whatever became of them."""
    yield
    engine.make_right(twin)


def power(twin: Twin, ase_node: str) -> Json:
    found: Json = twin.status("PinnedWorker", WORKERS[ase_node]).get("power") or {}
    return found


def settled(twin: Twin, ase_node: str) -> Json:
    return twin.condition("PinnedWorker", WORKERS[ase_node], "PowerSettled")


def state_of(twin: Twin, ase_node: str) -> str:
    return str(twin.status("AseNode", ase_node).get("state"))


def wait_state(twin: Twin, ase_node: str, state: str, within: float = 40) -> None:
    twin.wait(f"{ase_node} {state}", lambda: state_of(twin, ase_node) == state, within=within)


def boots(twin: Twin) -> list[str]:
    return [one for one in twin.events("AseNode", NODE_A) if one == "NodeRebooted"]


def spread(twin: Twin, replicas: int = 4) -> None:
    twin.apply(deployment(twin, "web", replicas))
    twin.wait("all pods", lambda: len(places(twin, "web")) == replicas, within=60)


# --- Facts: a container that ends, whoever ended it ----------------------------------------------


def test_a_container_stopped_by_hand_is_a_lost_node_until_a_hand_starts_it(twin: Twin) -> None:
    """C29: nothing on it counts, whatever its phase says, and another address is no matter."""
    spread(twin)
    node = twin.nodes[NODE_A]
    address = twin.status("PinnedWorker", "worker-a")["address"]
    engine.lose(twin, NODE_A, "stop", "--time", "1")
    twin.wait("the agent's proof", lambda: power(twin, NODE_A)["observed"] == "Off", within=15)
    finished = engine.state(node)["FinishedAt"]
    assert power(twin, NODE_A)["finishedAt"][:19] == finished[:19]
    wait_moved_to(twin, NODE_B, web=4)
    # A DaemonSet's pod stays on the books as Running, and counts for nothing.
    assert any(
        pod["status"].get("phase") == "Running"
        for pod in twin.all("Pod")
        if pod["spec"].get("nodeName") == node
    )
    time.sleep(3)
    assert not engine.is_running(node), "what a person has stopped, a person starts"

    with _taken(node, address):
        docker("start", node)
        twin.wait_steady(within=120)
    assert places(twin, "web") == [NODE_A] * 2 + [NODE_B] * 2
    assert twin.status("PinnedWorker", "worker-a")["address"] != address
    twin.wait_told("PinnedWorker", "worker-a", "AddressChanged")
    _reaches(twin, NODE_A, NODE_B)


@contextmanager
def _taken(node: str, address: str) -> Iterator[None]:
    """Containers on the kind network, so that the stopped one gets another address.

    The engine gives out the lowest that is free, which need not be the node's at once.
    """
    image = docker("inspect", "-f", "{{.Image}}", node).strip()
    seen = '{{(index .NetworkSettings.Networks "kind").IPAddress}}'
    names: list[str] = []
    try:
        while not names or docker("inspect", "-f", seen, names[-1]).strip() != address:
            assert len(names) < 10, f"nobody is given {address}"
            names.append(f"{node}-placeholder-{len(names)}")
            command = ("run", "-d", "--name", names[-1], "--network", "kind")
            docker(*command, "--entrypoint", "sleep", image, "300")
        yield
    finally:
        docker("rm", "-f", *names)


def _reaches(twin: Twin, source: str, target: str) -> None:
    """A pod on one node is answered by a pod on the other."""

    def is_answered() -> bool:
        # Ready ones: what moves back home still runs for a moment, and then is gone.
        askers, asked = twin.ready_on(source), twin.ready_on(target)
        if not askers or not asked:
            return False
        address = twin.get("Pod", asked[0], twin.namespace)["status"]["podIP"]
        url = f"http://{address}:8080/"
        program = f"import urllib.request as r; print(r.urlopen({url!r}, timeout=5).status)"
        try:
            answer = twin.kubectl(
                "-n", twin.namespace, "exec", askers[0], "--", "python3", "-c", program
            )
        except subprocess.CalledProcessError:
            # No answer yet; what the program said of it stands in the test's own output.
            return False
        return answer.strip() == "200"

    twin.wait("an answer from pod to pod", is_answered)


def test_a_machine_that_died_and_came_back_before_anyone_looked_has_rebooted(twin: Twin) -> None:
    """C30: a failure that heals itself is told, and no failure is claimed to be in force."""
    spread(twin)
    node, told = twin.nodes[NODE_A], len(boots(twin))
    before = engine.state(node)
    # From outside, so that the engine's restart policy starts it again by itself.
    os.kill(int(before["Pid"]), signal.SIGKILL)
    twin.wait("its next run", lambda: engine.state(node)["StartedAt"] != before["StartedAt"])
    twin.wait(
        "the reboot, or the loss if somebody saw it",
        lambda: (
            len(boots(twin)) > told
            or twin.status().get("failover", {}).get("from") == NODE_A
            or (twin.status().get("history") or [{}])[0].get("from") == NODE_A
        ),
        within=60,
    )
    twin.wait_steady(within=120)
    twin.wait("all pods", lambda: len(places(twin, "web")) == 4, within=60)
    assert power(twin, NODE_A)["startedAt"][:19] == engine.state(node)["StartedAt"][:19]


def test_a_container_killed_by_hand_is_seen_before_its_kubelet_is_missed(twin: Twin) -> None:
    node = twin.nodes[NODE_B]
    engine.lose(twin, NODE_B, "kill", unforetold=STARTED_SOON)
    twin.wait("the agent's proof", lambda: power(twin, NODE_B)["observed"] == "Off", within=15)
    seen, ended = power(twin, NODE_B)["observedAt"], power(twin, NODE_B)["finishedAt"]
    # Long before a kubelet's silence would tell, however busy this machine is.
    timeout = twin.device()["spec"]["timing"]["heartbeatTimeoutSeconds"]
    assert 0 <= _seconds(seen) - _seconds(ended) < timeout
    wait_state(twin, NODE_B, "Down")
    docker("start", node)
    twin.wait_steady(within=120)


def _seconds(moment: str) -> float:
    return time.mktime(time.strptime(moment[:19], "%Y-%m-%dT%H:%M:%S"))


# --- Suspicion: proof first -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["paused", "kubelet-stopped", "network-cut"])
def test_a_silent_node_is_fenced_before_its_pods_run_elsewhere(twin: Twin, how: str) -> None:
    """C20: unreachable is not dead; at no moment do two copies run."""
    one = deployment(twin, "db", 1, affinity=preferred(twin.nodes[NODE_A]))
    one["kind"] = "StatefulSet"
    one["spec"] |= {"serviceName": "db"}
    one["spec"].pop("strategy", None)
    # Not the name of another run's container, which may still be on its way out.
    name = f"once-{how}"
    one["spec"]["template"]["spec"]["containers"][0]["name"] = name
    twin.apply(one)
    twin.wait("db-0 on A", lambda: places(twin, "db") == [NODE_A], within=60)
    node, started = twin.nodes[NODE_A], engine.state(twin.nodes[NODE_A])["StartedAt"]

    twin.foretell(NODE_A)
    with engine.counted(twin, name) as copies:
        if how == "paused":
            docker("pause", node)
        elif how == "kubelet-stopped":
            docker("exec", node, "systemctl", "stop", "kubelet")
        else:
            docker("network", "disconnect", "kind", node)
        twin.wait("db-0 on B", lambda: places(twin, "db") == [NODE_B], within=90)
        # The runtimes are asked in turn, which takes longer on a machine that is busy.
        there = twin.nodes[NODE_B]
        twin.wait("its container there", lambda: copies.places[-1:] == [there])
    # Two witnesses: the runtimes, asked all the while, and the clocks of both containers.
    assert copies.looks
    assert copies.most == 1, copies
    (pod,) = of(twin, "db")
    (container,) = pod["status"]["containerStatuses"]
    failover = twin.status().get("failover") or twin.status()["history"][0]
    assert container["state"]["running"]["startedAt"] >= failover["fencedAt"][:19]
    assert failover["fencedAt"] >= failover["detectedAt"]
    twin.wait_told("PinnedWorker", WORKERS[NODE_A], "PowerOff")
    if how == "network-cut":
        # A hand has taken the network away, and without it the machine does not start: a hand
        # gives it back.
        engine.make_right(twin)
    # Fenced, not failed: its power comes back when nothing is left to take away.
    twin.wait("its next run", lambda: engine.state(node)["StartedAt"] != started, within=60)
    twin.wait_steady(within=150)


@pytest.fixture
def no_agent(twin: Twin) -> Iterator[None]:
    """The power agent has left in order."""
    scale_agent(twin, 0)
    yield
    engine.make_right(twin)
    scale_agent(twin, 1)


def scale_agent(twin: Twin, replicas: int) -> None:
    twin.kubectl("-n", AGENT_NAMESPACE, "scale", f"deployment/{AGENT}", f"--replicas={replicas}")
    if replicas:
        rollout = ("rollout", "status", f"deployment/{AGENT}", "--timeout=90s")
        twin.kubectl("-n", AGENT_NAMESPACE, *rollout)
    else:
        twin.wait("no agent", lambda: not twin.all("Pod", AGENT_NAMESPACE), within=60)
        twin.wait("its Lease to be free", lambda: not holder(twin))


def holder(twin: Twin) -> str:
    lease = twin.find("Lease", AGENT, "asetwin-system") or {}
    return str((lease.get("spec") or {}).get("holderIdentity") or "")


@pytest.mark.usefixtures("no_agent")
def test_without_an_agent_a_silent_node_keeps_its_pods_and_says_what_it_waits_for(
    twin: Twin,
) -> None:
    spread(twin)
    before = uids(twin, "web")
    engine.lose(twin, NODE_A, "pause", unforetold="without a proof nothing fails over")
    found = twin.wait(
        "what it waits for",
        lambda: settled(twin, NODE_A).get("reason") == "WaitingForProof" and settled(twin, NODE_A),
        within=40,
    )
    assert "there is no power agent" in found["message"]
    assert state_of(twin, NODE_A) == "Isolated"
    # Longer than any time-out of the Fast profile.
    time.sleep(8)
    assert uids(twin, "web") == before
    assert "failover" not in twin.status()
    docker("unpause", twin.nodes[NODE_A])
    twin.wait_steady(within=60)
    assert uids(twin, "web") == before


def test_an_agent_that_is_killed_midway_goes_on_where_it_was(twin: Twin) -> None:
    spread(twin)
    node = twin.nodes[NODE_A]
    twin.fail(NODE_A, "Node")
    twin.wait("the wish", lambda: power(twin, NODE_A).get("desired") == "Off")
    (agent,) = twin.all("Pod", AGENT_NAMESPACE)
    name = agent["metadata"]["name"]
    twin.kubectl("-n", AGENT_NAMESPACE, "delete", "pod", name, "--force", "--grace-period=0")
    wait_moved_to(twin, NODE_B, web=4)
    assert not engine.is_running(node)
    twin.repair_all()
    twin.wait("the machine", lambda: engine.is_running(node), within=60)
    twin.wait_steady(within=120)


@pytest.mark.usefixtures("no_agent")
def test_an_agent_that_lies_is_contradicted_by_the_kubelet(twin: Twin) -> None:
    """It reports Off for a container that runs; the Lease says otherwise."""
    spread(twin)
    before = uids(twin, "web")

    def claim(observed: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        lease = {"holderIdentity": "liar", "renewTime": f"{now}.000000Z"}
        lease_patch = json.dumps({"spec": lease | {"leaseDurationSeconds": 6}})
        twin.kubectl(
            "-n", "asetwin-system", "patch", "lease", AGENT, "--type=merge", "-p", lease_patch
        )
        said = {"observed": observed, "method": "Liar", "proof": "trust me"}
        said |= {"observedAt": f"{now}Z"} if power(twin, NODE_A).get("method") != "Liar" else {}
        twin.kubectl(
            *("patch", "pw", WORKERS[NODE_A], "--subresource=status", "--type=merge"),
            *("-p", json.dumps({"status": {"power": said}})),
        )

    try:
        deadline = time.monotonic() + 30
        while (found := settled(twin, NODE_A)).get("reason") != "PowerContradicted":
            assert time.monotonic() < deadline, twin.describe()
            claim("Off")
            time.sleep(0.5)
        assert "its kubelet is alive" in found["message"]
    finally:
        release = '{"spec":{"holderIdentity":""}}'
        twin.kubectl("-n", "asetwin-system", "patch", "lease", AGENT, "--type=merge", "-p", release)
    twin.wait_steady(within=60)
    # What a lie may cost before it is found out: pods that run elsewhere, never two masters.
    twin.wait("all pods", lambda: len(places(twin, "web")) == 4, within=60)
    assert len(before) == 4


# --- Flapping -------------------------------------------------------------------------------------


def test_short_silences_of_a_kubelet_cause_nothing(twin: Twin) -> None:
    """C25: spells shorter than the detection window."""
    spread(twin)
    before, node = uids(twin, "web"), twin.nodes[NODE_A]
    epoch = twin.status()["master"]["epoch"]
    for _ in range(3):
        docker("pause", node)
        time.sleep(4)
        docker("unpause", node)
        time.sleep(2)
    assert uids(twin, "web") == before
    assert "failover" not in twin.status()
    assert twin.status()["master"]["epoch"] == epoch


def test_an_api_server_that_was_away_makes_nobody_silent(twin: Twin) -> None:
    """Longer than the kubelets may be silent; and that of A is the last to come back."""
    spread(twin)
    before, epoch = uids(twin, "web"), twin.status()["master"]["epoch"]
    history = twin.status().get("history") or []
    runs = [engine.state(node)["StartedAt"] for node in twin.nodes.values()]
    away = float(twin.device()["spec"]["timing"]["heartbeatTimeoutSeconds"]) + 8.0
    with engine.api_server_halted(twin):
        docker("pause", twin.nodes[NODE_A])
        time.sleep(away)
    engine.wait_renewed(twin, twin.nodes[NODE_B], times=2)
    docker("unpause", twin.nodes[NODE_A])
    for node in twin.nodes.values():
        engine.wait_renewed(twin, node, times=2)
    twin.wait_steady(within=60)
    assert [engine.state(node)["StartedAt"] for node in twin.nodes.values()] == runs
    assert uids(twin, "web") == before
    assert (twin.status().get("history") or []) == history
    assert twin.status()["master"]["epoch"] == epoch


@pytest.fixture
def strict(twin: Twin) -> Iterator[None]:
    """One failure is allowed, the second puts a node into quarantine."""
    given = twin.device()["spec"]["quarantine"]
    told = {"spec": {"quarantine": {"failures": 1, "windowSeconds": 3600}}}
    forgive(twin)
    twin.kubectl("patch", "ased", DEVICE, "--type=merge", "-p", json.dumps(told))
    yield
    forgive(twin)
    restored = json.dumps({"spec": {"quarantine": given}})
    twin.kubectl("patch", "ased", DEVICE, "--type=merge", "-p", restored)


def forgive(twin: Twin) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1))
    patch = json.dumps({"spec": {"failuresForgivenUntil": now}})
    twin.kubectl("patch", "asen", NODE_A, "--type=merge", "-p", patch)


@pytest.mark.usefixtures("strict")
def test_a_node_that_fails_too_often_stays_out_until_it_is_forgiven(twin: Twin) -> None:
    """C25: quarantine, and the field that lifts it."""
    node = twin.nodes[NODE_A]
    # The moment up to which failures are forgiven lies a second ahead.
    time.sleep(2)
    for _ in range(2):
        engine.lose(twin, NODE_A, "kill", unforetold=STARTED_SOON)
        wait_state(twin, NODE_A, "Down")
        docker("start", node)
        twin.wait("back", lambda: state_of(twin, NODE_A) in ("Up", "Quarantined"), within=90)
    wait_state(twin, NODE_A, "Quarantined")
    assert "failuresForgivenUntil" in twin.status("AseNode", NODE_A)["summary"]
    assert twin.footprint()[node]["unschedulable"]
    time.sleep(5)
    assert state_of(twin, NODE_A) == "Quarantined"
    forgive(twin)
    twin.wait_steady(within=60)


# --- Budgets and classes of pods on a dead node ---------------------------------------------------


def test_a_budget_does_not_hold_up_a_dead_node(twin: Twin) -> None:
    """C01: the only replica, guarded by a budget, and one that tolerates everything (C03)."""
    on_a = preferred(twin.nodes[NODE_A])
    twin.apply(
        deployment(twin, "web", 1, affinity=on_a),
        budget(twin, "web", "web", minAvailable=1),
        deployment(twin, "stubborn", 1, affinity=on_a, tolerations=[{"operator": "Exists"}]),
    )
    both = ("web", "stubborn")
    twin.wait("both on A", lambda: all(places(twin, x) == [NODE_A] for x in both), within=60)
    engine.lose(twin, NODE_A, "kill", unforetold="what tolerates all is put on the dead node again")
    wait_moved_to(twin, NODE_B, web=1)
    # The scheduler puts it where it would like to be, dead or not; deleting it without end
    # would change nothing.
    (problem,) = twin.status()["failover"]["unplaceable"]
    assert problem["pod"].startswith(f"{twin.namespace}/stubborn-")
    assert (problem["reason"], "tolerates every taint" in problem["message"]) == ("Taint", True)
    (pod,) = uids(twin, "stubborn")
    docker("start", twin.nodes[NODE_A])
    twin.wait_steady(within=120)
    twin.wait("it to run where it was", lambda: places(twin, "stubborn") == [NODE_A], within=60)
    assert uids(twin, "stubborn") == {pod}


def test_which_pods_move_stay_and_are_lost(twin: Twin) -> None:
    """C05 on a dead node: DaemonSet and mirror pods stay, bare ones are lost, ended ones rest."""
    node = twin.nodes[NODE_A]
    pinned = {"nodeSelector": {"kubernetes.io/hostname": node}}
    one = deployment(twin, "mover", 1, affinity=preferred(node))
    template = one["spec"]["template"]
    daemon: Json = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "everywhere", "namespace": twin.namespace},
        "spec": {
            "selector": {"matchLabels": {"app": "everywhere"}},
            "template": {
                "metadata": {"labels": {"app": "everywhere"}},
                "spec": {
                    "containers": template["spec"]["containers"],
                    "tolerations": [{"operator": "Exists"}],
                },
            },
        },
    }
    image = template["spec"]["containers"][0]["image"]
    bare = _bare(twin, "bare", image, ["sleep", "3600"]) | {}
    ended = _bare(twin, "ended", image, ["true"])
    for pod in (bare, ended):
        pod["spec"] |= pinned
    twin.apply(one, daemon, bare, ended)
    twin.wait("mover on A", lambda: places(twin, "mover") == [NODE_A], within=60)
    twin.wait(
        "the bare pods",
        lambda: (
            twin.get("Pod", "bare", twin.namespace)["status"].get("phase") == "Running"
            and twin.get("Pod", "ended", twin.namespace)["status"].get("phase") == "Succeeded"
        ),
        within=60,
    )
    twin.wait(
        "the DaemonSet's pods",
        lambda: sum(is_ready(pod) for pod in of(twin, "everywhere")) >= 2,
        within=60,
    )
    stays = {
        pod["metadata"]["uid"] for pod in of(twin, "everywhere") if pod["spec"]["nodeName"] == node
    }

    engine.lose(twin, NODE_A, "kill")
    wait_moved_to(twin, NODE_B, mover=1)

    failover = twin.status()["failover"]
    assert f"{twin.namespace}/bare" in failover["lostPods"]
    assert f"{twin.namespace}/ended" not in failover["lostPods"]
    assert twin.find("Pod", "bare", twin.namespace) is None
    # Kubernetes' own taint manager takes what has ended as well; nobody counts it.
    assert stays <= {pod["metadata"]["uid"] for pod in of(twin, "everywhere")}
    docker("start", node)
    twin.wait_steady(within=120)


def _bare(twin: Twin, name: str, image: str, command: list[str]) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": twin.namespace, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "only",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": command,
                    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                }
            ],
        },
    }
