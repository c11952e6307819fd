"""What is assumed of a checkpoint that does not say how its network was trained."""

from collections.abc import Iterator, Mapping
from typing import Any

from attrlib.models.options import split_options
from attrlib.models.outline import accepted
from attrlib.models.preprocessing import Preprocessing
from attrlib.specs import ModelSpec, size_text
from attrlib.specs.model import numbers_text


def assumed(name: str, preprocessing: Preprocessing, given: ModelSpec, hints: Mapping[str, Any]) -> Iterator[str]:
    """Yield notes of what is assumed of a checkpoint without a model card, and how to say otherwise.

    Args:
        name: Name of the architecture with its options.
        preprocessing: The preprocessing in use.
        given: What the caller said of the model.
        hints: Plain values of the file beside its weights.
    """
    base, options = split_options(name)
    if given.mean is None and given.std is None:
        yield (
            f"assumed the preprocessing of {base}: {size_text(preprocessing.size)} px, mean {_short(preprocessing.mean)}, "
            f"std {_short(preprocessing.std)}, {preprocessing.interpolation}, crop {preprocessing.crop:.3g}, {preprocessing.fit}; set mean, std, "
            "interpolation, crop or fit if the network was trained with others"
        )
        if said := [f"{key}={hints[key]}"[:80] for key in ("mean", "std", "interpolation", "crop_pct") if hints.get(key) is not None]:
            yield f"the file names {', '.join(said)}, which is not used unless you set it"
    if base.startswith("torchvision:") and "transform_input" in accepted(base) and "transform_input" not in options:
        yield (
            "assumed transform_input=false, which the weights do not tell; write "
            f"{base}?transform_input=true if the training began with torchvision's pretrained weights"
        )


def _short(values: tuple[float, ...]) -> str:
    return numbers_text(tuple(round(value, 3) for value in values))
