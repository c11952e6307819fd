"""A method that ends its process at a bright picture, as a faulty extension or the system's memory killer would."""

import os
import signal
from dataclasses import dataclass

from torch import Tensor

from attrlib.methods import METHODS, AttributionContext, Method, Passes
from attrlib.models import Layer
from attrlib.registry import Paper


@METHODS.register
@dataclass(frozen=True)
class Lethal(Method):
    """Lethal: the sum of the input over its channels, unless the picture is white."""

    name, family = "Lethal", "sanity"
    paper = Paper("attrlib", "Tests", "https://example.org")

    def attribute(self, context: AttributionContext) -> Tensor:
        if (context.inputs.mean((1, 2, 3)) > 1.5).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return context.reduce(context.inputs)

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=1)
