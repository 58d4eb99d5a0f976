"""What the scheduler says of a pod without a place, in one word."""

import pytest

from asetwin.model import failover

# Messages as kube-scheduler v1.37 writes them (framework FitError and the plugins' reasons).
ONE_DOWN = "1 node(s) had untolerated taint(s)"
REAL_MESSAGES = {
    f"0/2 nodes are available: 1 Insufficient nvidia.com/gpu, {ONE_DOWN}.": "GPU",
    f"0/2 nodes are available: 1 Insufficient cpu, {ONE_DOWN}.": "Capacity",
    f"0/2 nodes are available: 1 Insufficient memory, {ONE_DOWN}.": "Capacity",
    f"0/2 nodes are available: 1 Insufficient ephemeral-storage, {ONE_DOWN}.": "Capacity",
    f"0/2 nodes are available: 1 Insufficient example.com/fpga, {ONE_DOWN}.": "Capacity",
    f"0/2 nodes are available: 1 Too many pods, {ONE_DOWN}.": "PodSlots",
    "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, "
    f"{ONE_DOWN}.": "NodeLocalVolume",
    "0/2 nodes are available: 1 node(s) had volume node affinity conflict, "
    f"{ONE_DOWN}.": "NodeLocalVolume",
    "0/2 nodes are available: 1 node(s) didn't find available persistent volumes to bind, "
    f"{ONE_DOWN}.": "NodeLocalVolume",
    "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, "
    f"{ONE_DOWN}.": "TopologySpread",
    "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints "
    f"(missing required label), {ONE_DOWN}.": "TopologySpread",
    "0/2 nodes are available: 1 node(s) didn't match pod anti-affinity rules, "
    f"{ONE_DOWN}.": "PodAntiAffinity",
    "0/2 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules, "
    f"{ONE_DOWN}.": "PodAntiAffinity",
    "0/2 nodes are available: 1 node(s) didn't match pod affinity rules, "
    f"{ONE_DOWN}.": "PodAffinity",
    "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, "
    f"{ONE_DOWN}.": "NodeAffinity",
    "0/2 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, "
    f"{ONE_DOWN}.": "HostPort",
    "0/2 nodes are available: 2 node(s) had untolerated taint(s). preemption: 0/2 nodes are "
    "available: 2 Preemption is not helpful for scheduling.": "Taint",
    f"0/2 nodes are available: 1 node(s) were unschedulable, {ONE_DOWN}.": "Taint",
    "0/2 nodes are available: 2 node(s) were unschedulable.": "Taint",
    "0/2 nodes are available: 1 Insufficient cpu, 1 Insufficient nvidia.com/gpu.": "GPU",
    "something new": "Capacity",
}


@pytest.mark.parametrize(
    ("message", "reason"), REAL_MESSAGES.items(), ids=range(len(REAL_MESSAGES))
)
def test_says_the_schedulers_reason_in_one_word(message: str, reason: str) -> None:
    assert failover.scheduler_reason(message) == reason
