"""What a network's numbers mean: logits of exclusive classes or of labels, one logit of two classes, a number, or probabilities."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attrlib.errors import ModelError, ProtocolError, unknown
from attrlib.models.modules.ending import APPLIED, Recorded, replaced_forward, two_rows, without_activation, yields_one
from attrlib.specs import OUTPUTS

_NUMBERS = {"scalar": "value", "features": "feature"}
"""Kinds of outputs without classes, and what one number is called."""
PREDICTED = 0.5
"""Probability from which a label of a multi-label model counts as predicted."""


def _family(activation: str) -> str:
    return activation.removeprefix("log-")


@dataclass(frozen=True)
class Outputs:
    """The meaning of a network's outputs.

    Attributes:
        kind: `softmax`: logits of exclusive classes. `sigmoid`: logits of labels, of which several can be present. `binary`: one logit z
            of two classes; the logits are -z and z. `scalar`: numbers, as in regression. `features`: the numbers of an embedding, as a
            backbone without a head returns them. `probabilities`: probabilities, which are explained as they are.
        exclusive: Whether exactly one class is present.
        activation: Name of the network's last activation if it is stepped over, so that logits are explained; else empty.
        head: Path of the layer that yields the one logit of two classes, if it can be given a second row; else empty.
    """

    kind: str = "softmax"
    exclusive: bool = True
    activation: str = ""
    head: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """Return what results depend on; empty for logits of exclusive classes."""
        return () if self == Outputs() else (self.kind, self.activation)

    @property
    def has_classes(self) -> bool:
        """Return whether the outputs belong to classes, which have probabilities and can be predicted."""
        return self.kind not in _NUMBERS

    @property
    def nouns(self) -> tuple[str, str]:
        """Return what one output is called, and several."""
        one = "class" if self.has_classes else "number" if self.kind == "scalar" else _NUMBERS[self.kind]
        return one, "classes" if self.has_classes else f"{one}s"

    def count(self, raw: Tensor) -> int:
        """Return the number of classes, or of numbers, that the network's output (B,C) or (B,) stands for."""
        count = 1 if raw.ndim == 1 else raw.shape[1]
        return 2 if count == 1 and self.kind in ("binary", "probabilities") else count

    def logits(self, raw: Tensor) -> Tensor:
        """Return the outputs to explain, one column for each class, from what the network returns, (B,C), (B,1) or (B,)."""
        values = raw[:, None] if raw.ndim == 1 else raw
        if values.shape[1] == 1 and self.kind == "binary":
            return torch.cat([-values, values], 1)
        if values.shape[1] == 1 and self.kind == "probabilities":
            return torch.cat([1 - values, values], 1)
        return values

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the classes.

        Args:
            logits: Outputs to explain, of any shape whose last dimension counts classes.

        Raises:
            ProtocolError: The outputs are numbers.
        """
        if self.kind == "softmax":
            return logits.softmax(-1)
        if self.kind in ("sigmoid", "binary"):
            return logits.sigmoid()
        if self.kind == "probabilities":
            return logits
        raise ProtocolError("the model predicts a number, which has no probability; choose a protocol or an option that needs none")

    def predicted(self, logits: Tensor) -> Tensor:
        """Return the most probable class (B,) of logits (B,C); of numbers, the first one."""
        return logits.argmax(1) if self.has_classes else logits.new_zeros(len(logits), dtype=torch.long)

    def readings(self, logits: Tensor) -> Tensor:
        """Return what is read off the logits (B,C): the probabilities of the classes, or the numbers themselves."""
        return self.probabilities(logits) if self.has_classes else logits

    def correct(self, logits: Tensor, present: Tensor) -> Tensor:
        """Return which predictions are right, boolean, (B,).

        A prediction of exclusive classes is right if the most probable class is present. A prediction of labels is right if every label
        is decided correctly at probability 0.5, as in scikit-learn's subset accuracy.

        Args:
            logits: Outputs to explain, (B,C).
            present: Which classes are present, boolean, (B,C).
        """
        if self.exclusive:
            return present.gather(1, logits.argmax(1, keepdim=True))[:, 0]
        return ((self.probabilities(logits) >= PREDICTED) == present).all(1)

    def names(self, count: int, given: Sequence[str] | None, model: str) -> tuple[str, ...]:
        """Return one name for each class.

        Args:
            count: Number of columns of the logits.
            given: The names that the user gave. A single name of two classes is that of the class with the positive logit.
            model: Name of the model, for messages.

        Raises:
            ModelError: The number of names is not that of the classes.
        """
        if given is None:
            return tuple(f"class {k}" for k in range(count)) if self.has_classes else _numbered(_NUMBERS[self.kind], count)
        names = tuple(given)
        if count == 2 and len(names) == 1 and self.kind in ("binary", "probabilities"):
            return (f"not {names[0]}", names[0])
        if len(names) != count:
            raise ModelError(f"{len(names)} class names for a model with {count} outputs; give one name per output")
        return names

    @contextmanager
    def shown(self, module: nn.Module) -> Iterator[None]:
        """Run the body so that the network returns logits: without its last activation, and with both rows of one logit of two classes."""
        with ExitStack() as stack:
            if self.activation:
                stack.enter_context(replaced_forward(module, without_activation(module.forward, self.activation)))
            if self.head:
                layer = module.get_submodule(self.head)
                stack.enter_context(replaced_forward(layer, two_rows(layer)))
            yield


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return (name,) if count == 1 else tuple(f"{name} {k}" for k in range(count))


def find_outputs(module: nn.Module, probe: Tensor, first: Recorded, wanted: str, name: str) -> tuple[Outputs, tuple[str, ...]]:
    """Find out what a network's numbers mean; where the first pass cannot tell, by further ones. Call it inside a session of the module.

    Args:
        module: The network, whose output for B images is (B,C), or (B,).
        probe: Images (B,channels,H,W).
        first: The pass of the probe.
        wanted: One of `OUTPUTS`; `auto` decides by the last activation, the number of outputs and their values.
        name: Name of the model, for messages.

    Returns:
        The meaning, and notes on what was found and assumed.

    Raises:
        ModelError: `wanted` is unknown, or contradicts the network.
    """
    if wanted not in OUTPUTS:
        raise ModelError(unknown("kind of outputs", wanted, OUTPUTS))
    with torch.no_grad():
        raw, last = first.raw, first.activation
        count = 1 if raw.ndim == 1 else raw.shape[1]
        _check(wanted, _family(last), count, name)
        if last and wanted not in (*_NUMBERS, "probabilities"):
            kind = wanted if wanted != "auto" else "binary" if count == 1 else _family(last)
            outputs = Outputs(kind, kind != "sigmoid", last)
            with outputs.shown(module):
                before = module(probe.clone())
            if torch.allclose(APPLIED[last](before), raw, atol=1e-6):
                return with_rows(outputs, module, probe), (f"{name} ends with a {last}; maps explain the logits before it",)
            wanted = "probabilities"
        if wanted == "auto" and _like_probabilities(module, probe, raw):
            wanted = "probabilities"
    if wanted == "probabilities":
        note = f"the outputs of {name} are probabilities, which maps explain; to explain logits, take the last activation off the module"
        return Outputs(wanted, _sum_to_one(raw)), (note,)
    if wanted == "auto" and count == 1:
        note = f"the one output of {name} is taken for the logit of two classes; if it is a number, as in regression, choose outputs=scalar"
        return with_rows(Outputs("binary"), module, probe), (note,)
    if wanted in ("auto", "softmax"):
        return Outputs(), ()
    return with_rows(Outputs(wanted, wanted == "binary"), module, probe), ()


def with_rows(outputs: Outputs, module: nn.Module, probe: Tensor) -> Outputs:
    """Return the outputs of one logit of two classes with the path of the layer that yields it, if it is a single layer's output.

    Args:
        outputs: The outputs; those of any other kind are returned unchanged.
        module: The network.
        probe: Images (B,channels,H,W).
    """
    outputs = replace(outputs, head="")
    layers = [path for path, layer in module.named_modules() if yields_one(layer)]
    if outputs.kind != "binary" or not layers:
        return outputs
    with torch.no_grad():
        with outputs.shown(module):
            expected = outputs.logits(module(probe.clone()))
        for path in reversed(layers):
            candidate = replace(outputs, head=path)
            with suppress(RuntimeError, IndexError, ValueError), candidate.shown(module):
                raw = module(probe.clone())
                if raw.shape == expected.shape and torch.allclose(raw, expected, rtol=1e-4, atol=1e-6):
                    return candidate
    return outputs


def _check(wanted: str, last: str, count: int, name: str) -> None:
    """Raise `ModelError` if the kind that is wanted contradicts the last activation, or the number of outputs."""
    if last == "softmax" and count == 1:
        raise ModelError(f"{name} ends with a softmax over one output, which is always 1; end it with a sigmoid, or give it two outputs")
    if last and wanted in ("softmax", "sigmoid", "binary") and {"binary": "sigmoid"}.get(wanted, wanted) != last:
        raise ModelError(f"outputs={wanted} contradicts {name}, which ends with a {last}; choose outputs=probabilities or auto")
    if wanted == "binary" and count != 1:
        raise ModelError(f"outputs=binary needs a model with one output, but {name} has {count}; choose softmax or sigmoid")
    if wanted == "softmax" and count == 1:
        raise ModelError(f"outputs=softmax needs two outputs or more, but {name} has one; choose binary or scalar")


def _like_probabilities(module: nn.Module, probe: Tensor, raw: Tensor) -> bool:
    """Return whether all outputs lie between 0 and 1, also those of extreme images, and differ."""
    if _beyond(raw) or not bool(raw.any()):
        return False
    extreme = [module(probe * scale) for scale in (-4.0, 1e3)]
    return not any(map(_beyond, extreme)) and any(not torch.equal(values, raw) for values in extreme)


def _beyond(values: Tensor) -> bool:
    return bool(((values < 0) | (values > 1)).any())


def _sum_to_one(raw: Tensor) -> bool:
    return raw.ndim == 1 or raw.shape[1] == 1 or torch.allclose(raw.sum(1), raw.new_ones(len(raw)), atol=1e-3)
