"""What a twin looks like when all is well: nothing of a failure is left (design 5).

Asked some time after everything has been repaired. Says what is not as it
has to be, in words; nothing to say is calm.
"""

import json
from collections.abc import Iterator

from asetwin import constants
from asetwin.sim import bodies, scheduler
from asetwin.sim.bodies import Json
from asetwin.sim.masters import is_master
from asetwin.sim.world import World

QUIET_SECONDS = 60.0
"""A device in which nothing happens needs no writes for at least this long."""


def problems(world: World, last_write: float) -> Iterator[str]:
    """Everything that is not as before any failure."""
    yield from _devices(world)
    yield from _nodes(world)
    yield from _quotas(world)
    yield from _pods(world)
    if world.now - last_write < QUIET_SECONDS:
        yield f"the operator wrote something {world.now - last_write:.0f} s ago"


def left_on(world: World, node: str) -> Iterator[str]:
    """What is left on the Node of a lost worker that should have gone."""
    for pod in world.server.pods_on(node):
        owner = bodies.controller(pod) or {}
        if owner.get("kind") != "DaemonSet" and not bodies.is_over(pod):
            yield f"{'/'.join(bodies.key(pod))} is still on {node}"
    serving = [one for one in world.masters() if one.is_serving]
    if len(serving) != 1:
        yield f"{len(serving)} masters serve"
    yield from (f"a master serves on {node}" for one in serving if one.settings.node == node)


def _status(body: Json) -> Json:
    found: Json = body.get("status") or {}
    return found


def _devices(world: World) -> Iterator[str]:
    serving = [one.settings.device for one in world.masters() if one.is_serving]
    for body in world.server.listed("asedevices"):
        name, status = body["metadata"]["name"], _status(body)
        if status.get("state") != "Online":
            yield f"{name} is {status.get('state')}: {status.get('summary')}"
        if status.get("failover") or status.get("gpuMove"):
            yield f"{name} still moves pods: {(status.get('failover') or {}).get('phase')}"
        if serving.count(name) != 1:
            yield f"{serving.count(name)} masters of {name} serve"
        if (status.get("master") or {}).get("phase") != "Serving":
            yield f"the master of {name} is said to be {(status.get('master') or {}).get('phase')}"
    for body in world.server.listed("asenodes"):
        if _status(body).get("state") != "Up":
            yield f"{body['metadata']['name']} is {_status(body).get('state')}"
    for body in world.server.listed("pinnedworkers"):
        power = _status(body).get("power") or {}
        if power.get("observed", "On") != "On" or power.get("desired", "On") != "On":
            yield f"power of {body['metadata']['name']} is {power}"


def _nodes(world: World) -> Iterator[str]:
    for body in world.server.listed("nodes"):
        name, spec = body["metadata"]["name"], body["spec"]
        if spec.get("unschedulable"):
            yield f"{name} is cordoned"
        for one in spec.get("taints") or ():
            if one["key"].startswith("asetwin.dev/") or one["key"] == (
                constants.TAINT_OUT_OF_SERVICE
            ):
                yield f"{name} has the taint {one['key']}"
        mark = json.loads(bodies.annotation(body, constants.ANNOTATION_OWNED, "{}"))
        if mark.get("cordon") or mark.get("taints"):
            yield f"{name} is marked {mark}"
        if not bodies.is_ready(body):
            yield f"{name} is not Ready"


def _quotas(world: World) -> Iterator[str]:
    for body in world.server.listed("resourcequotas"):
        if body["metadata"]["name"] != constants.QUOTA_NAME:
            continue
        where = body["metadata"]["namespace"]
        if not body["spec"].get("hard"):
            yield f"the quota of {where} limits nothing"
        if bodies.annotation(body, constants.ANNOTATION_LIFTED):
            yield f"the quota of {where} is marked as lifted"


def _pods(world: World) -> Iterator[str]:
    for pod in world.server.listed("pods"):
        name = "/".join(bodies.key(pod))
        if bodies.is_over(pod):
            if is_master(pod):
                yield f"{name} is over and still there"
        elif bodies.is_deleting(pod):
            yield f"{name} is Terminating"
        elif not bodies.node_of(pod):
            reader = scheduler.Reader(world.server)
            node, _ = scheduler.place(world.server, pod, reader.board(), reader.pod(pod))
            if node:
                yield f"{name} is not placed although it fits {node}"
        elif not bodies.is_ready(pod) and not is_master(pod):
            yield f"{name} is not Ready"
