"""What is assumed of a checkpoint that does not say how its network was trained."""

from collections.abc import Iterator, Mapping
from typing import Any

from attrlib.models.loading.outline import accepted
from attrlib.models.options import split_options
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
        texts = {
            "input_size": f"{size_text(preprocessing.size)} px",
            "mean": f"mean {_short(preprocessing.mean)}",
            "std": f"std {_short(preprocessing.std)}",
            "interpolation": preprocessing.interpolation,
            "crop": f"crop {preprocessing.crop:.3g}",
            "fit": preprocessing.fit,
        }
        texts = {field: text for field, text in texts.items() if getattr(given, field) is None}
        *others, last = [field for field in texts if field != "input_size"]
        yield (
            f"assumed the preprocessing of {base}: {', '.join(texts.values())}; set {', '.join(others)} or {last} if the network was trained "
            "with others"
        )
        if said := [f"{key}={hints[key]}"[:80] for key in ("mean", "std", "interpolation", "crop_pct") if hints.get(key) is not None]:
            yield f"the file names {', '.join(said)}, which is used only if you set it"
    if base.startswith("torchvision:") and "transform_input" in accepted(base) and "transform_input" not in options:
        yield (
            "assumed transform_input=false, which the weights do not tell; write "
            f"{base}?transform_input=true if the training began with torchvision's pretrained weights"
        )


def _short(values: tuple[float, ...]) -> str:
    return numbers_text(tuple(round(value, 3) for value in values))
