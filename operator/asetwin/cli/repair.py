"""``asetwin repair``: end failures."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from asetwin.cli import common
from asetwin.cli.common import Problem, World

if TYPE_CHECKING:
    from asetwin.kube.client import Client
    from asetwin.resources.devices import HardwareFailure


@dataclass(frozen=True, slots=True)
class Request:
    """What to repair; None stands for all nodes, or all components."""

    node: str | None
    component: str | None = None


@dataclass(frozen=True, slots=True)
class Repaired:
    """One failure that has been deleted."""

    name: str
    node: str
    component: str


def command(
    node: Annotated[
        str | None, typer.Argument(metavar="NODE", help="An AseNode.", show_default=False)
    ] = None,
    component: Annotated[
        str | None,
        typer.Argument(
            metavar="COMPONENT", help="This component only; default: all.", show_default=False
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="On all nodes.")] = False,
    context: common.Context = None,
    output: common.Form = common.Output.TEXT,
) -> int:
    """End failures: of a node, of one component, or all of them.

    It deletes the HardwareFailures, however they were created. The device
    then takes the node back by its own rules.

    \b
    Examples:
      # All that is broken on node A
      asetwin repair node-a
      # One component of it
      asetwin repair node-a PSU1
      # Everything everywhere
      asetwin repair --all

    \b
    Exit status: 0 done, also if nothing was broken; 2 bad input or no cluster.
    """
    request = parse(node, component, is_all=everything)
    repaired = common.in_cluster(lambda api: run(api, request), context=context)
    if output is common.Output.JSON:
        common.emit_json(
            {
                "repaired": [
                    {"name": one.name, "node": one.node, "component": one.component}
                    for one in repaired
                ]
            }
        )
        return common.GOOD
    for one in repaired:
        print(f"{one.name} deleted: {one.component} of {one.node} is repaired")
    if not repaired:
        print(f"nothing to repair{_where(request)}")
    return common.GOOD


def parse(node: str | None, component: str | None, *, is_all: bool) -> Request:
    """NODE or --all; with --all the one argument that may follow is a component."""
    if not is_all:
        if node is None:
            raise Problem("NODE is missing: name one, or repair everything with --all")
        return Request(node, component)
    if component is not None:
        raise Problem(f"--all means every node: leave out {node!r}, or --all")
    return Request(node=None, component=node)


async def run(api: "Client", request: Request) -> list[Repaired]:
    """Delete the failures that are meant; returns those that were there."""
    from asetwin.kube import errors

    world = await common.read_world(api)
    _check(world, request)
    repaired = []
    for failure in world.failures:
        if not _is_meant(failure, request):
            continue
        try:
            await api.delete(
                common.path("hardwarefailures", failure.name), uid=failure.metadata.uid or None
            )
        except (errors.NotFound, errors.Conflict):
            # Gone meanwhile; a new one of the same name is not the one that was meant.
            continue
        repaired.append(Repaired(failure.name, failure.spec.node, failure.spec.component))
    return repaired


def _check(world: World, request: Request) -> None:
    """Raise Problem for a node or a component that cannot be meant, with what can."""
    from asetwin.model import hardware

    # A failure may name a node that does not exist; it must be possible to get rid of it.
    nodes = {one.name for one in world.nodes} | {one.spec.node for one in world.failures}
    if request.node is not None and request.node not in nodes:
        known = ", ".join(one.name for one in world.nodes) or "there is none"
        raise Problem(f"there is no AseNode {request.node!r}; known: {known}")
    if request.component is None:
        return
    if request.node is None and request.component in nodes:
        raise Problem(f"--all means every node: leave out {request.component!r}, or --all")
    words = {
        word: None
        for node in world.nodes
        if request.node in (None, node.name)
        for word in hardware.components(node.spec.hardware)
    }
    words |= {one.spec.component: None for one in world.failures}
    if request.component.lower() not in {word.lower() for word in words}:
        raise Problem(f"there is no component {request.component!r}; known: {', '.join(words)}")


def _is_meant(failure: "HardwareFailure", request: Request) -> bool:
    if request.node is not None and failure.spec.node != request.node:
        return False
    wanted = request.component
    return wanted is None or failure.spec.component.lower() == wanted.lower()


def _where(request: Request) -> str:
    where = f" on {request.node}" if request.node else ""
    return f"{where}: {request.component} works" if request.component else where
