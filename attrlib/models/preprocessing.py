"""From a picture to the network's input, and back to the crop that the network sees."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrlib.errors import ModelError

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


@dataclass(frozen=True)
class Preprocessing:
    """Resize so that the crop covers `crop` of the short side, crop the centre, scale to [0,1], subtract `mean`, divide by `std`.

    `size` is (height, width) in pixels; `mean` and `std` are for channels R, G, B in [0,1].
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop: float = 0.875

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ModelError(f"input_size={self.size} is not valid: give one number of pixels, or (height, width)")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ModelError("mean and std need three numbers each, one for each colour channel, std above 0")
        if not 0 < self.crop <= 1:
            raise ModelError(f"crop={self.crop} is not valid: it is a share of the short side, above 0 and at most 1")
        if self.interpolation not in INTERPOLATIONS:
            raise ModelError(f"interpolation={self.interpolation!r} is not known; choose one of {', '.join(INTERPOLATIONS)}")

    def view(self, picture: Image.Image, scale: int = 1) -> Image.Image:
        """The crop that the network sees, RGB, `scale` times as fine."""
        picture = _without_long_ends(picture.convert("RGB"))
        height, width = self.size[0] * scale, self.size[1] * scale
        short_height, short_width = math.floor(height / self.crop), math.floor(width / self.crop)
        ratio = max(short_height / picture.height, short_width / picture.width)
        resized = (
            max(short_width, int(picture.width * ratio + 1e-6)),
            max(short_height, int(picture.height * ratio + 1e-6)),
        )
        picture = picture.resize(resized, INTERPOLATIONS[self.interpolation])
        left, top = round((resized[0] - width) / 2), round((resized[1] - height) / 2)
        return picture.crop((left, top, left + width, top + height))

    def __call__(self, picture: Image.Image) -> Tensor:
        """The normalised input (3,H,W), float32."""
        values = torch.from_numpy(np.array(self.view(picture), dtype=np.float32)).permute(2, 0, 1) / 255
        return self.normalise(values).contiguous()

    def normalise(self, values: Tensor) -> Tensor:
        """Colours in [0,1] (...,3,H,W) to normalised ones."""
        return (values - values.new_tensor(self.mean).view(3, 1, 1)) / values.new_tensor(self.std).view(3, 1, 1)

    def denormalise(self, values: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return values * values.new_tensor(self.std).view(3, 1, 1) + values.new_tensor(self.mean).view(3, 1, 1)


def _without_long_ends(picture: Image.Image) -> Image.Image:
    width = min(picture.width, _MAX_ASPECT * picture.height)
    height = min(picture.height, _MAX_ASPECT * picture.width)
    if (width, height) == picture.size:
        return picture
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))
