"""A client in the cluster that asks a Service ten times a second, and a look at the API as often.

The client runs on the control-plane node, which no update touches, and
addresses the Service by its IP: what it loses was lost between kube-proxy and
the pods.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from e2e.twin import Json, Twin, is_ready

NAME = "probe"
_PROGRAM = """
import http.client, os, threading, time

host, port = os.environ["WEB_SERVICE_HOST"], int(os.environ["WEB_SERVICE_PORT"])

def ask(at):
    said = "ok"
    try:
        connection = http.client.HTTPConnection(host, port, timeout=2)
        connection.request("GET", "/", headers={"Connection": "close"})
        if connection.getresponse().status != 200:
            said = "status"
        connection.close()
    except Exception as error:
        said = type(error).__name__
    os.write(1, f"{at:.3f} {said}\\n".encode())  # in one piece: threads write at the same time

due = time.time()
while True:
    threading.Thread(target=ask, args=(time.time(),)).start()
    due += 0.1
    time.sleep(max(0.0, due - time.time()))
"""


@dataclass
class Losses:
    """What a client has asked and lost."""

    asked: int = 0
    lost: list[tuple[float, str]] = field(default_factory=list)
    """When, in seconds since the epoch, and how."""

    @property
    def percent(self) -> float:
        """Of all requests."""
        return 100 * len(self.lost) / max(1, self.asked)

    @property
    def longest_seconds(self) -> float:
        """From the first to the last of losses that follow each other within half a second."""
        longest, begin, last = 0.0, 0.0, 0.0
        for at, _ in self.lost:
            begin = at if at - last > 0.5 else begin
            last, longest = at, max(longest, at - begin + 0.1)
        return longest


def start_client(twin: Twin) -> None:
    """The Service ``web`` of the test's namespace, and a client that asks it from now on."""
    (service,) = [one for one in twin.sample("workload.yaml") if one["kind"] == "Service"]
    service["metadata"]["namespace"] = twin.namespace
    twin.apply(service)
    (deployment,) = [one for one in twin.sample("workload.yaml") if one["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    pod: Json = {
        "kind": "Pod",
        "metadata": {"name": NAME, "namespace": twin.namespace, "labels": {"app": NAME}},
        "spec": {
            "nodeName": f"{twin.kind.name}-control-plane",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": spec["securityContext"],
            "containers": [
                {
                    "name": NAME,
                    "image": container["image"],
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-c", _PROGRAM],
                    "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
                    "securityContext": container["securityContext"],
                }
            ],
        },
    }
    twin.apply(pod)
    twin.wait("the client", lambda: is_ready(twin.get("Pod", NAME, twin.namespace)), within=60)


def losses(twin: Twin, since: float, until: float) -> Losses:
    """What the client lost between two moments, in seconds since the epoch."""
    found = Losses()
    for line in twin.kubectl("-n", twin.namespace, "logs", NAME).splitlines():
        at, _, said = line.partition(" ")
        if since <= float(at) <= until:
            found.asked += 1
            if said != "ok":
                found.lost.append((float(at), said))
    found.lost.sort()
    return found


@contextmanager
def api_asked(twin: Twin) -> Iterator[Losses]:
    """Ask the API server for the device, all the while, and count what it does not answer."""
    found, over = Losses(), threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            found.asked += 1
            try:
                twin.device()
            except Exception as error:
                found.lost.append((time.time(), type(error).__name__))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join(timeout=30)
