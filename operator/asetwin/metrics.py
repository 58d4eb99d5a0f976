"""The operator's metrics, in Prometheus' text format: docs/metrics.md lists them.

:mod:`asetwin.loop` tells what it does and how long it takes, and
:mod:`asetwin.health` serves what comes of it. What a device *is* (states,
reserve, pods) is read from the statuses in the cluster at the moment of the
scrape, so a device that is gone has no series left; what *happened* (turns,
actions, failovers) is counted here.

A phase of a failover is observed once, when its moment appears in the
device's status. Which phases were there when the process first saw the
device is remembered and not observed: the process before has done that.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from asetwin.model import plan, power
from asetwin.model.snapshot import Snapshot
from asetwin.resources import quantities
from asetwin.resources.devices import (
    AseDevice,
    AseNode,
    DeviceState,
    Failover,
    FailoverRecord,
    MasterPhase,
    NodeState,
    ReserveRow,
    Votes,
)

UNBOUND = "(unbound)"
"""The label of the loop for objects that lead to no device, which has no name of its own."""

FAILOVER_BUCKETS = (0.25, 0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300, 600)
TURN_BUCKETS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

PHASES = MappingProxyType(
    {
        "fencing": ("fenced_at", "its power was proven to be off"),
        "evacuation": ("evacuated_at", "its Node was closed and its pods were removed"),
        "pods_ready": ("pods_ready_at", "every displaced pod was Ready on the other node"),
        "master_ready": ("master_ready_at", "the master served on the other node"),
        "recovery": ("recovered_at", "the pods were Ready and the master served"),
    }
)
"""Name in the metric → the moment's field in a failover, and what it says."""

# The worst effect comes first in a trigger's text (asetwin.model.hardware); the first that fits.
_TRIGGERS = (
    ("the whole node failed", "Node"),
    ("power supplies failed", "PowerSupplies"),
    ("cut off from storage", "StorageNetwork"),
    ("rebooting", "Reboot"),
    ("silent", "Silence"),
    (power.STOPPED_BY_US, "Silence"),
)
_CORE = ("Motherboard", "DIMM", "OSDisk")


def trigger_of(text: str) -> str:
    """One of a few words for what has set off a failover, from the sentence in its record.

    ``Silence`` is a kubelet that was not heard and was fenced for it,
    ``PowerLost`` what the power agent has seen without a hand of ours.
    """
    worst = text.partition(";")[0]
    if worst.startswith(_CORE) and worst.endswith("failed"):
        return "CorePart"
    return next((word for words, word in _TRIGGERS if words in worst), "PowerLost")


class Metrics:
    """Everything that one operator process tells; it has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._view = View()
        self.registry.register(self._view)
        ProcessCollector(registry=self.registry)
        self._turns = Counter(
            "asetwin_loop_turns",
            "Turns of the loop; outcome is done, ended (by an error of the API) or failed.",
            ["device", "outcome"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "asetwin_loop_turn_seconds",
            "How long a turn took, from observing to the last action.",
            ["device"],
            buckets=TURN_BUCKETS,
            registry=self.registry,
        )
        self._actions = Counter(
            "asetwin_actions",
            "Steps of plans that were carried out.",
            ["action", "outcome"],
            registry=self.registry,
        )
        self._failovers = Counter(
            "asetwin_failovers",
            "Losses of a node that were detected.",
            ["device", "trigger"],
            registry=self.registry,
        )
        self._phases = {
            name: Histogram(
                f"asetwin_failover_{name}_seconds",
                f"From the detection of a node's loss until {what}.",
                ["device", "trigger"],
                buckets=FAILOVER_BUCKETS,
                registry=self.registry,
            )
            for name, (_, what) in PHASES.items()
        }
        self._known: dict[str, set[tuple[str, str]]] = {}

    # --- What the loop tells ----------------------------------------------------------------

    def turned(self, device: str, outcome: str, seconds: float, *, ended_at: float) -> None:
        """A turn of one device's loop has ended; ``ended_at`` is monotonic."""
        name = device or UNBOUND
        self._turns.labels(name, outcome).inc()
        self._seconds.labels(name).observe(seconds)
        if outcome == "done":
            self._view.turned_at[name] = ended_at

    def acted(self, step: plan.Step, outcome: str) -> None:
        """A step of a plan has been carried out; ``outcome`` as docs/metrics.md lists them."""
        self._actions.labels(type(step).__name__, outcome).inc()

    def look(self, device: AseDevice) -> None:
        """Observe what of a device's failovers is new; call it in every turn."""
        status = device.status
        records: list[Failover | FailoverRecord] = [*status.history]
        if status.failover is not None:
            records.append(status.failover)
        reached = {
            (record.id, name): (record, at) for record in records for name, at in _moments(record)
        }
        # NB: by uid, so that a device that is made anew under its old name begins anew.
        known = self._known.get(device.metadata.uid)
        self._known[device.metadata.uid] = set(reached)
        if known is None:
            return
        for key, (record, at) in reached.items():
            if key not in known:
                self._observe(device.name, record, key[1], at)

    def forget(self, device: str, living: Mapping[str, AseDevice]) -> None:
        """A device is gone; ``living`` are those that are left."""
        for metric in (self._turns, self._seconds, self._failovers, *self._phases.values()):
            metric.remove_by_labels({"device": device})
        self._view.turned_at.pop(device, None)
        uids = {one.metadata.uid for one in living.values()}
        self._known = {uid: one for uid, one in self._known.items() if uid in uids}

    def _observe(
        self, device: str, record: Failover | FailoverRecord, phase: str, at: float
    ) -> None:
        trigger = trigger_of(record.trigger)
        if phase == "detection":
            self._failovers.labels(device, trigger).inc()
        else:
            self._phases[phase].labels(device, trigger).observe(max(0.0, at - record.detected_at))

    # --- What is scraped --------------------------------------------------------------------

    def render(self, snapshot: Snapshot, *, now: float, monotonic: float) -> bytes:
        """All metrics as text; the moments are those of the scrape."""
        self._view.snapshot, self._view.now, self._view.monotonic = snapshot, now, monotonic
        return generate_latest(self.registry)


def _moments(record: Failover | FailoverRecord) -> Iterator[tuple[str, float]]:
    yield "detection", record.detected_at
    for name, (field, _) in PHASES.items():
        # A closed record does not have them all.
        at = getattr(record, field, None)
        if at is not None:
            yield name, at


class View(Collector):
    """What the statuses in the cluster say, as gauges, at the moment of a scrape."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.now = self.monotonic = 0.0
        self.turned_at: dict[str, float] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Called by the registry."""
        yield from self._states()
        yield from self._devices()
        yield from self._reserve()
        agent = power.find_agent(self.snapshot, self.now)
        yield _gauge(
            "asetwin_power_agent_up",
            "Whether a power agent renews its Lease.",
            {(): float(agent.is_alive)},
        )
        yield _gauge(
            "asetwin_power_agent_installed",
            "Whether a power agent holds its Lease, be it silent or not.",
            {(): float(agent.is_installed)},
        )
        yield _gauge(
            "asetwin_loop_last_turn_age_seconds",
            "How long ago the last turn ended that was not cut short by an error.",
            {(name,): self.monotonic - at for name, at in self.turned_at.items()},
            "device",
        )

    def _states(self) -> Iterator[GaugeMetricFamily]:
        yield _gauge(
            "asetwin_device_state",
            "1 for the state that a device is in, 0 for the others.",
            {
                (one.name, state.value): float(one.status.state is state)
                for one in self.snapshot.devices.values()
                for state in DeviceState
            },
            "device",
            "state",
        )
        yield _gauge(
            "asetwin_node_state",
            "1 for the state that a device node is in, 0 for the others.",
            {
                (one.spec.device, one.name, state.value): float(one.status.state is state)
                for one in self._nodes()
                for state in NodeState
            },
            "device",
            "node",
            "state",
        )
        yield _gauge(
            "asetwin_node_failed_components",
            "How many components of a device node have failed.",
            {
                (one.spec.device, one.name): float(len(one.status.failed_components))
                for one in self._nodes()
            },
            "device",
            "node",
        )

    def _nodes(self) -> Iterator[AseNode]:
        """Those that lead to a device which is there."""
        for one in self.snapshot.ase_nodes.values():
            if one.spec.device in self.snapshot.devices:
                yield one

    def _devices(self) -> Iterator[GaugeMetricFamily]:
        for name, text, read in _DEVICE_GAUGES:
            yield _gauge(
                name,
                text,
                {(one.name,): float(read(one)) for one in self.snapshot.devices.values()},
                "device",
            )

    def _reserve(self) -> Iterator[GaugeMetricFamily]:
        rows = [
            (one.name, row)
            for one in self.snapshot.devices.values()
            for row in (one.status.reserve.resources if one.status.reserve else ())
        ]
        for name, text, read in _RESERVE_GAUGES:
            yield _gauge(
                name,
                text,
                {
                    (device, row.resource): float(quantities.parse(read(row)))
                    for device, row in rows
                },
                "device",
                "resource",
            )


def _votes(read: Callable[[Votes], float]) -> Callable[[AseDevice], float]:
    """A figure of the votes; 0 where none were counted yet."""
    return lambda one: read(one.status.votes) if one.status.votes else 0


def _failover(read: Callable[[Failover], float]) -> Callable[[AseDevice], float]:
    """A figure of the open failover; 0 where there is none."""
    return lambda one: read(one.status.failover) if one.status.failover else 0


_DEVICE_GAUGES: tuple[tuple[str, str, Callable[[AseDevice], float]], ...] = (
    (
        "asetwin_votes",
        "Votes that are cast in the device's cluster quorum.",
        _votes(lambda votes: votes.present),
    ),
    (
        "asetwin_votes_needed",
        "Votes that a majority needs.",
        _votes(lambda votes: votes.needed),
    ),
    (
        "asetwin_master_epoch",
        "The master's epoch; it grows by one with every relocation.",
        lambda one: one.status.master.epoch if one.status.master else 0,
    ),
    (
        "asetwin_master_serving",
        "Whether the master serves.",
        lambda one: (
            one.status.master is not None and one.status.master.phase is MasterPhase.SERVING
        ),
    ),
    (
        "asetwin_failover_open",
        "Whether a node is lost or on its way back.",
        lambda one: one.status.failover is not None,
    ),
    (
        "asetwin_displaced_pods",
        "Pods that the open failover has displaced.",
        _failover(lambda failover: failover.displaced),
    ),
    (
        "asetwin_recovered_pods",
        "Displaced pods that are Ready on a node in service.",
        _failover(lambda failover: failover.recovered),
    ),
    (
        "asetwin_unplaceable_pods",
        "Pods of displaced workloads that have no place on what is left.",
        _failover(lambda failover: failover.unplaceable_count),
    ),
    (
        "asetwin_lost_pods",
        "Pods without a controller that went with the node.",
        _failover(lambda failover: failover.lost),
    ),
)
_RESERVE_GAUGES: tuple[tuple[str, str, Callable[[ReserveRow], str]], ...] = (
    ("asetwin_reserve_used", "What workloads request.", lambda row: row.used),
    ("asetwin_reserve_budget", "What workloads may request.", lambda row: row.budget),
    ("asetwin_reserve_capacity", "What the device's workers have.", lambda row: row.capacity),
)


def _gauge(
    name: str, text: str, values: Mapping[tuple[str, ...], float], *labels: str
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
