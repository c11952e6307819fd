"""Perturbation family: the change of the output when parts of the input are removed."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.baselines import BASELINES, common_baseline
from attrlib.methods.context import AttributionContext
from attrlib.models import Classifier, Layer
from attrlib.registry import Paper, param

OCCLUSION = Paper("Zeiler & Fergus 2014", "Visualizing and Understanding Convolutional Networks", "https://arxiv.org/abs/1311.2901")
FILLS = tuple(name for name in BASELINES if name != "blur")
FILL = "What replaces removed parts: zeros (the mean colour at Input, zero activations at inner layers), uniform (values from U[-1, 1], drawn from the seed), black or white; at inner layers, the activations of these images"
RISE_PAPER = Paper("Petsiuk et al. 2018", "RISE: Randomized Input Sampling for Explanation", "https://arxiv.org/abs/1806.07421")


@METHODS.register
@dataclass(frozen=True)
class Occlusion(Method):
    """Occlusion: drop of the logit when a window is set to zero, divided by its area, summed over the windows that cover a position.

    A window is cut off at the border, as in Captum, and its area is that of the remaining part. The map thus sums to the sum of the drops.
    """

    name, family, paper = "Occlusion", "perturbation", OCCLUSION
    window: int | None = param(None, "Side of the window in positions of the layer", low=1, high=1024, auto="16 at Input, 5 inside")
    stride: int | None = param(None, "Step between windows", low=1, high=1024, auto="8 at Input, 2 inside")

    def check(self, model: Classifier, layer: Layer) -> None:
        self._windows(layer)

    def attribute(self, context: AttributionContext) -> Tensor:
        _, height, width = context.layer.shape
        window, corners = self._windows(context.layer)
        full = context.clean_scores()
        total = full.new_zeros(len(context), height * width)

        def hide(which: range) -> Tensor:
            return 1 - cover(corners[which.start : which.stop], window, height, width)[:, None]

        for factors, scores in context.perturbed(len(corners), hide):
            mask = 1 - factors[:, 0]
            total += ((full - scores) / mask.sum((1, 2))[:, None]).T @ mask.flatten(1)
        return total.view(-1, 1, height, width)

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=1 + len(self._windows(layer)[1]))

    def _windows(self, layer: Layer) -> tuple[int, list[tuple[int, int]]]:
        window, stride = (16, 8) if not layer.path else (5, 2)
        window = self.window or window
        stride = self.stride or min(stride, window)
        if stride > window:
            raise MethodError(f"Occlusion: stride={stride} leaves gaps between windows of {window}; choose a stride of at most the window")
        return window, windows(*layer.shape[1:], window, stride)


def windows(height: int, width: int, window: int, stride: int) -> list[tuple[int, int]]:
    """Return the top left corners of square windows, row by row, with as many windows as are needed to reach the border.

    Args:
        height: Height of the layer in positions.
        width: Width of the layer in positions.
        window: Side of a window in positions.
        stride: Step between windows in positions.

    Returns:
        Pairs (top, left).
    """

    def starts(length: int) -> range:
        return range(0, max(1, math.ceil((length - min(window, length)) / stride) + 1) * stride, stride)

    return [(top, left) for top in starts(height) for left in starts(width)]


def cover(corners: list[tuple[int, int]], window: int, height: int, width: int) -> Tensor:
    """Return masks that are 1 inside a window and 0 outside. A window is cut off at the border.

    Args:
        corners: Top left corners (top, left) of n windows.
        window: Side of a window in positions.
        height: Height of the masks.
        width: Width of the masks.

    Returns:
        Masks (n,h,w).
    """
    masks = torch.zeros(len(corners), height, width)
    for mask, (top, left) in zip(masks, corners, strict=True):
        mask[top : top + window, left : left + window] = 1
    return masks


@METHODS.register
@dataclass(frozen=True)
class RISE(Method):
    """RISE: mean of random masks weighted by the target's probability under them, 1/(N p) * sum_i P(x * M_i) M_i.

    A mask is a binary grid with a share `p` of ones, resized bilinearly and shifted at random. All images share the masks.
    With a fill, the probability is P(x * M_i + fill * (1 - M_i)). For a model that predicts numbers, the number takes its place.
    """

    name, family, paper = "RISE", "perturbation", RISE_PAPER
    signed, seeded = False, True
    samples: int = param(1000, "Number of random masks N", low=1, high=20000)
    cells: int = param(8, "Cells per side of a mask's grid", low=1, high=64)
    p: float = param(0.1, "Share of cells that stay visible", low=0.01, high=0.99)
    fill: str = param("zeros", FILL, choices=FILLS)

    def attribute(self, context: AttributionContext) -> Tensor:
        masks = RandomMasks(self.samples, self.cells, self.p)
        return masks.outputs(context, self.fill, probability=True)[1] / (self.samples * self.p)

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=self.samples)


@METHODS.register
@dataclass(frozen=True)
class RISEU(RISE):
    """RISE-U: RISE with one image of independent U[-1, 1] values in place of hidden pixels, drawn from the seed, as in IDSDS."""

    name = "RISE-U"
    fill: str = param("uniform", FILL, choices=FILLS)


@dataclass(frozen=True)
class RandomMasks:
    """The masks of RISE: binary grids, resized bilinearly and shifted at random by up to one cell; the same for all images.

    Attributes:
        samples: Number of masks.
        cells: Cells per side of a grid.
        p: Probability that a cell stays visible, independent of the others.
    """

    samples: int
    cells: int
    p: float

    def maker(self, context: AttributionContext) -> Callable[[range], Tensor]:
        """Return a function that makes the masks (k,1,h,w) with indices in a range, at the resolution of the context's layer."""
        _, height, width = context.layer.shape
        generator = context.generator("rise")
        grids = (torch.rand(self.samples, 1, self.cells, self.cells, generator=generator) < self.p).float()
        shifts = torch.rand(self.samples, 2, generator=generator).tolist()

        def make(which: range) -> Tensor:
            part = slice(which.start, which.stop)
            return magnify(grids[part].to(context.images.device), shifts[part], height, width)

        return make

    def outputs(self, context: AttributionContext, fill: str, probability: bool) -> tuple[Tensor, Tensor]:
        """Return the target's output y (n,B) under each mask M, and the map (B,1,h,w) of sum_i y_i M_i; shared.

        Args:
            context: The context.
            fill: What replaces hidden parts, one of `FILLS`.
            probability: Whether the output is the probability rather than the logit.
        """
        return context.shared((self, fill, probability), lambda: self._outputs(context, fill, probability))

    def _outputs(self, context: AttributionContext, fill: str, probability: bool) -> tuple[Tensor, Tensor]:
        _, height, width = context.layer.shape
        total = context.images.new_zeros(len(context), height * width)
        chunks = []
        for masks, values in context.perturbed(self.samples, self.maker(context), probability, removed(context, fill)):
            total += values.T @ masks.flatten(1)
            chunks.append(values)
        return torch.cat(chunks), total.view(-1, 1, height, width)


def removed(context: AttributionContext, fill: str) -> Tensor | None:
    """Return what replaces removed parts, (1,...) in the layer's layout, or None for zeros.

    Args:
        context: The context.
        fill: One of `FILLS`.
    """
    return None if fill == "zeros" else common_baseline(context, fill)


def magnify(grids: Tensor, shifts: list[list[float]], height: int, width: int) -> Tensor:
    """Resize grids to smooth masks, shifted by up to one cell.

    Args:
        grids: Binary grids (n,1,s,s).
        shifts: Shift of each mask down and right, as shares of a cell in [0, 1).
        height: Height of the masks.
        width: Width of the masks.

    Returns:
        Masks (n,1,h,w).
    """
    cells = grids.shape[-1]
    tall, wide = math.ceil(height / cells), math.ceil(width / cells)
    large = F.interpolate(grids, size=((cells + 1) * tall, (cells + 1) * wide), mode="bilinear", align_corners=False)
    corners = [(int(down * tall), int(right * wide)) for down, right in shifts]
    return torch.stack([g[:, t : t + height, w : w + width] for g, (t, w) in zip(large, corners, strict=True)])
