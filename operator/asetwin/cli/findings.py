"""The answer of ``asetwin check`` in its four forms: for people, as JSON, JUnit and SARIF."""

import textwrap
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from asetwin import __version__
from asetwin.cli import common
from asetwin.model.checks.findings import MEANING, Finding, Severity
from asetwin.model.checks.verdicts import Verdict

_INDENT = " " * 9
_SARIF_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The documented object."""
    return {
        "verdict": verdict.word,
        "findings": [
            {
                "workload": one.workload,
                "lossOf": one.loss_of,
                "reason": str(one.reason),
                "severity": one.severity.value,
                "message": one.message,
                "hint": one.hint,
                "source": {"file": one.source.file, "line": one.source.line},
            }
            for one in verdict.findings
        ],
        "summary": verdict.summary,
    }


def as_text(verdict: Verdict) -> str:
    """For people: each finding with what to change, then the sums."""
    lines = list[str]()
    for losses, one in _merged(verdict.findings):
        when = f"if {losses} is lost" if losses else "with both nodes"
        lines.append(f"{one.severity.value:<9}{one.workload}: {one.reason}, {when}")
        lines += _folded(f"{one.message} ({one.source.file}:{one.source.line})")
        lines += _folded(f"→ {one.hint}")
    if lines:
        lines.append("")
    lines += _sums(verdict)
    return "\n".join(lines)


def _merged(findings: tuple[Finding, ...]) -> Iterator[tuple[str, Finding]]:
    """What differs only in the node that is lost, once."""
    groups: dict[tuple[str, str, Severity], list[Finding]] = defaultdict(list)
    for one in findings:
        where = one.loss_of if one.loss_of == "none" else "lost"
        groups[one.workload + where, one.reason, one.severity].append(one)
    for group in groups.values():
        names = [one.loss_of for one in group if one.loss_of != "none"]
        yield " or ".join(dict.fromkeys(names)), group[0]


def _folded(text: str) -> list[str]:
    width = common.COLUMNS - len(_INDENT)
    return [_INDENT + line for line in textwrap.wrap(text, width, break_on_hyphens=False)]


def _sums(verdict: Verdict) -> Iterator[str]:
    summary = verdict.summary
    placed = ", ".join(f"{count} on {slot}" for slot, count in summary["placed"].items())
    yield f"{summary['workloads']} workloads, {summary['pods']} pods: {placed}"
    taken = [
        f"{name.rpartition('/')[2]} {row['used']} of {row['budget']}"
        for name, row in summary["reserve"].items()
    ]
    yield f"reserve: {', '.join(taken)}"
    if summary["skipped"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in summary["skipped"].items())
        yield from textwrap.wrap(f"not looked at: {kinds}", common.COLUMNS)
    counts = summary["findings"]
    found = ", ".join(f"{counts[one.value]} {one.value}" for one in Severity if counts[one.value])
    yield f"{verdict.word}: {found}" if found else verdict.word


def as_junit(verdict: Verdict) -> str:
    """One test case for each workload with findings; information alone is no failure."""
    by_workload: dict[str, list[Finding]] = defaultdict(list)
    for one in verdict.findings:
        by_workload[one.workload].append(one)
    failed = sum(any(one.fails for one in found) for found in by_workload.values())
    sound = max(0, verdict.summary["workloads"] - len(by_workload))
    suite = ElementTree.Element(
        "testsuite",
        name="asetwin check",
        tests=str(len(by_workload) + sound),
        failures=str(failed),
        errors="0",
        skipped="0",
    )
    for name, found in by_workload.items():
        case = ElementTree.SubElement(
            suite, "testcase", classname="asetwin.check", name=name, file=found[0].source.file
        )
        case.set("line", str(found[0].source.line))
        for one in found:
            told = f"{one.reason} ({_when(one)}): {one.message}; {one.hint}"
            if one.fails:
                failure = ElementTree.SubElement(
                    case, "failure", type=str(one.reason), message=one.message
                )
                failure.text = told
            else:
                ElementTree.SubElement(case, "system-out").text = told
    for number in range(sound):
        name = f"workload without findings {number + 1}"
        ElementTree.SubElement(suite, "testcase", classname="asetwin.check", name=name)
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(
        suite, encoding="unicode"
    )


def _when(one: Finding) -> str:
    return "both nodes" if one.loss_of == "none" else f"loss of {one.loss_of}"


def as_sarif(verdict: Verdict) -> dict[str, Any]:
    """SARIF 2.1.0, as code hosts read it."""
    used = sorted({str(one.reason) for one in verdict.findings})
    rules = [{"id": name, "shortDescription": {"text": MEANING[name]}} for name in used]
    results = [
        {
            "ruleId": str(one.reason),
            "ruleIndex": used.index(str(one.reason)),
            "level": _SARIF_LEVELS[one.severity],
            "message": {"text": f"{one.workload} ({_when(one)}): {one.message}; {one.hint}"},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": one.source.file},
                        "region": {"startLine": one.source.line},
                    }
                }
            ],
        }
        for one in verdict.findings
    ]
    driver = {"name": "asetwin check", "version": __version__, "rules": rules}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
