"""Class activation maps whose weights are measured per channel: by removing it (Ablation-CAM) or by masking with it (Score-CAM)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.methods.affine import is_affine
from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.cams import weighted
from attrlib.methods.context import AttributionContext
from attrlib.models import Layer
from attrlib.registry import Paper, param

ABLATION_CAM = Paper("Desai and Ramaswamy 2020", "Ablation-CAM", "https://openaccess.thecvf.com/content_WACV_2020/html/Desai_Ablation-CAM")
SCORE_CAM = Paper("Wang et al. 2020", "Score-CAM: Score-Weighted Visual Explanations", "https://arxiv.org/abs/1910.01279")
SS_CAM = Paper("Wang et al. 2020", "SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization", "https://arxiv.org/abs/2006.14255")
IS_CAM = Paper("Naidu et al. 2020", "IS-CAM: Integrated Score-CAM", "https://arxiv.org/abs/2010.03023")


@METHODS.register
@dataclass(frozen=True)
class AblationCAM(Method):
    """Ablation-CAM: relu(sum_c w_c A_c), w_c = (f - f without channel c) / f, f the target logit.

    A channel is set to zero at all positions; prefix tokens are unchanged. If the model is affine downstream of the layer, as pooling
    and a linear head are, the drop has the closed form sum_ij g_ij A_ij, which takes one backward pass instead of one forward pass per
    channel. If the logit is negative, the weights change sign, as in the paper.
    """

    name, family, paper = "Ablation-CAM", "CAM", ABLATION_CAM
    default_layer, signed = "Final", False

    def attribute(self, context: AttributionContext) -> Tensor:
        activations, full = context.spatial(context.inputs), context.clean_scores()[:, None]
        if is_affine(context):
            drops = (context.spatial(context.clean_gradient()) * activations).sum((2, 3))
        else:
            drops = full - self._without_each_channel(context)
        weights = torch.where(full == 0, 0.0, drops / full)
        return weighted(weights[:, :, None, None], activations)

    def _without_each_channel(self, context: AttributionContext) -> Tensor:
        """Return the target logits without each channel (B,C)."""
        channels, height, width = context.layer.shape
        index = torch.arange(channels, device=context.images.device)

        def ablate(which: range) -> Tensor:
            factors = index != index[which.start : which.stop, None]
            return factors.float()[:, :, None, None].expand(-1, -1, height, width)

        return torch.cat([scores for _, scores in context.perturbed(channels, ablate)]).T

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=1 + layer.shape[0], gradient=1)


@dataclass(frozen=True)
class MaskCAM(Method):
    """Base class of Score-CAMs: relu(sum_c w_c A_c), w_c from the target's score for x H_c; H_c is A_c resized and scaled to [0, 1].

    A constant channel has weight zero, because its mask shows nothing. A subclass may modify the masks in `altered`.
    """

    default_layer, signed = "Final", False
    weighting: str = param(
        "softmax",
        "Softmax over channels of the target's logits under the masks (the paper, IDSDS), or the target's probability under each mask (the "
        "paper's code, Rao et al.)",
        choices=("softmax", "probability"),
    )
    top: int | None = param(
        None, "Number of channels to use, those that vary most over positions; fewer are faster", low=1, high=8192, auto="all channels"
    )

    @property
    def copies(self) -> int:
        """Return the number of variants of each mask. Their scores are averaged."""
        return 1

    def altered(self, masks: Tensor, copies: list[int], context: AttributionContext) -> Tensor:
        """Return modified masks, by default the masks themselves.

        Args:
            masks: Masks (U,k,H,W), from 0 to 1.
            copies: Number of the variant of each of the k masks.
            context: The context at Input.
        """
        return masks

    def attribute(self, context: AttributionContext) -> Tensor:
        maps, chosen = context.spatial(context.sources), self._chosen(context)
        count, at_input = chosen.shape[1], context.at("Input")

        def make(which: range) -> Tensor:
            shown = normalised(picked(maps, chosen[:, [i % count for i in which]]), at_input.layer.shape[1:])
            return self.altered(shown, [i // count for i in which], at_input).transpose(0, 1)[:, :, None]

        chunks = at_input.perturbed(self.copies * count, make, probability=self.weighting == "probability")
        scores = torch.cat([values for _, values in chunks]).view(self.copies, count, len(context)).mean(0).T
        maps = picked(context.spatial(context.inputs), context.per_item(chosen))
        flat = maps.amax((2, 3)) == maps.amin((2, 3))
        if self.weighting == "softmax":
            # If all channels are constant, the softmax is NaN: every weight is zero then.
            weights = scores.masked_fill(flat, -torch.inf).softmax(1).nan_to_num(0.0)
        else:
            weights = scores.masked_fill(flat, 0.0)
        return weighted(weights[:, :, None, None], maps)

    def passes(self, layer: Layer) -> Passes:
        count = self.copies * min(layer.shape[0], self.top or layer.shape[0])
        return Passes(forward=count, before=1 + count)

    def _chosen(self, context: AttributionContext) -> Tensor:
        """Return the indices of the channels that are used (U,K)."""
        maps = context.spatial(context.sources)
        if self.top is None or self.top >= maps.shape[1]:
            return torch.arange(maps.shape[1], device=maps.device).expand(len(maps), -1)
        return maps.flatten(2).std(2).topk(self.top).indices.sort().values


def picked(maps: Tensor, channels: Tensor) -> Tensor:
    """Return selected channels of maps (U,C,h,w), with the indices of each image in `channels` (U,k)."""
    return maps[torch.arange(len(maps), device=maps.device)[:, None], channels]


def normalised(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (U,k,h,w) bilinearly to `size`, and scale each to [0, 1]. A constant map becomes zero."""
    large = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    return (large - low) / torch.where(high > low, high - low, 1.0)


@METHODS.register
@dataclass(frozen=True)
class ScoreCAM(MaskCAM):
    """Score-CAM: relu(sum_c w_c A_c), w = softmax over c of f(x H_c), H_c the channel's map at the image's size, from 0 to 1.

    The paper subtracts the logit of a baseline. It is the same for all channels, so the softmax does not change.
    """

    name, family, paper = "Score-CAM", "CAM", SCORE_CAM


@METHODS.register
@dataclass(frozen=True)
class SSCAM(MaskCAM):
    """SS-CAM: Score-CAM with f averaged over noisy masks, mean_n f(x (H_c + N(0, std^2))), as in torch-cam and IDSDS.

    All channels and images get the same noise, so that it causes no differences between them.
    """

    name, family, paper, seeded = "SS-CAM", "CAM", SS_CAM, True
    samples: int = param(35, "Noisy copies of each mask", low=1, high=1000)
    std: float = param(2.0, "Standard deviation of the noise; masks range from 0 to 1", low=0.0, high=10.0)

    @property
    def copies(self) -> int:
        return self.samples

    def altered(self, masks: Tensor, copies: list[int], context: AttributionContext) -> Tensor:
        drawn = {copy: mask_noise(context, copy) for copy in dict.fromkeys(copies)}
        return masks + self.std * torch.stack([drawn[copy] for copy in copies])


def mask_noise(context: AttributionContext, copy: int) -> Tensor:
    """Return the noise (H,W) of one copy, with standard deviation 1."""
    return torch.randn(context.images.shape[2:], generator=context.generator("mask", copy)).to(context.images.device)


@METHODS.register
@dataclass(frozen=True)
class ISCAM(MaskCAM):
    """IS-CAM: Score-CAM with f averaged on the straight path to the masked image, mean_i f(i/N x H_c), i = 1..N."""

    name, family, paper = "IS-CAM", "CAM", IS_CAM
    steps: int = param(10, "Steps N of the path", low=1, high=1000)

    @property
    def copies(self) -> int:
        return self.steps

    def altered(self, masks: Tensor, copies: list[int], context: AttributionContext) -> Tensor:
        shares = torch.tensor([(copy + 1) / self.steps for copy in copies], device=masks.device)
        return masks * shares[:, None, None]
