"""Infidelity on one picture: what each map's value is for different noises, and what the noise does to the picture."""

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


@dataclass(frozen=True, eq=False)
class NoiseView:
    """Infidelity (maps, stds) as it is (`raw`) and with each map scaled so that it fits best (`normalised`).

    `nothing` (stds) is that of a map of zeros, which predicts that no noise matters; `noisy` is the picture less one noise of each deviation.
    """

    raw: Tensor
    normalised: Tensor
    nothing: Tensor
    noisy: tuple[Image.Image, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return 2 * self.raw.nbytes + sum(3 * own.width * own.height for own in self.noisy)


def infidelity_by_noise(
    model: Classifier,
    photo: Photo,
    maps: Sequence[Attribution],
    stds: Sequence[float],
    samples: int = 10,
    seed: int = 0,
    progress: Progress = no_progress,
) -> NoiseView:
    """The infidelity of maps of one picture and one target under noise of each standard deviation, as the protocol itself computes it.

    What the model says to the noise is computed once for all maps: 1 + `samples` forward passes for each deviation.
    """
    context = EvalContext(model, seed)
    target = torch.tensor(maps[0].target[:1])
    batch = Batch((photo.digest,), model.place(model.preprocess(photo.image)[None]), target)
    raw, normalised = torch.empty(2, len(maps), len(stds), dtype=torch.float64)
    nothing, noisy = [], []
    for column, std in enumerate(stds):
        progress(column, len(stds))
        protocol = Infidelity(samples=samples, noise=std)
        measured = {m: m.measure(context, batch, target) for m in protocol.measurements}
        nothing.append(measured[protocol.measurements[0]]["drops"].square().mean())
        for row, own in enumerate(maps):
            outcome = protocol.evaluate(EvalBatch(context, batch, target, measured, _given(own.maps, model.layer(own.spec.layer))))[0]
            raw[row, column], normalised[row, column] = outcome.details["raw"][0], outcome.details["normalised"][0]
        drawn = batch.images[0].cpu() - noise(context, photo.digest, 0, batch.images.shape[2:], std)
        colours = model.preprocessing.denormalise(drawn).clamp(0, 1).permute(1, 2, 0)
        noisy.append(Image.fromarray((colours.numpy() * 255).round().astype(np.uint8)))
    return NoiseView(raw, normalised, torch.stack(nothing), tuple(noisy))


def _given(maps: Tensor, layer: Layer) -> Explain:
    return lambda _request: (maps, layer)
