"""The master's journal: one line per second of service, and the proof that it holds.

:mod:`asetwin.standin.master` writes it, through :mod:`asetwin.standin.journal`;
tests and people read it. A line says under which epoch which pod served when,
and counts within its epoch:

    epoch=7 seq=42 time=2026-11-25T08:00:03.123Z pod=ase-master-7 node=node-b

:func:`check` proves from the lines alone that no two masters ever served at
the same time: epochs only grow, times never go back, and the count of an epoch
has no gap, so that no line is missing in which it could have been otherwise.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from asetwin.resources import times

PERIOD_SECONDS = 1.0
"""How often a serving master writes a line."""

_PATTERN = re.compile(
    r"epoch=(?P<epoch>\d{1,10}) seq=(?P<number>\d{1,18}) time=(?P<moment>\S+)"
    r" pod=(?P<pod>\S*) node=(?P<node>\S*)"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line."""

    epoch: int
    number: int
    """Counts from 1 within its epoch."""
    at: float
    """When the master made sure that it may serve, in seconds since 1970."""
    pod: str = ""
    node: str = ""


def render(entry: Entry) -> str:
    """The line, with its end."""
    return (
        f"epoch={entry.epoch} seq={entry.number} time={times.render(entry.at)}"
        f" pod={entry.pod} node={entry.node}\n"
    )


def parse(line: str) -> Entry | None:
    """A line without its end; None where it is none, as after a write that was cut short."""
    match = _PATTERN.fullmatch(line)
    if match is None:
        return None
    try:
        at = times.parse(match["moment"])
    except ValueError:
        return None
    return Entry(
        epoch=int(match["epoch"]),
        number=int(match["number"]),
        at=at,
        pod=match["pod"],
        node=match["node"],
    )


@dataclass(frozen=True, slots=True)
class Reign:
    """What one epoch has left in the journal."""

    epoch: int
    pods: tuple[str, ...]
    nodes: tuple[str, ...]
    first_at: float
    last_at: float
    lines: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What a journal shows."""

    reigns: tuple[Reign, ...]
    problems: tuple[str, ...]
    """What speaks against it, in words; empty for a journal that holds."""
    torn: int = 0
    """Lines that nobody can read: a write that the disk cut short was followed by a new one."""

    @property
    def holds(self) -> bool:
        """Whether no two masters served at the same time."""
        return not self.problems

    @property
    def gaps(self) -> tuple[float, ...]:
        """Between two epochs each: for how many seconds nobody wrote."""
        pairs = zip(self.reigns, self.reigns[1:], strict=False)
        return tuple(after.first_at - before.last_at for before, after in pairs)


def check(lines: Iterable[str], *, limit: int = 20) -> Proof:
    """Read a journal from its first line; at most ``limit`` problems are told.

    The first line may have any number: what was before it has been rotated away.
    """
    reigns: list[Reign] = []
    problems: list[str] = []
    torn, before = 0, None
    for index, line in enumerate(lines, 1):
        entry = parse(line.rstrip("\n"))
        if entry is None:
            torn += 1
            continue
        problems.extend(f"line {index}: {text}" for text in _problems(before, entry))
        _count(reigns, entry, is_new=before is None or entry.epoch != before.epoch)
        before = entry
    return Proof(tuple(reigns), tuple(problems[:limit]), torn)


def _problems(before: Entry | None, entry: Entry) -> Iterable[str]:
    if before is None:
        return
    if entry.epoch < before.epoch:
        yield f"epoch {entry.epoch} ({entry.pod}) writes after epoch {before.epoch} ({before.pod})"
    if entry.at < before.at:
        yield (
            f"epoch {entry.epoch} served {before.at - entry.at:.3f} s before"
            f" the line of epoch {before.epoch} above it"
        )
    expected = before.number + 1 if entry.epoch == before.epoch else 1
    if entry.number != expected:
        yield f"number {entry.number} of epoch {entry.epoch} where {expected} was due"


def _count(reigns: list[Reign], entry: Entry, *, is_new: bool) -> None:
    if is_new:
        names, places = (entry.pod,), (entry.node,)
        reigns.append(Reign(entry.epoch, names, places, entry.at, entry.at, 1))
        return
    last = reigns[-1]
    reigns[-1] = Reign(
        epoch=last.epoch,
        pods=last.pods if entry.pod in last.pods else (*last.pods, entry.pod),
        nodes=last.nodes if entry.node in last.nodes else (*last.nodes, entry.node),
        first_at=last.first_at,
        last_at=entry.at,
        lines=last.lines + 1,
    )


def follow(tail: str, epoch: int) -> int | None:
    """The number of the next line of an epoch, given the end of the journal.

    None where a higher epoch has written already: then this one must not.
    """
    entries = [entry for line in tail.splitlines() if (entry := parse(line)) is not None]
    if not entries:
        return 1
    last = entries[-1]
    if last.epoch > epoch:
        return None
    return last.number + 1 if last.epoch == epoch else 1
