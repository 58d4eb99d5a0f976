"""The master's journal on its share: where the lines of :mod:`asetwin.model.journals` are written.

:mod:`asetwin.standin.master` calls :meth:`Journal.append` in a thread, because
a disk may take its time and the Lease must be renewed meanwhile. What was
written before is read from the file each time, so that a restarted process
counts on where the last one has ended.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from asetwin.model import journals
from asetwin.model.journals import Entry

TAIL_BYTES = 4096
"""More than any line is long."""
ROTATE_BYTES = 8 * 1024 * 1024
"""About a day; one file more of that size is kept beside it."""


class Refused(Exception):
    """The line must not be written; the message says why."""


@dataclass(frozen=True, slots=True)
class Journal:
    """One device's journal file, as one master writes it."""

    path: str
    epoch: int
    pod: str
    node: str
    wall: Callable[[], float]

    def append(self, may_serve: Callable[[], bool]) -> Entry | None:
        """Write one line and see it to the disk; None where ``may_serve`` says no at last.

        Raises OSError where the file cannot be written, Refused where a higher
        epoch has written.
        """
        # NB: O_APPEND and a single write, so that two writers could never mix within a line.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self.path, flags, 0o644)
        try:
            size = os.fstat(file).st_size
            start = max(0, size - TAIL_BYTES)
            tail = os.pread(file, TAIL_BYTES, start).decode(errors="replace")
            if not tail:
                tail = self._rotated_tail()
            number = journals.follow(tail, self.epoch)
            if number is None:
                raise Refused(f"a higher epoch than {self.epoch} has written into {self.path}")
            # A write that the disk has cut short must not spoil the next line as well.
            start_of_line = "" if not tail or tail.endswith("\n") else "\n"
            entry = Entry(self.epoch, number, self.wall(), self.pod, self.node)
            line = (start_of_line + journals.render(entry)).encode()
            if not may_serve():
                return None
            written = os.write(file, line)
            if written != len(line):
                raise OSError(28, "only a part of a line could be written", self.path)
            os.fsync(file)
        finally:
            os.close(file)
        if size > ROTATE_BYTES:
            os.replace(self.path, f"{self.path}.1")
        return entry

    def _rotated_tail(self) -> str:
        with suppress(OSError), open(f"{self.path}.1", "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            return file.read().decode(errors="replace")
        return ""


def explain(error: Exception, path: str) -> str:
    """An error in words for readiness."""
    if isinstance(error, OSError) and error.strerror:
        return f"the journal {path} cannot be written: {error.strerror}"
    return f"the journal {path} cannot be written: {error}"
