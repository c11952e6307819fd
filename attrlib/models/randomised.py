"""A twin of a model whose weights, from the logits down, know nothing any more (Adebayo et al. 2018, arXiv 1810.03292)."""

import copy

import torch
from torch import Tensor, nn

from attrlib.models.classifier import Classifier
from attrlib.models.split import trace
from attrlib.specs import digest


def randomised(model: Classifier, share: float, seed: int) -> Classifier:
    """A copy in which the entries of every parameter of the last `share` of all layers are shuffled.

    Shuffling keeps each tensor's distribution, so that activations keep their scale, and destroys what was learnt. Layers
    count in order of execution, from the logits; the result depends on weights, share and seed alone.
    """
    module = copy.deepcopy(model.module)
    probe = torch.randn(1, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
    twin = copy.copy(model)
    twin.__dict__ |= dict(module=module, derived={}, _splits={}, _layouts={})
    with twin.session():
        calls, _ = trace(module, twin.place(probe))
    own = [c.path for c in sorted(calls, key=lambda c: -c.end) if _parameters(module, c.path)]
    order = list(dict.fromkeys(own))
    with torch.no_grad():
        for path in order[: round(share * len(order))]:
            for name, parameter in _parameters(module, path).items():
                generator = torch.Generator().manual_seed(int(digest(seed, path, name)[:15], 16))
                shuffled = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                parameter.copy_(parameter.contiguous().flatten()[shuffled].view(parameter.shape))
    return twin


def _parameters(module: nn.Module, path: str) -> dict[str, Tensor]:
    """The parameters that the module at this path holds itself."""
    return dict(module.get_submodule(path).named_parameters(recurse=False))
