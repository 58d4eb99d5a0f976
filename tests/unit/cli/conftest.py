"""The cluster that every test of the command line meets."""

import pytest

from asetwin.kube import client
from unit.cli.shell import AT, Cluster


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """For every test, so that none can reach the cluster of whoever runs it."""
    made = Cluster()
    monkeypatch.setattr(client, "connect", made.connect)
    return made


@pytest.fixture
def device(cluster: Cluster) -> Cluster:
    """A device with both nodes, in order."""
    cluster.add(
        "asedevices",
        "ase",
        status={
            "state": "Online",
            "master": {"node": "node-a", "epoch": 3, "phase": "Serving", "since": AT},
            "votes": {"total": 3, "present": 3, "needed": 2},
            "reserve": {"percent": 50, "summary": "cpu 30 % of 50 %"},
        },
    )
    for name, slot, node in (("node-a", "A", "worker"), ("node-b", "B", "worker2")):
        cluster.add(
            "asenodes",
            name,
            spec={"device": "ase", "slot": slot},
            status={"state": "Up", "worker": f"worker-{slot.lower()}"},
        )
        cluster.add(
            "pinnedworkers",
            f"worker-{slot.lower()}",
            spec={"aseNode": name, "nodeName": f"asetwin-{node}", "gpus": 1},
            status={"power": {"desired": "On", "observed": "On"}},
        )
    return cluster
