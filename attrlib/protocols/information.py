"""Performance information curves (AIC and SIC): how soon the class returns as relevant pixels of a blurred image are restored."""

import io
import math
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, features
from scipy.interpolate import LinearNDInterpolator
from torch import Tensor

from attrlib.errors import ProtocolError
from attrlib.models import Classifier
from attrlib.postprocess import apply_sign, are_finite
from attrlib.protocols.base import PROTOCOLS, Cost, Protocol
from attrlib.protocols.context import EvalBatch, EvalContext, Outcome
from attrlib.protocols.deletion import TARGETS, outputs_of
from attrlib.registry import Paper, param
from attrlib.specs import SIGNS

PIC_PAPER = Paper("Kapishnikov et al. 2019", "XRAI: Better Attributions Through Regions", "https://arxiv.org/abs/1906.02825")
SHARES = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.13, 0.21, 0.34, 0.5, 0.75)
"""Shares of the pixels that are restored."""
KNOWN = 0.01
"""Share of the pixels, at random places, from which the blurred image is interpolated."""


def interpolated(picture: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return a picture, uint8 (H,W,C), whose pixels are interpolated linearly between those that are known.

    Args:
        picture: The picture, uint8 (H,W,C).
        known: Booleans (H,W); the corners count as known.
    """
    known = known.copy()
    known[np.ix_([0, -1], [0, -1])] = True
    if known.all():
        return picture
    result = picture.copy()
    values = LinearNDInterpolator(np.argwhere(known), picture[known].astype(np.float64))(np.argwhere(~known))
    # Means of two grey levels end on a half, which the error of float64 would round up or down by chance.
    result[~known] = np.round(values.astype(np.float32))
    return result


def information(picture: np.ndarray) -> int:
    """Return the number of bytes of a picture, uint8 (H,W,C) with one or three channels, as lossless WebP."""
    buffer = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(buffer, format="webp", lossless=True, quality=100)
    return buffer.tell()


def curve_area(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the area under the curve of values over sizes, both as shares of the way from the first entry to the last.

    Shares are clipped to 0 and 1, and no value counts as less than one with fewer restored pixels. NaN if the last size or value does not
    exceed the first.

    Args:
        sizes: Size of the blurred picture, of those with more and more pixels restored, and of the picture itself.
        values: Value of each.

    Example:
        >>> round(curve_area([10, 12, 20], [0.0, 0.5, 1.0]), 6)
        0.65
    """
    if not (sizes[-1] > sizes[0] and values[-1] > values[0]):
        return math.nan
    x, y = (np.clip((np.array(each) - each[0]) / (each[-1] - each[0]), 0, 1) for each in (sizes, values))
    y = np.maximum.accumulate(y)
    # As in the authors' code, a picture that is no larger than the blurred one comes before it, where its value does not count.
    order = np.array([*range(1, len(x) - 1), 0, len(x) - 1])
    order = order[np.argsort(x[order], kind="stable")]
    return float(np.trapezoid(y[order], x[order]))


@dataclass(frozen=True)
class InformationCurve(Protocol):
    """Base class of the areas under performance information curves.

    The blurred image is interpolated from 1 % of the pixels, at random places. Then the most relevant pixels are restored, 0.5 to 75 %
    of them, and the others interpolated. A point of the curve is the size of the picture as lossless WebP and the performance on it, both
    as shares of the way from the blurred picture to the picture itself.
    """

    paper = PIC_PAPER
    bounds = (0.0, 1.0)
    needs_probability = True
    seeded = True
    quick = False
    target: str = param("prediction", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)
    sign: str = param("signed", "Order by the map as it is, its positive part, or its magnitude", choices=SIGNS)

    @property
    def cost(self) -> Cost:
        return Cost(forwards=len(SHARES) + 2)

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        super().check(model, offers)
        if model.channels not in (1, 3):
            raise ProtocolError(
                f"{self.name} measures the size of a picture, which has one or three channels, but {model.name} reads {model.channels}; choose another "
                "protocol, such as insertion"
            )
        if not features.check("webp"):
            raise ProtocolError(f"{self.name} needs Pillow with WebP; install a current Pillow")

    @abstractmethod
    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        """Return the area of each item."""


@PROTOCOLS.register
@dataclass(frozen=True)
class SoftmaxInformation(InformationCurve):
    """Softmax information curve: area under the target's probability over the information in a picture whose relevant pixels are restored.

    The paper takes the median of the curves over images; here each image has its own area, and the mean is over areas. The score is
    undefined where the map is not finite, the probability for the picture is below `confidence`, or the blurred picture is no smaller or no
    less probable than the picture itself. Most of the time is spent on interpolation.
    """

    name: ClassVar[str] = "sic"
    title: ClassVar[str] = "Softmax information curve"
    reading: ClassVar[str] = "1: the least information restores the class. 0.5: probability returns in proportion to information."
    confidence: float = param(0.8, "Least probability of the target for an image to count", low=0.0, high=1.0)

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        maps = inputs.maps()
        defined = are_finite(maps).tolist()
        values = apply_sign(maps, self.sign)[:, 0].double().nan_to_num(0.0).numpy()
        outcomes = []
        for row, item in enumerate(inputs.batch.ids):
            pictures = _restored(inputs.context, inputs.batch.images[row], values[row], item)
            logits = inputs.context.logits(torch.stack([_normalised(inputs.context.model, each) for each in pictures]))[None]
            target = inputs.targets[row : row + 1]
            probabilities = outputs_of(inputs.context.model, logits, target)["probability"][0].tolist()
            right = (inputs.context.model.outputs.predicted(logits[0]) == target).double().tolist()
            sizes = [float(information(each)) for each in pictures]
            counts = defined[row] and probabilities[-1] >= self.confidence
            area = curve_area(sizes, probabilities) if counts else math.nan
            outcomes.append(
                Outcome(area, {"sizes": sizes, "probabilities": probabilities, "right": right, "finite": [float(defined[row])]})
            )
        return outcomes


@PROTOCOLS.register
@dataclass(frozen=True)
class AccuracyInformation(InformationCurve):
    """Accuracy information curve: area under the accuracy over the information in a picture whose relevant pixels are restored.

    The pictures are those of `sic`, whose passes are shared. On one image the accuracy is 0 until the target is predicted, and 1 from then on. The
    score is undefined where the map is not finite, the picture itself is not classified as the target, or the blurred one is.
    """

    name: ClassVar[str] = "aic"
    title: ClassVar[str] = "Accuracy information curve"
    reading: ClassVar[str] = "1: the least information restores the class. 0.5: the prediction returns with half of the information."

    @property
    def sources(self) -> tuple[Protocol, ...]:
        """Return the softmax information curve of the same pictures."""
        return (SoftmaxInformation(target=self.target, sign=self.sign),)

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        (outcomes,) = inputs.outcomes(self.sources)
        return [
            Outcome(
                curve_area(each.details["sizes"], each.details["right"]) if each.details["finite"][0] else math.nan,
                {"right": each.details["right"], "sizes": each.details["sizes"]},
            )
            for each in outcomes
        ]


def _restored(context: EvalContext, image: Tensor, values: np.ndarray, item: str) -> list[np.ndarray]:
    """Return the blurred picture, those with more and more pixels restored, and the picture itself, uint8 (H,W,C)."""
    picture = context.model.preprocessing.denormalise(image.cpu().float()).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    pixels = values.size
    seed = torch.zeros(pixels, dtype=torch.bool)
    seed[torch.randperm(pixels, generator=context.generator(item, "information"))[: int(KNOWN * pixels)]] = True
    known = seed.view(values.shape).numpy()
    masks = [known, *(known | (values >= np.quantile(values, 1 - share)) for share in SHARES)]
    return [*(interpolated(picture, mask) for mask in masks), picture]


def _normalised(model: Classifier, picture: np.ndarray) -> Tensor:
    """Return a picture, uint8 (H,W,C), as the model reads it, (C,H,W)."""
    preprocessing = model.preprocessing
    values = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
    return (values - values.new_tensor(preprocessing.mean).view(-1, 1, 1)) / values.new_tensor(preprocessing.std).view(-1, 1, 1)
