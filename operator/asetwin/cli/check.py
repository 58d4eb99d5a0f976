"""``asetwin check``: would these workloads survive losing A, losing B?"""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from asetwin.cli import common

if TYPE_CHECKING:
    from asetwin.kube.client import Client
    from asetwin.model.checks.manifests import Document, Fault
    from asetwin.model.checks.scenes import Layout
    from asetwin.model.checks.verdicts import Verdict
    from asetwin.model.snapshot import Snapshot

MOST_FAULTS = 20


class Form(StrEnum):
    """The forms of the answer."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"
    SARIF = "sarif"


Files = Annotated[
    list[str],
    typer.Option(
        "--filename",
        "-f",
        metavar="PATH",
        help="A manifest, a folder, a kustomize folder, or - for stdin; may be repeated.",
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-R", help="Look in the folders below a folder too.")
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="FILE",
        help="AseDevice, AseNodes and PinnedWorkers to check against; default: two Pro GPU nodes.",
        show_default=False,
    ),
]
FromCluster = Annotated[
    bool,
    typer.Option(
        "--from-cluster", help="Check against the device of the cluster and all that runs there."
    ),
]
Output = Annotated[
    Form,
    typer.Option("--output", "-o", help="text for people, the others for machines."),
]


def command(
    filename: Files,
    recursive: Recursive = False,
    device: Device = None,
    from_cluster: FromCluster = False,
    context: common.Context = None,
    output: Output = Form.TEXT,
) -> int:
    """Would these workloads survive losing node A, losing node B?

    Places the pods of the manifests on the device under its reserve, as the
    scheduler would, then loses one node and then the other. Nothing is
    deployed.

    \b
    Examples:
      # A folder, against a device with two nodes of a Pro GPU
      asetwin check -f manifests/
      # What Helm renders, against a device of your own
      helm template shop ./chart | asetwin check -f - --device device.yaml
      # On top of what runs already, for a code host
      asetwin check -f shop.yaml --from-cluster -o sarif

    \b
    Exit status: 0 all would run (there may be information), 1 findings,
    2 bad input or no cluster.
    """
    if device is not None and from_cluster:
        raise common.Problem("--device and --from-cluster exclude each other: choose one device")
    from asetwin.cli import documents

    read, faults = documents.read(filename, recursive=recursive)
    answer = (
        _against_cluster(read, faults, context) if from_cluster else _alone(read, faults, device)
    )
    if answer is None:
        return common.BAD_INPUT
    show(answer, output)
    return common.GOOD if answer.word == "pass" else common.FINDINGS


def _alone(read: "list[Document]", faults: "list[Fault]", device: str | None) -> "Verdict | None":
    from asetwin.model.checks import manifests, scenes, verdicts

    layout = scenes.standard() if device is None else _device(device)
    bundle = manifests.read(read)
    if layout is None or _are_faults([*faults, *bundle.faults]):
        return None
    return verdicts.judge(bundle, layout)


def _are_faults(faults: "list[Fault]") -> bool:
    """Tell what is wrong with the input; False where nothing is."""
    faults = sorted(faults, key=lambda one: (one.file, one.line))
    for one in faults[:MOST_FAULTS]:
        field = f"{one.field}: " if one.field else ""
        common.warn(f"error: {one.file}:{one.line}: {field}{one.message}")
    if len(faults) > MOST_FAULTS:
        common.warn(f"error: and {len(faults) - MOST_FAULTS} more")
    return bool(faults)


def show(verdict: "Verdict", output: Form) -> None:
    """Print the answer."""
    from asetwin.cli import findings

    match output:
        case Form.TEXT:
            print(findings.as_text(verdict), flush=True)
        case Form.JSON:
            common.emit_json(findings.as_json(verdict))
        case Form.JUNIT:
            print(findings.as_junit(verdict), flush=True)
        case Form.SARIF:
            common.emit_json(findings.as_sarif(verdict))


# --- The device -----------------------------------------------------------------------------------


def _device(name: str) -> "Layout | None":
    """The device of a file; None where the file is wrong, which is told."""
    from pydantic import ValidationError

    from asetwin.cli import documents
    from asetwin.model.checks import scenes
    from asetwin.model.checks.manifests import Fault
    from asetwin.resources.devices import AseDevice, AseNode, PinnedWorker

    read, faults = documents.read([name])
    devices, nodes, workers = list[AseDevice](), list[AseNode](), list[PinnedWorker]()
    for one in read:
        try:
            match one.kind:
                case "AseDevice":
                    devices.append(AseDevice.read(one.body))
                case "AseNode":
                    nodes.append(AseNode.read(one.body))
                case "PinnedWorker":
                    workers.append(PinnedWorker.read(one.body))
        except ValidationError as error:
            for each in error.errors():
                path, field = tuple(each["loc"]), ".".join(str(part) for part in each["loc"])
                faults.append(Fault(one.file, one.line_of(path), field, each["msg"]))
    if _are_faults(faults):
        return None
    if len(devices) != 1:
        raise common.Problem(
            f"{name}: has {len(devices)} AseDevices; --device takes a file with exactly one, its "
            "AseNodes and PinnedWorkers"
        )
    own = [one for one in nodes if one.spec.device == devices[0].name]
    if not own:
        raise common.Problem(
            f"{name}: no AseNode names the device {devices[0].name}; add one for each node"
        )
    return scenes.described(devices[0], own, workers)


# --- The cluster ----------------------------------------------------------------------------------


def _against_cluster(
    read: "list[Document]", faults: "list[Fault]", context: str | None
) -> "Verdict | None":
    from asetwin.model.checks import manifests, scenes, verdicts

    if _are_faults([*faults, *manifests.read(read).faults]):
        return None
    snapshot, known = common.in_cluster(_observe, context=context)
    bundle = manifests.read([*known, *read])
    bundle.documents -= len(known)
    (device,) = snapshot.devices.values() if len(snapshot.devices) == 1 else (None,)
    if device is None:
        raise common.Problem(
            f"the cluster has {len(snapshot.devices)} AseDevices, one is needed; check against a "
            "file with --device instead"
        )
    layout = scenes.observed(snapshot, device, bundle)
    if not layout.nodes:
        raise common.Problem(
            f"the AseDevice {device.name} has no node whose PinnedWorker leads to a Node of the "
            "cluster; see asetwin status"
        )
    return verdicts.judge(bundle, layout)


async def _observe(api: "Client") -> "tuple[Snapshot, list[Document]]":
    """The cluster, and those of its objects that say how a pod is admitted."""
    from asetwin.kube import client
    from asetwin.kube.observe import Cluster
    from asetwin.model.checks.manifests import Document

    cluster = Cluster()
    await cluster.resync(api)
    known = list[Document]()
    for kind, group, plural in (
        ("PriorityClass", "scheduling.k8s.io/v1", "priorityclasses"),
        ("LimitRange", "v1", "limitranges"),
    ):
        answer = await api.get(client.collection(group, plural))
        for body in answer.get("items") or ():
            full = {"apiVersion": group, "kind": kind, **body}
            known.append(Document(full, "the cluster", lambda _: 1))
    return cluster.snapshot(), known
