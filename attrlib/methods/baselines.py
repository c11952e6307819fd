"""Reference inputs: what a method compares an image with, and how the channels of what it finds become one."""

from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrlib.data.samples import SAMPLES, open_sample
from attrlib.methods.context import AttributionContext
from attrlib.postprocess import smooth

REDUCTIONS = ("sum", "abs-sum", "sum-abs")
REDUCTION = "Channels to one: their sum, the sum of their magnitudes, or the magnitude of their sum"

BASELINES = ("zeros", "uniform", "black", "white", "blur")
BASELINE = (
    "zeros is the mean colour at Input and zero activations inside; the others are pictures, whose activations are used inside: "
    "uniform, one of normalised values from U[-1, 1] that the seed draws for all images (IG-U), black, white, and blur, the image "
    "itself under a Gaussian of a quarter of its width"
)

GREYS, PHOTOS, UNIFORM = "greys", "photos", "uniform"
BACKGROUNDS = (PHOTOS, GREYS, UNIFORM)


def reduce_channels(context: AttributionContext, values: Tensor, reduction: str) -> Tensor:
    """Channels to one (B,1,h,w): their sum, the sum of their magnitudes, or the magnitude of their sum."""
    reduced = context.reduce(values.abs() if reduction == "abs-sum" else values)
    return reduced.abs() if reduction == "sum-abs" else reduced


def baseline(context: AttributionContext, name: str) -> Tensor:
    """A reference input of the layer, of the shape of `context.inputs`: zeros there, or f_pre of a picture."""
    if name == "zeros":
        return torch.zeros_like(context.inputs)
    if name == "blur":
        return context.shared(("baseline", name), lambda: context.before(_blurred(context.images)))
    return common_baseline(context, name).expand_as(context.inputs)


def common_baseline(context: AttributionContext, name: str) -> Tensor:
    """The same, (1,...), where it is one for all images: any but blur."""
    if name == "zeros":
        return torch.zeros_like(context.inputs[:1])
    return context.shared(("baseline", name), lambda: context.reference(_plain(context, name)))


def is_common(context: AttributionContext, name: str) -> bool:
    """Whether one row stands for the baseline of all items: at Input. Inside, what goes around the layer is each item's own."""
    return not context.layer.path and name != "blur"


def baseline_scores(context: AttributionContext, name: str) -> Tensor:
    """The items' target logits (B,) at their baseline."""
    if not is_common(context, name):
        return context.scores(baseline(context, name), context.rows)
    with torch.no_grad():
        return context.logits(common_baseline(context, name), context.rows[:1])[0, context.targets]


def _blurred(images: Tensor) -> Tensor:
    size = images.shape[-1] // 4 * 4 + 1
    flat = images.flatten(0, 1)[:, None]
    return (smooth(flat, size) / smooth(torch.ones_like(flat[:1]), size)).view_as(images)


def _plain(context: AttributionContext, name: str) -> Tensor:
    if name == "uniform":
        return _uniform(context.images[:1], context.generator("uniform"))
    return context.classifier.preprocessing.normalise(torch.full_like(context.images[:1], 0.0 if name == "black" else 1.0))


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(like.shape, generator=generator).to(like.device) - 1


def background(context: AttributionContext, kind: str, draw: int) -> Tensor:
    """Draw number `draw` from a distribution of reference inputs, (1,...): f_pre of a picture that the seed alone decides.

    `photos`: a random crop, mirrored or not, of one of the sample photos; `greys`: a plain grey, from black to white;
    `uniform`: independent normalised values from U[-1, 1].
    """
    return context.reference(_picture(context, kind, draw))


@cache
def _photo(name: str) -> Image.Image:
    return open_sample(name).image.convert("RGB")


def _picture(context: AttributionContext, kind: str, draw: int) -> Tensor:
    generator, images = context.generator("background", kind, draw), context.images[:1]
    if kind == UNIFORM:
        return _uniform(images, generator)
    if kind == GREYS:
        level = float(torch.rand((), generator=generator))
        return context.classifier.preprocessing.normalise(torch.full_like(images, level))
    which, share, down, right, mirrored = torch.rand(5, generator=generator).tolist()
    photo = _photo(list(SAMPLES)[int(which * len(SAMPLES))])
    height, width = images.shape[2:]
    # The largest window of the shape of the input that fits, times a side from a half to all.
    scale = min(photo.height / height, photo.width / width) * (0.5 + share / 2)
    tall, wide = max(1, int(height * scale)), max(1, int(width * scale))
    top, left = int(down * (photo.height - tall + 1)), int(right * (photo.width - wide + 1))
    cropped = photo.resize((width, height), box=(left, top, left + wide, top + tall))
    values = torch.from_numpy(np.array(cropped, dtype=np.float32)).permute(2, 0, 1)[None] / 255
    return context.classifier.preprocessing.normalise((values.flip(3) if mirrored < 0.5 else values).to(images))
