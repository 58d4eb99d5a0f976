"""``asetwin fail``: break a component."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asetwin.cli import common
from asetwin.cli.common import Problem
from asetwin.constants import API_VERSION

if TYPE_CHECKING:
    from asetwin.kube.client import Client

WHOLE_NODE = "Node"
LONGEST_SECONDS = 604800
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Request:
    """What to break."""

    node: str
    component: str
    duration_seconds: int | None = None
    is_reboot: bool = False


def command(
    node: Annotated[str, typer.Argument(metavar="NODE", help="An AseNode.", show_default=False)],
    component: Annotated[
        str | None,
        typer.Argument(
            metavar="COMPONENT",
            help="PSU1, Port3, DIMM, Disk2, GPU1, Node …; small letters will do.",
            show_default=False,
        ),
    ] = None,
    duration: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="TIME",
            help="Repair it after this time: 30s, 5m, 1h30m; default: never.",
            show_default=False,
        ),
    ] = None,
    reboot: Annotated[
        bool, typer.Option("--reboot", help="Restart the node instead; COMPONENT is Node.")
    ] = False,
    context: common.Context = None,
    output: common.Form = common.Output.TEXT,
) -> int:
    """Break a component of a device node.

    It creates a HardwareFailure named NODE-COMPONENT, which lasts until
    'asetwin repair', until --for is over, or until somebody deletes it.

    \b
    Examples:
      # The whole of node A
      asetwin fail node-a Node
      # A storage port, for half a minute
      asetwin fail node-a port3 --for 30s
      # Node B restarts
      asetwin fail node-b --reboot

    \b
    Exit status: 0 done, 1 that failure exists already, 2 bad input or no cluster.
    """
    request = parse(node, component, duration, is_reboot=reboot)
    created = common.in_cluster(lambda api: run(api, request), context=context)
    if output is common.Output.JSON:
        common.emit_json(created)
    else:
        print(f"{created['name']} created: {_describe(created)}")
    return common.GOOD


def parse(node: str, component: str | None, duration: str | None, *, is_reboot: bool) -> Request:
    """Everything that can be said without the cluster."""
    if component is None:
        if not is_reboot:
            raise Problem("COMPONENT is missing: which part of the node fails?")
        component = WHOLE_NODE
    if is_reboot and component.lower() != WHOLE_NODE.lower():
        raise Problem(f"only the whole node can reboot: 'asetwin fail {node} --reboot'")
    seconds = None if duration is None else parse_duration(duration)
    return Request(node, component, seconds, is_reboot)


def parse_duration(text: str, *, option: str = "--for") -> int:
    """Seconds of ``30s``, ``5m``, ``1h30m``, or of a plain number of seconds."""
    if text.isascii() and text.isdigit():
        seconds = int(text)
    else:
        match = _DURATION.fullmatch(text)
        if match is None or not text:
            raise Problem(f"{option} {text}: not a time, write 30s, 5m or 1h30m")
        hours, minutes, rest = (int(part or 0) for part in match.groups())
        seconds = hours * 3600 + minutes * 60 + rest
    if not 1 <= seconds <= LONGEST_SECONDS:
        raise Problem(f"{option} {text}: must be from 1s to {LONGEST_SECONDS // 3600}h (a week)")
    return seconds


async def run(api: "Client", request: Request) -> dict[str, Any]:
    """Create the failure; returns its name and spec. Raises Problem where it makes no sense."""
    from asetwin.kube import errors
    from asetwin.model import hardware
    from asetwin.resources.devices import AseNode

    nodes = [AseNode.read(body) for body in await common.read_items(api, "asenodes")]
    node = next((one for one in nodes if one.name == request.node), None)
    if node is None:
        known = ", ".join(one.name for one in nodes) or "there is none"
        raise Problem(f"there is no AseNode {request.node!r}; known: {known}")
    words = hardware.components(node.spec.hardware)
    canonical = {word.lower(): word for word in words}.get(request.component.lower())
    if canonical is None:
        raise Problem(
            f"{node.name} has no component {request.component!r}; it has {', '.join(words)}"
        )
    spec: dict[str, Any] = {"node": node.name, "component": canonical}
    spec["action"] = "Reboot" if request.is_reboot else "Fail"
    if request.duration_seconds is not None:
        spec["durationSeconds"] = request.duration_seconds
    name = f"{node.name}-{canonical}".lower()
    body = {
        "apiVersion": API_VERSION,
        "kind": "HardwareFailure",
        "metadata": {"name": name},
        "spec": spec,
    }
    try:
        await api.create(common.path("hardwarefailures"), body)
    except errors.AlreadyExists as error:
        raise Problem(
            f"{name} exists already; end it with 'asetwin repair {node.name} {canonical}' first",
            exit_status=common.FINDINGS,
        ) from error
    return {"name": name, **spec}


def _describe(created: dict[str, Any]) -> str:
    what = f"{created['component']} of {created['node']} fails"
    if created["action"] == "Reboot":
        what = f"{created['node']} reboots"
    seconds = created.get("durationSeconds")
    return what if seconds is None else f"{what} for {seconds} s"
