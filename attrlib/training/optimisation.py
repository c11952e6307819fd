"""What a recipe says of the optimiser: its parameter groups, and the learning rate of every step."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from attrlib.training.recipe import Recipe


def optimizer_of(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe. Except for SGD, weight decay applies to matrices only.

    Args:
        parameters: The parameters to train.
        recipe: Settings of the training.
    """
    every = list(parameters)
    groups = [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": recipe.weight_decay if recipe.optimizer == "sgd" else 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=recipe.optimizer == "nesterov")


def lr_at(recipe: Recipe, step: int, steps: int) -> float:
    """Return the learning rate of a step, from 0, of a training of `steps` steps."""
    warm = int(recipe.warmup * steps)
    if step < warm:
        return recipe.lr * (step + 1) / warm
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
    return recipe.lr * 0.1 ** (3 * step // steps)
