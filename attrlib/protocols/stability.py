"""The protocols sensitivity, robustness and randomisation: how maps change with the image or the model."""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.ndimage import minimum_filter
from skimage.metrics import structural_similarity
from torch import Tensor
from torchvision.transforms import functional as colour

from attrlib.errors import ProtocolError
from attrlib.models import Classifier, Preprocessing
from attrlib.models.randomised import randomised
from attrlib.postprocess import are_finite
from attrlib.protocols.base import PROTOCOLS, Cost, Protocol
from attrlib.protocols.context import Batch, EvalBatch, EvalContext, ExplanationRequest, Measurement, Outcome
from attrlib.protocols.deletion import TARGETS
from attrlib.protocols.faithfulness import INFIDELITY_PAPER
from attrlib.registry import Paper, param
from attrlib.statistics import spearman


@PROTOCOLS.register
@dataclass(frozen=True)
class Sensitivity(Protocol):
    """Sensitivity-max: the largest |a(x + u) - a(x)| / |a(x)| over u ~ U(-radius, radius) in each value of the normalised image.

    Norms are Euclidean over the whole map. A method that draws random numbers draws the same ones for x and x + u.
    """

    name = "sensitivity"
    other_maps = "maps of slightly changed images"
    title = "Sensitivity"
    paper = INFIDELITY_PAPER
    bounds = (0.0, math.inf)
    seeded = True
    reading = "0: the map does not change when the image hardly changes. A constant map scores 0 too, but explains nothing."
    samples: int = param(10, "Perturbed images per image", low=1, high=1000)
    radius: float = param(0.02, "Maximum perturbation of a value, in normalised units", low=1e-6, high=10.0)
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)

    @property
    def higher_is_better(self) -> bool:
        return False

    @property
    def cost(self) -> Cost:
        return Cost(inputs=1 + self.samples)

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        images, context = inputs.batch.images, inputs.context
        original, _ = inputs.explain(inputs.request())
        norm = original.double().flatten(1).norm(dim=1)
        ratios = []
        for k in range(self.samples):
            drawn = [torch.rand(images.shape[1:], generator=context.generator(item, "sensitivity", k)) for item in inputs.batch.ids]
            moved, _ = inputs.explain(inputs.changed(images + ((2 * torch.stack(drawn) - 1) * self.radius).to(images.device)))
            ratios.append((moved - original).double().flatten(1).norm(dim=1) / norm)
        # The relative change of a map of zeros (0 / 0 or x / 0) is undefined.
        values = torch.stack(ratios, 1)
        return [Outcome(float(row.amax()) if bool(row.isfinite().all()) else math.nan, {"ratios": row.tolist()}) for row in values]


ROBUSTNESS_PAPER = Paper("Erdem 2022", "Correlation of explanation metrics (reference code)", "https://github.com/burnpiro/xai-correlation")
CHANGES = ("rotation", "brightness", "contrast", "saturation", "sharpness")
COLOURS = 3
_ADJUST = {
    "brightness": colour.adjust_brightness,
    "contrast": colour.adjust_contrast,
    "saturation": colour.adjust_saturation,
    "sharpness": colour.adjust_sharpness,
}


def rotate(values: Tensor, degrees: float) -> Tensor:
    """Rotate values (B,C,H,W) counterclockwise about the centre, with bilinear interpolation and zeros outside."""
    angle = math.radians(degrees)
    height, width = values.shape[2:]
    cos, sin = math.cos(angle), math.sin(angle)
    # Pixels are square, but the coordinates of grid_sample are scaled by height and width.
    matrix = values.new_tensor([[cos, -sin * height / width, 0], [sin * width / height, cos, 0]])
    grid = F.affine_grid(matrix.expand(len(values), 2, 3), list(values.shape), align_corners=False)
    return F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def changes(change: str, amounts: tuple[float, ...], images: Tensor, preprocessing: Preprocessing) -> Iterator[Tensor]:
    """Yield the normalised images, changed by each amount.

    Args:
        change: `rotation`, or the name of a colour filter; one of `CHANGES`.
        amounts: Degrees, or factors of the colour filter; a factor of 1 changes nothing.
        images: Normalised images, (B,C,H,W).
        preprocessing: The model's preprocessing, which undoes and repeats the normalisation.
    """
    for amount in amounts:
        if change == "rotation":
            yield rotate(images, amount)
        else:
            colours = preprocessing.denormalise(images).clamp(0, 1)
            # Other channels than R, G and B are changed one by one, as grey pictures.
            parts = colours if colours.shape[1] == COLOURS else colours.flatten(0, 1)[:, None]
            yield preprocessing.normalise(_ADJUST[change](parts, amount).view_as(colours))


@dataclass(frozen=True)
class ChangedProbability(Measurement):
    """The target's probability for the image and for each of its changes: (B, 1 + amounts)."""

    change: str
    amounts: tuple[float, ...]

    def measure(self, context: EvalContext, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        variants = [batch.images, *changes(self.change, self.amounts, batch.images, context.model.preprocessing)]
        return {
            "probability": torch.cat(
                [context.model.probabilities(context.logits(images)).gather(1, targets[:, None]) for images in variants], 1
            )
        }

    def forwards(self) -> float:
        return 1 + len(self.amounts)


@PROTOCOLS.register
@dataclass(frozen=True)
class Robustness(Protocol):
    """Robustness: structural similarity (SSIM) of the map with the map of the changed image, rotated back; mean over the changes.

    The changes are rotations by -`amount`, -`amount` / 2, `amount` / 2 and `amount` degrees, or a colour filter with the factors
    1 / (1 + amount) and 1 + amount. Only changes that move the target's probability by less than `tolerance` count.
    SSIM is that of scikit-image: its mean over the windows that lie entirely inside the rotated image, with the data range there.
    The score is undefined if no change counts, if the original map is constant, or if a map is not finite.
    """

    name = "robustness"
    other_maps = "maps of changed images"
    title = "Robustness"
    paper = ROBUSTNESS_PAPER
    bounds = (-1.0, 1.0)
    reading = "1: the map rotates with the image, or ignores the filter, as the model does. Smooth maps score higher."
    change: str = param("rotation", "Change of the image", choices=CHANGES)
    amount: float | None = param(None, "Degrees, or strength of the filter", low=0.01, high=180.0, auto="30 degrees, or 0.5")
    needs_probability = True
    tolerance: float = param(0.05, "Maximum change of the target's probability for a change to count", low=0.0, high=1.0)
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        super().check(model, offers)
        if self.change == "saturation" and model.channels != COLOURS:
            raise ProtocolError(
                f"robustness to saturation needs colours, and {model.name} reads {model.channels} channel(s); choose another change"
            )

    @property
    def amounts(self) -> tuple[float, ...]:
        """Return the degrees of the rotations, or the factors of the colour filter."""
        if self.change == "rotation":
            most = self.amount or 30.0
            return (-most, -most / 2, most / 2, most)
        most = self.amount or 0.5
        return (1 / (1 + most), 1 + most)

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        return (ChangedProbability(self.change, self.amounts),)

    @property
    def cost(self) -> Cost:
        return Cost(inputs=1 + len(self.amounts))

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        probability = inputs.measured[self.measurements[0]]["probability"].double()
        counts = (probability[:, 1:] - probability[:, :1]).abs() < self.tolerance
        images = inputs.batch.images
        original = inputs.maps()
        similar = torch.full(counts.shape, math.nan, dtype=torch.float64)
        everywhere = torch.ones(1, 1, *images.shape[2:])
        defined = are_finite(original) & (original.amin((1, 2, 3)) < original.amax((1, 2, 3)))
        for k, changed in enumerate(changes(self.change, self.amounts, images, inputs.context.model.preprocessing)):
            if not bool(counts[:, k].any()):
                continue
            maps, inside = inputs.maps(inputs.changed(changed)), everywhere
            if self.change == "rotation":
                maps = rotate(maps, -self.amounts[k])
                inside = rotate(rotate(everywhere, self.amounts[k]), -self.amounts[k])
            for row in (counts[:, k] & defined).nonzero()[:, 0].tolist():
                similar[row, k] = ssim(original[row, 0], maps[row, 0], inside[0, 0] > 0.999)
        means = [float(row.nanmean()) for row in similar]
        return [Outcome(mean, {"ssim": row.tolist()}) for mean, row in zip(means, similar, strict=True)]


def ssim(a: Tensor, b: Tensor, where: Tensor) -> float:
    """Return the mean structural similarity of two maps over the windows inside a region.

    Args:
        a: A map, (h,w).
        b: Another map, (h,w).
        where: True inside the region, (h,w).

    Returns:
        The mean; NaN if a map is not finite or no window lies inside the region.
    """
    both = torch.stack([a, b]).double()
    window = min(7, (min(a.shape) - 1) // 2 * 2 + 1)
    inside = minimum_filter(where.numpy(), window, mode="constant", cval=0)
    if not bool(both.isfinite().all()) or not inside.any():
        return math.nan
    values = both[:, where]
    spread = float(values.amax() - values.amin())
    _, local = structural_similarity(both[0].numpy(), both[1].numpy(), data_range=spread, full=True, win_size=window)
    return float(np.mean(local[inside]))


SANITY_PAPER = Paper("Adebayo et al. 2018", "Sanity Checks for Saliency Maps", "https://arxiv.org/abs/1810.03292")


STAGES = 4
"""Stages of parameter randomisation by default."""


def twin_correlations(original: Tensor, twin: Tensor) -> Tensor:
    """Return Spearman's correlation of a model's maps with those of its randomised twin, as in parameter randomisation (Adebayo et al. 2018).

    Args:
        original: Maps of the model, (B,n).
        twin: Maps of the randomised model, (B,n).

    Returns:
        The correlations, (B,). 0 where only the twin's map is constant, often the zeros of a CAM, since nothing of the
        original is left; NaN where the original is constant or not finite.
    """
    defined = original.isfinite().all(1) & (original.amin(1) < original.amax(1))
    constant = twin.amin(1) == twin.amax(1)
    return torch.where(defined & constant, 0.0, spearman(original, twin))


def shuffled_request(inputs: EvalBatch, stage: int, stages: int) -> ExplanationRequest:
    """Return a request for the maps of the model whose last `stage / stages` of all layers have shuffled weights.

    Protocols that ask for the same stage get the same maps, which are computed once.

    Args:
        inputs: The images and targets.
        stage: The stage, from 1.
        stages: Number of stages from the logits down to the input.
    """
    context, share = inputs.context, stage / stages
    if share not in context.randomised_models:
        context.randomised_models[share] = randomised(context.model, share, context.seed)
    view = f"randomised:{stage}/{stages}:{context.seed}"
    return ExplanationRequest(context.randomised_models[share], inputs.batch.images, inputs.targets[:, None], view, inputs.batch.ids)


@PROTOCOLS.register
@dataclass(frozen=True)
class Randomisation(Protocol):
    """Cascading randomisation: rank correlation of the map with that of the model whose weights are shuffled from the logits down.

    After stage s of n, the weights of the last s / n of all layers are shuffled. The score is the mean of Spearman's correlation
    over the stages.
    """

    name = "randomisation"
    other_maps = "maps of the model with shuffled weights"
    title = "Parameter randomisation"
    paper = SANITY_PAPER
    bounds = (-1.0, 1.0)
    chance = 0.0
    seeded = True
    reading = "Near 0: the map depends on what the model has learnt. Near 1: the map shows the image, regardless of the weights."
    stages: int = param(STAGES, "Steps from the logits down to the input", low=1, high=20)
    absolute: bool = param(False, "Compare magnitudes")
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)

    @property
    def higher_is_better(self) -> bool:
        return False

    @property
    def cost(self) -> Cost:
        return Cost(inputs=1 + self.stages)

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        original = self._compared(self.maps_of(inputs, inputs.request()))
        stages = []
        for stage in range(1, self.stages + 1):
            maps = self.maps_of(inputs, shuffled_request(inputs, stage, self.stages))
            stages.append(twin_correlations(original, self._compared(maps)))
        values = torch.stack(stages, 1)
        return [Outcome(float(row.mean()), {"stages": row.tolist()}) for row in values]

    def maps_of(self, inputs: EvalBatch, request: ExplanationRequest) -> Tensor:
        """Return the maps (B,1,h,w) to compare."""
        return inputs.explain(request)[0]

    def _compared(self, maps: Tensor) -> Tensor:
        return (maps.abs() if self.absolute else maps).flatten(1)
