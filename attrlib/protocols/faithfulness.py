"""The infidelity protocol: whether attributions predict how noise changes the output."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.protocols.base import PROTOCOLS, Protocol
from attrlib.protocols.context import Batch, EvalBatch, EvalContext, Measurement, Outcome
from attrlib.protocols.deletion import TARGETS
from attrlib.registry import Paper, param

INFIDELITY_PAPER = Paper("Yeh et al. 2019", "On the (In)fidelity and Sensitivity of Explanations", "https://arxiv.org/abs/1901.09392")


def noise(context: EvalContext, item: str, sample: int, size: Sequence[int], std: float) -> Tensor:
    """Return Gaussian noise (1,H,W), the same for all colour channels.

    Args:
        context: The context, whose seed is used.
        item: Content digest of the item.
        sample: Number of the noise image.
        size: Height and width.
        std: Standard deviation, in normalised units.
    """
    return std * torch.randn(1, *size, generator=context.generator(item, "infidelity", sample))


@dataclass(frozen=True)
class NoiseDrops(Measurement):
    """The drop f(x) - f(x - I_k) of the target's logit for each noise image I_k: (B,samples)."""

    samples: int
    std: float
    seeded = True

    def measure(self, context: EvalContext, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        size = batch.images.shape[2:]
        outputs = [context.logits(batch.images)]
        for k in range(self.samples):
            drawn = torch.stack([noise(context, item, k, size, self.std) for item in batch.ids])
            outputs.append(context.logits(batch.images - drawn.to(batch.images.device)))
        logits = torch.stack(outputs, 1).gather(2, targets[:, None, None].expand(-1, len(outputs), 1))[..., 0].double()
        return {"drops": logits[:, :1] - logits[:, 1:]}

    def forwards(self) -> float:
        return 1 + self.samples


@PROTOCOLS.register
@dataclass(frozen=True)
class Infidelity(Protocol):
    """Infidelity: mean over noise I of (I . a - (f(x) - f(x - I)))^2, with f the target's logit and a the map at the image's size.

    I ~ N(0, std^2) in each pixel and is the same in all colour channels, so a map summed over channels suffices. With
    `normalize`, a is first scaled by b = mean(I . a * drop) / mean((I . a)^2). This minimises the value, which then does not depend
    on the map's scale. To first order the value is std^2 |a - gradient|^2.
    """

    name = "infidelity"
    title = "Infidelity"
    paper = INFIDELITY_PAPER
    bounds = (0.0, float("inf"))
    seeded = True
    reading = (
        "0: the map predicts exactly what small noise does to the logit. Without normalize, the value mostly measures the map's scale: "
        "compare only maps in the same units."
    )
    samples: int = param(10, "Noise images per image", low=1, high=1000)
    noise: float = param(0.003, "Standard deviation of the noise, in normalised units", low=1e-6, high=10.0)
    normalize: bool = param(False, "Scale each map to fit the drops best")
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)

    @property
    def higher_is_better(self) -> bool:
        return False

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        return (NoiseDrops(self.samples, self.noise),)

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        drops = inputs.measured[self.measurements[0]]["drops"].double()
        maps = inputs.maps().double()
        outcomes = []
        for item, map_, drop in zip(inputs.batch.ids, maps, drops, strict=True):
            drawn = torch.stack([noise(inputs.context, item, k, maps.shape[2:], self.noise) for k in range(self.samples)])
            predicted = (drawn.double() * map_).sum((1, 2, 3))
            scale = (predicted * drop).mean() / predicted.square().mean()
            raw = float((predicted - drop).square().mean())
            # A map of zeros predicts zero at any scale, so its best scale is undefined.
            normalised = float((torch.where(predicted.any(), scale, 0.0) * predicted - drop).square().mean())
            if not bool(map_.isfinite().all()):
                raw = normalised = math.nan
            outcomes.append(Outcome(normalised if self.normalize else raw, {"raw": [raw], "normalised": [normalised]}))
        return outcomes
