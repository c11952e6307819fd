"""A method that waits inside for a test's gate, so that a test says itself how long a run in another process goes on."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from attrlib.methods import METHODS, AttributionContext, Method, Passes
from attrlib.models import Layer
from attrlib.registry import Paper

PASSES = 512
"""So many that each image is a unit of work of its own: it is stored, and seen, before the next one waits."""


@METHODS.register
@dataclass(frozen=True)
class Held(Method):
    """Held: the sum of the input over its channels, once the gate in the folder `ATTRLIB_TEST_GATE` lets it through."""

    name, family = "Held", "sanity"
    paper = Paper("attrlib", "Tests", "https://example.org")

    def attribute(self, context: AttributionContext) -> Tensor:
        gate = Path(os.environ["ATTRLIB_TEST_GATE"])
        context.progress(1, 2)
        while not self._let(gate):
            time.sleep(0.02)
            context.progress(1, 2)
        return context.reduce(context.inputs)

    def _let(self, gate: Path) -> bool:
        """Whether the gate is open, or there was a ticket for one call, which is used up."""
        if (gate / "open").exists():
            return True
        for ticket in gate.glob("ticket-*"):
            try:
                ticket.unlink()
            except FileNotFoundError:
                continue
            return True
        return False

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=PASSES)
