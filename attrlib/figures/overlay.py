"""Draws maps over the greyed photo."""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrlib.figures.colours import table
from attrlib.postprocess import apply_sign, resize, smooth
from attrlib.specs import ViewSpec


def prepare(maps: Tensor, view: ViewSpec, size: tuple[int, int]) -> Tensor:
    """Maps (B,1,h,w) as they are shown: at the input size (height, width), smoothed there, then with the view's sign."""
    return apply_sign(smooth(resize(maps, size), view.smoothing), view.sign)


def limit(prepared: Sequence[Tensor], clip: float) -> float:
    """The magnitude at which colours saturate: the `clip` percentile of all magnitudes, or their maximum where that is zero."""
    values = torch.cat([p.flatten() for p in prepared]).abs()
    values = values[torch.isfinite(values)]
    if not len(values):
        return 0.0
    place = min(len(values) - 1, int(clip / 100 * len(values)))
    return float(values.sort().values[place]) or float(values.max())


def colour_map(view: ViewSpec) -> str:
    """The diverging colour map for signed maps, else the sequential one."""
    return view.diverging if view.sign == "signed" else view.sequential


def draw(prepared: Tensor, photo: Image.Image, view: ViewSpec, top: float) -> Image.Image:
    """One prepared map (h,w) over the photo, at the photo's size; `top` is the magnitude of the extreme colour."""
    values = resize(prepared[None, None].float(), (photo.height, photo.width))[0, 0].numpy()
    with np.errstate(invalid="ignore"):
        share = np.nan_to_num(values / top) if top else np.zeros_like(values)
    if view.sign == "signed":
        share = (share + 1) / 2
    colours = table(colour_map(view))[(share.clip(0, 1) * 255).round().astype(np.uint8)]
    grey = np.asarray(photo.convert("L"), dtype=np.float32)[:, :, None]
    blended = view.opacity * colours + (1 - view.opacity) * grey
    return Image.fromarray(blended.round().astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", level: int = 6) -> bytes:
    """The picture as a file: JPEG for the screen (ten times as fast to make and to send), PNG to keep, or with gaps, at a zlib level."""
    file = io.BytesIO()
    if kind == "JPEG":
        image.save(file, "JPEG", quality=92, subsampling=0)
    else:
        image.save(file, kind, compress_level=level)
    return file.getvalue()
