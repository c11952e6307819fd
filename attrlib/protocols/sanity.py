"""Variants of the sanity checks: another class instead of other weights, and maps averaged over noise before they are compared."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attrlib.errors import ProtocolError
from attrlib.models import Classifier
from attrlib.protocols.base import PROTOCOLS, Cost, Protocol
from attrlib.protocols.context import EvalBatch, ExplanationRequest, Outcome
from attrlib.protocols.deletion import TARGETS
from attrlib.protocols.stability import Randomisation, twin_correlations
from attrlib.registry import Paper, param


@PROTOCOLS.register
@dataclass(frozen=True)
class RandomLogit(Protocol):
    """Random logit: rank correlation of the map of the target with the map of another class, drawn at random.

    The score is 0 where only the map of the other class is constant, and undefined where that of the target is constant or not finite.
    """

    name = "random-logit"
    other_maps = "maps of another class"
    title = "Random logit"
    paper = Paper("Sixt et al. 2020", "When Explanations Lie: Why Many Modified BP Attributions Fail", "https://arxiv.org/abs/1912.09818")
    bounds = (-1.0, 1.0)
    seeded = True
    needs_probability = True
    reading = "Near 1: the map is the same whichever class is explained. Lower: it depends on the class."
    absolute: bool = param(False, "Compare magnitudes")
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)

    @property
    def higher_is_better(self) -> bool:
        return False

    @property
    def cost(self) -> Cost:
        return Cost(targets=2)

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        super().check(model, offers)
        if len(model.class_names) < 2:
            raise ProtocolError(
                f"{self.name} compares two classes, and {model.name} has one; choose another protocol, such as randomisation"
            )

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        context, classes = inputs.context, len(inputs.context.model.class_names)
        steps = [int(torch.randint(1, classes, (), generator=context.generator(item, "random logit"))) for item in inputs.batch.ids]
        others = (inputs.targets + torch.tensor(steps)) % classes
        request = replace(inputs.request(), targets=torch.stack([inputs.targets, others], 1))
        maps, _ = inputs.explain(request)
        maps = (maps.abs() if self.absolute else maps).flatten(2)
        values = twin_correlations(maps[:, 0], maps[:, 1])
        return [Outcome(float(value), {"other": [float(other)]}) for value, other in zip(values, others, strict=True)]


@PROTOCOLS.register
@dataclass(frozen=True)
class SmoothRandomisation(Randomisation):
    """Smooth MPRT: cascading randomisation of maps that are averaged over noisy copies of the image, so that their noise counts less.

    The copies have Gaussian noise, with a share of the range of the image's values as its standard deviation; they are the same at each
    stage.
    """

    name = "smooth-randomisation"
    other_maps = "maps of noisy images and of the model with shuffled weights"
    title = "Smooth parameter randomisation"
    paper = Paper(
        "Hedström et al. 2024",
        "Sanity Checks Revisited: An Exploration to Repair the Model Parameter Randomisation Test",
        "https://arxiv.org/abs/2401.06465",
    )
    samples: int = param(10, "Noisy copies of the image", low=1, high=1000)
    noise: float = param(0.1, "Standard deviation of the noise, as a share of the range of the image's values", low=0.0, high=10.0)

    @property
    def cost(self) -> Cost:
        return Cost(inputs=self.samples * (1 + self.stages))

    def maps_of(self, inputs: EvalBatch, request: ExplanationRequest) -> Tensor:
        images = request.images
        spread = self.noise * (images.amax((1, 2, 3)) - images.amin((1, 2, 3)))
        total = torch.zeros(())
        for sample in range(self.samples):
            noise = torch.stack(
                [torch.randn(images.shape[1:], generator=inputs.context.generator(i, "smooth", sample)) for i in inputs.batch.ids]
            )
            noisy = images + spread.view(-1, 1, 1, 1) * noise.to(images)
            total = total + inputs.explain(replace(request, images=noisy, keys=None))[0].double()
        return (total / self.samples).float()
