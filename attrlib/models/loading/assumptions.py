"""What is assumed of a checkpoint that does not say how its network was trained, and what it says beside its weights."""

from collections.abc import Iterator, Mapping
from typing import Any

from attrlib.models.loading.outline import accepted
from attrlib.models.options import split_options
from attrlib.models.preprocessing import Preprocessing
from attrlib.specs import INTERPOLATIONS, LARGEST, ModelSpec, size_text
from attrlib.specs.model import numbers_text


def assumed(name: str, preprocessing: Preprocessing, given: ModelSpec, hints: Mapping[str, Any]) -> Iterator[str]:
    """Yield notes of what is assumed of a checkpoint without a model card, and how to say otherwise.

    Args:
        name: Name of the architecture with its options.
        preprocessing: The preprocessing in use, except for a size that was given.
        given: What the caller said of the model.
        hints: Plain values of the file beside its weights.
    """
    base, options = split_options(name)
    if given.mean is None or given.std is None:
        texts = {
            "input_size": f"{size_text(preprocessing.size)} px",
            "mean": f"mean {_short(preprocessing.mean)}",
            "std": f"std {_short(preprocessing.std)}{_from_colours(options)}",
            "interpolation": preprocessing.interpolation,
            "crop": f"crop {preprocessing.crop:.3g}",
            "fit": preprocessing.fit,
        }
        texts = {field: text for field, text in texts.items() if getattr(given, field) is None}
        *others, last = [field for field in texts if field != "input_size"]
        named = f"{', '.join(others)} or {last}" if others else last
        yield f"assumed the preprocessing of {base}: {', '.join(texts.values())}; set {named} if the network was trained with others"
    if said := _unused(preprocessing, given, hints):
        text = ModelSpec("", **said).text
        arguments = ", ".join(f"{key}={value!r}" for key, value in said.items())
        yield f"the file names {arguments}, which is used only if you set it: write {text} after the model, or pass it to load_model"
    if base.startswith("torchvision:") and "transform_input" in accepted(base) and "transform_input" not in options:
        yield (
            "assumed transform_input=false, which the weights do not tell; write "
            f"{base}?transform_input=true if the training began with torchvision's pretrained weights"
        )


def of_channels(name: str, preprocessing: Preprocessing, given: ModelSpec) -> Iterator[str]:
    """Yield a note on mean and std if the architecture was built for other channels than those that they belong to.

    Args:
        name: Name of the architecture with its options.
        preprocessing: The preprocessing in use.
        given: What the caller said of the model.
    """
    if (given.mean is None or given.std is None) and (origin := _from_colours(split_options(name)[1])):
        yield f"assumed mean {_short(preprocessing.mean)} and std {_short(preprocessing.std)}{origin}; set mean and std if they are others"


def _from_colours(options: Mapping[str, Any]) -> str:
    channels = options.get("in_chans", 3)
    return "" if channels == 3 else " (the mean of those for R, G and B)" if channels == 1 else " (those for R, G and B in turn)"


def fields_of(hints: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `ModelSpec` that a file tells of its preprocessing, as far as they are valid."""
    mean, std, size, interpolation, crop = (hints.get(key) for key in ("mean", "std", "img_size", "interpolation", "crop_pct"))
    # Some libraries count colours up to 255.
    scale = 255.0 if mean and max(mean) > 1 else 1.0
    fields = {
        "input_size": size if size and max(size) <= LARGEST else None,
        "mean": tuple(round(value / scale, 6) for value in mean) if mean else None,
        "std": tuple(round(value / scale, 6) for value in std) if std and min(std) > 0 else None,
        "interpolation": interpolation if interpolation in INTERPOLATIONS else None,
        "crop": crop if crop and 0 < crop <= 2 else None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _unused(preprocessing: Preprocessing, given: ModelSpec, hints: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the hints say of the preprocessing that is neither given nor in use, by the fields of `ModelSpec`."""
    used = {"input_size": preprocessing.size}
    return {
        key: value
        for key, value in fields_of(hints).items()
        if getattr(given, key) is None
        and value != used.get(key, getattr(preprocessing, key, None))
        and (key not in ("mean", "std") or len(value) == preprocessing.channels)
    }


def _short(values: tuple[float, ...]) -> str:
    return numbers_text(tuple(round(value, 3) for value in values))
