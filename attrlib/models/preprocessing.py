"""Preprocessing: from a picture to the network's input, and back to the crop that the network sees."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrlib.errors import ImageError, ModelError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Longer pictures are cut to this aspect ratio first: the centre crop stays the same, and memory does not run out.
_MAX_ASPECT = 16
# The whole picture is resized before it is cropped, so a small crop would need a lot of memory. The smallest in timm is 0.875.
_MIN_CROP = 0.1
# For colours in [0,1]. These are far beyond the values of any network, and float32 still represents the quotients.
_MAX_MEAN, _MIN_STD, _MAX_STD = 1e3, 1e-6, 1e3


@dataclass(frozen=True)
class Preprocessing:
    """Resize so that the crop covers `crop` of the short side, crop the centre, scale to [0,1], subtract `mean`, divide by `std`.

    Args:
        size: Height and width of the input in pixels.
        mean: Mean of the channels R, G, B, for colours in [0,1].
        std: Standard deviation of the channels R, G, B, for colours in [0,1].
        interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`.
        crop: Share of the short side that the crop covers, from 0.1 to 2.
        fit: How to resize a picture of another shape: `centre` covers the crop, `squash` changes the aspect ratio, `border` fits
            the whole picture in and fills the rest with the mean colour.

    Raises:
        ModelError: A value is not valid.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop: float = 0.875
    fit: str = "centre"

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ModelError(f"input_size={self.size} is not valid: give one number of pixels, or (height, width)")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ModelError("mean and std need three numbers each, one for each colour channel, std above 0")
        if not all(abs(m) <= _MAX_MEAN for m in self.mean) or not all(_MIN_STD <= s <= _MAX_STD for s in self.std):
            raise ModelError("mean and std are not valid: give those of colours in [0,1], such as 0.5; neither NaN nor infinite")
        if not _MIN_CROP <= self.crop <= 2:
            raise ModelError(f"crop={self.crop} is not valid: give a share of the short side from {_MIN_CROP} to 2")
        if self.fit not in ("centre", "squash", "border"):
            raise ModelError(f"fit={self.fit!r} is not known; choose centre, squash or border")
        if self.interpolation not in INTERPOLATIONS:
            raise ModelError(f"interpolation={self.interpolation!r} is not known; choose one of {', '.join(INTERPOLATIONS)}")

    def view(self, picture: Image.Image, scale: int = 1) -> Image.Image:
        """Return the crop that the network sees as an RGB picture, at `scale` times the resolution."""
        red, green, blue = (round(255 * m) for m in self.mean)
        return self._placed(picture.convert("RGB"), INTERPOLATIONS[self.interpolation], (red, green, blue), scale)

    def mask(self, mask: np.ndarray, picture_size: tuple[int, int]) -> Tensor:
        """Return a picture's mask as the network sees it, resized with nearest neighbour.

        Args:
            mask: Mask (H,W) of the picture; non-zero is the object.
            picture_size: Width and height of the picture in pixels.

        Returns:
            Boolean mask (H,W) of the input; False on borders that `view` adds around the picture.

        Raises:
            ImageError: The mask and the picture differ in size.
        """
        if mask.shape != tuple(picture_size[::-1]):
            shape, (width, height) = " x ".join(map(str, mask.shape)), picture_size
            raise ImageError(f"a mask of shape {shape} for a picture of {height} x {width} px; give a mask of the same size")
        placed = self._placed(Image.fromarray(mask.astype(bool).astype(np.uint8)), Image.Resampling.NEAREST, 0, 1)
        return torch.from_numpy(np.array(placed).astype(bool))

    def _placed(self, picture: Image.Image, resample: Image.Resampling, background: int | tuple[int, int, int], scale: int) -> Image.Image:
        if self.fit == "centre":
            picture = _without_long_ends(picture)
        height, width = self.size[0] * scale, self.size[1] * scale
        short_height, short_width = math.floor(height / self.crop), math.floor(width / self.crop)
        tall, wide = short_height / picture.height, short_width / picture.width
        if self.fit == "squash":
            resized = (short_width, short_height)
        elif self.fit == "border":
            resized = (max(1, round(picture.width * min(tall, wide))), max(1, round(picture.height * min(tall, wide))))
        else:
            ratio = max(tall, wide) + 1e-9
            resized = (max(short_width, int(picture.width * ratio)), max(short_height, int(picture.height * ratio)))
        picture = picture.resize(resized, resample)
        left, top = (_margin(have, want) for have, want in zip(resized, (width, height), strict=True))
        if self.fit != "border":
            return picture.crop((left, top, left + width, top + height))
        canvas = Image.new(picture.mode, (width, height), background)
        canvas.paste(picture, (-left, -top))
        return canvas

    def __call__(self, picture: Image.Image) -> Tensor:
        """Return the normalised input (3,H,W) of a picture as float32."""
        # NumPy rather than torch: torch operations would start a second thread pool in a thread that loads pictures.
        values: np.ndarray = np.array(self.view(picture), dtype=np.float32) / np.float32(255)
        values = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))

    def normalise(self, values: Tensor) -> Tensor:
        """Normalise colours (...,3,H,W) in [0,1]."""
        return (values - values.new_tensor(self.mean).view(3, 1, 1)) / values.new_tensor(self.std).view(3, 1, 1)

    def denormalise(self, values: Tensor) -> Tensor:
        """Invert `normalise`."""
        return values * values.new_tensor(self.std).view(3, 1, 1) + values.new_tensor(self.mean).view(3, 1, 1)


def _margin(have: int, want: int) -> int:
    """Return the pixels to cut off before the centre, or to add if negative, rounded as in torchvision."""
    return round((have - want) / 2) if have >= want else -((want - have) // 2)


def _without_long_ends(picture: Image.Image) -> Image.Image:
    width = min(picture.width, _MAX_ASPECT * picture.height)
    height = min(picture.height, _MAX_ASPECT * picture.width)
    if (width, height) == picture.size:
        return picture
    # Cut an even number of pixels, so that the centre does not move.
    width, height = width - (picture.width - width) % 2, height - (picture.height - height) % 2
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))
