"""``asetwin simulate``: play scenario files under a virtual clock, without a cluster."""

import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asetwin.cli import common

if TYPE_CHECKING:
    from asetwin.sim.plays import Result
    from asetwin.sim.timelines import Row

SUFFIXES = (".yaml", ".yml")


class Format(StrEnum):
    """The forms of a result."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"


Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...", help="Scenario files, or folders of them.", show_default=False
    ),
]
Form = Annotated[
    Format,
    typer.Option("--output", "-o", help="text for people, json for machines, junit for CI."),
]


def command(
    paths: Paths,
    timeline: Annotated[
        bool | None,
        typer.Option("--timeline/--no-timeline", help="Tell what happened; default: of one file."),
    ] = None,
    output: Form = Format.TEXT,
) -> int:
    """Play scenarios in a simulated cluster and judge them.

    No cluster and no Docker: the same rules as in a cluster run under a virtual
    clock, so hours take a moment. A scenario states what happens and what is
    expected (docs/simulation.md); the promises of the design are watched at every
    step besides.

    \b
    Examples:
      # Node A loses both power supplies, in the device's own timing
      asetwin simulate manifests/samples/scenarios/a-both-psus.yaml
      # Everything that the device documents, for CI
      asetwin simulate manifests/samples/scenarios -o junit > report.xml

    \b
    Exit status: 0 all as expected, 1 something was not, 2 bad input.
    """
    began = time.process_time()
    results = run(paths)
    took = time.process_time() - began
    if output is Format.JSON:
        common.emit_json(as_json(results))
    elif output is Format.JUNIT:
        print(as_junit(results), flush=True)
    else:
        is_told = len(results) == 1 if timeline is None else timeline
        show(results, took=took, is_told=is_told)
    return common.GOOD if all(one.passed for one in results) else common.FINDINGS


def run(paths: Sequence[Path]) -> "list[Result]":
    """Play every scenario in turn. All files are read before the first is played."""
    from asetwin.sim import files, plays

    try:
        scenarios = [files.read(path) for path in _found(paths)]
    except files.FileError as error:
        raise common.Problem(str(error)) from error
    return [plays.play(one) for one in scenarios]


def _found(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(one for one in path.rglob("*") if one.suffix in SUFFIXES)
        if not inside:
            raise common.Problem(f"{path}: no *.yaml in it; name a scenario file or its folder")
        found += inside
    return found


# --- Output ---------------------------------------------------------------------------------------


def show(results: "Sequence[Result]", *, took: float, is_told: bool) -> None:
    """For people: each timeline if asked for, then the verdicts."""
    console = common.make_console()
    for one in results if is_told else ():
        console.print(one.name, style="bold")
        for row in one.rows:
            console.print(_row(row))
        console.print()
    if len(results) == 1:
        _show_one(results[0], took)
        return
    rows = [
        (
            Path(one.file).stem,
            "PASS" if one.passed else "FAIL",
            str(len(one.failovers)),
            _longest(one),
            _span(one.device_seconds),
        )
        for one in results
    ]
    columns = ("SCENARIO", "VERDICT", "FAILOVERS", "LONGEST OUTAGE", "DEVICE TIME")
    console.print(common.make_table(columns, rows))
    failed = [one for one in results if not one.passed]
    for one in failed:
        console.print(f"\n{one.file}: {one.name}", style="bold")
        for text in one.objections:
            console.print(f"  - {text}", style="red")
    device = _span(sum(one.device_seconds for one in results))
    passed = len(results) - len(failed)
    console.print(
        f"\n{passed} of {len(results)} scenarios passed; "
        f"{device} of device time in {took:.1f} s of process time"
    )


def _show_one(one: "Result", took: float) -> None:
    console = common.make_console()
    console.print(
        "PASS" if one.passed else "FAIL", style="bold green" if one.passed else "bold red"
    )
    for text in one.objections:
        console.print(f"  - {text}", style="red")
    for each in one.failovers:
        console.print(f"  {_failover(each)}")
    for name, seconds in one.outages.items():
        if seconds:
            console.print(f"  longest outage of {name}: {seconds:.1f} s")
    console.print(
        f"  {one.expectations} expectations; {_span(one.device_seconds)} of device time in "
        f"{took:.2f} s of process time"
    )


def _row(row: "Row") -> Any:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=10, justify="right")
    grid.add_column(width=22, overflow="fold")
    grid.add_column(overflow="fold")
    style = "bold" if row.is_done_by_scenario else ""
    grid.add_row(
        Text(f"{row.t:.2f} s", style="cyan"), Text(row.object, style=style), Text(row.text, style)
    )
    return grid


def _failover(one: dict[str, Any]) -> str:
    parts = [f"{one['recovered']} of {one['displaced']} pods back"]
    words = (("fencedSeconds", "fenced"), ("podsReadySeconds", "pods Ready"))
    for name, word in (*words, ("masterReadySeconds", "master")):
        if one[name] is not None:
            parts.append(f"{word} after {one[name]:.1f} s")
    way = f"{one['from']} to {one['to'] or 'nowhere'}"
    return f"failover {way} at {one['detectedAt']:.1f} s: {one['phase']}, {', '.join(parts)}"


def _longest(one: "Result") -> str:
    worst = max(one.outages.items(), key=lambda each: each[1], default=("", 0.0))
    return f"{worst[0]} {worst[1]:.1f} s" if worst[1] else "none"


def _span(seconds: float) -> str:
    """Whole seconds as people say them: ``1h 02m``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def as_json(results: "Sequence[Result]") -> dict[str, Any]:
    """For machines."""
    return {
        "verdict": "PASS" if all(one.passed for one in results) else "FAIL",
        "scenarios": [
            {
                "name": one.name,
                "file": one.file,
                "verdict": "PASS" if one.passed else "FAIL",
                "objections": one.objections,
                "failovers": one.failovers,
                "outageSeconds": one.outages,
                "deviceSeconds": round(one.device_seconds, 3),
                "timeline": [
                    {"t": row.t, "object": row.object, "event": row.text} for row in one.rows
                ],
            }
            for one in results
        ],
    }


def as_junit(results: "Sequence[Result]") -> str:
    """For CI: a test case per scenario, its objections as one failure."""
    from xml.etree import ElementTree as xml

    failed = [one for one in results if not one.passed]
    root = xml.Element(
        "testsuite",
        name="asetwin simulate",
        tests=str(len(results)),
        failures=str(len(failed)),
        errors="0",
    )
    for one in results:
        case = xml.SubElement(root, "testcase", classname=one.file, name=one.name)
        case.set("time", f"{one.device_seconds:.3f}")
        if not one.passed:
            failure = xml.SubElement(case, "failure", message=one.objections[0])
            failure.text = "\n".join(one.objections)
        told = xml.SubElement(case, "system-out")
        told.text = "\n".join(f"{row.t:.2f} s {row.object}: {row.text}" for row in one.rows)
    xml.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + xml.tostring(root, encoding="unicode")
