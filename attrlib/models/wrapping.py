"""Wrap a custom module as a classifier."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from attrlib.errors import ModelError
from attrlib.models.channels import assumed, declared_channels
from attrlib.models.classifier import Classifier
from attrlib.models.modules.unwrapping import unwrapped
from attrlib.models.preprocessing import Preprocessing
from attrlib.models.transforms import from_transform
from attrlib.specs import ModelSpec


def wrap_model(
    module: nn.Module,
    input_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    layers: Mapping[str, str] | None = None,
    *,
    interpolation: str | None = None,
    crop: float | None = None,
    fit: str | None = None,
    white: float | None = None,
    bands_shown: Sequence[int] | None = None,
    transform: Callable[..., Any] | None = None,
    deletion_tuned: bool = False,
    outputs: str = "auto",
) -> Classifier:
    """Wrap a custom module that maps normalised images (B,C,H,W) to logits or other numbers (B,K) as a classifier.

    The module is not copied, moved or changed. Without mean and std it gets ImageNet's, or, if it reads another number of channels
    than three, 0.5 for each, which `Classifier.notes` says.

    Args:
        module: The network.
        input_size: Input size in pixels, a number or (height, width).
        mean: Mean of each channel that the network expects, for colours in [0,1]; three numbers for R, G and B, one for grey.
        std: Standard deviation of each channel that the network expects, for colours in [0,1].
        class_names: One name per output; by default `class 0`, `class 1`, ...
        layers: Module paths that `Middle` and `Final` stand for; by default they are inferred.
        interpolation: `nearest`, `bilinear` (the default), `bicubic` or `lanczos`.
        crop: Share of the picture's short side that the crop covers, by default 0.875.
        fit: `centre` (the default), `squash` or `border`, see `Preprocessing`.
        white: The value of 16-bit and float pictures that becomes 1, see `Preprocessing`.
        bands_shown: Channels that show the input, see `Preprocessing`.
        transform: The torchvision transform of the network's evaluation, instead of the arguments from `mean` to `fit`; see
            `attrlib.models.transforms`. `input_size` is needed only if it does not resize.
        deletion_tuned: Whether the model was fine-tuned on images with deleted patches, as IDSDS requires.
        outputs: What the network's numbers mean: `softmax`, `sigmoid`, `binary`, `scalar`, `features`, `probabilities` or `auto`, see
            `attrlib.models.outputs`.

    Raises:
        ModelError: The module is not a classifier, or an argument is not valid.
        LayerError: A path in `layers` yields no spatial map.
    """
    module = unwrapped(module)
    values = dict(mean=_tuple(mean, "mean"), std=_tuple(std, "std"), interpolation=interpolation, crop=crop, fit=fit)
    given: dict[str, Any] = {name: value for name, value in values.items() if value is not None}
    extra: dict[str, Any] = dict(white=white, bands_shown=None if bands_shown is None else tuple(bands_shown))
    if transform is not None:
        if given:
            raise ModelError(f"transform and {' and '.join(given)} are both given; give the transform alone")
        size = None if input_size is None else _input_size(input_size)
        preprocessing = from_transform(transform, size, next(iter(declared_channels(module, size)), None))
    else:
        preprocessing = Preprocessing(_input_size(input_size), **given)
    spec = ModelSpec(f"wrapped:{type(module).__name__}")

    def wrapped(preprocessing: Preprocessing, notes: Sequence[str] = ()) -> Classifier:
        return Classifier(module, replace(preprocessing, **extra), spec, class_names, layers, deletion_tuned, outputs, notes)

    try:
        model = wrapped(preprocessing)
    except ModelError as error:
        if transform is not None or mean is not None or std is not None:
            raise
        model = _of_other_channels(module, preprocessing, wrapped, error)
    if layers:
        _ = model.layers
    return model


def _of_other_channels(
    module: nn.Module, rgb: Preprocessing, wrapped: Callable[[Preprocessing, Sequence[str]], Classifier], error: ModelError
) -> Classifier:
    """Wrap a module that failed on RGB images with the number of channels that one of its convolutions declares.

    Raises:
        ModelError: `error` if it declares the channels of RGB, or none; else that of the first number if none works.
    """
    declared = declared_channels(module, rgb.size)
    working, failed = [], None
    for channels in declared if rgb.channels not in declared else ():
        try:
            preprocessing, note = assumed(rgb, channels)
            working.append(wrapped(preprocessing, [note]))
        except ModelError as other:
            failed = failed or other
    if len(working) > 1:
        numbers = " and ".join(str(model.channels) for model in working)
        raise ModelError(f"{working[0].name} takes images of {numbers} channels; give mean and std with one number for each channel")
    if not working:
        raise failed or error
    return working[0]


def _input_size(size: object) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, tuple | list) else ()
    if len(pair) != 2 or not all(isinstance(side, int) for side in pair):
        given = "input_size is missing" if size is None else f"input_size={size!r} is not valid"
        raise ModelError(f"{given}: give one number of pixels, or (height, width)")
    return pair[0], pair[1]


def _tuple(values: Sequence[float] | None, name: str) -> tuple[float, ...] | None:
    """Return mean or std as a tuple, unchanged otherwise: the digest tells 0 from 0.0."""
    if values is None or isinstance(values, tuple):
        return values
    if isinstance(values, int | float) or not hasattr(values, "__iter__"):
        raise ModelError(f"{name}={values!r} is not valid: give one number for each channel, as in ({values!r},) for grey pictures")
    return tuple(value if isinstance(value, int | float) else float(value) for value in values)
