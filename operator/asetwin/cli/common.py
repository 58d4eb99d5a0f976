"""What the verbs share: options, output, and the way to the cluster."""

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from asetwin.constants import API_VERSION

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from asetwin.kube.client import Client
    from asetwin.resources.devices import AseDevice, AseNode, HardwareFailure, PinnedWorker
    from asetwin.resources.updates import DeviceUpdate

T = TypeVar("T")

GOOD = 0
FINDINGS = 1
BAD_INPUT = 2

COLUMNS = 100
"""Tables are no wider, so that they can be pasted into an issue."""


class Problem(Exception):
    """Something the user has to know; ends the program with one line on stderr."""

    def __init__(self, message: str, *, exit_status: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Output(StrEnum):
    """The forms of a result."""

    TEXT = "text"
    JSON = "json"


Context = Annotated[
    str | None,
    typer.Option(
        "--context",
        metavar="NAME",
        help="The kubeconfig context to use; default: the current one, in a pod its own cluster.",
        show_default=False,
    ),
]
Form = Annotated[Output, typer.Option("--output", "-o", help="text for people, json for machines.")]


def warn(message: str) -> None:
    """One line on stderr."""
    print(message, file=sys.stderr, flush=True)


def emit_json(data: Any, *, indent: int | None = 2) -> None:
    """A result for machines; without an indent it is one line."""
    print(json.dumps(data, indent=indent, ensure_ascii=False), flush=True)


def make_console() -> "Console":
    """Where results for people go: coloured on a terminal only, at most 100 columns wide."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(console.width, COLUMNS) if console.is_terminal else COLUMNS
    return console


def make_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> "RenderableType":
    """Rows under headings, as kubectl prints them; long cells are wrapped, never cut."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return table


STYLES = {
    "Online": "green",
    "Up": "green",
    "NeedsAttention": "yellow",
    "Maintenance": "yellow",
    "Rebooting": "yellow",
    "Updating": "yellow",
    "Returning": "yellow",
    "Offline": "bold red",
    "Down": "bold red",
    "Isolated": "bold red",
    "Quarantined": "red",
    "Active": "red",
    "Running": "yellow",
    "Paused": "yellow",
    "Waiting": "yellow",
    "Succeeded": "green",
    "Failed": "red",
    "Rejected": "red",
}
"""States that stand out on a terminal."""


# --- The cluster ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class World:
    """All of asetwin's objects, each kind by name."""

    devices: "tuple[AseDevice, ...]"
    nodes: "tuple[AseNode, ...]"
    workers: "tuple[PinnedWorker, ...]"
    failures: "tuple[HardwareFailure, ...]"
    updates: "tuple[DeviceUpdate, ...]" = ()


def in_cluster(action: "Callable[[Client], Awaitable[T]]", *, context: str | None) -> T:
    """Connect, run, and turn what the API server refuses into a Problem."""
    from kubernetes.aio.config import ConfigException

    from asetwin.kube import client, errors

    async def session() -> T:
        async with client.connect(context=context) as api:
            return await action(api)

    # The library warns about a missing kubeconfig before it raises; one line is enough.
    logging.getLogger("kubernetes").setLevel(logging.CRITICAL)
    try:
        return asyncio.run(session())
    except ConfigException as error:
        raise Problem(
            f"no cluster to talk to: {_one_line(error)} (set KUBECONFIG, or choose with --context)"
        ) from error
    except errors.NotFound as error:
        raise Problem(
            f"the cluster does not know asetwin's resources, apply crds/ first: {_one_line(error)}"
        ) from error
    except errors.Unavailable as error:
        raise Problem(f"the cluster does not answer: {_one_line(error)}") from error
    except errors.KubeError as error:
        raise Problem(f"the cluster refused: {_one_line(error)}") from error


def path(plural: str, name: str | None = None) -> str:
    """The API path of one of asetwin's kinds, or of one object."""
    from asetwin.kube import client

    collection = client.collection(API_VERSION, plural)
    return f"{collection}/{name}" if name else collection


async def read_items(api: "Client", plural: str) -> list[dict[str, Any]]:
    """All objects of one of asetwin's kinds, sorted by name."""
    answer = await api.get(path(plural))
    return sorted(answer.get("items", []), key=lambda body: str(body["metadata"]["name"]))


async def read_world(api: "Client") -> World:
    """All of asetwin's objects; the kinds are read side by side."""
    from asetwin.resources.devices import AseDevice, AseNode, HardwareFailure, PinnedWorker
    from asetwin.resources.updates import DeviceUpdate

    plurals = ("asedevices", "asenodes", "pinnedworkers", "hardwarefailures", "deviceupdates")
    devices, nodes, workers, failures, updates = await asyncio.gather(
        *(read_items(api, plural) for plural in plurals)
    )
    return World(
        devices=tuple(AseDevice.read(body) for body in devices),
        nodes=tuple(AseNode.read(body) for body in nodes),
        workers=tuple(PinnedWorker.read(body) for body in workers),
        failures=tuple(HardwareFailure.read(body) for body in failures),
        updates=tuple(DeviceUpdate.read(body) for body in updates),
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
