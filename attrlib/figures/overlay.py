"""Draw maps over the greyed photo."""

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
    """Prepare maps for display: resize them to the input size, smooth them there, then apply the view's sign.

    Args:
        maps: Maps (B,1,h,w).
        view: Smoothing and sign.
        size: Input size (height, width) in pixels.
    """
    return apply_sign(smooth(resize(maps, size), view.smoothing), view.sign)


def limit(prepared: Sequence[Tensor], clip: float) -> float:
    """Return the magnitude at which colours saturate: the `clip` percentile of all magnitudes, or their maximum if that is zero."""
    values = torch.cat([p.flatten() for p in prepared]).abs()
    values = values[torch.isfinite(values)]
    if not len(values):
        return 0.0
    place = min(len(values) - 1, int(clip / 100 * len(values)))
    return float(values.sort().values[place]) or float(values.max())


def colour_map(view: ViewSpec) -> str:
    """Return the view's diverging colour map if its sign is signed, otherwise the sequential one."""
    return view.diverging if view.sign == "signed" else view.sequential


def draw(prepared: Tensor, photo: Image.Image, view: ViewSpec, top: float) -> Image.Image:
    """Draw one prepared map over the photo, at the photo's size.

    Args:
        prepared: A map (h,w) from `prepare`.
        photo: The photo.
        view: Colours, sign and opacity.
        top: Magnitude of the extreme colour.
    """
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
    """Encode a picture as a file.

    Args:
        image: The picture.
        kind: `JPEG` for the screen, as it is ten times as fast to encode and to send; `PNG` for downloads and transparency.
        level: zlib level of a PNG.
    """
    file = io.BytesIO()
    if kind == "JPEG":
        image.save(file, "JPEG", quality=92, subsampling=0)
    else:
        image.save(file, kind, compress_level=level)
    return file.getvalue()
