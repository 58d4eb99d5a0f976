"""Scenario files as people write them: read, checked, and turned into objects and events.

The format is described in docs/simulation.md. Whatever is wrong with a file
is found here, before anything runs, and told with the file, the field and
what to write instead. :mod:`~asetwin.sim.plays` runs what comes out.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from asetwin import constants
from asetwin.model import hardware
from asetwin.resources.devices import (
    AseDeviceSpec,
    AseNode,
    DeviceState,
    Hardware,
    NodeState,
    PinnedWorker,
    Profile,
)
from asetwin.resources.updates import OnDrainTimeout, UpdatePhase, UpdateType
from asetwin.sim import kinds, samples
from asetwin.sim.bodies import Json
from asetwin.sim.samples import NodeParts, Stated, Workload

SETTLE_SECONDS = 1800.0
"""How long a scenario goes on after its last event or expectation, if it does not say."""
LONGEST_SECONDS = 30 * 86400.0
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)


class FileError(ValueError):
    """A file is no scenario; the message names the file, the field and the remedy."""


def seconds(value: Any) -> float:
    """Seconds of ``30s``, ``1.5s``, ``5m``, ``1h30m``, or of a plain number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = float(value)
    else:
        match = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
        if match is None:
            raise ValueError(f"{value!r} is not a time: write 30s, 5m or 1h30m")
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        found = hours * 3600 + minutes * 60 + rest
    if not 0 <= found <= LONGEST_SECONDS:
        raise ValueError(f"{value!r} is not between 0s and {LONGEST_SECONDS / 3600:.0f}h")
    return found


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Seconds = Annotated[float, BeforeValidator(seconds)]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Objects = Annotated[tuple[str | Json, ...], BeforeValidator(_listed)]


class Scaling(Stated):
    """A new number of replicas."""

    name: str
    """``namespace/name``."""
    replicas: int = Field(ge=0, le=500)
    kind: Literal["Deployment", "StatefulSet"] = "Deployment"


class Patch(Stated):
    """A merge patch of one object."""

    kind: str
    name: str
    namespace: str = ""
    patch: Json


class Crash(Stated):
    """The operator's process dies after so many more writes, and is started again."""

    crash_after: int = Field(ge=1)


class Faults(Stated):
    """Requests of the operator fail, or their answers are lost, for a while."""

    rate: float = Field(gt=0, lt=1)
    seconds: Seconds


class Lag(Stated):
    """Watch events come late, out of order across kinds, or twice, for a while."""

    delay: Seconds
    twice: float = Field(default=0.0, ge=0, lt=1)
    """The part of the events that comes a second time."""
    seconds: Seconds


class Removal(Stated):
    """Somebody deletes pods of a workload."""

    workload: str
    count: int = Field(default=1, ge=1)
    force: bool = False


def _as_update(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class Update(Stated):
    """A DeviceUpdate is applied; in short only its type."""

    type: UpdateType
    name: str = ""
    """By default the type in lower case, as ``device-software``."""
    version: str | None = None
    allow_unready: bool = False
    drain_timeout_seconds: int | None = Field(default=None, ge=1)
    on_drain_timeout: OnDrainTimeout | None = None

    @property
    def object_name(self) -> str:
        """What the resource is called."""
        return self.name or re.sub(r"(?<=[a-z])(?=[A-Z])", "-", self.type.value).lower()

    def body(self, device: str) -> Json:
        """The resource, for one device."""
        stated = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        stated.pop("name", None)
        return {
            "apiVersion": constants.API_VERSION,
            "kind": "DeviceUpdate",
            "metadata": {"name": self.object_name},
            "spec": {"device": device, **stated},
        }


class Event(Stated):
    """Something that happens; exactly one of the fields after ``at``."""

    at: Seconds
    fail: Names | None = None
    repair: Names | None = None
    reboot: Names | None = None
    update: Annotated[Update, BeforeValidator(_as_update)] | None = None
    witness: Literal["online", "offline"] | None = None
    apply: Objects | None = None
    delete: Objects | None = None
    scale: Scaling | None = None
    patch: Patch | None = None
    stop: str | None = None
    start: str | None = None
    restart: str | None = None
    pause: str | None = None
    silence: str | None = None
    agent: Literal["gone", "back", "left"] | None = None
    operator: Literal["stop", "start"] | Crash | None = None
    faults: Faults | None = None
    watch: Literal["deaf", "hears"] | Lag | None = None
    clock: float | None = None
    forgive: str | None = None
    delete_pods: Removal | None = None
    heal: Literal[True] | None = None
    """Everything is repaired, started, uncordoned and applied anew; faults and updates end."""

    @model_validator(mode="after")
    def _is_one(self) -> "Event":
        if len(self.verbs()) != 1:
            known = ", ".join(name for name in type(self).model_fields if name != "at")
            has = f"has {' and '.join(self.verbs())}" if self.verbs() else "has nothing to do"
            raise ValueError(
                f"an event does exactly one thing; this one {has}: write one of {known}"
            )
        return self

    def verbs(self) -> list[str]:
        """What it states, besides its moment."""
        return [one for one in type(self).model_fields if one != "at" and getattr(self, one)]


class Expectation(Stated):
    """What must be so: at a moment, or at the end; the last three over the whole run."""

    at: Seconds | None = None
    device: DeviceState | None = None
    nodes: dict[str, NodeState] | None = None
    master: str | None = None
    """The device node from which the master serves, or ``none``."""
    ready: dict[str, int] | None = None
    """Ready pods per workload (``namespace/name``), on machines that run."""
    placed: dict[str, dict[str, int]] | None = None
    """Per workload, how many of its Ready pods each device node has."""
    unplaceable: dict[str, str] | None = None
    """Workload → the reason for which one of its pods runs nowhere."""
    updates: dict[str, UpdatePhase] | None = None
    """How far each DeviceUpdate is, by its name."""
    failovers: int | None = Field(default=None, ge=0)
    """How many losses of a node have been handled until then."""
    calm: Literal[True] | None = None
    """Nothing of a failure is left anywhere, and the operator has nothing to write."""
    evacuated: str | None = None
    """A device node on which no workload runs any more, nor a master."""
    balanced: str | None = None
    """A device node: what it lost with the last failure has gone back to it, budgets permitting."""
    recovered: Seconds | None = None
    """Every failover of the run came to ``Recovered`` within this of its detection."""
    outage: dict[str, Seconds] | None = None
    """Workload → no longer than this without any Ready pod at one time."""
    offline: Seconds | None = None
    """The device was ``Offline`` for no longer than this in all."""

    @model_validator(mode="after")
    def _is_something(self) -> "Expectation":
        stated = [one for one in type(self).model_fields if getattr(self, one) is not None]
        if stated in ([], ["at"]):
            known = ", ".join(name for name in type(self).model_fields if name != "at")
            raise ValueError(f"nothing is expected: write one of {known}")
        over_all = {"recovered", "outage", "offline"} & set(stated)
        if over_all and self.at is not None:
            raise ValueError(
                f"{' and '.join(sorted(over_all))} holds for the whole run: leave out at"
            )
        return self


class Content(Stated):
    """A whole file."""

    name: str = ""
    timing: Profile | None = None
    """Sets ``spec.timing.profile``; without it Realistic, or what the file's own objects say."""
    power_agent: bool = True
    """Whether machines really stop, or power is only what the operator desires."""
    device: dict[str, Any] | None = None
    nodes: dict[str, NodeParts] | None = None
    workloads: tuple[str | Json, ...] | None = None
    start: tuple[str | Json, ...] | None = None
    """Manifests instead of ``device``, ``nodes`` and ``workloads``."""
    events: tuple[Event, ...] = ()
    expect: tuple[Expectation, ...] = ()
    end: Seconds | None = None
    seed: int = 0
    jitter: float = Field(default=0.0, ge=0, lt=1)
    mount_refusals: float = Field(default=0.0, ge=0, le=1)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A file that has been read, with all that it names."""

    path: Path
    content: Content
    objects: tuple[Json, ...]
    hardware: Mapping[str, Hardware]
    """The device nodes by name."""
    pins: Mapping[str, str]
    """Device node → Kubernetes Node."""
    sizes: Mapping[str, samples.Size]
    """What each Kubernetes Node offers."""
    loaded: Mapping[str, tuple[Json, ...]]
    """The documents of each file that an event names."""

    @property
    def name(self) -> str:
        """What to call it."""
        return self.content.name or self.path.stem

    @property
    def end(self) -> float:
        """When it is over, in seconds since the device was in service."""
        if self.content.end is not None:
            return self.content.end
        moments = [one.at for one in self.content.events]
        moments += [one.at for one in self.content.expect if one.at is not None]
        return max(moments, default=0.0) + SETTLE_SECONDS


def read(path: Path) -> Scenario:
    """One file. Raises FileError."""
    try:
        given = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    except (OSError, UnicodeDecodeError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise FileError(f"{path}: cannot be read: {text}") from error
    except yaml.YAMLError as error:
        raise FileError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(given, Mapping):
        raise FileError(f"{path}: is no scenario: write a mapping with 'events:' and 'expect:'")
    return parse(given, path)


def parse(given: Mapping[str, Any], path: Path) -> Scenario:
    """A scenario from the content of its file. Raises FileError."""
    try:
        content = Content.model_validate(given)
    except ValidationError as error:
        raise FileError(f"{path}: {_told(error)}") from error
    try:
        objects, sizes = _objects(content, path.parent)
        scenario = Scenario(
            path=path,
            content=content,
            objects=tuple(objects),
            hardware=_hardware(objects),
            pins=_pins(objects),
            sizes=sizes,
            loaded=dict(_loaded(content, path.parent)),
        )
        for problem in _problems(scenario):
            raise ValueError(problem)
    except ValueError as error:
        raise FileError(f"{path}: {error}") from error
    return scenario


LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _told(error: ValidationError) -> str:
    """The first thing that is wrong: the field's way from the top, and what to do."""
    first = error.errors()[0]
    where = ""
    for part in first["loc"]:
        if isinstance(part, int):
            where += f"[{part}]"
        elif re.fullmatch(r"[\w-]+", part) and not part[0].isupper():
            where += f".{part}" if where else part
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "there is no such field; see docs/simulation.md for those that there are"
    return f"{where or 'the file'}: {message[:1].lower()}{message[1:]}"


# --- Objects --------------------------------------------------------------------------------------


def _objects(content: Content, folder: Path) -> tuple[list[Json], dict[str, samples.Size]]:
    stated = [one for one in ("device", "nodes", "workloads") if getattr(content, one) is not None]
    if content.start is not None:
        if stated:
            raise ValueError(f"start: has all objects itself; leave out {', '.join(stated)}")
        found = list(_documents(content.start, folder, "start"))
        for one in found:
            if one["kind"] == "AseDevice" and content.timing is not None:
                timing = one.setdefault("spec", {}).setdefault("timing", {})
                timing["profile"] = content.timing.value
        return found, {node: samples.Size() for node in _pins(found).values()}
    nodes = dict(content.nodes if content.nodes is not None else samples.NODES)
    if not 1 <= len(nodes) <= 2:
        raise ValueError(f"nodes: a device has one or two nodes, not {len(nodes)}")
    spec = dict(content.device if content.device is not None else samples.SPEC)
    profile = (content.timing or Profile.REALISTIC).value
    spec["timing"] = {"profile": profile, **(spec.get("timing") or {})}
    _check_device(spec)
    workloads, made = _workloads(content, folder, list(nodes))
    sizes = {samples.worker_node(n): one.worker for n, one in enumerate(nodes.values())}
    return [*samples.device(spec, nodes), *samples.workloads(workloads, nodes), *made], sizes


def _check_device(spec: Json) -> None:
    try:
        AseDeviceSpec.model_validate(spec)
    except ValidationError as error:
        raise ValueError(f"device.{_told(error)}") from error
    known = {one.alias or name for name, one in AseDeviceSpec.model_fields.items()}
    unknown = sorted(set(spec) - known)
    if unknown:
        text = f"there is no such field; an AseDevice's spec has {', '.join(sorted(known))}"
        raise ValueError(f"device.{unknown[0]}: {text}")


def _workloads(
    content: Content, folder: Path, nodes: list[str]
) -> tuple[list[Workload], list[Json]]:
    """Those that are stated in short, and the objects of files."""
    if content.workloads is None:
        return [samples.WEB], []
    short, made = list[Workload](), list[Json]()
    for number, one in enumerate(content.workloads):
        where = f"workloads[{number}]"
        if isinstance(one, str) or "apiVersion" in one:
            made += _documents([one], folder, where)
            continue
        try:
            workload = Workload.model_validate(one)
        except ValidationError as error:
            raise ValueError(f"{where}.{_told(error)}") from error
        if workload.node is not None and workload.node not in nodes:
            raise ValueError(f"{where}.node: there is no {workload.node}; {_known(nodes)}")
        if workload.node_local is not None and workload.kind != "StatefulSet":
            raise ValueError(f"{where}.nodeLocal: needs kind: StatefulSet")
        short.append(workload)
    return short, made


def _documents(given: Sequence[str | Json], folder: Path, where: str) -> Iterator[Json]:
    for one in given:
        bodies: Any = [one]
        if isinstance(one, str):
            try:
                text = (folder / one).read_text(encoding="utf-8")
                bodies = list(yaml.load_all(text, Loader=LOADER))
            except OSError as error:
                text = f"there is no file {one} beside the scenario ({error.strerror})"
                raise ValueError(f"{where}: {text}") from error
            except yaml.YAMLError as error:
                text = " ".join(str(error).split())
                raise ValueError(f"{where}: {one} is not YAML: {text}") from error
        for body in bodies:
            if body is not None:
                yield _checked(body, where)


def _checked(body: Any, where: str) -> Json:
    is_object = isinstance(body, dict) and isinstance(body.get("metadata"), dict)
    if not is_object or not body["metadata"].get("name") or "kind" not in body:
        raise ValueError(f"{where}: an object needs apiVersion, kind and metadata.name")
    if body["kind"] not in kinds.BY_KIND:
        known = ", ".join(sorted(kinds.BY_KIND))
        raise ValueError(f"{where}: {body['kind']} is not simulated; what is: {known}")
    found: Json = body
    return found


def _loaded(content: Content, folder: Path) -> Iterator[tuple[str, tuple[Json, ...]]]:
    for number, event in enumerate(content.events):
        for verb, objects in (("apply", event.apply), ("delete", event.delete)):
            for one in objects or ():
                where = f"events[{number}].{verb}"
                if isinstance(one, str):
                    yield one, tuple(_documents([one], folder, where))
                else:
                    _checked(one, where)


def _hardware(objects: Sequence[Json]) -> dict[str, Hardware]:
    nodes = [AseNode.read(one) for one in objects if one["kind"] == "AseNode"]
    return {one.name: one.spec.hardware for one in nodes}


def _pins(objects: Sequence[Json]) -> dict[str, str]:
    workers = [PinnedWorker.read(one) for one in objects if one["kind"] == "PinnedWorker"]
    return {one.spec.ase_node: one.spec.node_name for one in workers}


# --- What only the whole file can tell -----------------------------------------------------------


def _known(names: Sequence[str]) -> str:
    return f"known: {', '.join(names) or 'none'}"


def _problems(scenario: Scenario) -> Iterator[str]:
    content, nodes = scenario.content, list(scenario.hardware)
    if not any(one["kind"] == "AseDevice" for one in scenario.objects):
        yield "start: there is no AseDevice in it; add manifests/samples/device.yaml or the like"
    before = 0.0
    for number, event in enumerate(content.events):
        where = f"events[{number}]"
        if event.at < before:
            yield f"{where}.at: is before the event above it; put events in the order of time"
        before = event.at
        yield from _event_problems(event, where, scenario)
    end = scenario.end
    for number, one in enumerate(content.expect):
        where = f"expect[{number}]"
        named = [*(one.nodes or ()), *([one.master] if one.master not in (None, "none") else [])]
        named += [name for name in (one.evacuated, one.balanced) if name]
        named += [node for counts in (one.placed or {}).values() for node in counts]
        for name in named:
            if name not in nodes:
                yield f"{where}: there is no node {name}; {_known(nodes)}"
        for field in ("ready", "placed", "unplaceable", "outage"):
            for name in getattr(one, field) or ():
                if name.count("/") != 1 and (field, name) != ("outage", "master"):
                    yield f"{where}.{field}: {name!r} is not namespace/name"
        if one.at is not None and one.at > end:
            yield f"{where}.at: is after the end ({end:g}s); set a later 'end:'"
    if before > end:
        yield f"end: is before the last event ({before:g}s)"


def _event_problems(event: Event, where: str, scenario: Scenario) -> Iterator[str]:
    nodes = list(scenario.hardware)
    machines = [*nodes, *scenario.pins.values()]
    for text in event.fail or ():
        yield from _component_problems(text, f"{where}.fail", scenario)
    for text in event.repair or ():
        if "/" in text:
            yield from _component_problems(text, f"{where}.repair", scenario)
        elif text not in ("all", *nodes):
            yield f"{where}.repair: {text} is no node; write all, NODE or NODE/COMPONENT"
    checks: tuple[tuple[str, Sequence[str], list[str]], ...] = (
        ("reboot", event.reboot or (), nodes),
        ("forgive", [event.forgive] if event.forgive else (), nodes),
        *(
            (verb, [getattr(event, verb)] if getattr(event, verb) else (), machines)
            for verb in ("stop", "start", "restart", "pause", "silence")
        ),
    )
    for verb, given, known in checks:
        for name in given:
            if name not in known:
                yield f"{where}.{verb}: there is no node {name}; {_known(nodes)}"
    if event.scale is not None and event.scale.name.count("/") != 1:
        yield f"{where}.scale.name: {event.scale.name!r} is not namespace/name"
    if event.patch is not None and event.patch.kind not in kinds.BY_KIND:
        yield f"{where}.patch.kind: {event.patch.kind} is not simulated"


def _component_problems(text: str, where: str, scenario: Scenario) -> Iterator[str]:
    node, _, component = text.partition("/")
    known = scenario.hardware.get(node)
    if not component:
        yield f"{where}: {text!r} names no component; write {text}/Node or {text}/PSU1"
    elif known is None:
        yield f"{where}: there is no node {node}; {_known(list(scenario.hardware))}"
    else:
        refusal = hardware.refusal(component, known)
        if refusal is not None:
            yield f"{where}: {refusal}; write one of {', '.join(hardware.components(known))}"
