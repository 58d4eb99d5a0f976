"""The kind nodes' containers, as a person at the engine sees and handles them."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from e2e.twin import Twin

POLL_SECONDS = 0.3


def docker(*args: str) -> str:
    """The engine's command line; CalledProcessError where it fails."""
    command = ["docker", *args]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=90).stdout


def state(node: str) -> dict[str, Any]:
    """The engine's own account of a container: Status, Pid, StartedAt, FinishedAt."""
    found: dict[str, Any] = json.loads(docker("inspect", node))[0]["State"]
    return found


def is_running(node: str) -> bool:
    """Whether anything can run in it."""
    return str(state(node)["Status"]) == "running"


def lose(twin: Twin, ase_node: str, command: str, *options: str, unforetold: str = "") -> None:
    """Take a device node away by hand: ``kill``, ``stop`` or ``pause`` its container.

    What FailoverReady says before is compared with what does not run after, as
    :meth:`Twin.fail` does it; ``unforetold`` is the reason why that cannot be.
    """
    if not unforetold:
        twin.foretell(ase_node)
    docker(command, *options, twin.nodes[ase_node])


def make_right(twin: Twin) -> None:
    """Whatever a test has done to the workers by hand: they run, and on their network."""
    for node in twin.nodes.values():
        if state(node)["Status"] == "paused":
            docker("unpause", node)
        networks = json.loads(docker("inspect", node))[0]["NetworkSettings"]["Networks"]
        if "kind" not in networks:
            docker("network", "connect", "kind", node)
        if not is_running(node):
            docker("start", node)


@contextmanager
def api_server_halted(twin: Twin) -> Iterator[None]:
    """The API server stands still meanwhile; its connections stay open."""
    inside = ["exec", f"{twin.kind.name}-control-plane", "pkill", "-x"]
    docker(*inside, "-STOP", "kube-apiserver")
    try:
        yield
    finally:
        docker(*inside, "-CONT", "kube-apiserver")


def wait_renewed(twin: Twin, node: str, *, times: int) -> None:
    """Until a kubelet has renewed its Lease so many times more."""
    seen = set[str]()

    def count() -> bool:
        try:
            lease = json.loads(
                twin.kubectl("-n", "kube-node-lease", "get", "lease", node, "-o", "json")
            )
        except subprocess.CalledProcessError:
            # The API server may still be finding itself.
            return False
        seen.add(lease["spec"]["renewTime"])
        return len(seen) > times

    twin.wait(f"{node} to renew its Lease", count, within=60)


@dataclass
class Copies:
    """How many containers of a name have run at the same time, asked of the runtimes."""

    name: str
    most: int = 0
    looks: int = 0
    places: list[str] = field(default_factory=list)
    """Where it ran, in the order in which that changed."""


@contextmanager
def counted(twin: Twin, name: str) -> Iterator[Copies]:
    """Ask both workers' container runtimes all the while, not the API server."""
    copies, over = Copies(name), threading.Event()

    def look() -> None:
        while not over.wait(POLL_SECONDS):
            where = [node for node in twin.nodes.values() if _runs(node, name)]
            copies.looks += 1
            copies.most = max(copies.most, len(where))
            place = "+".join(where)
            if place and copies.places[-1:] != [place]:
                copies.places.append(place)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield copies
    finally:
        over.set()
        thread.join(timeout=60)


def _runs(node: str, name: str) -> bool:
    """Whether a container of that name runs in a worker; a paused one cannot be asked."""
    # The processes themselves: a runtime that is cut off from the API still has them.
    command = ["docker", "exec", node, "crictl", "ps", "--state", "Running", "--name", name, "-q"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return found.returncode == 0 and bool(found.stdout.strip())
