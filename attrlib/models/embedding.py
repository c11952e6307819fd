"""The features of images: what the head of a classifier reads, or what a backbone without a head returns."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from attrlib.errors import ModelError
from attrlib.models.classifier import Classifier
from attrlib.models.modules.forward import same, seeded
from attrlib.models.modules.tracing import observed

_EXACT = 1e-5
"""Largest deviation of a head's output from the logits, relative to the largest logit."""


@dataclass(frozen=True)
class Embedding:
    """The features (B,D) of images, and the module at which they are read.

    Attributes:
        classifier: The model.
        path: Path of the head, whose input the features are; empty if they are the output of the network itself.
        size: Number of features D.
    """

    classifier: Classifier
    path: str
    size: int

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features (B,D) of images (B,C,H,W) that `place` returned, differentiable; run it inside `classifier.session()`."""
        with self.recorded() as features:
            # Copied, because the module may write into its input.
            self.classifier.logits(images.clone())
        return torch.cat(features)

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Record the features (n,D) of every forward pass inside the context, in order and with their graph.

        Passes may also start at a layer of the network, as those of a `Split` do. Use it inside `classifier.session()`.
        """
        # Found out here, because its probes are passes, too.
        _ = self.classifier.behaviour
        features: list[Tensor] = []
        module = self.classifier.module
        if self.path:
            head = module.get_submodule(self.path)
            handle = head.register_forward_pre_hook(lambda _, args: features.append(features_read(head, args[0])))
        else:
            handle = module.register_forward_hook(lambda _module, _args, output: features.append(output))
        try:
            yield features
        finally:
            handle.remove()


_found: WeakKeyDictionary[Classifier, tuple[str, int]] = WeakKeyDictionary()


def embedding(classifier: Classifier) -> Embedding:
    """Return the features of a classifier: the input of the linear layer that yields its logits.

    The layer is found by a pass of two noise images, in which its output must be the logits; a layer that is applied at every position
    counts with the mean over the positions. A model whose outputs are features (`outputs="features"`) is its own embedding.

    Args:
        classifier: The model.

    Raises:
        ModelError: No single linear layer yields the logits.
    """
    if classifier not in _found:
        _found[classifier] = _find(classifier)
    return Embedding(classifier, *_found[classifier])


def _find(classifier: Classifier) -> tuple[str, int]:
    if classifier.outputs.kind == "features":
        return "", len(classifier.class_names)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *classifier.input_shape, generator=generator)
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def record(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # Copied, because a later module may write into them.
            calls.setdefault(path, []).append((features_read(module, args[0]).clone(), features_read(module, output).clone()))

        return hook

    alone = classifier.behaviour.one_by_one
    with classifier.session(), torch.no_grad(), seeded(classifier.device), ExitStack() as stack:
        for path, module in observed(classifier.module):
            if path and _is_linear(module):
                stack.callback(module.register_forward_hook(record(path)).remove)
        raw = classifier.module(classifier.place(images[:1] if alone else images))
    logits = raw[:, None] if raw.ndim == 1 else raw
    for path, passes in reversed(calls.items()):
        read, result = passes[0]
        if len(passes) == 1 and same(result, logits, _EXACT) and _maps(classifier.module.get_submodule(path), read, result):
            return path, read.shape[1]
    raise ModelError(
        f"the logits of {classifier.name} are not the output of one linear layer, so its features are unknown; load the backbone without a "
        "head, or wrap the part that returns features with outputs='features'"
    )


def _is_linear(module: nn.Module) -> bool:
    """Return whether a module may be a linear layer, or a convolution that is one at every position."""
    pointwise = isinstance(module, nn.Conv2d) and {*module.kernel_size, *module.stride} == {1} and module.groups == 1
    return pointwise or isinstance(module, nn.Linear)


def _maps(module: Any, rows: Tensor, result: Tensor) -> bool:
    """Return whether a layer maps rows to the result by its weight and bias alone, as subclasses of linear layers need not."""
    linear = F.linear(rows, module.weight.flatten(1), module.bias)
    # One logit of two classes has a second row in front, see `Outputs.shown`.
    return same(linear, result[:, -linear.shape[1] :], _EXACT)


def features_read(module: nn.Module, values: Tensor) -> Tensor:
    """Return the input or output of a linear layer as rows (B,D): the mean over positions.

    Args:
        module: The layer, `nn.Linear` or a convolution.
        values: Its input or output, (B,D), (B,...,D), or (B,D,h,w) for a convolution.
    """
    return values.flatten(2).mean(2) if isinstance(module, nn.Conv2d) else values.flatten(1, -2).mean(1) if values.ndim > 2 else values


def text_embedding(classifier: Classifier, prompt: str) -> Tensor:
    """Return the embedding (D,) of a text in the space of the features that `embedding` returns, of length 1, without gradient.

    Args:
        classifier: A model with a text side, see `clip:NAME`.
        prompt: The text.

    Raises:
        ModelError: The model has no text side, or the text is empty.
    """
    encode = getattr(classifier.module, "encode_texts", None)
    if encode is None:
        raise ModelError(
            f"{classifier.name} has no text side; load a CLIP or SigLIP model as clip:NAME?classes=A|B, or compare with a picture"
        )
    if not prompt.strip():
        raise ModelError("the text is empty; write what the picture is to be compared with")
    result: Tensor = encode([prompt])[0]
    return result.to(classifier.device)
