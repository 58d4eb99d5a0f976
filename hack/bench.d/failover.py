"""How long a workload is short of replicas when its node's container is killed.

Three ways on one cluster: Kubernetes by itself, asetwin by the kubelet's Lease
alone, asetwin with the power agent. The clock starts with the kill and stops
when the API shows every replica Ready on the other node; nothing of asetwin's
is asked, except afterwards for where the time went.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "manifests" / "samples"
NAMESPACE, DEVICE, NODE_A = "bench", "ase", "node-a"
SYSTEM, POWER = "asetwin-system", "asetwin-power"
WAYS = ("stock", "lease", "agent")
WORDS = {
    "stock": "stock Kubernetes",
    "lease": "asetwin by Lease only",
    "agent": "asetwin with the agent",
}
LOOK_SECONDS = 0.1
STOCK_SECONDS = 900.0
"""Stock Kubernetes waits 50 s for a node and 300 s for its pods' tolerations."""
console = Console(highlight=False, width=100)


def run(*command: str, stdin: str | None = None) -> str:
    """A command's standard output; SystemExit with its words where it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command[:6])}: {done.stderr.strip()}")
    return done.stdout


def kubectl(*args: str, stdin: str | None = None) -> str:
    """The same for kubectl."""
    return run("kubectl", *args, stdin=stdin)


def wait(what: str, holds: Callable[[], bool], *, within: float) -> float:
    """Look until it holds; the seconds that it took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > within:
            raise SystemExit(f"error: {what}: not so after {within:.0f} s")
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - began


class Bench:
    """One cluster, and the workload on it."""

    def __init__(self, cluster: str) -> None:
        self.nodes = (f"{cluster}-worker", f"{cluster}-worker2")

    def prepare(self) -> None:
        """The sample device; a heartbeat time-out as the Fast profile has it."""
        objects = list(yaml.safe_load_all((SAMPLES / "device.yaml").read_text()))
        for one in objects:
            if one["kind"] == "PinnedWorker":
                one["spec"]["nodeName"] = self.nodes[one["metadata"]["name"] == "worker-b"]
            if one["kind"] == "AseDevice":
                # By Lease only there is no proof, and nobody who could give it.
                one["spec"] |= {"fencing": "BestEffort", "timing": {"profile": "Fast"}}
                one["spec"] |= {"quarantine": {"failures": 9, "windowSeconds": 60}}
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))
        kubectl("create", "namespace", NAMESPACE)

    def deploy(self, replicas: int) -> None:
        """So many small replicas over both nodes, Ready as soon as they run."""
        (one,) = [
            one
            for one in yaml.safe_load_all((SAMPLES / "workload.yaml").read_text())
            if one["kind"] == "Deployment"
        ]
        one["metadata"] |= {"name": "web", "namespace": NAMESPACE}
        one["spec"] |= {"replicas": replicas, "strategy": {"type": "Recreate"}}
        spec = one["spec"]["template"]["spec"]
        spec["terminationGracePeriodSeconds"] = 1
        # Even, whatever ran where before: the replacement after a kill has no choice anyway.
        (container,) = spec["containers"]
        for key in ("readinessProbe", "ports", "env", "lifecycle"):
            container.pop(key, None)
        container["command"] = ["sleep", "86400"]
        container["resources"] = {"requests": {"cpu": "5m", "memory": "8Mi"}}
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump(one))

    def remove(self) -> None:
        """The workload goes, all of it."""
        kubectl("-n", NAMESPACE, "delete", "deployment", "web", "--ignore-not-found")
        wait("no pods", lambda: not self.pods(), within=180)

    def pods(self) -> list[Json]:
        """The workload's pods as the API has them."""
        found = json.loads(kubectl("-n", NAMESPACE, "get", "pods", "-o", "json"))
        return list(found["items"])

    def ready(self, node: str) -> int:
        """How many of them are Ready on a node and not on their way out."""
        return sum(
            1
            for pod in self.pods()
            if pod["spec"].get("nodeName") == node
            and "deletionTimestamp" not in pod["metadata"]
            and any(
                one["type"] == "Ready" and one["status"] == "True"
                for one in pod["status"].get("conditions") or ()
            )
        )

    def set_up(self, way: str) -> None:
        """The processes that this way has, and a device at rest."""
        operators, agents = (0, 0) if way == "stock" else (1, 1 if way == "agent" else 0)
        self.scale(POWER, "asetwin-power-agent", agents)
        self.scale(SYSTEM, "asetwin-operator", operators)
        if way != "stock":
            wait("the device at rest", self.is_steady, within=240)

    def scale(self, namespace: str, name: str, replicas: int) -> None:
        """Scale, and wait until it is so."""
        kubectl("-n", namespace, "scale", f"deployment/{name}", f"--replicas={replicas}")
        labels = kubectl(
            *("-n", namespace, "get", f"deployment/{name}"),
            *("-o", "jsonpath={.spec.selector.matchLabels}"),
        )
        selector = ",".join(f"{key}={value}" for key, value in json.loads(labels).items())

        def is_scaled() -> bool:
            found = json.loads(
                kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
            )["items"]
            ready = [
                pod
                for pod in found
                if "deletionTimestamp" not in pod["metadata"]
                and any(
                    one["type"] == "Ready" and one["status"] == "True"
                    for one in pod["status"].get("conditions") or ()
                )
            ]
            return len(found) == len(ready) == replicas

        wait(f"{name} scaled to {replicas}", is_scaled, within=180)

    def status(self) -> Json:
        """The device's status."""
        found = json.loads(kubectl("get", "ased", DEVICE, "-o", "json"))
        return dict(found.get("status") or {})

    def is_steady(self) -> bool:
        """Whether the device is whole and nothing is under way."""
        status = self.status()
        return (
            status.get("state") == "Online"
            and "failover" not in status
            and (status.get("master") or {}).get("phase") == "Serving"
        )

    def measure(self, way: str, replicas: int) -> Json:
        """Kill node A's container; how long until every replica is Ready on B, and why so long."""
        node, other = self.nodes
        self.set_up(way)
        self.deploy(replicas)

        def is_spread() -> bool:
            return self.ready(node) > 0 and self.ready(node) + self.ready(other) == replicas

        wait(f"replicas on {node} and {other}", is_spread, within=240)
        if way != "stock":
            wait("the device at rest", self.is_steady, within=240)
        moved = self.ready(node)
        killed_at, limit = time.time(), STOCK_SECONDS if way == "stock" else 240.0
        run("docker", "kill", node)
        wait("all on the other node", lambda: self.ready(other) == replicas, within=limit)
        row: Json = {"way": way, "replicas": replicas, "moved": moved}
        row["seconds"] = round(time.time() - killed_at, 2)
        if way != "stock":
            failover = self.status().get("failover") or {}
            for key in ("detectedAt", "fencedAt", "evacuatedAt", "podsReadyAt"):
                if failover.get(key):
                    at = datetime.fromisoformat(failover[key]).timestamp()
                    row[key] = round(at - killed_at, 2)
        self.restore(node)
        return row

    def restore(self, node: str) -> None:
        """The container runs again and Kubernetes says so; the workload goes."""
        # First: without asetwin nobody but the node's own kubelet ends the pods that were on it.
        run("docker", "start", node)
        self.remove()

        def is_ready() -> bool:
            found = json.loads(kubectl("get", "node", node, "-o", "json"))
            return any(
                one["type"] == "Ready" and one["status"] == "True"
                for one in found["status"]["conditions"]
            ) and not any(
                one["key"].startswith("node.kubernetes.io/")
                for one in found["spec"].get("taints") or ()
            )

        # By ourselves where nobody else does: asetwin's own taints go with its return.
        if self.is_operator_there():
            wait("the device at rest", self.is_steady, within=240)
        wait(f"{node} Ready", is_ready, within=240)

    def is_operator_there(self) -> bool:
        """Whether the operator runs."""
        return bool(
            kubectl(
                "-n",
                SYSTEM,
                "get",
                "pods",
                "-l",
                "app.kubernetes.io/component=operator",
                "-o",
                "name",
            )
        )


def summary(rows: list[Json]) -> list[Json]:
    """One row per way and size: medians, and the ratio to stock Kubernetes."""
    found: list[Json] = []
    for replicas in sorted({row["replicas"] for row in rows}):
        stock = None
        for way in WAYS:
            own = [row for row in rows if (row["way"], row["replicas"]) == (way, replicas)]
            if not own:
                continue
            median: Json = {"way": way, "replicas": replicas, "runs": len(own)}
            for key in ("seconds", "detectedAt", "fencedAt", "evacuatedAt", "podsReadyAt"):
                values = [row[key] for row in own if key in row]
                if values:
                    median[key] = round(statistics.median(values), 2)
            stock = median["seconds"] if way == "stock" else stock
            if stock is not None:
                median["ratio"] = round(stock / median["seconds"], 1)
            found.append(median)
    return found


def show(found: list[Json]) -> None:
    """The figures for people."""
    title = "From the kill of a worker's container to all replicas Ready on the other"
    table = Table(title=title, box=box.SIMPLE)
    table.add_column("replicas", justify="right")
    table.add_column("way")
    for name in ("runs", "seconds", "stock / this", "lost", "fenced", "removed", "Ready"):
        table.add_column(name, justify="right")
    for one in found:
        keys = ("detectedAt", "fencedAt", "evacuatedAt", "podsReadyAt")
        table.add_row(
            str(one["replicas"]),
            WORDS[one["way"]],
            str(one["runs"]),
            f"{one['seconds']:.1f}",
            f"{one['ratio']:.1f}" if "ratio" in one else "",
            *(f"{one[key]:.1f}" if key in one else "" for key in keys),
        )
    console.print(table)
    console.print("The last four: seconds since the kill at which asetwin noted it.")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--replicas", default="6,60")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--ways", default=",".join(WAYS))
    options = parser.parse_args()
    sizes = [int(one) for one in options.replicas.split(",")]
    bench, rows = Bench(options.cluster), list[Json]()
    bench.prepare()
    for way in reversed([one for one in WAYS if one in options.ways.split(",")]):
        for replicas in sizes:
            for number in range(1 if way == "stock" else options.runs):
                row = bench.measure(way, replicas)
                rows.append(row)
                console.print(
                    f"  {WORDS[way]}, {replicas} replicas, run {number + 1}: {row['seconds']} s"
                )
    found = summary(rows)
    show(found)
    if options.json:
        options.json.write_text(json.dumps({"median": found, "runs": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
