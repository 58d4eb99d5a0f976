"""Plans, statuses and clusters as short lines of text, for traces and golden cases.

Moments are told in seconds since the start of the simulation, so that a line
is the same whenever it happens.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from asetwin import constants
from asetwin.model import plan
from asetwin.model.plan import Step
from asetwin.model.snapshot import Snapshot
from asetwin.resources import times
from asetwin.sim import bodies
from asetwin.sim.apiserver import ApiServer
from asetwin.sim.bodies import Json
from asetwin.sim.clock import START

_MOMENTS = ("At", "since", "Time")
_OURS = ("asedevices", "asenodes", "pinnedworkers", "hardwarefailures", "deviceupdates")


def seconds(moment: float) -> str:
    """A moment on the simulation's own clock: ``12.02``."""
    return f"{moment:.2f}"


def elapsed(text: str) -> float:
    """A moment of the API, in seconds since the start, to a hundredth."""
    return round(times.parse(text) - START, 2)


def describe(step: Step, snapshot: Snapshot) -> str:
    """One step in one line; what it changes is told against the snapshot it was decided on."""
    match step:
        case plan.WriteStatus():
            parts = "; ".join(_status(step, snapshot)) or "texts only"
            return f"status {step.plural}/{step.name}: {parts}"
        case plan.SetFinalizers():
            return f"finalizers asedevices/{step.name}: {', '.join(step.finalizers) or 'none'}"
        case plan.PatchNode():
            return f"node {step.name}: {_node(step, snapshot)}"
        case plan.PatchGpus():
            return f"node {step.name}: gpus {step.gpus}; owned {step.owned or 'nothing'}"
        case plan.Recheck():
            return f"read {step.plural}/{step.name} once more"
        case plan.DeletePod():
            how = "force-delete" if step.force else "delete"
            return f"{how} pod {_pod(step, snapshot)}: {step.why}"
        case plan.Evict():
            return f"evict pod {_pod(step, snapshot)}: {step.why}"
        case plan.CreateMaster():
            return (
                f"create pod {step.device}-master-{step.epoch} on {step.node}, "
                f"boots for {step.boot_seconds} s"
            )
        case plan.RetryStart():
            return f"ask for the start of pod {step.namespace}/{step.name} again ({step.attempt})"
        case plan.CreateMasterService():
            return f"create service {step.device}-master"
        case plan.WriteQuota():
            return _quota(step)
        case plan.CreateLimitRange():
            return f"create limitrange {step.namespace}/{constants.LIMIT_RANGE_NAME}"
        case plan.DeleteLimit():
            return f"delete {step.plural} {step.namespace}/{step.name}"
        case plan.DeleteSystemObject():
            return f"delete {step.plural} {step.name}"
        case plan.WriteVolume():
            return _volume(step)
        case plan.DeleteVolume():
            return f"delete persistentvolume {step.name}: {step.why}"
        case plan.CreateClaim():
            return f"create persistentvolumeclaim {step.name}"
        case plan.Announce():
            mark = "!" if step.is_warning else ""
            return f"event{mark} {step.regarding['name']} {step.reason}: {step.message}"


def _status(step: plan.WriteStatus, snapshot: Snapshot) -> Iterator[str]:
    objects: Mapping[str, Any] = {
        "asedevices": snapshot.devices,
        "asenodes": snapshot.ase_nodes,
        "pinnedworkers": snapshot.workers,
        "hardwarefailures": snapshot.failures,
        "deviceupdates": snapshot.updates,
    }[step.plural]
    known = objects.get(step.name)
    before = known.status.wire() if known is not None else {}
    untold: list[str] = []
    for name, value in sorted(step.patch.items()):
        if name == "conditions":
            yield from _conditions(before.get("conditions") or (), value or ())
        elif isinstance(value, Mapping):
            for inner, item in sorted(value.items()):
                if _is_scalar(inner, item):
                    yield f"{name}.{inner}={_scalar(item)}"
                else:
                    untold.append(f"{name}.{inner}")
        elif _is_scalar(name, value):
            yield f"{name}={_scalar(value)}"
        else:
            untold.append(name)
    if untold:
        yield "also " + " ".join(untold)


def _is_scalar(name: str, value: object) -> bool:
    if name.endswith(_MOMENTS) or name in ("summary", "id", "trigger", "proof"):
        return False
    return not isinstance(value, Mapping | list | tuple)


def _scalar(value: object) -> str:
    return "none" if value is None else str(value)


def _conditions(before: Any, after: Any) -> Iterator[str]:
    old = {one["type"]: (one["status"], one["reason"]) for one in before}
    for one in after:
        if old.get(one["type"]) != (one["status"], one["reason"]):
            yield f"{one['type']}={one['status']}/{one['reason']}"
    yield from (f"{kind} gone" for kind in old if kind not in {one["type"] for one in after})


def _node(step: plan.PatchNode, snapshot: Snapshot) -> str:
    known = snapshot.nodes[step.name]
    parts = []
    if known.unschedulable != step.unschedulable:
        parts.append("cordon" if step.unschedulable else "uncordon")
    before = {one.identity for one in known.taints}
    after = {one.identity for one in step.taints}
    parts += [f"+{one}" for one in sorted(after - before)]
    parts += [f"-{one}" for one in sorted(before - after)]
    parts.append(f"owned {step.owned or 'nothing'}")
    return "; ".join(parts) + f" ({step.why})"


def _pod(step: plan.DeletePod | plan.Evict, snapshot: Snapshot) -> str:
    name = f"{step.namespace}/{step.name}"
    found = next((one for one in snapshot.pods if one.uid == step.uid), None)
    return f"{name} on {found.node or 'no node'}" if found else name


def _quota(step: plan.WriteQuota) -> str:
    verb = "create" if step.resource_version is None else "set"
    hard = " ".join(f"{name}={value}" for name, value in sorted(step.hard.items())) or "no limits"
    lifted = f", lifted for {step.lifted_for}" if step.lifted_for else ""
    return f"{verb} quota {step.namespace}/{constants.QUOTA_NAME}: {hard}{lifted}"


def _volume(step: plan.WriteVolume) -> str:
    verb = "create" if step.resource_version is None else "set"
    kept = f", kept for {step.kept_for.key}" if step.kept_for else ""
    free = ", made free" if step.released else ""
    return f"{verb} persistentvolume {step.name}: {step.protocol} {step.capacity}{kept}{free}"


# --- What a cluster looks like -------------------------------------------------------------------


def picture(server: ApiServer) -> dict[str, Any]:
    """The whole cluster as far as asetwin's user would look at it, ready for YAML."""
    sections: dict[str, Any] = {}
    for plural in _OURS:
        for one in server.listed(plural):
            sections[f"{plural}/{one['metadata']['name']}"] = _object(one)
    for one in server.listed("nodes"):
        lines = _node_lines(one)
        if lines:
            sections[f"nodes/{one['metadata']['name']}"] = lines
    for plural, lines_of in (("resourcequotas", _quota_lines), ("limitranges", _no_lines)):
        for one in server.listed(plural):
            sections[f"{plural}/{'/'.join(bodies.key(one))}"] = lines_of(one)
    for one in server.listed("persistentvolumes"):
        sections[f"persistentvolumes/{one['metadata']['name']}"] = _volume_lines(one)
    sections["pods"] = pods(server)
    return sections


def pods(server: ApiServer) -> list[str]:
    """The pods outside of kube-system, counted by what they are and where."""
    counted = Counter[str]()
    for one in server.listed("pods"):
        namespace, name = bodies.key(one)
        if namespace == "kube-system":
            continue
        owner = bodies.controller(one)
        label = name
        if owner is not None:
            stem = owner["name"] if owner["kind"] != "ReplicaSet" else _stem(owner["name"])
            label = stem
        counted[f"{namespace}/{label} on {bodies.node_of(one) or 'no node'}: {_phase(one)}"] += 1
    return [f"{count} x {text}" for text, count in sorted(counted.items())]


def _stem(replica_set: str) -> str:
    return replica_set.rpartition("-")[0]


def _phase(pod: Json) -> str:
    if bodies.is_deleting(pod):
        return "Terminating"
    phase = str(pod["status"]["phase"])
    return "Ready" if bodies.is_ready(pod) else phase


def _object(body: Json) -> dict[str, Any]:
    meta, status = body["metadata"], body.get("status") or {}
    result: dict[str, Any] = {}
    if meta.get("finalizers"):
        result["finalizers"] = meta["finalizers"]
    plain = ("state", "phase", "summary", "proof", "nodeName", "failedComponents")
    for name in (*plain, "version", "waitingFor", "progress", "reason"):
        if status.get(name):
            result[name] = status[name]
    tellers: dict[str, Callable[[Any], Any]] = {
        "votes": _votes,
        "master": _master,
        "power": lambda one: f"desired {one['desired']}, observed {one['observed']}",
        "reserve": _reserve,
        "failover": _failover,
        "gpuMove": lambda one: f"{one['node']}: {', '.join(pod['name'] for pod in one['pods'])}",
        "history": lambda all_: [_failover(one) for one in all_],
        "bootedAt": elapsed,
        "recentFailures": lambda all_: [elapsed(one) for one in all_],
        "startedAt": elapsed,
        "expiresAt": elapsed,
        "finishedAt": elapsed,
        "kubelet": lambda one: (
            f"restarted at {elapsed(one['doneAt'])}" if "done" in one else "asked"
        ),
        "nodes": lambda all_: [_progress(one) for one in all_],
        "outages": lambda all_: [_outage(one) for one in all_],
    }
    for name, tell in tellers.items():
        if status.get(name):
            result[name] = tell(status[name])
    if status.get("conditions"):
        result["conditions"] = [
            f"{one['type']} {one['status']} {one['reason']} at "
            f"{elapsed(one['lastTransitionTime'])}: {one.get('message', '')}"
            for one in status["conditions"]
        ]
    return result


def _votes(votes: Json) -> str:
    holders = ", ".join(votes.get("holders") or ())
    return f"{votes['present']} of {votes['total']}, needs {votes['needed']} ({holders})"


def _master(one: Json) -> str:
    if "fromNode" in one:
        return f"{one['stage']}, was on {one['fromNode']}"
    return f"{one['phase']} on {one['node']}, epoch {one['epoch']}, since {elapsed(one['since'])}"


def _progress(one: Json) -> str:
    moments = [
        f"{name} {elapsed(one[f'{name}At'])}"
        for name in ("drained", "off", "updated")
        if f"{name}At" in one
    ]
    drain = one.get("drain") or {}
    moments += [f"{drain['moved']} of {drain['total']} pods moved"] if drain.get("total") else []
    text = ", ".join([f"{one['name']} {one['stage']}", *moments])
    return f"{text}: {one['message']}" if one.get("message") else text


def _outage(one: Json) -> str:
    text = f"{one['kind']} {one['namespace']}/{one['name']}: {one['milliseconds'] / 1000:.1f} s"
    return f"{text}, out since {elapsed(one['since'])}" if "since" in one else text


def _reserve(one: Json) -> list[str]:
    return [
        f"{row['resource']}: {row['used']} of {row['budget']} (capacity {row['capacity']})"
        for row in one.get("resources") or ()
    ]


def _failover(one: Json) -> Json:
    result = {
        name: elapsed(value) if name.endswith("At") else value
        for name, value in one.items()
        if name not in ("workloads", "unplaceable", "to", "from", "phase", "rebalance")
    }
    result["phase"] = f"{one['phase']}, {one['from']} to {one.get('to')}"
    if one.get("workloads"):
        result["workloads"] = [
            f"{row['kind']} {row['namespace']}/{row['name']}: {row['displaced']} displaced, "
            f"{row['ready']} of {row['want']} ready"
            for row in one["workloads"]
        ]
    if one.get("rebalance"):
        result["rebalance"] = _rebalance(one["rebalance"])
    if one.get("unplaceable"):
        result["unplaceable"] = [
            f"{row['pod']} {row['reason']}: {row.get('message', '')}" for row in one["unplaceable"]
        ]
    return dict(sorted(result.items()))


def _rebalance(one: Json) -> list[str]:
    took = f"since {elapsed(one['startedAt'])}"
    if "endedAt" in one:
        took = f"{one['outcome']}, {elapsed(one['startedAt'])} to {elapsed(one['endedAt'])}"
    lines = [f"{took}: {one['message']}"]
    lines += [
        f"{row['kind']} {row['namespace']}/{row['name']}: {row['moved']} moved"
        + (f", {row['pod']} is on its way" if row.get("pod") else "")
        + (f", {row['ended']}: {row.get('message', '')}" if row.get("ended") else "")
        for row in one.get("moves") or ()
    ]
    return lines


def _node_lines(body: Json) -> list[str]:
    lines = []
    if body["spec"].get("unschedulable"):
        lines.append("cordoned")
    for one in body["spec"].get("taints") or ():
        lines.append(f"taint {one['key']}={one.get('value', '')}:{one['effect']}")
    if not bodies.is_ready(body):
        lines.append("not Ready")
    owned = bodies.annotation(body, constants.ANNOTATION_OWNED)
    if owned:
        lines.append(f"owned {owned}")
    return lines


def _quota_lines(body: Json) -> list[str]:
    status = body.get("status") or {}
    hard, used = body["spec"].get("hard") or {}, status.get("used") or {}
    lifted = bodies.annotation(body, constants.ANNOTATION_LIFTED)
    lines = [f"{name}: {used.get(name, '?')} of {value}" for name, value in sorted(hard.items())]
    return [*lines, f"lifted for {lifted}"] if lifted else lines or ["no limits"]


def _volume_lines(body: Json) -> list[str]:
    spec, labels = body["spec"], bodies.labels(body)
    held = spec.get("claimRef") or {}
    whose = labels.get(constants.LABEL_DEVICE, "nobody") if labels else "nobody"
    line = f"{spec['capacity']['storage']} of {whose}, {body['status']['phase']}"
    line += f" by {held['namespace']}/{held['name']}" if held.get("uid") else ""
    return [line, *(["on its way out"] if bodies.is_deleting(body) else [])]


def _no_lines(body: Json) -> list[str]:
    return []
