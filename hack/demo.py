"""The demo's second half: fail node A on a running twin, watch, judge, repair.

Everything here is read from the API server with kubectl's eyes: Nodes, Pods,
quotas, the Lease, and the master's own answer through its Service. asetwin's
statuses are not asked, so a PASS says that the cluster is right and not that
the operator believes so.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from asetwin import constants
from asetwin.kube import errors
from asetwin.kube.client import Client, Json, collection, connect

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "manifests" / "samples"
NAMESPACE, WORKLOAD, REPLICAS = "shop", "web", 6
DEVICE, NODE_A, NODE_B, WORKER_A = "ase", "node-a", "node-b", "worker-a"
FAILURES = SAMPLES / "failures" / "psu-both.yaml"
LOOK_SECONDS = 0.1
console = Console(highlight=False, width=min(100, Console().width))


class Failed(Exception):
    """The cluster did not come to what the demo waits for; the message says what is missing."""


@dataclass
class Look:
    """The cluster at one moment, as far as the demo is concerned."""

    node: Json
    """Node A's Kubernetes Node."""
    pods: list[Json]
    """The workload's pods."""
    masters: list[Json]
    quota: Json | None
    lease: Json | None
    worker: Json
    """Node A's PinnedWorker: the power agent's proof is shown, not believed."""

    def on(self, node: str) -> list[Json]:
        """The workload's pods that are bound to a Node and have not ended."""
        return [
            pod
            for pod in self.pods
            if pod["spec"].get("nodeName") == node
            and pod["status"].get("phase") not in ("Succeeded", "Failed")
        ]

    def ready_on(self, node: str) -> list[Json]:
        """Those of them that are Ready and not being deleted."""
        return [pod for pod in self.on(node) if is_ready(pod)]

    @property
    def guard(self) -> Json:
        """What asetwin may change on Node A: cordon and taints."""
        spec = self.node["spec"]
        return {"unschedulable": bool(spec.get("unschedulable")), "taints": spec.get("taints", [])}

    @property
    def master(self) -> Json | None:
        """The master pod that is Ready and holds the Lease; None where there is none."""
        holder = ((self.lease or {}).get("spec") or {}).get("holderIdentity")
        found = [one for one in self.masters if is_ready(one) and one["metadata"]["name"] == holder]
        return found[0] if len(found) == 1 else None


def is_ready(pod: Json) -> bool:
    """Whether a pod is Ready and nobody has asked for its end."""
    conditions = pod["status"].get("conditions") or ()
    is_true = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    return is_true and "deletionTimestamp" not in pod["metadata"]


def _power(look: Look) -> Json:
    found: Json = (look.worker.get("status") or {}).get("power") or {}
    return found


def epoch(pod: Json) -> int:
    """The epoch of a master pod."""
    return int(pod["metadata"]["labels"][constants.LABEL_EPOCH])


@dataclass
class Timeline:
    """What was seen, with seconds since the failure was applied."""

    began: float = 0.0
    rows: list[Json] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def tell(self, key: str, about: str, event: str) -> None:
        """Note and print one event, once per key."""
        if key in self.seen:
            return
        self.seen.add(key)
        at = round(time.monotonic() - self.began, 2)
        self.rows.append({"t": at, "object": about, "event": event})
        console.print(f"  [cyan]{at:6.2f} s[/]  {about:<28} {event}")


class Demo:
    """One run against one cluster."""

    def __init__(self, api: Client, cluster: str, *, real_power: bool) -> None:
        self.api = api
        self.real_power = real_power
        self.nodes = {NODE_A: f"{cluster}-worker", NODE_B: f"{cluster}-worker2"}
        self.timeline = Timeline()
        self.times: dict[str, float | None] = {}
        self.displaced: dict[str, Json] = {}
        self.recovered = 0
        self.replaced: dict[str, int] = {}
        self.before: Look | None = None

    async def look(self) -> Look:
        """Read everything that the demo judges by."""
        system = constants.SYSTEM_NAMESPACE
        roles = f"{constants.LABEL_DEVICE}={DEVICE},{constants.LABEL_ROLE}={constants.ROLE_MASTER}"
        leases = collection("coordination.k8s.io/v1", "leases", system)
        quotas = collection("v1", "resourcequotas", NAMESPACE)
        workers = collection(constants.API_VERSION, "pinnedworkers")
        node, pods, masters, quota, lease, worker = await asyncio.gather(
            self.api.get(f"{collection('v1', 'nodes')}/{self.nodes[NODE_A]}"),
            self.api.get(collection("v1", "pods", NAMESPACE), labelSelector=f"app={WORKLOAD}"),
            self.api.get(collection("v1", "pods", system), labelSelector=roles),
            self._maybe(f"{quotas}/{constants.QUOTA_NAME}"),
            self._maybe(f"{leases}/{DEVICE}-master"),
            self.api.get(f"{workers}/{WORKER_A}"),
        )
        return Look(node, pods["items"], masters["items"], quota, lease, worker)

    async def _maybe(self, path: str) -> Json | None:
        try:
            return await self.api.get(path)
        except errors.NotFound:
            return None

    async def until(self, what: str, predicate: Callable[[Look], bool], *, within: float) -> Look:
        """Look until the predicate holds; Failed, naming ``what``, when it takes too long."""
        deadline = time.monotonic() + within
        while True:
            look = await self.look()
            if predicate(look):
                return look
            if time.monotonic() > deadline:
                raise Failed(f"{what}: not so after {within:.0f} s")
            await asyncio.sleep(LOOK_SECONDS)

    # --- the parts of the run -------------------------------------------------------------------

    async def prepare(self) -> None:
        """Sample device and workload, healthy, spread over both nodes, the master on node A."""
        await self._refuse_other_failures()
        for name in ("device.yaml", "workload.yaml"):
            await self.apply(SAMPLES / name)
        self._forgive()
        a, b = self.nodes[NODE_A], self.nodes[NODE_B]
        console.print("\n[bold]Sample device and workload[/]")
        look = await self.until(
            f"{REPLICAS} pods of {NAMESPACE}/{WORKLOAD} Ready and a master serving",
            lambda one: (
                len(one.ready_on(a)) + len(one.ready_on(b)) == REPLICAS
                and one.master is not None
                and one.guard["unschedulable"] is False
            ),
            within=180,
        )
        if not look.ready_on(a) or not look.ready_on(b):
            console.print("  all replicas are on one node: restarting them to spread them again")
            self._kubectl("-n", NAMESPACE, "rollout", "restart", f"deployment/{WORKLOAD}")
        if look.master is not None and look.master["spec"]["nodeName"] != a:
            console.print(f"  the master is on {NODE_B}: asking it back (spec.master.failback)")
            self._failback(True)
        if self.real_power:
            await self.until(
                "the power agent to look after worker-a (or use --simulated-power)",
                lambda one: _power(one).get("observed") == "On" and bool(_power(one).get("proof")),
                within=60,
            )
        self.before = await self.until(
            "replicas on both nodes and the master on node A",
            lambda one: (
                len(one.ready_on(a)) >= 2
                and len(one.ready_on(b)) >= 2
                and len(one.pods) == REPLICAS
                and one.master is not None
                and one.master["spec"]["nodeName"] == a
            ),
            within=120,
        )
        self._failback(False)
        for node in (NODE_A, NODE_B):
            count = len(self.before.on(self.nodes[node]))
            console.print(f"  {node} is Node {self.nodes[node]}: {count} pods of {WORKLOAD}")
        assert self.before.master is not None
        console.print(f"  master: {self.before.master['metadata']['name']} on {NODE_A}")

    async def fail(self) -> list[str]:
        """Fail both power supplies of node A and follow; the verdict's objections, if any."""
        assert self.before is not None
        a = self.nodes[NODE_A]
        self.displaced = {pod["metadata"]["uid"]: pod for pod in self.before.on(a)}
        console.print(f"\n[bold]Both power supplies of {NODE_A} fail[/]")
        # Before kubectl starts, so that the times are what a person waits, not a little less.
        self.timeline.began = time.monotonic()
        await self.apply(FAILURES)
        self.timeline.tell("applied", NODE_A, "failure applied: PSU1 and PSU2")
        with contextlib.suppress(Failed):
            # The objections of the judgement say more exactly what is missing.
            await self.until("recovery on node B", self._follow, within=60)
        return await self.judge()

    def _follow(self, look: Look) -> bool:
        """Tell what is new; True when everything has recovered."""
        assert self.before is not None
        assert self.before.master is not None
        a, b, tell = self.nodes[NODE_A], self.nodes[NODE_B], self.timeline.tell
        quota = look.quota
        if quota is not None and not quota["spec"].get("hard"):
            tell("lifted", f"quota {NAMESPACE}", "lifted, so that it cannot hold up replacements")
        power = _power(look)
        if self.real_power and power.get("observed") == "Off":
            tell("proof", WORKER_A, f"power agent: {power.get('proof')}")
        if look.guard["unschedulable"]:
            tell("cordon", a, "cordoned")
            self._mark("detectedSeconds")
        for taint in look.guard["taints"]:
            if taint["effect"] == constants.TAINT_EFFECT:
                tell(taint["key"], a, f"tainted {taint['key']}:{taint['effect']}")
        present = {pod["metadata"]["uid"] for pod in look.pods}
        for uid, pod in self.displaced.items():
            if uid not in present:
                tell(uid, pod["metadata"]["name"], f"removed from {NODE_A}")
        old = {pod["metadata"]["uid"] for pod in self.before.pods}
        fresh = [pod for pod in look.ready_on(b) if pod["metadata"]["uid"] not in old]
        self.recovered = min(len(fresh), len(self.displaced))
        for pod in fresh:
            uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
            self.replaced.setdefault(uid, len(self.replaced) + 1)
            text = f"Ready on {NODE_B} ({self.replaced[uid]} of {len(self.displaced)})"
            tell(uid, name, text)
        for one in look.masters:
            if epoch(one) > epoch(self.before.master):
                name = one["metadata"]["name"]
                tell(name, name, f"master boots on {NODE_B}, epoch {epoch(one)}")
        pods_ready = len(look.ready_on(b)) >= REPLICAS and not look.on(a)
        if pods_ready:
            self._mark("podsReadySeconds")
        moved = look.master is not None and epoch(look.master) > epoch(self.before.master)
        if moved and look.master is not None:
            name = look.master["metadata"]["name"]
            tell("serving", name, f"master serves from {NODE_B}, epoch {epoch(look.master)}")
            self._mark("masterReadySeconds")
        if pods_ready and moved:
            tell("recovered", DEVICE, f"recovered: {REPLICAS} pods and the master on {NODE_B}")
        return pods_ready and moved

    def _mark(self, name: str) -> None:
        if name not in self.times:
            self.times[name] = round(time.monotonic() - self.timeline.began, 2)

    async def judge(self) -> list[str]:
        """What is not as it has to be; empty is PASS."""
        assert self.before is not None
        assert self.before.master is not None
        look, a, b = await self.look(), self.nodes[NODE_A], self.nodes[NODE_B]
        objections = []
        if len(look.ready_on(b)) < REPLICAS:
            objections.append(f"{len(look.ready_on(b))} of {REPLICAS} pods are Ready on {NODE_B}")
        left = [pod["metadata"]["name"] for pod in look.on(a)]
        if left:
            objections.append(f"still on {NODE_A}: {', '.join(left)}")
        master, old = look.master, self.before.master
        if master is None or master["spec"]["nodeName"] != b or epoch(master) <= epoch(old):
            objections.append(f"no master serves from {NODE_B} under a higher epoch")
        if old["metadata"]["uid"] in {one["metadata"]["uid"] for one in look.masters}:
            objections.append(f"the old master {old['metadata']['name']} is still there")
        if master is not None:
            objections += await self._ask_master(epoch(master))
        if self.real_power and self._is_container_running(a):
            objections.append(f"the container {a} is still running")
        return objections

    def _is_container_running(self, name: str) -> bool:
        """What the container engine itself says, beside the power agent."""
        command = ["docker", "inspect", "--format", "{{.State.Running}}", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode != 0 or done.stdout.strip() != "false"

    async def _ask_master(self, expected: int) -> list[str]:
        service = collection("v1", "services", constants.SYSTEM_NAMESPACE)
        try:
            answer = await self.api.get(f"{service}/{DEVICE}-master:http/proxy/")
        except errors.KubeError as error:
            return [f"the master does not answer through its Service: {error}"]
        is_right = answer.get("epoch") == expected and answer.get("serving") is True
        return [] if is_right else [f"the master answers {answer}, not epoch {expected}"]

    async def repair(self) -> bool:
        """Delete the failures; whether everything of node A is as it was before."""
        assert self.before is not None
        console.print(f"\n[bold]{NODE_A} is repaired[/]")
        self._kubectl("delete", "--wait=false", "-f", str(FAILURES))
        began, before = time.monotonic(), self.before

        def is_back(look: Look) -> bool:
            hard = ((look.quota or {}).get("spec") or {}).get("hard") or {}
            had = ((before.quota or {}).get("spec") or {}).get("hard") or {}
            return look.guard == before.guard and set(hard) == set(had)

        try:
            look = await self.until("node A back as it was", is_back, within=120)
        except Failed as failed:
            console.print(f"  [red]{failed}[/]: now {(await self.look()).guard}")
            return False
        taints = look.guard["taints"] or "none"
        console.print(f"  {self.nodes[NODE_A]}: schedulable, taints: {taints}")
        hard = look.quota["spec"]["hard"] if look.quota else {}
        limits = ", ".join(f"{key} {value}" for key, value in sorted(hard.items()))
        console.print(f"  quota {NAMESPACE}: {limits}")
        console.print(f"  restored {time.monotonic() - began:.1f} s after the repair")
        return True

    # --- helpers --------------------------------------------------------------------------------

    async def _refuse_other_failures(self) -> None:
        """A run that was interrupted is repaired; failures of somebody else's are not ours."""
        own = {one["metadata"]["name"] for one in _documents(FAILURES)}
        found = await self.api.get(collection(constants.API_VERSION, "hardwarefailures"))
        names = {one["metadata"]["name"] for one in found["items"]}
        if names - own:
            raise Failed(
                f"there are other hardware failures: {', '.join(sorted(names - own))}; "
                f"repair them first: asetwin repair --all"
            )
        if names:
            self._kubectl("delete", "-f", str(FAILURES), "--ignore-not-found")

    async def apply(self, path: Path) -> None:
        """kubectl apply, with the sample's Node names turned into this cluster's."""
        documents = []
        for one in _documents(path):
            if one["kind"] == "PinnedWorker":
                one["spec"]["nodeName"] = self.nodes[one["spec"]["aseNode"]]
            documents.append(one)
        self._kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))

    def _forgive(self) -> None:
        """A fourth demo within the hour would otherwise find node A in quarantine."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        patch = json.dumps({"spec": {"failuresForgivenUntil": now}})
        for name in (NODE_A, NODE_B):
            self._kubectl("patch", "asenode", name, "--type=merge", "-p", patch)

    def _failback(self, value: bool) -> None:
        patch = json.dumps({"spec": {"master": {"failback": value}}})
        self._kubectl("patch", "asedevice", DEVICE, "--type=merge", "-p", patch)

    def _kubectl(self, *args: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            ["kubectl", *args], input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Failed(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout


def _documents(path: Path) -> list[Any]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


async def run(cluster: str, *, real_power: bool) -> Json:
    """The whole demo; its result as ``--json`` writes it, with the objections added."""
    async with connect(context=f"kind-{cluster}") as api:
        demo = Demo(api, cluster, real_power=real_power)
        await demo.prepare()
        objections = await demo.fail()
        restored = await demo.repair()
    verdict = "PASS" if not objections and restored else "FAIL"
    failover: Json = {
        key: demo.times.get(key)
        for key in ("detectedSeconds", "podsReadySeconds", "masterReadySeconds")
    }
    failover |= {"displaced": len(demo.displaced), "recovered": demo.recovered}
    _print(verdict, failover, objections, restored)
    return {
        "verdict": verdict,
        "failover": failover,
        "timeline": demo.timeline.rows,
        "restored": restored,
    }


def _print(verdict: str, failover: Json, objections: list[str], restored: bool) -> None:
    colour = "green" if verdict == "PASS" else "red"
    console.print(f"\n[bold {colour}]{verdict}[/]")
    for one in objections:
        console.print(f"  [red]-[/] {one}")
    if not restored:
        console.print(f"  [red]-[/] {NODE_A} is not as it was before")
    if verdict == "PASS":
        console.print(
            f"  detected after {failover['detectedSeconds']} s, "
            f"all pods Ready after {failover['podsReadySeconds']} s, "
            f"master after {failover['masterReadySeconds']} s; "
            f"{failover['recovered']} of {failover['displaced']} displaced pods recovered"
        )
    console.print("\nThe cluster is still up. Try next:")
    console.print('  eval "$(./hack/env)"')
    console.print("  kubectl get ased,asen,pw,hwf")
    console.print("  kubectl apply -f manifests/samples/failures/core-motherboard.yaml")
    console.print("  kubectl describe ased ase", soft_wrap=True)


def main() -> int:
    """Parse, run, write; 0 only on PASS."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--cluster", default="asetwin")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--simulated-power", action="store_true")
    given = parser.parse_args()
    try:
        result = asyncio.run(run(given.cluster, real_power=not given.simulated_power))
    except Failed as failed:
        console.print(f"[red]error:[/] {failed}")
        return 1
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if result["verdict"] == "PASS" else 1


if __name__ == "__main__":
    sys.exit(main())
