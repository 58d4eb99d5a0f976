"""``asetwin timeline``: what happened, in seconds since the failover was detected."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asetwin.cli import common
from asetwin.constants import API_VERSION

if TYPE_CHECKING:
    from asetwin.kube.client import Client

POLL_SECONDS = 0.5
EVENTS_PATH = "/api/v1/events"


@dataclass(frozen=True, slots=True)
class Entry:
    """One Event. ``t`` is None before the first failover."""

    t: float | None
    time: str
    object: str
    reason: str
    event: str
    type: str
    count: int
    uid: str


def command(
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on printing what happens, until Ctrl-C.")
    ] = False,
    context: common.Context = None,
    output: common.Form = common.Output.TEXT,
) -> int:
    """Show the Events of asetwin's objects in order.

    The first column is the time since the detection of the failover that goes
    on, or else of the last one; what came before is negative. The cluster
    keeps Events for an hour. With --follow, json is one object per line.

    \b
    Examples:
      # Watch a failover
      asetwin timeline --follow
      # When did the master move?
      asetwin timeline -o json | jq '.events[] | select(.reason | startswith("Master"))'

    \b
    Exit status: 0 done, 2 bad input or no cluster.
    """
    is_json = output is common.Output.JSON
    if follow:
        emit = _emit_json if is_json else _make_printer()
        try:
            common.in_cluster(lambda api: watch(api, emit), context=context)
        except KeyboardInterrupt:
            return common.GOOD
        return common.GOOD
    entries = common.in_cluster(run, context=context)
    if is_json:
        common.emit_json({"events": [asdict(one) for one in entries]})
        return common.GOOD
    show = _make_printer()
    for entry in entries:
        show(entry)
    if not entries:
        common.warn("there are no Events of asetwin's objects")
    return common.GOOD


async def run(api: "Client") -> list[Entry]:
    """The Events that the cluster still has, oldest first."""
    # Events first: the failover that one of them tells of is in the device's status by then.
    selector = f"involvedObject.apiVersion={API_VERSION}"
    events = await api.get(EVENTS_PATH, fieldSelector=selector)
    devices = await common.read_items(api, "asedevices")
    return arrange(events.get("items", []), devices)


async def watch(
    api: "Client", emit: Callable[[Entry], None], *, pause_seconds: float = POLL_SECONDS
) -> None:
    """Emit each Event once, and again when it has repeated; goes on until cancelled.

    An API server that is away for a moment is waited for, once it has answered.
    """
    from asetwin.kube import errors

    told: dict[str, int] = {}
    is_away = False
    while True:
        try:
            entries = await run(api)
        except errors.KubeError as error:
            if not told or not errors.is_transient(error):
                raise
            if not is_away:
                common.warn(f"warning: {error}; trying again")
            is_away = True
        else:
            is_away = False
            for entry in entries:
                if told.get(entry.uid, 0) < entry.count:
                    emit(entry)
                told[entry.uid] = entry.count
        await asyncio.sleep(pause_seconds)


def arrange(events: Iterable[dict[str, Any]], devices: Iterable[dict[str, Any]]) -> list[Entry]:
    """Events as entries in order, counted from the latest failover's detection."""
    from asetwin.resources.devices import AseDevice

    detections = [
        failover.detected_at
        for device in (AseDevice.read(body) for body in devices)
        for failover in (device.status.failover, *device.status.history)
        if failover is not None
    ]
    zero = max(detections, default=None)
    entries = [_entry(body, zero) for body in events]
    return [entry for _, entry in sorted(entries, key=lambda one: one[0])]


def _entry(body: dict[str, Any], zero: float | None) -> tuple[tuple[float, int, str], Entry]:
    """An entry, with what to sort it by: the time, then the order of writing."""
    from asetwin.resources import times

    metadata, about = body["metadata"], body.get("involvedObject") or {}
    series = body.get("series") or {}
    count = series.get("count") or body.get("count") or 1
    # Only the first of these has fractions of a second, but it does not follow repetitions.
    once = body.get("eventTime") if count == 1 else None
    last = series.get("lastObservedTime") or body.get("lastTimestamp") or body.get("eventTime")
    seconds = times.parse(once or last or metadata["creationTimestamp"])
    written = str(metadata.get("resourceVersion", ""))
    entry = Entry(
        t=None if zero is None else round(seconds - zero, 3),
        time=times.render(seconds),
        object=f"{about.get('kind', '')}/{about.get('name', '')}",
        reason=body.get("reason", ""),
        event=body.get("message", ""),
        type=body.get("type", "Normal"),
        count=count,
        uid=metadata.get("uid", metadata["name"]),
    )
    return (seconds, int(written) if written.isdigit() else 0, metadata["name"]), entry


def _emit_json(entry: Entry) -> None:
    common.emit_json(asdict(entry), indent=None)


def _make_printer() -> Callable[[Entry], None]:
    """Prints one entry; a long message goes on in its own column."""
    from rich.table import Table
    from rich.text import Text

    console = common.make_console()

    def show(entry: Entry) -> None:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=9, justify="right")
        for width in (24, 18):
            grid.add_column(width=width, overflow="fold")
        grid.add_column(overflow="fold")
        repeated = f" (x{entry.count})" if entry.count > 1 else ""
        grid.add_row(
            Text("–" if entry.t is None else f"{entry.t:+.1f} s"),
            Text(entry.object),
            Text(entry.reason, style="yellow" if entry.type == "Warning" else "green"),
            Text(entry.event + repeated),
        )
        console.print(grid)

    return show
