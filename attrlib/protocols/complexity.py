"""The protocol complexity-rise: how much more complex maps become when the model forgets what it has learnt."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import entropy
from torch import Tensor

from attrlib.protocols.base import PROTOCOLS, Cost, Protocol
from attrlib.protocols.context import EvalBatch, Outcome
from attrlib.protocols.deletion import TARGETS
from attrlib.protocols.stability import STAGES, shuffled_request
from attrlib.registry import Paper, param


def histogram_entropy(values: Tensor, bins: int) -> float:
    """Return the entropy, in nats, of the histogram of a map between its smallest and its largest value.

    Args:
        values: A map, of any shape.
        bins: Number of bins of equal width.

    Returns:
        The entropy: 0 for a constant map, NaN for one that is not finite.
    """
    if not bool(values.isfinite().all()):
        return math.nan
    return float(entropy(np.histogram(values.double().cpu().numpy(), bins)[0]))


@PROTOCOLS.register
@dataclass(frozen=True)
class ComplexityRise(Protocol):
    """Efficient MPRT: the relative rise of the map's histogram entropy when the weights of all layers are shuffled.

    The paper derives the number of bins from all maps of the data set; here it is fixed, so that a score depends on its item alone.
    The score is undefined where the original map is constant, or where a map is not finite.
    """

    name = "complexity-rise"
    other_maps = "maps of the model with shuffled weights"
    title = "Complexity rise"
    paper = Paper(
        "Hedström et al. 2024",
        "Sanity Checks Revisited: An Exploration to Repair the Model Parameter Randomisation Test",
        "https://arxiv.org/abs/2401.06465",
    )
    bounds = (-1.0, math.inf)
    chance = 0.0
    seeded = True
    reading = "Above 0: the map is simpler than that of a model that has learnt nothing. 0: it is as complex, or ignores the model."
    bins: int = param(100, "Bins of the histogram", low=2, high=10_000)
    absolute: bool = param(False, "Compare magnitudes")
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)

    @property
    def cost(self) -> Cost:
        return Cost(inputs=2)

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        original, _ = inputs.explain(inputs.request())
        # The last stage of `randomisation` by default asks for the same maps.
        twin, _ = inputs.explain(shuffled_request(inputs, STAGES, STAGES))
        outcomes = []
        for before, after in zip(self._entropies(original), self._entropies(twin), strict=True):
            rise = (after - before) / before if before > 0 else math.nan
            outcomes.append(Outcome(rise, {"entropies": [before, after]}))
        return outcomes

    def _entropies(self, maps: Tensor) -> list[float]:
        return [histogram_entropy(row.abs() if self.absolute else row, self.bins) for row in maps]
