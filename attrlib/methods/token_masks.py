"""Masks made of the features of tokens: ViT-CX."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.channel_cams import normalised
from attrlib.methods.context import AttributionContext
from attrlib.methods.parts import part_of
from attrlib.models import Classifier, Layer
from attrlib.registry import Paper, param

VIT_CX = Paper("Xie et al. 2023", "ViT-CX: Causal Explanation of Vision Transformers", "https://arxiv.org/abs/2211.03064")


@METHODS.register
@dataclass(frozen=True)
class ViTCX(Method):
    """ViT-CX: sum_i s_i M_i / sum_i M_i, with the causal impact s_i = P(x) - P(x + (1 - M_i) z) + P(x M_i + (1 - M_i) z) of a mask.

    A mask is a cluster of the channels of the tokens: each channel is scaled to [0, 1], channels are merged by complete linkage up to a
    cosine distance of `distance`, and the sum of a cluster is scaled to [0, 1] and resized to the image. z is noise from N(0, noise^2) in
    normalised units. The second term subtracts what the noise alone changes. The division by the sum of the masks removes the bias towards
    positions that many masks cover. All masks and images share the noise, so that it causes no differences between them; the authors' code
    draws one for each mask, and divides by the number of masks once more. Channels that are constant show nothing and are left out.
    A map is a mean of impacts, so that all its positions share most of their value: only the differences between them count.
    """

    name, family, paper, default_layer = "ViT-CX", "perturbation", VIT_CX, "Final"
    needs, seeded = ("tokens",), True
    distance: float = param(0.1, "Largest cosine distance of two channels in a cluster", low=0.0, high=1.0)
    noise: float = param(0.1, "Standard deviation of the noise in hidden parts, in normalised units", low=0.0, high=10.0)

    def check(self, model: Classifier, layer: Layer) -> None:
        if layer.layout.kind == "NCHW":
            raise MethodError(
                f"{self.name} makes its masks of tokens, but {layer.name} of {model.name} is not a layer of tokens; choose a block of a "
                "vision transformer, or use Score-CAM, which makes masks of feature maps"
            )

    def attribute(self, context: AttributionContext) -> Tensor:
        merged = [clusters(maps, self.distance) for maps in context.spatial(context.sources).cpu()]
        at_input, size = context.at("Input"), context.layer.shape[1:]
        # The first mask hides nothing, and gives P(x). Images with fewer clusters repeat it.
        longest = max(len(one) for one in merged)
        rows = torch.stack([torch.cat([one, one.new_zeros(longest - len(one), *size)]) for one in merged]).to(context.images.device)
        real = torch.stack([torch.arange(longest) < len(one) for one in merged]).to(context.images.device)

        def make(which: range) -> Tensor:
            index = torch.tensor([max(i - 1, 0) for i in which])
            shown = (torch.tensor(which) > 0)[:, None, None].to(real.device) & real[:, index].T[:, :, None]
            masks = normalised(rows[:, index], at_input.layer.shape[1:]).transpose(0, 1)
            return torch.where(shown[..., None], masks, 1.0)[:, :, None]

        outputs = []
        noise = self.noise * torch.randn(1, *context.images.shape[1:], generator=context.generator("vit-cx")).to(context.images.device)
        for part, fill in enumerate((noise, context.images + noise)):
            with part_of(at_input, part, 2):
                chunks = [values for _, values in at_input.perturbed(1 + longest, make, probability=True, fill=fill)]
            outputs.append(torch.cat(chunks))
        masked, noisy = outputs
        impact = (masked[:1] - noisy + masked)[1:].T
        weights = context.per_item(normalised(rows, size) * real[..., None, None])
        total = weights.sum(1, keepdim=True)
        return (impact[..., None, None] * weights).sum(1, keepdim=True) / torch.where(total > 0, total, 1.0)

    def passes(self, layer: Layer) -> Passes:
        count = 1 + 2 * layer.shape[0]
        return Passes(forward=count, before=1 + count)


def clusters(maps: Tensor, distance: float) -> Tensor:
    """Return the sums (K,h,w) of the channels of each cluster, each channel scaled to [0, 1] and constant channels left out.

    Args:
        maps: Features (C,h,w) on the CPU.
        distance: Largest cosine distance of two channels in a cluster.
    """
    # Imported here because nothing else needs it and the import is slow.
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    scaled = normalised(maps[None], (maps.shape[1], maps.shape[2]))[0]
    scaled = scaled[scaled.amax((1, 2)) > 0]
    if len(scaled) < 2:
        return scaled
    unit = torch.nn.functional.normalize(scaled.flatten(1).double(), dim=1)
    distances = (1 - unit @ unit.T).clamp_min(0).numpy()
    merged = linkage(squareform(distances, checks=False), method="complete")
    labels = torch.from_numpy(fcluster(merged, distance, criterion="distance")).long() - 1
    return scaled.new_zeros(int(labels.max()) + 1, *scaled.shape[1:]).index_add_(0, labels, scaled)
