"""``asetwin fuzz``: random devices and bad hours, a seed each."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asetwin.cli import common

if TYPE_CHECKING:
    from asetwin.sim.fuzzing import Finding, Outcome

CHUNK = 20
"""Seeds that a worker takes at a time."""
COLLECT_EVERY = 5
REPORT_SECONDS = 60.0
"""From one line about a long run to the next, where no terminal shows a bar."""
PROFILES = ("all", "hardware", "faults", "people")


def command(
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds to play.")] = 200,
    start: Annotated[int, typer.Option("--from", min=0, help="The first seed.")] = 0,
    profile: Annotated[
        str,
        typer.Option("--profile", help="What may happen: all, hardware, faults or people."),
    ] = "all",
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes; 0: one for each core.")
    ] = 0,
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for the scenarios of findings; made if missing.")
    ] = Path(),
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Do not stop at the first finding.")
    ] = False,
    output: common.Form = common.Output.TEXT,
) -> int:
    """Play random scenarios and look for a broken promise.

    A seed draws a device, workloads, and at least an hour with at least three
    failures, in which hardware fails, the operator dies, requests fail, watches
    break and people meddle. Then everything is put right and nothing of it may be
    left; then one node fails in peace, is evacuated, and comes back. The design's
    invariants are watched at every step. The same seed does the same everywhere.

    What is found is made as short as it can be and written to a file that
    'asetwin simulate' replays.

    \b
    Examples:
      # A thousand bad hours
      asetwin fuzz --seeds 1000
      # One seed again
      asetwin fuzz --from 4711 --seeds 1

    \b
    Exit status: 0 nothing found, 1 a promise was broken, 2 bad input.
    """
    if profile not in PROFILES:
        raise common.Problem(f"--profile {profile}: write one of {', '.join(PROFILES)}")
    try:
        # Now, and not with the first finding after hours.
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = f"{error.strerror or error}; name a folder that can be written"
        raise common.Problem(f"--out {folder}: {why}") from error
    total = Total()
    outcomes = run(start, seeds, profile, workers=workers)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        for outcome in followed(outcomes, total, seeds):
            if outcome.finding is not None:
                path = write(outcome.finding, profile, folder)
                total.findings.append((outcome.finding, path))
                if not keep_going:
                    break
    finally:
        # Also after Ctrl-C and SIGTERM: what hours have found is not to be lost.
        signal.signal(signal.SIGTERM, before)
        if output is common.Output.JSON:
            common.emit_json(total.as_json())
        else:
            total.show()
    return common.FINDINGS if total.findings else common.GOOD


def followed(outcomes: "Iterator[Outcome]", total: "Total", seeds: int) -> "Iterator[Outcome]":
    """The outcomes, added up, with word on stderr of how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (MofNCompleteColumn(), TextColumn("seeds"), BarColumn(), Remaining())
    console = Console(stderr=True)
    began = said = time.monotonic()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=seeds)
        for outcome in outcomes:
            now = time.monotonic()
            total.add(outcome)
            total.seconds = now - began
            bar.advance(task)
            if not console.is_terminal and now - said >= REPORT_SECONDS:
                said = now
                common.warn(total.line(seeds))
            if outcome.finding is not None:
                common.warn(f"seed {outcome.finding.seed}: {outcome.finding.what}")
            yield outcome


def run(start: int, seeds: int, profile: str, *, workers: int) -> "Iterator[Outcome]":
    """The outcomes in the order of the seeds, whichever process has played them."""
    import multiprocessing

    count = workers or multiprocessing.cpu_count()
    chunks = [
        (profile, list(range(first, min(first + CHUNK, start + seeds))))
        for first in range(start, start + seeds, CHUNK)
    ]
    if count == 1 or len(chunks) == 1:
        for chunk in chunks:
            yield from play(chunk)
        return
    # Forked where that is possible: a fresh process imports for half a second first.
    with multiprocessing.Pool(min(count, len(chunks)), _leave_signals_to_its_parent) as pool:
        for outcomes in pool.imap(play, chunks):
            yield from outcomes


def _leave_signals_to_its_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Its parent ends it so.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def play(chunk: tuple[str, list[int]]) -> "list[Outcome]":
    """Play some seeds."""
    import gc
    import logging

    from asetwin.sim import fuzzing

    disabled, was_collecting = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.CRITICAL)
    # Worlds are full of cycles and short-lived; collecting now and then is far cheaper.
    gc.disable()
    outcomes = []
    try:
        for seed in chunk[1]:
            outcomes.append(fuzzing.run(seed, fuzzing.Profile(chunk[0])))
            if seed % COLLECT_EVERY == 0:
                gc.collect()
    finally:
        logging.disable(disabled)
        if was_collecting:
            gc.enable()
    return outcomes


def write(finding: "Finding", profile: str, folder: Path) -> Path:
    """The shortest scenario of a finding, as a file."""
    import yaml

    path = folder / f"fuzz-{profile}-{finding.seed}.yaml"
    head = [f"# {line}" for line in finding.objections[:5]]
    body = yaml.safe_dump(finding.content, sort_keys=False, default_flow_style=None, width=100)
    path.write_text("\n".join([*head, body]), encoding="utf-8")
    return path


class Total:
    """All outcomes so far."""

    def __init__(self) -> None:
        self.seeds = 0
        self.failures = 0
        self.device_seconds = 0.0
        self.coverage = Counter[str]()
        self.findings: list[tuple[Finding, Path]] = []
        self.seconds = 0.0

    def add(self, outcome: "Outcome") -> None:
        """One more seed."""
        self.seeds += 1
        self.failures += outcome.failures
        self.device_seconds += outcome.device_seconds
        self.coverage.update(outcome.coverage)

    @property
    def rate(self) -> float:
        """Seeds per second so far."""
        return self.seeds / max(self.seconds, 1e-9)

    def line(self, seeds: int) -> str:
        """How far it is, in one line."""
        left = (seeds - self.seeds) / max(self.rate, 1e-9) / 60
        return (
            f"{self.seeds} of {seeds} seeds, {self.rate:.1f} seeds/s, {left:.0f} min left; "
            f"found: {len(self.findings)}"
        )

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "seeds": self.seeds,
            "failures": self.failures,
            "deviceHours": round(self.device_seconds / 3600, 1),
            "seconds": round(self.seconds, 2),
            "seedsPerSecond": round(self.rate, 2),
            "coverage": dict(sorted(self.coverage.items())),
            "findings": [
                {"seed": one.seed, "what": one.what, "file": str(path)}
                | {"objections": one.objections}
                for one, path in self.findings
            ],
        }

    def show(self) -> None:
        """For people."""
        console = common.make_console()
        rows = []
        for kind in ("device", "node", "failover", "update", "reason"):
            found = {k: n for k, n in self.coverage.items() if k.startswith(f"{kind} ")}
            rare = sorted(found.items(), key=lambda one: (one[1], one[0]))[:3]
            told = ", ".join(f"{name.partition(' ')[2]} ({count})" for name, count in rare)
            label = "reasons" if kind == "reason" else f"{kind} transitions"
            rows.append((label, str(len(found)), told))
        console.print(common.make_table(("REACHED", "KINDS", "RAREST"), rows))
        console.print(
            f"\n{self.seeds} seeds, {self.failures} failures, "
            f"{self.device_seconds / 3600:.0f} hours of device time in {self.seconds:.1f} s: "
            f"{self.rate:.1f} seeds/s"
        )
        if not self.findings:
            console.print("nothing found", style="bold green")
        for one, path in self.findings:
            console.print(f"\nseed {one.seed}: {one.what}", style="bold red")
            for text in one.objections[:5]:
                console.print(f"  - {text}", style="red")
            events = len(one.content["events"])
            console.print(f"  {events} events show it: asetwin simulate {path}", soft_wrap=True)
