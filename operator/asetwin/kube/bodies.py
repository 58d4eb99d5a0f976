"""The JSON of the objects that asetwin creates."""

import hashlib
from typing import Any

from asetwin import constants
from asetwin.model import master, plan, shares
from asetwin.resources import times
from asetwin.resources.core import Binding

Json = dict[str, Any]

MASTER_PORT = 8080
JOURNAL_FOLDER = "/journal"
MASTER_LEASE_SECONDS = 3
"""How long a master may serve after its last renewal; it renews every second."""

_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def journal_file(device: str, device_uid: str) -> str:
    """The name of the masters' journal on the device's own share."""
    return f"{device}-{device_uid[:8]}.log"


def owned_labels(device: str) -> dict[str, str]:
    """The labels that say that an object is ours, and for which device."""
    return {constants.LABEL_MANAGED_BY: constants.MANAGED_BY, constants.LABEL_DEVICE: device}


def _system_meta(name: str, device: str, device_uid: str, **labels: str) -> Json:
    # The owner reference is for people; the cleanup does not rely on garbage collection,
    # which would also work while no operator is there to see to the order.
    return {
        "name": name,
        "namespace": constants.SYSTEM_NAMESPACE,
        "labels": owned_labels(device) | labels,
        "ownerReferences": [
            {
                "apiVersion": constants.API_VERSION,
                "kind": "AseDevice",
                "name": device,
                "uid": device_uid,
                "controller": False,
                "blockOwnerDeletion": False,
            }
        ],
    }


def master_pod(step: plan.CreateMaster, image: str) -> Json:
    """The pod of one epoch of the master stand-in.

    It is bound to its Node directly, as a VM is placed by the hypervisor and
    not by kube-scheduler; a cordon does not keep it away.
    """
    labels = {
        constants.LABEL_ROLE: constants.ROLE_MASTER,
        constants.LABEL_EPOCH: str(step.epoch),
        "app.kubernetes.io/name": "asetwin-master",
    }
    if step.version:
        labels[constants.LABEL_VERSION] = step.version
    name = master.pod_name(step.device, step.epoch)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _system_meta(name, step.device, step.device_uid, **labels),
        "spec": {
            "nodeName": step.node,
            "serviceAccountName": "asetwin-master",
            "restartPolicy": "OnFailure",
            "terminationGracePeriodSeconds": 5,
            # It stands for a VM, which no taint evicts. Else somebody's NoExecute taint would end
            # every epoch's pod at once, and a new epoch would follow twice a second.
            "tolerations": [{"operator": "Exists", "effect": "NoExecute"}],
            "priorityClassName": "system-cluster-critical",
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [
                {
                    "name": "journal",
                    "persistentVolumeClaim": {"claimName": shares.journal_name(step.device)},
                }
            ],
            "containers": [_master_container(step, image)],
        },
    }


def _master_container(step: plan.CreateMaster, image: str) -> Json:
    env = {
        "ASETWIN_DEVICE": step.device,
        "ASETWIN_EPOCH": str(step.epoch),
        "ASETWIN_POD": master.pod_name(step.device, step.epoch),
        "ASETWIN_NODE": step.ase_node,
        "ASETWIN_BOOT_SECONDS": str(step.boot_seconds),
        "ASETWIN_LEASE_SECONDS": str(MASTER_LEASE_SECONDS),
        "ASETWIN_PORT": str(MASTER_PORT),
        # One file per AseDevice object: epochs of a device that is made anew start at 1 again.
        "ASETWIN_JOURNAL": f"{JOURNAL_FOLDER}/{journal_file(step.device, step.device_uid)}",
    }
    return {
        "name": "master",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["master"],
        "env": [
            *({"name": key, "value": value} for key, value in env.items()),
            # Tells this pod from a later one of the same name.
            {
                "name": "ASETWIN_POD_UID",
                "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}},
            },
        ],
        "ports": [{"name": "http", "containerPort": MASTER_PORT}],
        "securityContext": _RESTRICTED,
        "volumeMounts": [{"name": "journal", "mountPath": JOURNAL_FOLDER}],
        "resources": {
            "requests": {"cpu": "20m", "memory": "64Mi"},
            "limits": {"memory": "192Mi"},
        },
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "http"},
            "periodSeconds": 1,
            "failureThreshold": 1,
        },
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "http"},
            "initialDelaySeconds": 10,
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
    }


def retry_patch(step: plan.RetryStart) -> Json:
    """The merge patch that makes a kubelet try a pod's start at once; it means nothing else."""
    return {"metadata": {"annotations": {constants.ANNOTATION_RETRIES: str(step.attempt)}}}


def master_service(step: plan.CreateMasterService) -> Json:
    """The Service in front of whichever master is Ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _system_meta(master.object_name(step.device), step.device, step.device_uid),
        "spec": {
            "selector": {
                constants.LABEL_DEVICE: step.device,
                constants.LABEL_ROLE: constants.ROLE_MASTER,
            },
            "ports": [{"name": "http", "port": 80, "targetPort": MASTER_PORT}],
        },
    }


def quota(step: plan.WriteQuota) -> Json:
    """Our ResourceQuota as it is created."""
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {
            "name": constants.QUOTA_NAME,
            "namespace": step.namespace,
            "labels": owned_labels(step.device),
        },
        "spec": {"hard": dict(step.hard)},
    }


def quota_patch(step: plan.WriteQuota) -> Json:
    """The merge patch from the quota that is there; what others put on it stays."""
    return {
        "metadata": {
            "resourceVersion": step.resource_version,
            "labels": owned_labels(step.device),
            "annotations": {constants.ANNOTATION_LIFTED: step.lifted_for or None},
        },
        "spec": {"hard": dict.fromkeys(step.stale_keys) | dict(step.hard)},
    }


def limit_range(step: plan.CreateLimitRange) -> Json:
    """Our LimitRange: small default requests, so that pods without any pass the quota."""
    return {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {
            "name": constants.LIMIT_RANGE_NAME,
            "namespace": step.namespace,
            "labels": owned_labels(step.device),
        },
        "spec": {
            "limits": [{"type": "Container", "defaultRequest": dict(constants.DEFAULT_REQUESTS)}]
        },
    }


def volume(step: plan.WriteVolume) -> Json:
    """The PersistentVolume of a share as it is created.

    On the same directory of every Node, so that it needs no node affinity; the
    kubelet makes the share's own folder in it when it is first mounted.
    """
    spec: Json = {
        "capacity": {"storage": step.capacity},
        "accessModes": ["ReadWriteMany"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "",
        "volumeMode": "Filesystem",
        "hostPath": {
            "path": f"{constants.SHARES_PATH}/{step.name}",
            "type": "DirectoryOrCreate",
        },
    }
    if step.kept_for is not None:
        spec["claimRef"] = _claim_ref(step.kept_for)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": step.name, "labels": _volume_labels(step)},
        "spec": spec,
    }


def volume_patch(step: plan.WriteVolume) -> Json:
    """The merge patch from the volume that is there."""
    spec: Json = {"capacity": {"storage": step.capacity}}
    if step.released:
        spec["claimRef"] = None
        if step.kept_for is not None:
            # The place stays taken, but by no claim in particular.
            spec["claimRef"] = {"uid": None, "resourceVersion": None}
    return {
        "metadata": {"resourceVersion": step.resource_version, "labels": _volume_labels(step)},
        "spec": spec,
    }


def _volume_labels(step: plan.WriteVolume) -> dict[str, str]:
    return owned_labels(step.device) | {constants.LABEL_PROTOCOL: step.protocol}


def _claim_ref(kept_for: Binding) -> Json:
    reference = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": kept_for.namespace,
        "name": kept_for.name,
    }
    return reference | ({"uid": kept_for.uid} if kept_for.uid else {})


def claim(step: plan.CreateClaim) -> Json:
    """The claim for a device's journal; its masters mount it one after the other."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _system_meta(step.name, step.device, step.device_uid),
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "volumeName": step.name,
            "resources": {"requests": {"storage": constants.JOURNAL_CAPACITY}},
        },
    }


def eviction(step: plan.Evict) -> Json:
    """The body of POST …/eviction; with the uid, so that a pod that took its name is left alone."""
    return {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": step.name, "namespace": step.namespace},
        "deleteOptions": {"preconditions": {"uid": step.uid}},
    }


def event(step: plan.Announce, now: float, instance: str) -> Json:
    """An Event about one of our cluster-scoped objects; those live in ``default``."""
    digest = hashlib.sha256(step.key.encode()).hexdigest()[:16]
    moment = times.render(now).replace("Z", "000Z")  # MicroTime wants six digits
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{step.regarding['name']}.{digest}", "namespace": "default"},
        "involvedObject": dict(step.regarding),
        "reason": step.reason,
        "message": step.message,
        "type": "Warning" if step.is_warning else "Normal",
        "eventTime": moment,
        "action": step.reason,
        "reportingComponent": constants.FIELD_MANAGER,
        "reportingInstance": instance,
    }
