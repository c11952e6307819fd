"""A custom method: input times gradient relative to its neighbourhood.

Put this file into a folder, and set ATTRLIB_METHODS to the folder. The method is then listed, offered and tested like all others.
"""

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.methods import METHODS, AttributionContext, Method, Passes
from attrlib.models import Layer
from attrlib.registry import Paper, param


@METHODS.register
@dataclass(frozen=True)
class CentreSurround(Method):
    """Centre-surround: input times gradient, minus its mean over a window around each position."""

    name, family, fast = "Centre-surround", "gradient", True
    paper = Paper("attrlib", "Example of a custom method", "https://example.org")
    window: int = param(9, "Side of the window, odd", low=3, high=63)

    def attribute(self, context: AttributionContext) -> Tensor:
        maps = context.reduce(context.inputs * context.clean_gradient())
        return maps - F.avg_pool2d(maps, self.window | 1, stride=1, padding=self.window // 2, count_include_pad=False)

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)
