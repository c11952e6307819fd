"""Preprocessing: from a picture to the network's input, and back to the crop that the network sees."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrlib.bands import GREY_WEIGHTS, Bands, Pictured, bands_of, default_shown, rgb_of
from attrlib.bands.modes import converted
from attrlib.errors import ImageError, ModelError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_CHOICES = {
    "fit": ("centre", "squash", "border"),
    "interpolation": tuple(INTERPOLATIONS),
    "grey": ("before", "after"),
    "resized_as": ("uint8", "float32"),
}
# Longer pictures are cut to this aspect ratio first: the centre crop stays the same, and memory does not run out.
_MAX_ASPECT = 16
# The whole picture is resized before it is cropped, so a small crop would need a lot of memory. The smallest in timm is 0.875.
_MIN_CROP = 0.1
# For colours in [0,1]. These are far beyond the values of any network, and float32 still represents the quotients.
_MAX_MEAN, _MIN_STD, _MAX_STD = 1e3, 1e-6, 1e3


# The digest of a preprocessing without these fields is that of versions that did not have them.
_IF_SET = {"digest": "if set"}
_NOT_THE_INPUT = {"digest": "never"}
Picture = Image.Image | np.ndarray | Bands | Pictured


@dataclass(frozen=True)
class Preprocessing:
    """Resize so that the crop covers `crop` of the short side, crop the centre, scale to [0,1], subtract `mean`, divide by `std`.

    A picture of 8-bit RGB becomes the input of three channels, or of one after conversion to grey. Pictures of other bands (`Bands`)
    need one band per channel, or one or three for a model of three or one; they are resized as floats, without rounding to 8 bits.

    Args:
        size: Height and width of the input in pixels.
        mean: Mean of each channel, for colours in [0,1]. Their number is that of the channels.
        std: Standard deviation of each channel, for colours in [0,1].
        interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`.
        crop: Share of the short side that the crop covers, from 0.1 to 2.
        fit: How to resize a picture of another shape: `centre` covers the crop, `squash` changes the aspect ratio, `border` fits
            the whole picture in and fills the rest with the mean colour.
        white: The value that becomes 1 in pictures of 16 bits or floats; None for 65535, and for floats that lie in [0,1].
        grey: When a model of one channel gets a coloured picture converted to grey: `before` or `after` resizing.
        resized_as: Type in which 8-bit pictures are resized: `uint8`, as Pillow does, or `float32`, as for torch's tensors.
        bands_shown: One channel to show grey, or three to show as R, G and B, where the input is shown; None for the first three, or
            the first if there are fewer. It does not change the input.

    Raises:
        ModelError: A value is not valid.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop: float = 0.875
    fit: str = "centre"
    white: float | None = field(default=None, metadata=_IF_SET)
    grey: str = field(default="before", metadata=_IF_SET)
    resized_as: str = field(default="uint8", metadata=_IF_SET)
    bands_shown: tuple[int, ...] | None = field(default=None, metadata=_NOT_THE_INPUT)

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ModelError(f"input_size={self.size} is not valid: give one number of pixels, or (height, width)")
        if len(self.mean) != len(self.std) or not self.mean:
            raise ModelError(f"mean and std have {len(self.mean)} and {len(self.std)} numbers; give one number for each channel in both")
        if not all(abs(m) <= _MAX_MEAN for m in self.mean) or not all(_MIN_STD <= s <= _MAX_STD for s in self.std):
            raise ModelError(
                "mean and std are not valid: give those of colours in [0,1], such as 0.5; neither NaN nor infinite, and std above 0"
            )
        if not _MIN_CROP <= self.crop <= 2:
            raise ModelError(f"crop={self.crop} is not valid: give a share of the short side from {_MIN_CROP} to 2")
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ModelError(f"{name}={value!r} is not known; choose one of {', '.join(choices)}")
        if self.white is not None and not 0 < self.white < math.inf:
            raise ModelError(f"white={self.white} is not valid: give the value that the network is to see as 1, such as 4095 for 12 bits")
        shown = self.bands_shown
        if shown is not None and (len(shown) not in (1, 3) or not all(k in range(self.channels) for k in shown)):
            raise ModelError(f"bands_shown={shown} is not valid: give one or three channels from 0 to {self.channels - 1}")

    @property
    def channels(self) -> int:
        """Return the number of channels of the input."""
        return len(self.mean)

    def view(self, picture: Picture, scale: int = 1) -> Image.Image:
        """Return the crop that the network sees as an RGB picture, at `scale` times the resolution; one channel is shown grey."""
        source = self.source(picture)
        if isinstance(source, Image.Image) and self.resized_as == "uint8":
            return self._placed_8_bit(source, scale).convert("RGB")
        return rgb_of(self._placed_floats(source, scale)[..., list(self._shown)])

    def shown(self, values: Tensor) -> Tensor:
        """Return inputs (...,C,H,W) as colours (...,3,H,W) in [0,1] for display; one channel is shown grey."""
        colours = self.denormalise(values).clamp(0, 1)[..., list(self._shown), :, :]
        return colours.expand(*colours.shape[:-3], 3, -1, -1)

    @property
    def _shown(self) -> tuple[int, ...]:
        return self.bands_shown or default_shown(self.channels)

    def source(self, picture: Picture) -> Image.Image | Iterator[np.ndarray]:
        """Return what is resized: an 8-bit image of mode RGB or L, or bands (H,W) in [0,1].

        Raises:
            ImageError: The picture has another number of bands than the model has channels.
        """
        image, bands, name = _parts(picture)
        if bands is not None and bands.count == self.channels:
            return bands.planes(self.white, name)
        count = 3 if bands is None else bands.count - bands.alpha
        if {count, self.channels} <= {1, 3}:
            if bands is None or bands.values.dtype == np.uint8:
                return image.convert("L") if self.channels == 1 and self.grey == "before" else image
            colours = bands.colours(self.white, name)
            if count != self.channels:
                colours = colours.repeat(3, axis=2) if count == 1 else (colours @ GREY_WEIGHTS)[..., None]
            return iter(np.moveaxis(colours, 2, 0))
        have = "is grey or RGB" if bands is None else f"has {bands.count} bands" if bands.count > 1 else "has one band"
        reads = f"{self.channels} channels" if self.channels > 1 else "one channel"
        raise ImageError(
            f"{name} {have}, but the model reads {reads}; give pictures of that many bands, as TIFF or .npy files or arrays (H,W,C), or "
            "load the model with one number for each band in mean and std"
        )

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

    def _placed_8_bit(self, image: Image.Image, scale: int) -> Image.Image:
        """Return an 8-bit image resized and cropped, of mode L for one channel and RGB for three."""
        levels = tuple(round(255 * m) for m in self.mean)
        background = levels if image.mode == "RGB" and self.channels == 3 else levels[0] if image.mode == "L" else levels * 3
        placed = self._placed(image, INTERPOLATIONS[self.interpolation], background, scale)
        return placed.convert("L") if self.channels == 1 and placed.mode == "RGB" else placed

    def _placed_floats(self, source: Image.Image | Iterator[np.ndarray], scale: int) -> np.ndarray:
        """Return colours (H,W,C) resized and cropped in float32."""
        if isinstance(source, Image.Image):
            source = (np.asarray(band, dtype=np.float32) / np.float32(255) for band in source.split())
        resample, last = INTERPOLATIONS[self.interpolation], self.channels - 1
        placed = [
            self._placed(Image.fromarray(np.ascontiguousarray(plane)), resample, self.mean[min(k, last)], scale)
            for k, plane in enumerate(source)
        ]
        values = np.stack([np.asarray(plane) for plane in placed], axis=-1)
        return values if len(placed) == self.channels else (values @ GREY_WEIGHTS)[..., None]

    def _placed(self, picture: Image.Image, resample: Image.Resampling, background: float | tuple[int, ...], scale: int) -> Image.Image:
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

    def __call__(self, picture: Picture) -> Tensor:
        """Return the normalised input (C,H,W) of a picture as float32.

        Raises:
            ImageError: The picture has another number of bands than the model has channels, or values without a known scale.
        """
        # NumPy rather than torch: torch operations would start a second thread pool in a thread that loads pictures.
        source = self.source(picture)
        if isinstance(source, Image.Image) and self.resized_as == "uint8":
            values: np.ndarray = np.array(self._placed_8_bit(source, 1), dtype=np.float32) / np.float32(255)
        else:
            values = self._placed_floats(source, 1)
        values = values.reshape(*self.size, self.channels)
        values = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))

    def normalise(self, values: Tensor) -> Tensor:
        """Normalise colours (...,C,H,W) in [0,1]."""
        return (values - values.new_tensor(self.mean).view(-1, 1, 1)) / values.new_tensor(self.std).view(-1, 1, 1)

    def denormalise(self, values: Tensor) -> Tensor:
        """Invert `normalise`."""
        return values * values.new_tensor(self.std).view(-1, 1, 1) + values.new_tensor(self.mean).view(-1, 1, 1)


def _parts(picture: Picture) -> tuple[Image.Image, Bands | None, str]:
    """Return a picture as 8-bit RGB, its bands unless that says all, and its name."""
    if isinstance(picture, np.ndarray):
        picture, _ = bands_of(picture, "the array")
    if isinstance(picture, Bands):
        return picture.rgb(), None if picture.plain else picture, "the picture"
    if not isinstance(picture, Image.Image):
        return picture.image, picture.bands, picture.name
    image, bands = (picture, None) if picture.mode == "RGB" else converted(picture, "the picture")[:2]
    return image, bands, "the picture"


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
