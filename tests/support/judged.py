"""Small models and given maps, judged by a protocol without the engine."""

from collections.abc import Sequence

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import torch
from torch import Tensor, nn

from attrlib.models import Layer
from attrlib.models.layers import Layout
from attrlib.protocols import Batch, EvalBatch, EvalContext, Explain, Outcome, create
from attrlib.specs import ProtocolSpec
from support.method_nets import Rectified, made, pictures

SIZE = (8, 12)
TARGETS = (2, 0, 4)
Model = attrlib.Classifier


def steep_model(size: tuple[int, int] = SIZE) -> Model:
    """Two convolutions with a head whose probabilities vary."""
    net = made(Rectified, torch.tanh)
    with torch.no_grad():
        net.fc.weight *= 40
    return attrlib.wrap_model(net, size)


def given(maps: Tensor) -> Explain:
    layer = Layer("given", "given", Layout("NCHW", 1, *maps.shape[2:]))
    return lambda request: (maps, layer)


def noise_maps(size: tuple[int, int] = SIZE, count: int = 3) -> Tensor:
    return pictures(count, *size, seed=5)[:, :1]


def evaluate(protocol: str, model: Model, images: Tensor, explain: Explain, targets: Sequence[int] = TARGETS) -> list[Outcome]:
    own, context, labels = create(ProtocolSpec.parse(protocol)), EvalContext(model), torch.tensor(targets)
    batch = Batch(tuple(f"image {i}" for i in range(len(images))), images, labels)
    measured = {m: m.measure(context, batch, labels) for m in own.measurements}
    return own.evaluate(EvalBatch(context, batch, labels, measured, explain))


def values(outcomes: Sequence[Outcome]) -> np.ndarray:
    return np.array([outcome.value for outcome in outcomes])


def probability(model: Model, image: Tensor, target: int) -> float:
    return float(model(image[None]).detach().double().softmax(1)[0, target])


class Mass(nn.Module):
    """Two logits whose probabilities are the mean of the first channel, between 0 and 1, and the rest."""

    def forward(self, x: Tensor) -> Tensor:
        share = x[:, 0].mean((1, 2)).clamp(1e-6, 1 - 1e-6)
        return torch.stack([share.logit(), torch.zeros_like(share)], 1)
