"""What the API server does to an object before it keeps it: defaults, limits, quotas.

Sources: Kubernetes' DefaultTolerationSeconds, Priority, LimitRanger and
ResourceQuota admission plugins and the quota evaluator for pods. A quota is weighed by its
status, as there: a new or changed limit holds once the quota controller
(:mod:`asetwin.sim.janitors`) has written it to the status.
"""

from typing import TYPE_CHECKING

from asetwin.kube import errors
from asetwin.model import quotas
from asetwin.resources import charges, core, quantities, requests, times
from asetwin.sim import bodies
from asetwin.sim.bodies import Json

if TYPE_CHECKING:
    from asetwin.sim.apiserver import ApiServer

_UNREADY_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_PRIORITIES = {"system-cluster-critical": 2000000000, "system-node-critical": 2000001000}
_MUST_STATE = ("cpu", "memory", *charges.MUST_STATE)


def admit(server: "ApiServer", plural: str, body: Json) -> Json:
    """The body as it will be kept; raises Forbidden."""
    if plural == "namespaces":
        return {**body, "status": {"phase": "Active"}}
    if plural != "pods":
        return body
    spec = _with_priority(server, body["spec"], body["metadata"])
    spec = _with_defaults(spec)
    spec = _with_limit_ranges(server, body["metadata"]["namespace"], spec)
    body = {**body, "spec": spec, "status": {"phase": "Pending"}}
    charge(server, body)
    return body


def _with_priority(server: "ApiServer", spec: Json, meta: Json) -> Json:
    """Value and policy of its PriorityClass; source: the Priority admission plugin.

    A value that is stated is kept, which the API server would refuse.
    """
    name = spec.get("priorityClassName", "")
    known = server.objects("priorityclasses")
    default: Json = next((one for one in known.values() if one.get("globalDefault")), {})
    found = known.get(("", name)) if name else default
    if name in _PRIORITIES:
        found = {"value": _PRIORITIES[name]}
    if found is None:
        text = f"no PriorityClass with name {name} was found"
        raise _forbidden(meta.get("name", ""), text)
    given = {"priority": int(found.get("value", 0))}
    if found.get("preemptionPolicy"):
        given["preemptionPolicy"] = found["preemptionPolicy"]
    return {**given, **spec}


def _with_defaults(spec: Json) -> Json:
    tolerations = list(spec.get("tolerations") or ())
    for name in _UNREADY_TAINTS:
        taint = {"key": name, "effect": "NoExecute"}
        if not bodies.tolerates(tolerations, taint):
            tolerations.append({**taint, "operator": "Exists", "tolerationSeconds": 300})
    return {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        **spec,
        "tolerations": tolerations,
        **{
            name: [_requests_from_limits(one) for one in spec[name]]
            for name in ("initContainers", "containers")
            if spec.get(name)
        },
    }


def _requests_from_limits(container: Json) -> Json:
    resources = container.get("resources") or {}
    limits = resources.get("limits") or {}
    if not limits:
        return container
    asked = {**limits, **(resources.get("requests") or {})}
    return {**container, "resources": {**resources, "requests": asked}}


def _with_limit_ranges(server: "ApiServer", namespace: str, spec: Json) -> Json:
    """Fill in what a container does not request; the order of the LimitRanges is their name's."""
    defaults: dict[str, str] = {}
    for one in server.listed("limitranges", namespace):
        for limit in one["spec"].get("limits") or ():
            if limit.get("type") == "Container":
                defaults = {**(limit.get("defaultRequest") or {}), **defaults}
    if not defaults:
        return spec

    def filled(container: Json) -> Json:
        resources = container.get("resources") or {}
        asked = {**defaults, **(resources.get("requests") or {})}
        return {**container, "resources": {**resources, "requests": asked}}

    return {
        **spec,
        **{
            name: [filled(one) for one in spec[name]]
            for name in ("initContainers", "containers")
            if spec.get(name)
        },
    }


def usage(spec: Json, keys: "list[str]") -> dict[str, int]:
    """What a pod adds to each of a quota's keys; a key that pods do not touch adds 0."""
    amounts = {**requests.of_pod(spec), "pods": 1}
    if any(one.startswith("limits.") for one in keys):
        limits = requests.limits_of_pod(spec)
        amounts |= {f"limits.{name}": amount for name, amount in limits.items()}
    return {one: amounts.get(one, amounts.get(_requested(one), 0)) for one in keys}


def _requested(key: str) -> str:
    return key if key.startswith("limits.") else charges.resource_of(key)


def is_in_scope(quota: Json, pod: Json) -> bool:
    """Whether a quota's scopes let it count the pod."""
    if not (quota["spec"].get("scopes") or quota["spec"].get("scopeSelector")):
        return True
    return quotas.is_counted(core.Pod.read(pod), charges.scopes(quota["spec"]))


def counts(pod: Json, now: float) -> bool:
    """``QuotaV1Pod``: ended pods do not count, deleted ones do until twice their grace.

    The deletionTimestamp is the end of the grace already and the evaluator
    adds the grace once more.
    """
    meta = pod["metadata"]
    if bodies.is_over(pod):
        return False
    if not meta.get("deletionTimestamp"):
        return True
    grace = float(meta.get("deletionGracePeriodSeconds") or 0)
    return now <= times.parse(meta["deletionTimestamp"]) + grace


def charge(server: "ApiServer", pod: Json) -> None:
    """Add a new pod to its namespace's quotas; raises Forbidden where one has no room."""
    namespace, name = bodies.key(pod)
    todo = []
    for quota in server.listed("resourcequotas", namespace):
        status = quota.get("status") or {}
        hard, used = status.get("hard") or {}, status.get("used") or {}
        if not hard or not is_in_scope(quota, pod):
            continue
        _check_stated(quota, hard, pod)
        added = {one: more for one, more in usage(pod["spec"], list(hard)).items() if more}
        units = {one: charges.units(one, used.get(one, 0)) for one in added}
        over = [
            one for one, more in added.items() if units[one] + more > charges.units(one, hard[one])
        ]
        if over:
            text = "; ".join(
                f"requested: {one}={quantities.render(charges.resource_of(one), added[one])}, "
                f"used: {one}={used.get(one, 0)}, limited: {one}={hard[one]}"
                for one in over
            )
            raise _forbidden(name, f"exceeded quota: {quota['metadata']['name']}, {text}")
        total = {
            one: quantities.render(charges.resource_of(one), units[one] + more)
            for one, more in added.items()
        }
        todo.append((quota["metadata"]["name"], {**used, **total}))
    for quota_name, used in todo:
        server.patch(
            "resourcequotas",
            quota_name,
            {"status": {"used": used}},
            namespace,
            subresource="status",
        )


def _check_stated(quota: Json, hard: Json, pod: Json) -> None:
    spec = pod["spec"]
    for key in _MUST_STATE:
        part = "limits" if key.startswith("limits.") else "requests"
        name = charges.resource_of(key)
        if key not in hard or name in ((spec.get("resources") or {}).get(part) or {}):
            continue
        silent = [
            one["name"]
            for one in (*(spec.get("initContainers") or ()), *spec["containers"])
            if name not in ((one.get("resources") or {}).get(part) or {})
        ]
        if silent:
            text = f"failed quota: {quota['metadata']['name']}: must specify {key} for: "
            raise _forbidden(pod["metadata"]["name"], text + ",".join(silent))


def _forbidden(name: str, text: str) -> errors.KubeError:
    body = {"reason": "Forbidden", "message": f'pods "{name}" is forbidden: {text}'}
    return errors.from_status(403, body, "POST pods")
