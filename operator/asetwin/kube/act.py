"""Carries out a plan, step by step, and says what it came to.

What a write returns goes back into the view of the cluster at once, so the
next turn does not decide on what it has itself just changed. Errors are told
apart here: what is already so is done, what somebody else changed first ends
the turn (the next one decides anew), what can never pass is logged and
skipped, because it must not hold up the stages behind it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asetwin import constants
from asetwin.kube import bodies, errors, paths
from asetwin.kube.observe import KINDS, Cluster, refresh
from asetwin.model import plan
from asetwin.model.plan import Plan, Stage, Step

if TYPE_CHECKING:
    from asetwin.kube.client import Client

logger = logging.getLogger(__name__)

PARALLEL_STEPS = 16

_NO_CONNECTION = 0
"""The status of an error that did not come from the API server."""
_SKIPPABLE = (
    plan.WriteQuota,
    plan.CreateLimitRange,
    plan.DeleteLimit,
    plan.WriteVolume,
    plan.RetryStart,
    plan.Announce,
)
"""Steps in somebody's namespace, which may go away under our hands or refuse us; and what can be
done without: a share, a master that starts sooner."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the executor has to know about its surroundings."""

    image: str
    instance: str


class Executor:
    """Walks plans through the API server."""

    def __init__(
        self,
        api: "Client",
        cluster: Cluster,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        report: Callable[[Step, str], None] = lambda step, outcome: None,
    ) -> None:
        self._api = api
        self._cluster = cluster
        self._settings = settings
        self._clock = clock
        self._report = report
        """Told of every step and what it came to: done, already, refused or failed."""

    async def act(self, todo: Plan) -> int:
        """Carry out the stages in order; the number of steps that changed something.

        Raises KubeError for the first step that failed in a way that the next
        turn can mend; later stages are then not begun.
        """
        count = 0
        for stage in todo.stages:
            count += await self._stage(stage)
        return count

    async def _stage(self, stage: Stage) -> int:
        gate = asyncio.Semaphore(PARALLEL_STEPS)

        async def one(step: Step) -> bool:
            async with gate:
                return await self._step(step)

        results = await asyncio.gather(*(one(step) for step in stage), return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        for error in failed:
            if not isinstance(error, errors.KubeError):
                raise error
        if failed:
            raise failed[0]
        return sum(result is True for result in results)

    async def _step(self, step: Step) -> bool:
        """Carry out one step; True if it changed something that the next turn sees."""
        _log(step)
        try:
            has_changed = await self._do(step)
            self._report(step, "done")
        except errors.KubeError as error:
            try:
                has_changed, outcome = await self._answer(step, error)
            except errors.KubeError:
                self._report(step, "failed")
                raise
            self._report(step, outcome)
        return has_changed

    async def _answer(self, step: Step, error: errors.KubeError) -> tuple[bool, str]:
        """What an error comes to: whether the next turn sees something, and the outcome.

        Raises it where the turn has to end.
        """
        if isinstance(step, plan.Evict) and error.status != _NO_CONNECTION:
            return self._answered(step, error)
        if isinstance(step, plan.Announce):
            if isinstance(error, errors.AlreadyExists):
                return False, "already"
            logger.warning("event not posted: %s", error)
            return False, "refused"
        if isinstance(step, plan.WriteStatus) and isinstance(error, errors.NotFound):
            # What was to be remembered is not: nothing may be done that stands on it.
            text = f"{step.plural} {step.name} has gone unnoticed"
            raise errors.Outdated(text, status=409) from error
        if await self._is_done(step, error):
            return isinstance(step, plan.DeletePod | plan.DeleteLimit), "already"
        hopeless = isinstance(error, errors.Invalid | errors.Forbidden | errors.NotFound)
        if hopeless and isinstance(step, _SKIPPABLE):
            logger.warning("skipped: %s", error)
            # NB: not counted; what is refused every time must not make the loop spin.
            return False, "refused"
        raise error

    async def _do(self, step: Step) -> bool:
        match step:
            case plan.WriteStatus():
                return await self._write_status(step)
            case plan.SetFinalizers():
                meta = {
                    "finalizers": list(step.finalizers),
                    "resourceVersion": step.resource_version,
                }
                return await self._patch("asedevices", _path(step), {"metadata": meta})
            case plan.PatchNode():
                return await self._patch_node(step)
            case plan.PatchGpus():
                return await self._patch_gpus(step)
            case plan.Recheck():
                return await self._recheck(step)
            case plan.DeletePod():
                return await self._delete_pod(step)
            case plan.Evict():
                await self._api.create(f"{_path(step)}/eviction", bodies.eviction(step))
                return True
            case plan.CreateMaster():
                return await self._create("pods", bodies.master_pod(step, self._settings.image))
            case plan.RetryStart():
                return await self._patch("pods", _path(step), bodies.retry_patch(step))
            case plan.CreateMasterService():
                return await self._create("services", bodies.master_service(step))
            case plan.WriteQuota():
                return await self._write_quota(step)
            case plan.CreateLimitRange():
                return await self._create("limitranges", bodies.limit_range(step))
            case plan.DeleteLimit():
                await self._api.delete(_path(step), uid=step.uid)
                return self._cluster.forget(step.plural, step.uid)
            case plan.DeleteSystemObject():
                await self._api.delete(_path(step))
                return True
            case plan.WriteVolume():
                if step.resource_version is None:
                    return await self._create("persistentvolumes", bodies.volume(step))
                body = bodies.volume_patch(step)
                return await self._patch("persistentvolumes", _path(step), body)
            case plan.DeleteVolume():
                return await self._delete_volume(step)
            case plan.CreateClaim():
                return await self._create("persistentvolumeclaims", bodies.claim(step))
            case plan.Announce():
                body = bodies.event(step, self._clock(), self._settings.instance)
                await self._api.create(paths.collection("v1", "events", "default"), body)
                return False

    async def _recheck(self, step: plan.Recheck) -> bool:
        """Raises Outdated where the plan was made from an old view."""
        try:
            body = await self._api.get(_path(step))
        except errors.NotFound:
            # Where a Node is gone, so is its Lease. All else is missed by the next resync.
            is_old = step.plural != "leases"
        else:
            is_old = self._cluster.apply(step.plural, body)
            if step.power:
                seen = ((body.get("status") or {}).get("power") or {}).get("observed")
                is_old = is_old or seen != step.power
        if is_old:
            raise errors.Outdated(f"{step.plural} {step.name} has changed unnoticed", status=409)
        return False

    def _answered(self, step: plan.Evict, error: errors.KubeError) -> tuple[bool, str]:
        """The table of answers to an eviction; none of them ends the turn.

        404 and another uid: done. 429: a budget holds it. All else, as the 500 for two budgets,
        is reported here and, with the names, in the status; the rule bounds the attempts.
        """
        if isinstance(error, errors.NotFound):
            return self._cluster.forget("pods", step.uid), "already"
        if isinstance(error, errors.Conflict):
            return False, "already"
        if isinstance(error, errors.TooManyRequests):
            logger.info("eviction of %s/%s held back: %s", step.namespace, step.name, error)
        else:
            logger.warning("eviction of %s/%s failed: %s", step.namespace, step.name, error)
        return False, "refused"

    async def _is_another(self, step: plan.DeletePod) -> bool:
        """Whether the pod of that name, if there is one, is not the one that was meant."""
        try:
            found = await self._api.get(_path(step))
        except errors.NotFound:
            return True
        return bool((found.get("metadata") or {}).get("uid") != step.uid)

    async def _is_done(self, step: Step, error: errors.KubeError) -> bool:
        """Whether an error only says that the goal is reached; brings our view up to date."""
        match step:
            case plan.DeletePod():
                is_gone = isinstance(error, errors.NotFound)
                if isinstance(error, errors.Conflict):
                    # Mostly another pod has its name now. But not every 409 says so, and a pod that
                    # is taken for gone while it runs could be a master beside the next one.
                    is_gone = await self._is_another(step)
                if is_gone:
                    self._cluster.forget("pods", step.uid)
                return is_gone
            case plan.DeleteLimit():
                if isinstance(error, errors.NotFound | errors.Conflict):
                    self._cluster.forget(step.plural, step.uid)
                    return True
                return False
            case plan.DeleteSystemObject():
                return isinstance(error, errors.NotFound)
            case plan.Recheck():
                return False
            case plan.DeleteVolume() if isinstance(error, errors.NotFound):
                self._cluster.forget("persistentvolumes", step.uid)
                return True
            case plan.SetFinalizers() if isinstance(error, errors.NotFound):
                return True
            case _:
                # After no answer it may have been carried out, and no event need tell of it.
                if isinstance(error, errors.Conflict | errors.Unavailable):
                    with contextlib.suppress(errors.KubeError):
                        await refresh(self._api, self._cluster, _plural(step), _path(step))
                return False

    async def _write_status(self, step: plan.WriteStatus) -> bool:
        body: paths.Json = {"status": dict(step.patch)}
        if step.resource_version is not None:
            body["metadata"] = {"resourceVersion": step.resource_version}
        return await self._patch(step.plural, f"{_path(step)}/status", body)

    async def _patch_node(self, step: plan.PatchNode) -> bool:
        taints = [
            {"key": one.key, "effect": one.effect} | ({"value": one.value} if one.value else {})
            for one in step.taints
        ]
        body = {
            "metadata": _node_meta(step.resource_version, step.owned),
            "spec": {"unschedulable": step.unschedulable or None, "taints": taints or None},
        }
        return await self._patch("nodes", _path(step), body)

    async def _patch_gpus(self, step: plan.PatchGpus) -> bool:
        # Through the status subresource, where the API server lets annotations change as well
        # (the kubelet does so itself); so the mark and the capacity stay one write.
        value = None if step.gpus is None else str(step.gpus)
        body = {
            "metadata": _node_meta(step.resource_version, step.owned),
            "status": {
                "capacity": {constants.GPU_RESOURCE: value},
                "allocatable": {constants.GPU_RESOURCE: value},
            },
        }
        return await self._patch("nodes", f"{_path(step)}/status", body)

    async def _delete_pod(self, step: plan.DeletePod) -> bool:
        answer = await self._api.delete(
            _path(step), uid=step.uid, grace_seconds=0 if step.force else None
        )
        # Without grace it is gone at once, unless a finalizer (as on a Job's pods) holds it.
        is_held = bool((answer.get("metadata") or {}).get("finalizers"))
        if answer.get("kind") == "Pod" and (is_held or not step.force):
            return self._cluster.apply("pods", answer)
        return self._cluster.forget("pods", step.uid)

    async def _delete_volume(self, step: plan.DeleteVolume) -> bool:
        answer = await self._api.delete(
            _path(step), uid=step.uid, resource_version=step.resource_version
        )
        # Kubernetes' own finalizer holds it for a moment, or for as long as a claim has it.
        if answer.get("kind") == "PersistentVolume":
            return self._cluster.apply("persistentvolumes", answer)
        return self._cluster.forget("persistentvolumes", step.uid)

    async def _write_quota(self, step: plan.WriteQuota) -> bool:
        if step.resource_version is None:
            return await self._create("resourcequotas", bodies.quota(step))
        return await self._patch("resourcequotas", _path(step), bodies.quota_patch(step))

    async def _create(self, plural: str, body: paths.Json) -> bool:
        namespace = body["metadata"].get("namespace")
        answer = await self._api.create(paths.collection("v1", plural, namespace), body)
        return self._cluster.apply(plural, answer)

    async def _patch(self, plural: str, path: str, body: paths.Json) -> bool:
        return self._cluster.apply(plural, await self._api.patch(path, body))


def _node_meta(resource_version: str, owned: str | None) -> paths.Json:
    return {
        "resourceVersion": resource_version,
        "annotations": {constants.ANNOTATION_OWNED: owned},
    }


def _plural(step: Step) -> str:
    match step:
        case plan.WriteStatus() | plan.DeleteLimit() | plan.DeleteSystemObject() | plan.Recheck():
            return step.plural
        case plan.SetFinalizers():
            return "asedevices"
        case plan.PatchNode() | plan.PatchGpus():
            return "nodes"
        case plan.DeletePod() | plan.Evict() | plan.CreateMaster() | plan.RetryStart():
            return "pods"
        case plan.CreateMasterService():
            return "services"
        case plan.WriteQuota():
            return "resourcequotas"
        case plan.CreateLimitRange():
            return "limitranges"
        case plan.WriteVolume() | plan.DeleteVolume():
            return "persistentvolumes"
        case plan.CreateClaim():
            return "persistentvolumeclaims"
        case plan.Announce():
            return "events"


def _path(step: Step) -> str:
    """The object that a step is about."""
    plural = _plural(step)
    match step:
        case plan.WriteStatus() | plan.SetFinalizers():
            return f"{paths.collection(constants.API_VERSION, plural)}/{step.name}"
        case plan.PatchNode() | plan.PatchGpus() | plan.WriteVolume() | plan.DeleteVolume():
            return f"{paths.collection('v1', plural)}/{step.name}"
        case plan.DeletePod() | plan.Evict() | plan.DeleteLimit() | plan.RetryStart():
            return f"{paths.collection('v1', plural, step.namespace)}/{step.name}"
        case plan.Recheck():
            group = KINDS[plural].group
            return f"{paths.collection(group, plural, step.namespace)}/{step.name}"
        case plan.CreateMaster():
            name = f"{step.device}-master-{step.epoch}"
        case plan.CreateMasterService():
            name = f"{step.device}-master"
        case plan.WriteQuota():
            return f"{paths.collection('v1', plural, step.namespace)}/{constants.QUOTA_NAME}"
        case plan.CreateLimitRange():
            return f"{paths.collection('v1', plural, step.namespace)}/{constants.LIMIT_RANGE_NAME}"
        case plan.DeleteSystemObject():
            group = "coordination.k8s.io/v1" if plural == "leases" else "v1"
            return f"{paths.collection(group, plural, constants.SYSTEM_NAMESPACE)}/{step.name}"
        case plan.CreateClaim():
            name = step.name
        case plan.Announce():
            name = step.key
    return f"{paths.collection('v1', plural, constants.SYSTEM_NAMESPACE)}/{name}"


def _log(step: Step) -> None:
    """One line per decision that changes something outside our own statuses."""
    match step:
        case plan.WriteStatus():
            logger.debug("status of %s %s: %s", step.plural, step.name, dict(step.patch))
        case plan.Announce():
            logger.info("%s %s: %s", step.regarding["name"], step.reason, step.message)
        case plan.PatchNode():
            mark = step.owned or "nothing of ours left"
            logger.info("node %s: %s (%s)", step.name, mark, step.why)
        case _:
            logger.info("%s", step)
