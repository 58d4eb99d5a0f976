"""From failed components to the health of a device node (design 4.1).

Source: the device's own documentation of failure scenarios: a power supply,
a management or workload port or a data disk alone degrades; losing both power
supplies, a core component, the OS disk or the storage ports takes the node
out.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asetwin.resources.devices import Hardware, PowerState

STORAGE_PORTS = frozenset({3, 4})
NETWORKS = {1: "management", 2: "management", 5: "workload", 6: "workload"}
FATAL = ("Motherboard", "DIMM", "OSDisk", "Node")
SHORT_NAMES = 2
_COMPONENT = re.compile(r"(PSU|Port|Disk|GPU)([1-9]\d*)")


def components(hardware: Hardware) -> tuple[str, ...]:
    """Every component that a node with this hardware has."""
    numbered = (
        ("PSU", hardware.power_supplies),
        ("Port", hardware.ports),
        ("Disk", hardware.data_disks),
        ("GPU", hardware.gpus),
    )
    return (
        *(f"{kind}{n}" for kind, count in numbered for n in range(1, count + 1)),
        *FATAL,
    )


def refusal(component: str, hardware: Hardware) -> str | None:
    """Why this node cannot lose that component; None where it has it."""
    if component in components(hardware):
        return None
    match = _COMPONENT.fullmatch(component)
    if match is None:
        return f"there is no component {component}"
    alike = [one for one in components(hardware) if one.startswith(match[1])]
    has = f"it has {', '.join(alike)}" if alike else f"it has no {match[1]}"
    return f"the node has no {component}: {has}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What failed components do to a node."""

    failed: tuple[str, ...] = ()
    power: PowerState = PowerState.ON
    """What the hardware leaves of the worker VM: On, Off, or Isolated (no storage network)."""
    effects: tuple[str, ...] = ()
    """In words, worst first."""
    failed_disks: int = 0
    failed_gpus: int = 0

    @property
    def is_lost(self) -> bool:
        """Whether the node is out: without power, without a core part, or cut off."""
        return self.power is not PowerState.ON

    @property
    def summary(self) -> str:
        """One line for people; empty where nothing failed."""
        return "; ".join(self.effects)


def judge(failed: Iterable[str], hardware: Hardware) -> Verdict:
    """The verdict on one node; the order and repetition of ``failed`` do not matter."""
    order = components(hardware)
    gone = sorted(set(failed) & set(order), key=order.index)
    numbers = _numbers(gone)
    fatal = [one for one in gone if one in FATAL]
    no_power = hardware.power_supplies > 0 and len(numbers["PSU"]) >= hardware.power_supplies
    cut_off = sorted(STORAGE_PORTS & numbers["Port"])
    effects = [f"{one} failed" if one != "Node" else "the whole node failed" for one in fatal]
    if no_power:
        count = "both" if hardware.power_supplies == 2 else f"all {hardware.power_supplies}"
        effects.append(f"{count} power supplies failed: no power")
    elif numbers["PSU"]:
        effects.append(f"{_names('PSU', numbers['PSU'])} failed: running on the other supply")
    if cut_off:
        effects.append(f"{_names('Port', cut_off)} failed: cut off from storage and heartbeat")
    for network in ("management", "workload"):
        ports = sorted(n for n in numbers["Port"] if NETWORKS.get(n) == network)
        if ports:
            effects.append(f"{_names('Port', ports)} failed: {network} network affected")
    if numbers["Disk"]:
        effects.append(f"{_names('Disk', numbers['Disk'])} failed: storage rebuilds")
    if numbers["GPU"]:
        effects.append(f"{_names('GPU', numbers['GPU'])} failed: no longer offered to pods")
    power = PowerState.ON
    if fatal or no_power:
        power = PowerState.OFF
    elif cut_off:
        power = PowerState.ISOLATED
    return Verdict(
        failed=tuple(gone),
        power=power,
        effects=tuple(effects),
        failed_disks=len(numbers["Disk"]),
        failed_gpus=len(numbers["GPU"]),
    )


def in_short(failed: Sequence[str]) -> str:
    """For a column of kubectl's tables: two by name, and how many more; "" where none failed."""
    more = len(failed) - SHORT_NAMES
    return ",".join(failed[:SHORT_NAMES]) + (f" +{more}" if more > 0 else "")


def _numbers(failed: Iterable[str]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {"PSU": set(), "Port": set(), "Disk": set(), "GPU": set()}
    for one in failed:
        match = _COMPONENT.fullmatch(one)
        if match is not None:
            found[match[1]].add(int(match[2]))
    return found


def _names(kind: str, numbers: Iterable[int]) -> str:
    return ", ".join(f"{kind}{n}" for n in sorted(numbers))
