"""Recipe: the settings of a training. Flags, the model card and the digest are derived from it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from attrlib.deletion import BASELINES
from attrlib.errors import SpecError, unknown
from attrlib.registry import Param, param, params_of, parse_params

OPTIMIZERS = ("sgd", "nesterov", "adamw")
SCHEDULES = ("step", "cosine")
LOSSES = ("auto", "cross-entropy", "binary")


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. The defaults are those of IDSDS (Hesse et al., NeurIPS 2024, arXiv 2407.11910).

    IDSDS fine-tunes on images with deleted patches. With `deletion` = n, one random patch of an n x n grid is replaced by the
    `baseline` in each training image with probability 1/2, in normalised space; 0 trains on whole images.
    """

    epochs: int = param(30, "Passes over the training data", low=1, high=10_000)
    batch: int = param(256, "Images per step, over all devices", low=1, high=65_536)
    lr: float = param(0.001, "Learning rate", low=0.0, high=100.0)
    optimizer: str = param(
        "sgd", "SGD or Nesterov SGD with momentum 0.9, or AdamW; the last two apply weight decay to matrices only", choices=OPTIMIZERS
    )
    weight_decay: float = param(1e-4, "Weight decay", low=0.0, high=10.0)
    schedule: str = param("step", "Divide lr by 10 after each third of the epochs, or decay it to 0 along a cosine", choices=SCHEDULES)
    warmup: float = param(0.0, "Share of the steps over which lr rises from 0", low=0.0, high=0.9)
    deletion: int = param(4, "Patches per side of the grid of which one patch is deleted; 0 deletes none", low=0, high=32)
    baseline: str = param("zeros", "What replaces a deleted patch", choices=BASELINES)
    scale: float = param(0.08, "Minimum area of the random crop, as a share of the image; 1 disables random crops", low=0.01, high=1.0)
    flip: bool = param(True, "Mirror half of the images")
    label_smoothing: float = param(0.0, "Label smoothing", low=0.0, high=0.9)
    clip: float = param(0.0, "Maximum norm of the gradient; 0 disables clipping", low=0.0, high=1e6)
    loss: str = param("auto", "Cross-entropy, or binary cross-entropy for each class, as B-cos networks need", choices=LOSSES)
    fraction: float = param(1.0, "Share of the training data to use, drawn with the seed", low=0.001, high=1.0)
    amp: bool = param(True, "Train in bfloat16 on devices that support it")
    seed: int = param(0, "Seed of the order, the crops and the deletions", low=0, high=2**31 - 1)

    @classmethod
    def options(cls) -> tuple[Param, ...]:
        """Return the settings with type, range and help, from which flags are built."""
        return params_of(cls)

    @classmethod
    def parse(cls, settings: Mapping[str, object], preset: str = "idsds") -> Self:
        """Return a preset with some settings changed.

        Args:
            settings: Settings to change, by name.
            preset: Name of the preset.

        Raises:
            SpecError: The preset or a setting is unknown, or a value is not valid.
        """
        if preset not in PRESETS:
            raise SpecError(unknown("preset", preset, PRESETS))
        values = parse_params(cls, settings, "recipe")
        return replace(PRESETS[preset], **{name: values[name] for name in settings})  # type: ignore[return-value, arg-type]


PRESETS: dict[str, Recipe] = {
    "idsds": Recipe(),
    "scratch": Recipe(
        epochs=12,
        batch=128,
        lr=0.2,
        weight_decay=5e-4,
        optimizer="nesterov",
        schedule="cosine",
        warmup=0.1,
        deletion=0,
        scale=0.6,
        clip=5.0,
    ),
    "short": Recipe(epochs=4, batch=128, lr=0.02, weight_decay=5e-4, schedule="cosine", scale=0.6, clip=5.0),
}
"""`idsds`: fine-tuning as in the paper. `scratch` and `short`: training from random weights, and fine-tuning, on small images
and two cores.
"""
