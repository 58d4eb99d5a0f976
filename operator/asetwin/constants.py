"""Names that end up in a cluster: labels, annotations, taints, object names.

Whatever asetwin changes on an object that is not its own, it signs with one
of these, in the same write as the change. The names are part of the API:
changing one orphans what an earlier version has signed.
"""

GROUP = "asetwin.dev"
VERSION = "v1alpha1"
API_VERSION: str = f"{GROUP}/{VERSION}"

SYSTEM_NAMESPACE = "asetwin-system"
POWER_NAMESPACE = "asetwin-power"
"""The power agent's: it needs the engine's socket, which a restricted namespace forbids."""
LEASE_NAMESPACE = "kube-node-lease"
"""Where the kubelets' heartbeats are."""
FIELD_MANAGER = "asetwin-operator"

FINALIZER = "asetwin.dev/cleanup"
"""On AseDevices only: holds a deletion until what is ours in the cluster is undone."""

LABEL_DEVICE = "asetwin.dev/device"
LABEL_ROLE = "asetwin.dev/role"
LABEL_EPOCH = "asetwin.dev/epoch"
LABEL_VERSION = "asetwin.dev/version"
"""On the master's pod: the version that the last Kubernetes update has brought."""
LABEL_PROTOCOL = "asetwin.dev/protocol"
"""On the PersistentVolume of a share: NFS or SMB, as its AseDevice states it."""
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "asetwin"
ROLE_MASTER = "master"

ANNOTATION_OWNED = "asetwin.dev/owned"
"""On a Node: JSON of what asetwin changed there and for which device (see model.marks)."""

ANNOTATION_LIFTED = "asetwin.dev/lifted-for"
"""On our ResourceQuota: the id of the failover for which it is lifted."""

ANNOTATION_RETRIES = "asetwin.dev/start-retries"
"""On a master's pod: how often its kubelet was asked to try its start anew (see model.master)."""

TAINT_NODE_DOWN = "asetwin.dev/node-down"
TAINT_OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
TAINT_EFFECT = "NoExecute"
TAINT_REBALANCING = "asetwin.dev/rebalancing"
"""On the fuller node after a return: the scheduler prefers the other one, and is free to refuse."""
TAINT_REBALANCING_EFFECT = "PreferNoSchedule"

QUOTA_NAME = "asetwin-reserve"
LIMIT_RANGE_NAME = "asetwin-defaults"
SHARES_PATH = "/var/lib/asetwin/shares"
"""One directory for all shares, the same one on every Node."""
JOURNAL_CAPACITY = "64Mi"
DEFAULT_REQUESTS = {"cpu": "10m", "memory": "16Mi"}

GPU_RESOURCE = "nvidia.com/gpu"

RESERVED_NAMESPACES = frozenset(
    {
        "kube-system",
        "kube-public",
        "kube-node-lease",
        "local-path-storage",
        "metallb-system",
        "dbe-namespace",
        "kubernetes-dashboard",
        "iotedge",
        "azure-arc",
        SYSTEM_NAMESPACE,
        POWER_NAMESPACE,
    }
)
"""Namespaces that the device itself uses; they are never limited (design 4.8)."""

STATUS_LIST_LIMIT = 20
"""Lists of pods in a status or message stop here and say how many there are in all."""
HISTORY_LIMIT = 10
