"""Random scenarios: one seed, one device, one bad hour, and the question what is left of it.

A seed makes a scenario in the format of :mod:`~asetwin.sim.files`, so that
``asetwin simulate`` replays exactly what was found. It has three parts: a
time of trouble; then everything is put right, and the twin must be as if
nothing had happened; then one node fails with nobody in the way, must be
evacuated, and come back.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from asetwin.sim import files, invariants, plays, samples
from asetwin.sim.apiserver import Change
from asetwin.sim.bodies import Json
from asetwin.sim.clock import Random
from asetwin.sim.world import World

LENGTH_SECONDS = 3600.0
"""A seed is at least so much device time."""
MOST_SHRINKING = 120
"""So many plays are spent on making a scenario shorter."""


class Profile(StrEnum):
    """What may happen."""

    ALL = "all"
    HARDWARE = "hardware"
    """Hardware fails and is repaired; nothing else happens, no update either."""
    FAULTS = "faults"
    """Also the operator dies, requests fail, watches break, machines are switched by hand."""
    PEOPLE = "people"
    """Also somebody cordons, taints, deletes, scales and pauses."""


@dataclass(slots=True)
class Finding:
    """A seed that did not go as it should, and the shortest scenario that shows it."""

    seed: int
    what: str
    objections: list[str]
    content: Json


@dataclass(slots=True)
class Outcome:
    """What one seed came to."""

    seed: int
    failures: int = 0
    device_seconds: float = 0.0
    coverage: Counter[str] = field(default_factory=Counter)
    finding: Finding | None = None


# --- Scenarios ------------------------------------------------------------------------------------


def generate(seed: int, profile: Profile = Profile.ALL) -> Json:
    """The scenario of a seed, as its file would have it."""
    return _Maker(Random(f"{profile.value}/{seed}"), seed, profile).make()


class _Maker:
    """Draws one scenario."""

    def __init__(self, rng: Random, seed: int, profile: Profile) -> None:
        self.rng = rng
        self.seed = seed
        self.profile = profile
        self.is_fast = rng.random() < 0.7
        self.has_agent = rng.random() < 0.7
        self.nodes = ["node-a", "node-b"] if rng.random() < 0.96 else ["node-a"]
        self.gpus = rng.choice((0, 1, 1, 2))
        self.workloads = self._workloads()
        self.is_crowded = self._crowd()
        self.failures = 0
        self.updates: list[str] = []

    def make(self) -> Json:
        rng = self.rng
        events: list[Json] = []
        now = 0.0
        if self.profile in (Profile.ALL, Profile.PEOPLE) and rng.random() < 0.3:
            what = _node(self._worker(), {"unschedulable": True})
            events.append({"at": 0.0, "patch": what})
        for _ in range(rng.randint(4, 14)):
            now += rng.choice((rng.uniform(0, 0.5), rng.uniform(0, 6), rng.uniform(5, 240)))
            for verb, given in self._deed(now):
                events.append({"at": round(now, 2), verb: given})
        while self.failures < 2:
            now += rng.uniform(5, 60)
            events.append({"at": round(now, 2), "fail": [self._component(is_fatal=True)]})
        healed = round(now + rng.uniform(1, 120))
        # Long enough for a reboot that goes on, a return, and pods that go back one by one; and for
        # a controller to try again that a quota has refused, which may wait for 1000 s and jitter.
        rest = 1600 if self.is_fast else 2700
        exam = max(healed + rest, LENGTH_SECONDS - 2 * rest)
        lost = rng.choice(self.nodes)
        events = sorted([*events, *self._wishes(events, healed)], key=lambda one: one["at"])
        events += [
            {"at": healed, "heal": True},
            {"at": exam, "fail": [f"{lost}/Node"]},
            {"at": exam + rest, "repair": ["all"]},
        ]
        self.failures += 1
        # Where all is full, the pods that waited may have taken what another one would go back to.
        shared: Json = {} if self.is_crowded else {"balanced": lost}
        expect: list[Json] = [{"at": exam, "calm": True}, {"calm": True, **shared}]
        if len(self.nodes) > 1:
            # Sooner than Kubernetes itself would give the node up.
            soon = exam + (60 if self.is_fast else 240)
            expect.insert(1, {"at": soon, "evacuated": lost, "nodes": {lost: "Down"}})
        return {
            "name": f"seed {self.seed} of {self.profile.value}",
            "seed": self.seed,
            "jitter": rng.choice((0.0, 0.2, 0.5)),
            **self._refusals(),
            "timing": "Fast" if self.is_fast else "Realistic",
            "powerAgent": self.has_agent,
            "device": self._device(),
            "nodes": {name: {"hardware": {"gpus": self.gpus}} for name in self.nodes},
            "workloads": self.workloads,
            "events": events,
            "expect": expect,
            "end": exam + 2 * rest,
        }

    def _worker(self) -> str:
        """The Kubernetes Node of one of the device nodes."""
        return samples.worker_node(self.rng.randrange(len(self.nodes)))

    def _device(self) -> Json:
        rng = self.rng
        spec: Json = {"shares": [{"name": "data", "protocol": "NFS", "capacity": "1Gi"}]}
        if self.is_crowded:
            spec["reserve"] = {"percent": 100}
        if rng.random() < 0.2:
            spec["fencing"] = "BestEffort"
        if rng.random() < 0.2:
            spec["master"] = {"failback": True}
        if rng.random() < 0.7:
            spec["quarantine"] = {"failures": 100, "windowSeconds": 3600}
        timing: Json = {}
        if rng.random() < 0.5:
            timing["heartbeatTimeoutSeconds"] = rng.choice((6, 12, 40))
        if rng.random() < 0.3:
            # Nothing but the Lease keeps two masters apart then.
            timing["masterBootSeconds"] = 0
        if timing:
            spec["timing"] = timing
        return spec

    def _workloads(self) -> list[Json]:
        rng = self.rng
        found: list[Json] = [{"name": "shop/web", "replicas": rng.randint(1, 4)}]
        if rng.random() < 0.4:
            found[0]["budget"] = {rng.choice(("maxUnavailable", "minAvailable")): 1}
        if rng.random() < 0.3:
            # A dead pod and its replacement must not be counted twice.
            found[0]["cpu"] = "900m"
        if rng.random() < 0.25:
            found.append({"name": "archive/ledger", "share": "data"})
        if rng.random() < 0.25:
            local = {"nodeLocal": "64Mi"} if rng.random() < 0.6 else {}
            replicas = rng.randint(1, 2)
            found.append({"name": "shop/db", "kind": "StatefulSet", "replicas": replicas, **local})
        if self.gpus and rng.random() < 0.3:
            found.append({"name": "vision/detector", "gpus": 1})
        for one in found:
            one["startSeconds"] = rng.choice((0.5, 1, 5))
        return found

    def _crowd(self) -> bool:
        """Now and then so much, without a reserve, that a failover drives pods out."""
        # Dice of its own, so that all other seeds stay what they were.
        rng = Random(f"{self.profile.value}/{self.seed}/crowd")
        if len(self.nodes) < 2 or rng.random() >= 0.1:
            return False
        cpu, replicas = rng.choice((("700m", 3), ("1500m", 2)))
        vital: Json = {"name": "vital/core", "cpu": cpu, "replicas": replicas, "priority": 1000}
        if rng.random() < 0.3:
            vital["budget"] = {"maxUnavailable": 1}
        self.workloads.append({**vital, "startSeconds": 1})
        web = self.workloads[0]
        web.update(cpu="700m", replicas=max(3, web["replicas"]))
        return True

    def _wishes(self, events: Sequence[Json], healed: float) -> list[Json]:
        """Now and then what is wanted changes soon after something else has happened.

        A workload is deleted, perhaps while its pods move, or somebody's quota lets none in.
        """
        # Dice of its own, so that all other seeds stay what they were.
        rng = Random(f"{self.profile.value}/{self.seed}/wishes")
        found: list[Json] = []
        if self.profile not in (Profile.ALL, Profile.PEOPLE) or rng.random() >= 0.3:
            return found
        for _ in range(rng.randint(1, 3)):
            before = rng.choice(events)["at"] if events else 0.0
            at = round(min(before + rng.uniform(0, 20), healed), 2)
            namespace, _, name = rng.choice(self.workloads)["name"].partition("/")
            if rng.random() < 0.5:
                hard = rng.choice(({"pods": str(rng.randint(0, 4))}, {"requests.cpu": "1"}))
                about = {"name": plays.FOREIGN_QUOTA, "namespace": namespace}
                tight = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": about}
                found.append({"at": at, "apply": [{**tight, "spec": {"hard": hard}}]})
            else:
                kind = "StatefulSet" if name == "db" else "Deployment"
                about = {"name": name, "namespace": namespace}
                gone = {"apiVersion": "apps/v1", "kind": kind, "metadata": about}
                found.append({"at": at, "delete": [gone]})
        return found

    def _refusals(self) -> Json:
        """Now and then kubelets are refused claims at first."""
        # Dice of its own, so that all other seeds stay what they were.
        rng = Random(f"{self.profile.value}/{self.seed}/mounts")
        is_wanted = self.profile in (Profile.ALL, Profile.FAULTS) and rng.random() < 0.25
        return {"mountRefusals": rng.choice((0.3, 1.0))} if is_wanted else {}

    def _component(self, *, is_fatal: bool = False) -> str:
        rng = self.rng
        self.failures += 1
        fatal = ("Node", "Motherboard", "DIMM", "OSDisk", "Port3", "Port4")
        gpu = [f"GPU{number + 1}" for number in range(self.gpus)]
        mild = ("PSU1", "PSU2", "Port1", "Port6", "Disk1", "Disk2", *gpu)
        part = rng.choice(fatal if is_fatal or rng.random() < 0.6 else mild)
        return f"{rng.choice(self.nodes)}/{part}"

    # What happens; each answers with the verbs of one moment.

    def _deed(self, now: float) -> list[tuple[str, Any]]:
        deeds: list[tuple[int, Callable[[], list[tuple[str, Any]]]]] = [
            (8, lambda: [("fail", [self._component()])]),
            (5, lambda: [("repair", [self.rng.choice(("all", *self.nodes))])]),
            (2, self._reboot),
            (1, lambda: [("witness", self.rng.choice(("online", "offline")))]),
        ]
        if self.profile is not Profile.HARDWARE:
            deeds += [(3, self._update)]
        if self.profile in (Profile.ALL, Profile.FAULTS):
            deeds += [(9, self._fault), (3, self._hand)]
        if self.profile in (Profile.ALL, Profile.PEOPLE):
            deeds += [(7, self._person)]
        weights, acts = zip(*deeds, strict=True)
        chosen: list[tuple[str, Any]] = self.rng.choices(acts, weights)[0]()
        return chosen

    def _reboot(self) -> list[tuple[str, Any]]:
        self.failures += 1
        return [("reboot", [self.rng.choice(self.nodes)])]

    def _update(self) -> list[tuple[str, Any]]:
        rng = self.rng
        self.updates.append(f"update-{len(self.updates) + 1}")
        what: Json = {"name": self.updates[-1]}
        what["type"] = rng.choice(("DeviceSoftware", "Kubernetes"))
        if rng.random() < 0.4:
            what["drainTimeoutSeconds"] = rng.choice((1, 10, 60))
            what["onDrainTimeout"] = rng.choice(("Wait", "Fail", "Force"))
        if rng.random() < 0.2:
            what["allowUnready"] = True
        return [("update", what)]

    def _hand(self) -> list[tuple[str, Any]]:
        verb = self.rng.choice(("stop", "start", "pause", "silence", "restart"))
        return [(verb, self.rng.choice(self.nodes))]

    def _fault(self) -> list[tuple[str, Any]]:
        rng = self.rng
        lag = {"delay": rng.choice((0.2, 1, 3)), "twice": 0.2, "seconds": rng.randint(5, 60)}
        choices: list[tuple[str, Any]] = [
            *[("operator", {"crashAfter": rng.randint(1, 25)})] * 4,
            *[("faults", {"rate": rng.choice((0.1, 0.3, 0.6)), "seconds": rng.randint(2, 60)})] * 3,
            ("operator", rng.choice(("stop", "start"))),
            *[("watch", rng.choice(("deaf", "hears", "hears")))] * 2,
            *[("watch", lag)] * 2,
            ("clock", rng.choice((-40, -2, 3, 90))),
        ]
        if self.has_agent:
            choices += [("agent", rng.choice(("gone", "back", "back")))] * 2
        return [rng.choice(choices)]

    def _person(self) -> list[tuple[str, Any]]:
        rng = self.rng
        node = self._worker()
        taint = {"key": plays.FOREIGN_TAINT, "effect": rng.choice(("NoSchedule", "NoExecute"))}
        workload = rng.choice(self.workloads)
        pods = {"workload": workload["name"], "force": rng.random() < 0.3}
        quota = {"kind": "ResourceQuota", "name": "asetwin-reserve", "namespace": "shop"}
        own = {"apiVersion": "v1", "kind": "ResourceQuota", "spec": {"hard": {"pods": "50"}}}
        own["metadata"] = {"name": "own", "namespace": "shop"}
        scale = {"name": "shop/web", "replicas": rng.randint(0, 5)}
        failed = rng.choice(self.nodes)
        choices: list[tuple[str, Any]] = [
            ("patch", _node(node, {"unschedulable": rng.random() < 0.6 or None})),
            ("patch", _node(node, {"taints": [taint]})),
            ("deletePods", pods),
            ("scale", scale),
            ("patch", {**quota, "patch": {"spec": {"hard": {"pods": "3"}}}}),
            ("apply", [own]),
            ("patch", _device_patch({"paused": rng.choice((["maintenance"], []))})),
            ("delete", [_ours("PinnedWorker", f"worker-{failed[-1]}")]),
            ("delete", [_ours("AseNode", failed)]),
            ("forgive", failed),
        ]
        if self.updates:
            update = rng.choice(self.updates)
            paused = {"spec": {"paused": rng.random() < 0.5}}
            choices += [("delete", [_ours("DeviceUpdate", update)])] * 2
            choices += [("patch", {"kind": "DeviceUpdate", "name": update, "patch": paused})]
        return [rng.choice(choices)]


def _node(name: str, spec: Json) -> Json:
    return {"kind": "Node", "name": name, "patch": {"spec": spec}}


def _device_patch(spec: Json) -> Json:
    return {"kind": "AseDevice", "name": "ase", "patch": {"spec": spec}}


def _ours(kind: str, name: str) -> Json:
    return {"apiVersion": "asetwin.dev/v1alpha1", "kind": kind, "metadata": {"name": name}}


# --- Playing --------------------------------------------------------------------------------------


class Coverage:
    """Notes the states, transitions and reasons that a run has reached."""

    def __init__(self, world: World) -> None:
        self.seen = Counter[str]()
        world.observers.append(self._look)

    def _look(self, change: Change) -> None:
        kind = _COVERED.get(change.plural)
        after = change.body.get("status")
        before = (change.before or {}).get("status")
        if kind is None or after is before or not after:
            return
        before = before or {}
        old, new = (one.get("state", one.get("phase")) for one in (before, after))
        if new != old:
            self.seen[f"{kind} {old or 'new'} to {new}"] += 1
        phases = [(one.get("failover") or {}).get("phase") for one in (before, after)]
        if phases[0] != phases[1]:
            self.seen[f"failover {phases[0] or 'none'} to {phases[1] or 'none'}"] += 1
        if before.get("conditions") is not after.get("conditions"):
            for one in after.get("conditions") or ():
                self.seen[f"reason {one['type']} {one['reason']}"] += 1


_COVERED = {
    "asedevices": "device",
    "asenodes": "node",
    "pinnedworkers": "worker",
    "hardwarefailures": "failure",
    "deviceupdates": "update",
}


def play(content: Mapping[str, Any], name: str) -> tuple[plays.Result, Counter[str]]:
    """Play one scenario with all invariants on."""
    coverage: list[Coverage] = []

    def prepare(world: World) -> None:
        invariants.watch(world)
        coverage.append(Coverage(world))

    scenario = files.parse(content, Path(name))
    result = plays.Play(scenario, prepare, is_refusal_wrong=False).run()
    return result, coverage[0].seen


def run(seed: int, profile: Profile = Profile.ALL, *, shrinks: bool = True) -> Outcome:
    """Play one seed; a finding is made as short as it can be."""
    content = generate(seed, profile)
    result, seen = play(content, f"seed-{seed}")
    failing = sum(1 for one in content["events"] if "fail" in one or "reboot" in one)
    outcome = Outcome(seed, failing, result.device_seconds, seen)
    if not result.passed:
        what = _kind(result)
        small = shrink(content, what, keeps_heal=not result.violation) if shrinks else content
        outcome.finding = Finding(seed, what, result.objections, small)
    return outcome


def _kind(result: plays.Result) -> str:
    """What two runs must have in common to show the same: the promise, or what was not so."""
    if result.violation:
        return result.violation
    said = re.sub(r"expect\[\d+\]: (at \S+ s )?", "", result.objections[0])
    return re.sub(r"\d+(\.\d+)?|-[a-z0-9]{5}(?= )", "N", said)[:60]


def shrink(content: Json, what: str, *, keeps_heal: bool) -> Json:
    """The same scenario with as few events as still show it; then with fewer workloads.

    ``keeps_heal``: what puts everything right stays. Where an expectation was not
    met, whatever an event has broken would be broken still without it.
    """
    left = [MOST_SHRINKING]

    def shows(candidate: Json) -> bool:
        if left[0] <= 0:
            return False
        left[0] -= 1
        try:
            result, _ = play(candidate, "shrinking")
        except files.FileError:
            return False
        return not result.passed and _kind(result) == what

    for field_name in ("events", "workloads", "expect"):
        for candidate_size in _sizes(len(content[field_name])):
            at = 0
            while at < len(content[field_name]):
                kept = content[field_name]
                end = at + candidate_size
                pinned = [one for one in kept[at:end] if keeps_heal and "heal" in one]
                rest = [*kept[:at], *pinned, *kept[end:]]
                fewer = {**content, field_name: rest}
                if rest != kept and shows(fewer):
                    content = fewer
                else:
                    at += candidate_size
    return content


def _sizes(count: int) -> Iterator[int]:
    size = count // 2
    while size >= 1:
        yield size
        size //= 2
