"""Readouts: a target, applied to the logits of given items."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.models.outputs import Outputs

_TINY = 1e-12
"""Added to the length of features, so that those of length zero have the cosine zero."""


class Readout(ABC):
    """A scalar function of the logits of each item."""

    @abstractmethod
    def values(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the explained values (N,), differentiable with respect to the logits.

        Args:
            logits: Logits (N,C).
            rows: Index of the item of each row (N,).
        """

    @abstractmethod
    def slopes(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the derivative (N,C) of the explained values with respect to the logits, without gradient."""

    @abstractmethod
    def repeated(self, copies: int) -> "Readout":
        """Return the readout of `copies` copies of the items, copy by copy."""


@dataclass(frozen=True, eq=False)
class ClassLogit(Readout):
    """The logit of each item's class. `classes`: (B,)."""

    classes: Tensor

    def values(self, logits: Tensor, rows: Tensor) -> Tensor:
        return logits.gather(1, self.classes[rows][:, None])[:, 0]

    def slopes(self, logits: Tensor, rows: Tensor) -> Tensor:
        return torch.zeros_like(logits).scatter_(1, self.classes[rows][:, None], 1.0)

    def repeated(self, copies: int) -> "ClassLogit":
        return replace(self, classes=self.classes.repeat(copies))


@dataclass(frozen=True, eq=False)
class ClassProbability(ClassLogit):
    """The probability of each item's class, by the meaning of the network's outputs."""

    outputs: Outputs

    def values(self, logits: Tensor, rows: Tensor) -> Tensor:
        return super().values(self.outputs.probabilities(logits), rows)

    def slopes(self, logits: Tensor, rows: Tensor) -> Tensor:
        return _slopes(self, logits, rows)


@dataclass(frozen=True, eq=False)
class Cosine(Readout):
    """The cosine of the angle between the outputs and a reference (D,), the same for all items."""

    reference: Tensor

    def values(self, logits: Tensor, rows: Tensor) -> Tensor:
        # Without the clamp of `normalize`, which methods would take for an activation of the network.
        return (logits / (logits.norm(dim=1, keepdim=True) + _TINY) * F.normalize(self.reference, dim=0)).sum(1)

    def slopes(self, logits: Tensor, rows: Tensor) -> Tensor:
        return _slopes(self, logits, rows)

    def repeated(self, copies: int) -> "Cosine":
        return self


@dataclass(frozen=True, eq=False)
class Weighted(Readout):
    """A weighted sum of the logits. `weights`: (B,C)."""

    weights: Tensor

    def values(self, logits: Tensor, rows: Tensor) -> Tensor:
        # Rules of propagation apply to the network's functions, not to the target's.
        with torch._C.DisableTorchFunction():
            return (logits * self.weights[rows]).sum(1)

    def slopes(self, logits: Tensor, rows: Tensor) -> Tensor:
        return self.weights[rows]

    def repeated(self, copies: int) -> "Weighted":
        return replace(self, weights=self.weights.repeat(copies, 1))


def _slopes(readout: Readout, logits: Tensor, rows: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        return torch.autograd.grad(readout.values(leaf, rows).sum(), leaf)[0]
