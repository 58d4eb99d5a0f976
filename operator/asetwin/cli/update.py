"""``asetwin update``: update a device, node by node."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asetwin.cli import common, fail
from asetwin.cli.common import Problem
from asetwin.constants import API_VERSION

if TYPE_CHECKING:
    from asetwin.kube.client import Client

LONGEST_SECONDS = 86400
_VERSION = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)


class Type(StrEnum):
    """As in ``spec.type``."""

    DEVICE_SOFTWARE = "DeviceSoftware"
    KUBERNETES = "Kubernetes"


class OnDrainTimeout(StrEnum):
    """As in ``spec.onDrainTimeout``."""

    WAIT = "Wait"
    FAIL = "Fail"
    FORCE = "Force"


@dataclass(frozen=True, slots=True)
class Request:
    """What to update, to what, and how patiently."""

    device: str
    type: Type
    version: str | None = None
    drain_timeout_seconds: int | None = None
    on_drain_timeout: OnDrainTimeout = OnDrainTimeout.WAIT
    allow_unready: bool = False


def command(
    device: Annotated[
        str, typer.Argument(metavar="DEVICE", help="An AseDevice.", show_default=False)
    ],
    kind: Annotated[
        Type, typer.Option("--type", help="What is updated.", case_sensitive=False)
    ] = Type.DEVICE_SOFTWARE,
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            metavar="VERSION",
            help="The version to record; default: the update's name.",
            show_default=False,
        ),
    ] = None,
    drain_timeout: Annotated[
        str | None,
        typer.Option(
            "--drain-timeout",
            metavar="TIME",
            help="How long pods may take to leave a node: 30s, 5m; default: the device's.",
            show_default=False,
        ),
    ] = None,
    on_drain_timeout: Annotated[
        OnDrainTimeout,
        typer.Option("--on-drain-timeout", help="What then.", case_sensitive=False),
    ] = OnDrainTimeout.WAIT,
    allow_unready: Annotated[
        bool,
        typer.Option("--allow-unready", help="Also if some pods have no place on the other node."),
    ] = False,
    context: common.Context = None,
    output: common.Form = common.Output.TEXT,
) -> int:
    """Update a device, one node after the other.

    It creates a DeviceUpdate named after device, type and version. It goes on
    by itself; 'asetwin status' shows how far it is, and deleting the
    DeviceUpdate cancels what is left of it.

    \b
    Examples:
      # Both nodes are rebooted in turn
      asetwin update ase --type DeviceSoftware --version 3.3.2604
      # The master moves, workers' kubelets are restarted; give up after five minutes
      asetwin update ase --type Kubernetes --drain-timeout 5m --on-drain-timeout Fail
      # Wait for its end
      kubectl wait dup/ase-device-software-3.3.2604 --for=condition=Succeeded --timeout=1h

    \b
    Exit status: 0 done, 1 that update exists already, 2 bad input or no cluster.
    """
    request = parse(device, kind, version, drain_timeout, on_drain_timeout, allow=allow_unready)
    created = common.in_cluster(lambda api: run(api, request), context=context)
    if output is common.Output.JSON:
        common.emit_json(created)
    else:
        print(f"{created['name']} created: {request.type} of {device} is updated node by node")
    return common.GOOD


def parse(
    device: str,
    kind: Type,
    version: str | None,
    drain_timeout: str | None,
    on_drain_timeout: OnDrainTimeout,
    *,
    allow: bool,
) -> Request:
    """Everything that can be said without the cluster."""
    if version is not None and not _VERSION.fullmatch(version):
        raise Problem(
            f"--version {version}: must be at most 63 letters, digits, '-', '_' and '.', with a "
            "letter or digit at both ends"
        )
    seconds = None
    if drain_timeout is not None:
        seconds = fail.parse_duration(drain_timeout, option="--drain-timeout")
        if seconds > LONGEST_SECONDS:
            raise Problem(f"--drain-timeout {drain_timeout}: must be at most 24h")
    return Request(device, kind, version, seconds, on_drain_timeout, allow)


def name_of(request: Request) -> str:
    """The DeviceUpdate's name: device, type and version, as far as a name may have them."""
    words = re.sub(r"(?<!^)([A-Z])", r"-\1", request.type.value)
    name = "-".join(filter(None, (request.device, words, request.version))).lower()
    return re.sub(r"[^a-z0-9.]+", "-", name)[:63].strip("-.")


async def run(api: "Client", request: Request) -> dict[str, Any]:
    """Create the update; returns its name and spec. Raises Problem where it makes no sense."""
    from asetwin.kube import errors

    known = [body["metadata"]["name"] for body in await common.read_items(api, "asedevices")]
    if request.device not in known:
        names = ", ".join(known) or "there is none"
        raise Problem(f"there is no AseDevice {request.device!r}; known: {names}")
    spec: dict[str, Any] = {"device": request.device, "type": request.type.value}
    if request.version is not None:
        spec["version"] = request.version
    if request.drain_timeout_seconds is not None:
        spec["drainTimeoutSeconds"] = request.drain_timeout_seconds
    spec["onDrainTimeout"] = request.on_drain_timeout.value
    spec["allowUnready"] = request.allow_unready
    name = name_of(request)
    meta = {"name": name}
    body = {"apiVersion": API_VERSION, "kind": "DeviceUpdate", "metadata": meta, "spec": spec}
    try:
        await api.create(common.path("deviceupdates"), body)
    except errors.AlreadyExists as error:
        raise Problem(
            f"{name} exists already; look at it with 'asetwin status', or delete it first: "
            f"kubectl delete dup {name}",
            exit_status=common.FINDINGS,
        ) from error
    return {"name": name, **spec}
