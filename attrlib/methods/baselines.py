"""Baselines that a method compares an image with, and the reduction of channels to one."""

from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrlib.data.samples import SAMPLES, open_sample
from attrlib.methods.cancelled import MAGNITUDES, cancels, refusal
from attrlib.methods.context import AttributionContext
from attrlib.postprocess import smooth

REDUCTIONS = ("sum", MAGNITUDES, "sum-abs")
REDUCTION = "Reduction of the channels to one: their sum, the sum of their magnitudes, or the magnitude of their sum"

BASELINES = ("zeros", "uniform", "black", "white", "blur")
BASELINE = (
    "zeros (the mean colour at Input, zero activations at inner layers), uniform (normalised values from U[-1, 1], the same for all "
    "images; IG-U), black, white, or blur (the image, blurred with a Gaussian of a quarter of its width); at inner layers, the "
    "activations of these images"
)

GREYS, PHOTOS, UNIFORM = "greys", "photos", "uniform"
BACKGROUNDS = (PHOTOS, GREYS, UNIFORM)


def reduce_channels(name: str, context: AttributionContext, values: Tensor, reduction: str) -> Tensor:
    """Reduce attributions to one channel.

    Args:
        name: Name of the method, for messages.
        context: The context that the attributions were computed in.
        values: Attributions (B,...) in the layout of the context's layer.
        reduction: `sum` of the channels, `abs-sum` for the sum of their magnitudes, or `sum-abs` for the magnitude of their sum.

    Returns:
        Maps (B,1,h,w).

    Raises:
        MethodError: The sum over channels is zero at every position, but the attributions are not.
    """
    if context.layer.path and reduction != MAGNITUDES and bool(cancels(context.spatial(values)).any()):
        raise refusal(name, context.layer, reduction)
    reduced = context.reduce(values.abs() if reduction == MAGNITUDES else values)
    return reduced.abs() if reduction == "sum-abs" else reduced


def baseline(context: AttributionContext, name: str) -> Tensor:
    """Return a baseline of the shape of `context.inputs`: zeros at the layer, or the layer's output for a baseline image."""
    if name == "zeros":
        return torch.zeros_like(context.inputs)
    if name == "blur":
        return context.shared(("baseline", name), lambda: context.before(_blurred(context.images)))
    return common_baseline(context, name).expand_as(context.inputs)


def common_baseline(context: AttributionContext, name: str) -> Tensor:
    """Return a baseline that is the same for all images, (1,...): any but `blur`."""
    if name == "zeros":
        return torch.zeros_like(context.inputs[:1])
    return context.shared(("baseline", name), lambda: context.reference(_plain(context, name)))


def is_common(context: AttributionContext, name: str) -> bool:
    """Return whether one row can stand for the baseline of all items.

    This holds at Input for all baselines but `blur`. At an inner layer, what bypasses the layer differs between items.
    """
    return not context.layer.path and name != "blur"


def baseline_scores(context: AttributionContext, name: str) -> Tensor:
    """Return the target (B,) of the items at their baseline."""
    if not is_common(context, name):
        return context.scores(baseline(context, name), context.rows)
    with torch.no_grad():
        logits = context.logits(common_baseline(context, name), context.rows[:1])
        return context.explained(logits.expand(len(context), -1), context.rows)


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
    """Draw a baseline from a distribution of images.

    Args:
        context: The context; the image depends on its seed, `kind` and `draw` only.
        kind: `photos` for a random crop, mirrored or not, of one of the sample photos, grey for other than three channels; `greys` for a plain grey, from black to white;
            `uniform` for independent normalised values from U[-1, 1].
        draw: Number of the draw.

    Returns:
        The layer's output (1,...) for the image.
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
    # The largest window with the input's aspect ratio that fits, its sides scaled by a factor from 0.5 to 1.
    scale = min(photo.height / height, photo.width / width) * (0.5 + share / 2)
    tall, wide = max(1, int(height * scale)), max(1, int(width * scale))
    top, left = int(down * (photo.height - tall + 1)), int(right * (photo.width - wide + 1))
    cropped = photo.resize((width, height), box=(left, top, left + wide, top + tall))
    if images.shape[1] != 3:
        cropped = cropped.convert("L")
    values = torch.from_numpy(np.array(cropped, dtype=np.float32)).view(height, width, -1).permute(2, 0, 1)[None] / 255
    values = values.expand_as(images)
    return context.classifier.preprocessing.normalise((values.flip(3) if mirrored < 0.5 else values).to(images))
