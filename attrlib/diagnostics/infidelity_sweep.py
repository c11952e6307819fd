"""Compute the infidelity of maps of one image for several standard deviations of the noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrlib.data.images import Photo
from attrlib.methods import Attribution
from attrlib.models import Classifier, Layer
from attrlib.progress import Progress, no_progress
from attrlib.protocols import Batch, EvalBatch, EvalContext, Explain
from attrlib.protocols.faithfulness import Infidelity, noise

HARDLY = 0.9
"""Infidelity, over that of a map of zeros, above which a map is hardly better than zeros."""


@dataclass(frozen=True, eq=False)
class NoiseView:
    """The infidelity of maps for several standard deviations of the noise.

    Attributes:
        raw: Infidelity, (maps, stds).
        normalised: Infidelity with each map scaled to fit best, (maps, stds).
        nothing: Infidelity of a map of zeros, which predicts that noise has no effect, (stds).
        noisy: The image minus one noise image of each standard deviation.
    """

    raw: Tensor
    normalised: Tensor
    nothing: Tensor
    noisy: tuple[Image.Image, ...]

    def relative(self, fitted: bool = False) -> Tensor:
        """Return the infidelity over that of a map of zeros, (maps, stds); with `fitted`, of each map scaled to fit best."""
        return (self.normalised if fitted else self.raw) / self.nothing

    def order(self, fitted: bool = False) -> Tensor:
        """Return the indices of the maps for each standard deviation, lowest infidelity first, (stds, maps)."""
        return self.relative(fitted).argsort(dim=0, stable=True).T

    def uninformative(self, fitted: bool = False) -> Tensor:
        """Return which maps predict no better than a map of zeros, or hardly better, (maps, stds)."""
        return self.relative(fitted) > HARDLY

    @property
    def nbytes(self) -> int:
        """Return the bytes of the values and the images."""
        return 2 * self.raw.nbytes + sum(3 * image.width * image.height for image in self.noisy)


def infidelity_by_noise(
    model: Classifier,
    photo: Photo,
    maps: Sequence[Attribution],
    stds: Sequence[float],
    samples: int = 10,
    seed: int = 0,
    on_progress: Progress = no_progress,
) -> NoiseView:
    """Return the infidelity of maps of one image and one target for each standard deviation, as the protocol computes it.

    The output drops are computed once for all maps, with 1 + `samples` forward passes for each standard deviation.

    Args:
        model: The classifier.
        photo: The image.
        maps: The maps, all of one target.
        stds: Standard deviations of the noise, in normalised units.
        samples: Number of noise images for each standard deviation.
        seed: Seed of the noise.
        on_progress: The progress callback.
    """
    context = EvalContext(model, seed)
    target = torch.tensor(maps[0].target[:1])
    batch = Batch((photo.digest,), model.place(model.preprocess(photo)[None]), target)
    raw, normalised = torch.empty(2, len(maps), len(stds), dtype=torch.float64)
    nothing, noisy = [], []
    for column, std in enumerate(stds):
        on_progress(column, len(stds))
        protocol = Infidelity(samples=samples, noise=std)
        measured = {m: m.measure(context, batch, target) for m in protocol.measurements}
        nothing.append(measured[protocol.measurements[0]]["drops"].square().mean())
        for row, attribution in enumerate(maps):
            explain = _constant(attribution.maps, model.layer(attribution.spec.layer))
            outcome = protocol.evaluate(EvalBatch(context, batch, target, measured, explain))[0]
            raw[row, column], normalised[row, column] = outcome.details["raw"][0], outcome.details["normalised"][0]
        drawn = batch.images[0].cpu() - noise(context, photo.digest, 0, batch.images.shape[2:], std)
        colours = model.preprocessing.shown(drawn).permute(1, 2, 0)
        noisy.append(Image.fromarray((colours.numpy() * 255).round().astype(np.uint8)))
    return NoiseView(raw, normalised, torch.stack(nothing), tuple(noisy))


def _constant(maps: Tensor, layer: Layer) -> Explain:
    return lambda _request: (maps, layer)
