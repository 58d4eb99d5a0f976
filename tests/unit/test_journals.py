"""The journal's lines, what they prove, and how they get into the file."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asetwin.model import journals
from asetwin.model.journals import Entry
from asetwin.standin import journal
from asetwin.standin.journal import Journal, Refused

START = 1_795_593_600.0
LINE = "epoch=7 seq=42 time=2026-11-25T08:00:03.123Z pod=ase-master-7 node=node-b\n"


def line(epoch: int, number: int, at: float, pod: str = "") -> str:
    """A line of one epoch, so many seconds after the start."""
    return journals.render(Entry(epoch, number, START + at, pod or f"m-{epoch}", "node-a"))


def problems(*lines: str) -> tuple[str, ...]:
    return journals.check(lines).problems


# --- Lines ----------------------------------------------------------------------------------------


def test_a_line_reads_as_it_was_written() -> None:
    entry = journals.parse(LINE.rstrip())
    assert entry is not None
    assert (entry.epoch, entry.number, entry.pod, entry.node) == (7, 42, "ase-master-7", "node-b")
    assert journals.render(entry) == LINE


@given(st.integers(1, 2**31 - 1), st.integers(1, 10**17), st.integers(0, 2 * 10**15))
def test_every_line_reads_as_it_was_written(epoch: int, number: int, micros: int) -> None:
    written = journals.render(Entry(epoch, number, micros / 1e6, "p", "n"))
    read = journals.parse(written.rstrip("\n"))
    assert read is not None
    assert journals.render(read) == written


@pytest.mark.parametrize(
    "text",
    [
        "",
        "epoch=7",
        LINE[:50],
        LINE.rstrip() + " more",
        LINE.rstrip().replace("2026-11", "2026-99"),
    ],
)
def test_what_is_no_line_is_none(text: str) -> None:
    assert journals.parse(text) is None


# --- The proof ------------------------------------------------------------------------------------


def test_a_journal_without_gap_or_overlap_holds() -> None:
    proof = journals.check(
        [line(1, 5, 0), line(1, 6, 1), line(2, 1, 6, "x"), line(2, 2, 7, "y"), line(4, 1, 9)]
    )
    assert proof.holds
    assert [(one.epoch, one.lines, one.pods) for one in proof.reigns] == [
        (1, 2, ("m-1",)),
        (2, 2, ("x", "y")),
        (4, 1, ("m-4",)),
    ]
    assert proof.gaps == (5.0, 2.0)


def test_an_empty_journal_holds() -> None:
    assert journals.check([]) == journals.Proof((), ())


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        pytest.param(
            (line(2, 1, 0), line(1, 4, 1)),
            "line 2: epoch 1 (m-1) writes after epoch 2 (m-2)",
            id="older-epoch-writes-late",
        ),
        pytest.param(
            (line(1, 1, 5), line(2, 1, 4.5)),
            "line 2: epoch 2 served 0.500 s before the line of epoch 1 above it",
            id="overlap-in-time",
        ),
        pytest.param(
            (line(1, 1, 0), line(1, 3, 2)),
            "line 2: number 3 of epoch 1 where 2 was due",
            id="missing-line",
        ),
        pytest.param(
            (line(1, 1, 0), line(2, 2, 2)),
            "line 2: number 2 of epoch 2 where 1 was due",
            id="epoch-begins-in-the-middle",
        ),
        pytest.param(
            (line(1, 1, 0), line(1, 1, 1, "twin")),
            "line 2: number 1 of epoch 1 where 2 was due",
            id="two-pods-of-one-epoch",
        ),
    ],
)
def test_what_two_masters_would_leave_behind_is_found(lines: tuple[str, ...], problem: str) -> None:
    assert problem in problems(*lines)


def test_epochs_that_take_turns_are_found() -> None:
    proof = journals.check([line(1, 1, 0), line(2, 1, 1), line(1, 2, 2), line(2, 2, 3)])
    assert not proof.holds
    assert [one.epoch for one in proof.reigns] == [1, 2, 1, 2]


def test_a_torn_line_is_counted_and_nothing_is_missing() -> None:
    proof = journals.check([line(1, 1, 0), line(1, 2, 1)[:20] + "\n", line(1, 2, 2)])
    assert (proof.holds, proof.torn) == (True, 1)


def test_problems_are_told_up_to_a_limit() -> None:
    assert len(problems(*(line(1, 1, 0) for _ in range(99)))) == 20


# --- The file -------------------------------------------------------------------------------------


def keeper(path: Path, epoch: int = 2, clock: Callable[[], float] = lambda: START) -> Journal:
    return Journal(str(path / "ase.log"), epoch, f"ase-master-{epoch}", "node-a", clock)


def read(path: Path, name: str = "ase.log") -> list[str]:
    return (path / name).read_text().splitlines(keepends=True)


def append(writer: Journal, times: int = 1) -> list[int]:
    """Append so many lines; the numbers they got."""
    entries = [writer.append(lambda: True) for _ in range(times)]
    return [entry.number for entry in entries if entry is not None]


def test_lines_are_counted_within_their_epoch_whoever_writes_them(tmp_path: Path) -> None:
    assert append(keeper(tmp_path, epoch=1), 3) == [1, 2, 3]
    assert append(keeper(tmp_path, epoch=2), 2) == [1, 2]
    # As after a restart of the container.
    assert append(keeper(tmp_path, epoch=2), 2) == [3, 4]
    proof = journals.check(read(tmp_path))
    assert proof.holds
    assert [(one.epoch, one.lines) for one in proof.reigns] == [(1, 3), (2, 4)]


def test_a_lower_epoch_never_writes_again(tmp_path: Path) -> None:
    append(keeper(tmp_path, epoch=3))
    with pytest.raises(Refused, match="a higher epoch than 2 has written"):
        append(keeper(tmp_path, epoch=2))
    assert len(read(tmp_path)) == 1


def test_whether_it_may_is_asked_at_the_last_moment(tmp_path: Path) -> None:
    order: list[str] = []

    def wall() -> float:
        order.append("clock")
        return START

    def may() -> bool:
        order.append("may")
        return False

    assert keeper(tmp_path, clock=wall).append(may) is None
    # The moment in the line is never later than the one at which it was allowed.
    assert order == ["clock", "may"]
    assert read(tmp_path) == []


def test_a_line_is_one_write_and_then_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def do(*args: Any) -> Any:
            calls.append(name)
            return real(*args)

        return do

    for name in ("write", "fsync"):
        monkeypatch.setattr(os, name, noted(name))
    append(keeper(tmp_path))
    assert calls == ["write", "fsync"]


def test_a_line_that_was_cut_short_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(keeper(tmp_path))
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, text: write(file, text[:20]))
        with pytest.raises(OSError, match="only a part of a line"):
            append(keeper(tmp_path))
    assert append(keeper(tmp_path), 2) == [2, 3]
    proof = journals.check(read(tmp_path))
    assert (proof.holds, proof.torn, proof.reigns[0].lines) == (True, 1, 3)


def test_a_sync_that_fails_is_told_and_its_line_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output error"):
            append(keeper(tmp_path))
    assert append(keeper(tmp_path)) == [2]


def test_a_full_journal_is_put_aside_and_the_count_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "ROTATE_BYTES", 200)
    assert append(keeper(tmp_path), 5) == [1, 2, 3, 4, 5]
    assert len(read(tmp_path, "ase.log.1")) == 4
    assert journals.check([*read(tmp_path, "ase.log.1"), *read(tmp_path)]).holds
    assert journals.check(read(tmp_path)).holds


def test_the_reason_names_the_file_and_the_cause(tmp_path: Path) -> None:
    missing = keeper(tmp_path / "nowhere")
    with pytest.raises(OSError, match="No such file") as caught:
        append(missing)
    text = journal.explain(caught.value, missing.path)
    assert text == f"the journal {missing.path} cannot be written: No such file or directory"
