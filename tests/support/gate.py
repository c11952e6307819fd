"""The gate of the method `Held` (methods/held.py), at which its computations in other processes wait."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from attrlib.methods import METHODS
from attrlib.methods.custom import load_custom


class Gate:
    """A gate, initially closed. Every call of `Held`, even for a single map, waits until it may pass or is cancelled."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._numbers = itertools.count()

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables for a process that has the method."""
        return {"ATTRLIB_METHODS": str(Path(__file__).with_name("methods")), "ATTRLIB_TEST_GATE": str(self.folder)}

    def let(self, calls: int) -> None:
        """Let this many calls pass."""
        for _ in range(calls):
            (self.folder / f"ticket-{os.getpid()}-{next(self._numbers)}").touch()

    def open(self) -> None:
        """Let all calls pass until the gate is closed."""
        (self.folder / "open").touch()

    def close(self) -> None:
        """Stop all further calls."""
        (self.folder / "open").unlink(missing_ok=True)
        for ticket in self.folder.glob("ticket-*"):
            ticket.unlink(missing_ok=True)


@contextmanager
def methods_of_tests(folder: Path) -> Iterator[Gate]:
    """Have the methods of tests in this process and in those that it starts; yield their gate, which is in a new folder."""
    folder.mkdir()
    gate, before = Gate(folder), set(METHODS)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in gate.environment.items():
            patch.setenv(name, value)
        try:
            load_custom()
            yield gate
        finally:
            gate.open()
            for name in set(METHODS) - before:
                METHODS.forget(name)
