"""Random weights with which every operation of a network matters, as after training."""

import torch
from torch import Tensor, nn

SCALES = ("gamma", "gamma_1", "gamma_2", "logit_scale")
"""Names of scales that have more than one dimension in some networks."""


@torch.no_grad()
def fill(module: nn.Module, seed: int = 0) -> None:
    """Replace the weights of a network by random ones with which every operation matters.

    At their initial values, layer scales are 1e-6, and biases, position embeddings and heads zero: a method could ignore them without a
    difference, and many maps are zero.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(values: Tensor, scale: float) -> None:
        values.copy_(scale * torch.randn(values.shape, generator=generator))

    for part in module.modules():
        for name, values in part.named_parameters(recurse=False):
            if name.endswith("bias"):
                normal(values, 0.2)
            elif (values.squeeze().dim() <= 1 and not isinstance(part, nn.Linear | nn.Conv2d)) or name in SCALES:
                # About 1, and never 1.
                values.copy_(0.6 + 0.8 * torch.rand(values.shape, generator=generator))
            elif name.endswith("weight"):
                # The variance of the outputs is about that of the inputs, times a gain that makes up for rectifiers.
                normal(values, (1.5 / values[0].numel()) ** 0.5)
            else:
                # Position embeddings, tables of relative positions, and class tokens.
                normal(values, 0.5)


@torch.no_grad()
def calibrate(module: nn.Module, images: Tensor) -> None:
    """Set the statistics of every BatchNorm to those of normalised images (B,C,H,W)."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [part.momentum for part in norms]
    for part in norms:
        part.momentum = 1.0
        part.train()
    module(images)
    for part, momentum in zip(norms, momenta, strict=True):
        part.momentum = momentum
        part.eval()
