"""From a picture to the network's input, and back to the crop that the network sees."""

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
# A picture 16 times as long as wide has the same centre crop as one cut to that; a longer one would only fill memory.
_MAX_ASPECT = 16
# The whole picture is resized before it is cut: a small crop would fill memory. The smallest of timm is 0.875.
_MIN_CROP = 0.1
# Of colours in [0,1]; far beyond what any network has, and float32 holds their quotients.
_MAX_MEAN, _MIN_STD, _MAX_STD = 1e3, 1e-6, 1e3


@dataclass(frozen=True)
class Preprocessing:
    """Resize so that the crop covers `crop` of the short side, crop the centre, scale to [0,1], subtract `mean`, divide by `std`.

    `size` is (height, width) in pixels; `mean` and `std` are for channels R, G, B in [0,1]. `fit` says how a picture of another
    shape is resized: `centre` covers the crop, `squash` changes the aspect ratio, `border` fits the whole picture in, on mean colour.
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
        """The crop that the network sees, RGB, `scale` times as fine."""
        red, green, blue = (round(255 * m) for m in self.mean)
        return self._placed(picture.convert("RGB"), INTERPOLATIONS[self.interpolation], (red, green, blue), scale)

    def mask(self, mask: np.ndarray, picture_size: tuple[int, int]) -> Tensor:
        """A mask (H,W) of a picture of `picture_size` (width, height) as the network sees it: boolean (H,W), nearest neighbour.

        Non-zero is the object; what `view` adds around the picture is not. Raises `ImageError` for a mask of another size.
        """
        if mask.shape != tuple(picture_size[::-1]):
            shape, (width, height) = " x ".join(map(str, mask.shape)), picture_size
            raise ImageError(f"a mask of shape {shape} for a picture of {height} x {width} px; give one of the picture's height and width")
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
        """The normalised input (3,H,W), float32."""
        # Without torch, whose operations would start a second team of threads in a thread that loads pictures.
        values: np.ndarray = np.array(self.view(picture), dtype=np.float32) / np.float32(255)
        values = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))

    def normalise(self, values: Tensor) -> Tensor:
        """Colours in [0,1] (...,3,H,W) to normalised ones."""
        return (values - values.new_tensor(self.mean).view(3, 1, 1)) / values.new_tensor(self.std).view(3, 1, 1)

    def denormalise(self, values: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return values * values.new_tensor(self.std).view(3, 1, 1) + values.new_tensor(self.mean).view(3, 1, 1)


def _margin(have: int, want: int) -> int:
    """What is cut off before the centre, or, negative, added: rounded as torchvision does."""
    return round((have - want) / 2) if have >= want else -((want - have) // 2)


def _without_long_ends(picture: Image.Image) -> Image.Image:
    width = min(picture.width, _MAX_ASPECT * picture.height)
    height = min(picture.height, _MAX_ASPECT * picture.width)
    if (width, height) == picture.size:
        return picture
    # An even surplus, so that the centre stays where it is.
    width, height = width - (picture.width - width) % 2, height - (picture.height - height) % 2
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))
