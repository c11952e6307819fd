"""Copies of a model with randomised weights, from the logits down (Adebayo et al. 2018, arXiv 1810.03292)."""

import math

import torch
from torch import Tensor, nn

from attrlib.models.classifier import Classifier
from attrlib.models.modules.ending import duplicate
from attrlib.models.modules.tracing import trace
from attrlib.specs import digest


def randomised(model: Classifier, share: float, seed: int) -> Classifier:
    """Return a copy of a model in which the entries of every parameter of the last layers are shuffled.

    Shuffling keeps the distribution of each tensor, so that activations keep their scale, and destroys what was learnt. Layers are
    modules with parameters, counted from the logits in order of execution. The result depends on weights, share and seed only.

    Args:
        model: The classifier.
        share: Share of all layers to shuffle, from 0 to 1; their number is rounded up.
        seed: Seed of the shuffling.
    """
    with model.session():
        return _twin(model, duplicate(model.module), share, seed)


def _twin(model: Classifier, module: nn.Module, share: float, seed: int) -> Classifier:
    probe = torch.randn(1, *model.input_shape, generator=torch.Generator().manual_seed(0))
    twin = model.with_module(module)
    with twin.session():
        calls, _ = trace(module, twin.place(probe))
    # Sort by start, so that a container's own parameters (a transformer's position embeddings) count as early layers.
    called = list(dict.fromkeys(c.path for c in sorted(calls, key=lambda c: -c.start)))
    layers: dict[str, list[tuple[str, Tensor]]] = {path: [] for path in called}
    for name, parameter in module.named_parameters():
        path = name.rpartition(".")[0]
        while path not in layers:
            path = path.rpartition(".")[0]
        layers[path].append((name, parameter))
    layers = {path: parameters for path, parameters in layers.items() if parameters}
    with torch.no_grad():
        for path in list(layers)[: math.ceil(share * len(layers) - 1e-9)]:
            for name, entries in layers[path]:
                generator = torch.Generator().manual_seed(int(digest(seed, name)[:15], 16))
                shuffled = torch.randperm(entries.numel(), generator=generator).to(entries.device)
                entries.copy_(entries.contiguous().flatten()[shuffled].view(entries.shape))
    return twin
