"""Traits by which studies compare models: family, depth, width, normalisation, bias, tuning, accuracy."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attrlib.errors import AttrlibError, existing_file
from attrlib.methods import METHODS, check_defined
from attrlib.models import Card, Classifier, architecture_of, card_of, shipped
from attrlib.models.checkpoints import split_key
from attrlib.specs import ModelSpec
from attrlib.statistics import Summary

FACTORS = {
    "depth": "more layers",
    "width": "more channels",
    "norm": "BatchNorm",
    "bias": "bias",
    "tuned": "tuning on deleted patches",
}
"""Traits in which two models may differ; the value names what the second model of a pair has more of."""
_WIDE = {"wide": 2}
_STEM = 64
"""Channels of the first stage of a ResNet or VGG whose name does not state its width."""


@dataclass(frozen=True)
class ModelTraits:
    """Traits of a model.

    Attributes:
        name: Name of the model.
        family: Family of architectures, such as `resnet`.
        depth: Number of layers in the architecture's name; 0 if unknown.
        width: Channels of the first stage; 0 if unknown.
        norm: Whether it has BatchNorm; None if the architecture's name does not tell.
        bias: Whether it has biases; None if the architecture's name does not tell.
        tuned: Whether it was tuned on deleted patches.
        accuracy: Top-1 accuracy with its interval; None if unknown.
        fraction: Share of the training data that it was trained on; NaN if unknown.
        intrinsic: Name of the method that is the network's intrinsic explanation; empty for most networks.
    """

    name: str
    family: str
    depth: int = 0
    width: int = 0
    norm: bool | None = None
    bias: bool | None = None
    tuned: bool = False
    accuracy: Summary | None = None
    fraction: float = math.nan
    intrinsic: str = ""


def traits_of(spec: ModelSpec, deletion_tuned: bool = False) -> ModelTraits:
    """Return the traits that a model's name and card state, without loading it.

    Args:
        spec: The model.
        deletion_tuned: Whether its checkpoint file, if it has one, was tuned on deleted patches.
    """
    card = _card(spec)
    file = spec.checkpoint and not spec.checkpoint.startswith("random:")
    name = replace(spec, checkpoint=Path(spec.checkpoint).stem).text if spec.checkpoint and file else spec.text
    traits = parse_architecture(architecture_of(spec.architecture))
    tuned = spec.architecture.startswith("idsds:") or bool(card and card.deletion) or (deletion_tuned and bool(file))
    if card is None:
        return replace(traits, name=name, tuned=tuned)
    clean = card.accuracy.get("clean")
    fraction = card.recipe.get("fraction", math.nan)
    return replace(traits, name=name, tuned=tuned, accuracy=_summary(clean), fraction=float(fraction))


def _card(spec: ModelSpec) -> Card | None:
    path = shipped().get(spec.architecture) if spec.checkpoint is None else card_of(spec.checkpoint)
    try:
        return Card.read(path) if path else None
    except AttrlibError:
        # Loading the model will report the error in its card.
        return None


def digest_of_weights(spec: ModelSpec) -> list[object]:
    """Return values that change with a model's weights, without loading it: the digest on its card, and size and time of its file."""
    card, file = _card(spec), existing_file(split_key(spec.checkpoint)[0]) if spec.checkpoint else None
    stamp = [file.stat().st_size, file.stat().st_mtime_ns] if file else []
    return [spec, card.digest if card else "", *stamp]


def _summary(fields: object) -> Summary | None:
    if not isinstance(fields, Mapping) or not {"mean", "low", "high", "n"} <= set(fields):
        return None
    return Summary(fields["mean"], fields["low"], fields["high"], fields["n"], fields.get("undefined", 0))


def parse_architecture(name: str) -> ModelTraits:
    """Return family, depth, width, BatchNorm and bias as far as the name of a ResNet or VGG states them."""
    plain = name.partition("?")[0].rpartition(":")[2].partition(".")[0].removeprefix("small_")
    width = re.search(r"_w(\d+)$", plain)
    plain = plain[: width.start()] if width else plain
    match = re.fullmatch(r"(?:(fixup|x|wide)_?)?(resnet|vgg)(\d+)(_bn|_2)?", plain)
    if match is None:
        return ModelTraits(name, re.sub(r"\d+$", "", plain) if width else plain, width=int(width[1]) if width else 0)
    prefix, family, depth, suffix = match.groups()
    norm = prefix not in ("fixup", "x") if family == "resnet" else suffix == "_bn"
    channels = int(width[1]) if width else _STEM * _WIDE.get(prefix, 1)
    return ModelTraits(name, family, int(depth), channels, norm, prefix != "x")


def intrinsic_map(model: Classifier) -> str:
    """Return the name of the method that is a network's intrinsic explanation; empty if it has none."""
    for name, cls in METHODS.items():
        if cls.family == "intrinsic":
            try:
                check_defined(cls(), model, model.layer("Input"))
            except AttrlibError:
                continue
            return name
    return ""


def differs_in(a: ModelTraits, b: ModelTraits) -> str | None:
    """Return the only factor in which two models of a family differ; None if there is none, or more than one."""
    if a.family != b.family or (a.fraction != b.fraction and not math.isnan(a.fraction) and not math.isnan(b.fraction)):
        return None
    factors = [factor for factor in FACTORS if getattr(a, factor) != getattr(b, factor)]
    return factors[0] if len(factors) == 1 else None


def pairs_of(models: Sequence[ModelTraits]) -> dict[str, list[tuple[ModelTraits, ModelTraits]]]:
    """Return the pairs of models that differ in one factor only, by factor. The second model has more of it."""
    pairs: dict[str, list[tuple[ModelTraits, ModelTraits]]] = {factor: [] for factor in FACTORS}
    for i, a in enumerate(models):
        for b in models[i + 1 :]:
            factor = differs_in(a, b)
            if factor is not None:
                less, more = sorted((a, b), key=lambda traits: getattr(traits, factor))
                pairs[factor].append((less, more))
    return {factor: of_factor for factor, of_factor in pairs.items() if of_factor}


def family(data: str = "birds", tuned: bool | None = None) -> list[ModelTraits]:
    """Return the shipped models that were trained on a data set.

    Args:
        data: Name of the data set.
        tuned: Whether they were tuned on deleted patches; None for both.
    """
    shipped_traits = [traits_of(ModelSpec(name)) for name, path in shipped().items() if Card.read(path).data.partition(":")[0] == data]
    return [traits for traits in shipped_traits if tuned is None or traits.tuned == tuned]


def centres(models: Sequence[ModelTraits]) -> list[ModelTraits]:
    """Return for each family the model that most others differ from in one factor only, the largest family first."""
    families: dict[str, list[ModelTraits]] = {}
    for traits in models:
        families.setdefault(traits.family, []).append(traits)
    by_size = sorted(families.values(), key=len, reverse=True)
    return [max(members, key=lambda m: sum(differs_in(m, other) is not None for other in members)) for members in by_size]
