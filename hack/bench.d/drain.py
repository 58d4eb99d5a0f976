"""How long a node's planned leave takes, against ``kubectl drain``, with a disruption budget.

The same workload on the same cluster, half of it on each node: kubectl drains
one node while no operator is there; then an update drains one. The clock runs
until every replica is Ready on the other node, as the API shows it; how many
were Ready at the least is counted meanwhile.
"""

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import yaml
from failover import DEVICE, NAMESPACE, POWER, SYSTEM, Bench, Json, console, kubectl, wait
from rich.table import Table

UPDATE = "bench"
WAYS = ("kubectl", "asetwin")
WORDS = {"kubectl": "kubectl drain", "asetwin": "asetwin, a DeviceUpdate"}
LIMIT_SECONDS = 1800.0


class Drains(Bench):
    """The same cluster and workload, and two ways to empty a node of it."""

    def deploy_both(self, replicas: int, budget: str) -> None:
        """So many replicas, evenly over both nodes, with a budget."""
        self.deploy(replicas)
        spec: Json = {"maxUnavailable": budget if "%" in budget else int(budget)}
        body = {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
        }
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))
        wait("all replicas", lambda: self.count() == replicas, within=400)

    def count(self) -> int:
        """Ready replicas on both nodes together."""
        return sum(self.ready(node) for node in self.nodes)

    def watch(self, emptied: str, other: str, replicas: int) -> tuple[float, int]:
        """Until all are Ready on the other node: the seconds, and the fewest that were Ready."""
        began, fewest = time.monotonic(), replicas
        while True:
            here, there = self.ready(emptied), self.ready(other)
            fewest = min(fewest, here + there)
            if there == replicas:
                return round(time.monotonic() - began, 1), fewest
            if time.monotonic() - began > LIMIT_SECONDS:
                raise SystemExit(f"error: {emptied} is not empty after {LIMIT_SECONDS:.0f} s")
            time.sleep(0.2)

    def by_kubectl(self, replicas: int, budget: str) -> Json:
        """Drain the first node with kubectl; nobody else is there."""
        for namespace, name in ((POWER, "asetwin-power-agent"), (SYSTEM, "asetwin-operator")):
            self.scale(namespace, name, 0)
        self.deploy_both(replicas, budget)
        emptied, other = self.nodes
        command = ("kubectl", "drain", emptied, "--ignore-daemonsets", "--delete-emptydir-data")
        moved = self.ready(emptied)
        # The master of the device has no controller; it moves before an update drains its node.
        with subprocess.Popen([*command, "--force"], stdout=subprocess.DEVNULL) as process:
            seconds, fewest = self.watch(emptied, other, replicas)
            process.wait(timeout=300)
        kubectl("uncordon", emptied)
        self.remove()
        return {"moved": moved, "seconds": seconds, "fewest": fewest}

    def by_update(self, replicas: int, budget: str) -> Json:
        """Let an update drain its first node, then cancel it."""
        self.set_up("agent")
        self.deploy_both(replicas, budget)
        wait("the device at rest", self.is_steady, within=240)
        spec = {"device": DEVICE, "type": "DeviceSoftware"}
        body = {
            "apiVersion": "asetwin.dev/v1alpha1",
            "kind": "DeviceUpdate",
            "metadata": {"name": UPDATE},
            "spec": spec,
        }
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))
        wait("the drain", lambda: bool(self.progress()), within=60)
        slot = self.progress()[0]["name"] == "node-b"
        emptied, other = self.nodes[slot], self.nodes[not slot]
        moved = self.ready(emptied)
        seconds, fewest = self.watch(emptied, other, replicas)
        kubectl("delete", "dup", UPDATE)
        self.remove()
        wait("the device at rest", self.is_steady, within=240)
        return {"moved": moved, "seconds": seconds, "fewest": fewest}

    def progress(self) -> list[Json]:
        """The nodes of the update, in their order."""
        found = json.loads(kubectl("get", "dup", UPDATE, "-o", "json"))
        return list((found.get("status") or {}).get("nodes") or ())


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--replicas", default="100")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--budget", default="1")
    options = parser.parse_args()
    bench, rows = Drains(options.cluster), list[Json]()
    bench.prepare()
    for replicas in (int(one) for one in options.replicas.split(",")):
        for way, measure in (("asetwin", bench.by_update), ("kubectl", bench.by_kubectl)):
            for number in range(options.runs):
                row = {"way": way, "replicas": replicas} | measure(replicas, options.budget)
                rows.append(row)
                console.print(f"  {WORDS[way]}, {replicas} replicas, run {number + 1}: {row}")
    show(rows, options.budget)
    if options.json:
        options.json.write_text(json.dumps({"budget": options.budget, "runs": rows}, indent=2))
    return 0


def show(rows: list[Json], budget: str) -> None:
    """The figures for people: medians of each way and size."""
    table = Table(title=f"From the cordon to all replicas Ready on the other node, PDB of {budget}")
    for name in ("replicas", "way", "runs", "pods moved", "seconds", "per pod", "fewest Ready"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for key in sorted({(row["replicas"], row["way"]) for row in rows}):
        own = [row for row in rows if (row["replicas"], row["way"]) == key]
        seconds = statistics.median(row["seconds"] for row in own)
        moved = statistics.median(row["moved"] for row in own)
        fewest = min(row["fewest"] for row in own)
        table.add_row(
            *(str(key[0]), WORDS[key[1]], str(len(own)), f"{moved:.0f}", f"{seconds:.1f}"),
            *(f"{seconds / max(1, moved):.2f}", str(fewest)),
        )
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
