"""Reading of torchvision's transforms into a `Preprocessing` that gives the same pixels."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from attrlib.errors import ModelError
from attrlib.models.preprocessing import Preprocessing

_NOTHING = (v2.Identity, v2.RGB, nn.Identity)
_INTERPOLATIONS = {"nearest": "nearest", "nearest-exact": "nearest", "bilinear": "bilinear", "bicubic": "bicubic", "lanczos": "lanczos"}
_FLOATS = (torch.float32,)


def from_transform(transform: Any, size: tuple[int, int] | None = None, channels: int | None = None) -> Preprocessing:
    """Read the transform of an evaluation, as of torchvision (v1, v2, or the preset of its weights), into a preprocessing.

    It has the same pixels as the transform, except that a Resize of an 8-bit tensor, which torch computes with other roundings than
    Pillow, may differ by two of 255 levels.

    Args:
        transform: A Compose or Sequential of Resize, CenterCrop, Grayscale, ToTensor, PILToTensor, ToImage, ToDtype,
            ConvertImageDtype and Normalize, or an ImageClassification preset.
        size: Height and width of the input, needed if the transform does not set them because all pictures have that size.
        channels: Number of channels of the network, for a Normalize with one number for all channels.

    Raises:
        ModelError: A step is random, unknown, or has an option that a preprocessing cannot repeat. The message names it.
    """
    reader = _Reader()
    for step in _steps(transform):
        reader.read(step)
    return reader.result(size, channels)


def _steps(transform: Any) -> Iterator[Any]:
    if isinstance(transform, v1.Compose | v2.Compose):
        for step in transform.transforms:
            yield from _steps(step)
    elif isinstance(transform, nn.Sequential):
        for step in transform:
            yield from _steps(step)
    elif isinstance(transform, ImageClassification):
        yield v1.Resize(transform.resize_size, transform.interpolation, antialias=transform.antialias)
        yield v1.CenterCrop(transform.crop_size)
        yield v1.ToTensor()
        yield v1.Normalize(transform.mean, transform.std)
    else:
        yield transform


@dataclass
class _Reader:
    """What the steps up to now do to a picture."""

    is_tensor: bool = False
    is_float: bool = False
    top: float = 255.0
    resize: v1.Resize | v2.Resize | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    resized_as: str = "uint8"
    grey: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def read(self, step: Any) -> None:
        if self.mean is not None and not isinstance(step, _NOTHING):
            raise _refused(step, "comes after Normalize")
        if isinstance(step, v1.Resize | v2.Resize):
            self._resize(step)
        elif isinstance(step, v1.CenterCrop | v2.CenterCrop):
            if self.crop is not None:
                raise _refused(step, "is the second crop")
            self.crop = _pair(step.size)
        elif isinstance(step, v1.Grayscale | v2.Grayscale):
            if self.is_tensor or step.num_output_channels != 1:
                raise _refused(
                    step, "of a tensor, or to three channels, is not supported; put Grayscale() before the conversion to a tensor"
                )
            self.grey = "before" if self.resize is None else "after"
        elif isinstance(step, v1.ToTensor | v2.ToTensor):
            self.is_tensor, self.is_float, self.top = True, True, 1.0
        elif isinstance(step, v1.PILToTensor | v2.PILToTensor | v2.ToImage):
            self.is_tensor = True
        elif isinstance(step, v1.ConvertImageDtype | v2.ConvertImageDtype | v2.ToDtype):
            self._convert(step, step.dtype, getattr(step, "scale", True))
        elif isinstance(step, v1.Normalize | v2.Normalize):
            if not self.is_float:
                raise _refused(step, "comes before the conversion to floats")
            self.mean, self.std = list(step.mean), list(step.std)
        elif not isinstance(step, _NOTHING):
            raise _refused(step, "is not one of the steps that can be read")

    def _resize(self, step: v1.Resize | v2.Resize) -> None:
        mode = getattr(step.interpolation, "value", step.interpolation)
        if self.resize is not None or self.crop is not None:
            raise _refused(step, "comes after another Resize or CenterCrop")
        if step.max_size is not None or mode not in _INTERPOLATIONS:
            raise _refused(step, f"with max_size={step.max_size} and interpolation {mode} is not supported")
        if self.is_tensor and (not step.antialias or mode == "nearest"):
            raise _refused(
                step, "of a tensor without antialiasing is not supported; set antialias=True, or resize before the conversion to a tensor"
            )
        self.resize, self.interpolation = step, _INTERPOLATIONS[mode]
        self.resized_as = "float32" if self.is_float else "uint8"

    def _convert(self, step: Any, dtype: Any, scale: bool) -> None:
        if not self.is_tensor or (dtype == torch.uint8 and self.is_float):
            raise _refused(step, "is not a conversion of 8-bit tensors to floats")
        if dtype == torch.uint8:
            return
        if dtype not in _FLOATS:
            raise _refused(step, f"to {dtype} is not supported; use torch.float32")
        self.top = 1.0 if scale or self.is_float else 255.0
        self.is_float = True

    def result(self, size: tuple[int, int] | None, channels: int | None) -> Preprocessing:
        if not self.is_float:
            raise ModelError(
                "the transform does not end in a tensor of floats; add ToTensor(), or ToImage() and ToDtype(torch.float32, scale=True)"
            )
        own_size, share, fit = self._geometry(size)
        if size is not None and size != own_size:
            raise ModelError(f"input_size={size} contradicts the transform, which gives {own_size}; leave out input_size")
        count = 1 if self.grey else len(self.mean) if self.mean and len(self.mean) > 1 else channels or (len(self.mean) if self.mean else 3)
        mean, std = (self._per_channel(values, count) for values in (self.mean or [0.0], self.std or [1.0]))
        return Preprocessing(own_size, mean, std, self.interpolation, share, fit, grey=self.grey or "before", resized_as=self.resized_as)

    def _per_channel(self, values: Sequence[float], count: int) -> tuple[float, ...]:
        return tuple(float(value) / self.top for value in (list(values) * count if len(values) == 1 else values))

    def _geometry(self, size: tuple[int, int] | None) -> tuple[tuple[int, int], float, str]:
        """Return the input size, the share of the resized picture that the crop covers, and how the shape is fitted."""
        if self.resize is None:
            if self.crop is not None:
                raise ModelError(
                    f"CenterCrop({self.crop}) without a Resize before it cuts from pictures of any size, which is not supported; add a Resize"
                )
            if size is None:
                raise ModelError("the transform has no Resize, so it does not say the size of the input; give input_size, too")
            return size, 1.0, "squash"
        wanted = self.resize.size
        sides = [wanted] if isinstance(wanted, int) else list(wanted)
        if len(sides) == 2:
            crop = self.crop or (sides[0], sides[1])
            return crop, self._share(crop, (sides[0], sides[1])), "squash"
        square = (sides[0], sides[0])
        if self.crop is None and size != square:
            raise ModelError(
                f"Resize({sides[0]}) alone keeps the shape of pictures, so they differ in size; use Resize(({sides[0]}, {sides[0]})), add "
                f"CenterCrop, or give input_size={sides[0]} if all pictures are square"
            )
        return self.crop or square, self._share(self.crop or square, square), "centre"

    def _share(self, crop: tuple[int, int], resized: tuple[int, int]) -> float:
        """Return the share of the resized picture that the crop covers, such that dividing by it gives exactly `resized`."""
        for rest in (0, 0.25, 0.5):
            share = crop[0] / (resized[0] + rest)
            if all(math.floor(c / share) == r for c, r in zip(crop, resized, strict=True)):
                return share
        raise _refused(self.resize, f"with CenterCrop({crop}), which covers different shares of height and width, is not supported")


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    sides = [size] if isinstance(size, int) else list(size)
    return sides[0], sides[-1]


def _refused(step: Any, reason: str) -> ModelError:
    return ModelError(
        f"the transform cannot be used: {type(step).__name__} {reason}. Give the transform of the evaluation, or input_size, mean and std"
    )
