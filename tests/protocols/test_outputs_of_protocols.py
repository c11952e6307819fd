"""Every protocol on models of each kind of outputs: the values of the same network with plain logits, or a refusal."""

from functools import cache

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from support.engine import evaluate_items
from support.method_nets import CLASSES, made, pictures
from torch import Tensor, nn

from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.errors import ProtocolError
from attrlib.methods import resolve as resolve_method
from attrlib.protocols import PROTOCOLS, Batch, EvalContext, Prediction, Protocol, create
from attrlib.specs import MethodSpec, ProtocolSpec
from attrlib.store import Record

SIZE, ITEMS = 32, 4
SMALL = {
    "ids": "ids:steps=5",
    "srg": "srg:steps=5",
    "deletion": "deletion:steps=4",
    "insertion": "insertion:steps=4",
    "irof": "irof:segments=12:steps=4",
    "infidelity": "infidelity:samples=3:noise=0.5",
    "sensitivity": "sensitivity:samples=2",
    "robustness": "robustness:tolerance=1",
    "randomisation": "randomisation:stages=2",
    "smooth-randomisation": "smooth-randomisation:stages=2:samples=2",
}
SPECS = [
    *(SMALL.get(name, name) for name in PROTOCOLS if name != "funnybirds"),
    "sds:output=probability",
    "parts:output=probability",
    "sds:target=prediction",
]
"""FunnyBirds is tested on models that know its classes, and refuses numbers."""
METHODS_USED = ("IxG", "Grad-CAM", "RISE:samples=8", "Random")
KINDS = ("sigmoid", "binary", "scalar", "probabilities")
PROBABILITY = {
    "random-logit",
    "sic",
    "aic",
    "ids:steps=5",
    "srg:steps=5",
    "deletion:steps=4",
    "insertion:steps=4",
    "irof:segments=12:steps=4",
    "saco",
    "roms",
    "robustness:tolerance=1",
    "gridpg",
    "difull",
    "dipart",
    "sds:output=probability",
    "parts:output=probability",
}
"""Protocols that read a probability, or classes."""


class Net(nn.Module):
    """A network whose logits are those of `plain`, or the last one of them, or their softmax by hand."""

    def __init__(self, kind: str = "softmax") -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head, self.kind = nn.Linear(8, 1 if kind == "binary" else CLASSES), kind

    def forward(self, x: Tensor) -> Tensor:
        z = self.head(self.body(x).mean((2, 3)))
        return z.exp() / z.exp().sum(1, keepdim=True) if self.kind == "probabilities" else z


class Pair(Net):
    """The logits -z and z of a network with one logit."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.head.weight, self.head.bias
        return nn.functional.linear(self.body(x).mean((2, 3)), torch.cat([-weight, weight]), torch.cat([-bias, bias]))


@cache
def model(kind: str) -> attrlib.Classifier:
    outputs = "auto" if kind in ("binary", "probabilities") else kind
    return attrlib.wrap_model(made(Net, kind), SIZE, outputs=outputs, deletion_tuned=True)


@cache
def plain(kind: str) -> attrlib.Classifier:
    """The same network with plain logits, as softmax."""
    return attrlib.wrap_model(made(Pair, "binary") if kind == "binary" else made(Net), SIZE, outputs="softmax", deletion_tuned=True)


def perform(classifier: attrlib.Classifier, protocol: Protocol, method: str) -> list[Record]:
    n = protocol.grid if protocol.items == "grids" else 1
    images = pictures(ITEMS, n * SIZE)
    count = len(classifier.class_names)
    labels = [tuple((i + k) % count for k in range(n * n)) for i in range(ITEMS)]
    units = [EvalItem(f"{protocol.items} {i}", (i,) * n * n, own) for i, own in enumerate(labels)]
    ids, tensor = tuple(unit.id for unit in units), torch.tensor(labels)
    if n > 1:
        batch = Batch(ids, images, tensor)
    else:
        bands = (torch.arange(SIZE)[:, None].expand(SIZE, SIZE) * 6 // SIZE == torch.arange(6)[:, None, None]).expand(ITEMS, -1, -1, -1)
        batch = Batch(ids, images, tensor[:, 0], images[:, 0] > 0.5, bands, images[:, None] * ~bands[:, :, None])
    bench = Evaluator(classifier, InMemoryCache(), 0)
    protocol.check(classifier, ("masks", "parts"))
    return list(evaluate_items(bench, protocol, resolve_method(MethodSpec.parse(method)), units, batch).values())


def values(records: list[Record]) -> np.ndarray:
    return np.array([record.value for record in records])


@pytest.mark.parametrize("text", SPECS)
@pytest.mark.parametrize("method", METHODS_USED)
@pytest.mark.parametrize("kind", KINDS)
def test_every_protocol_runs_on_every_kind_of_outputs_or_says_why_not(kind: str, method: str, text: str) -> None:
    protocol, low, high = create(ProtocolSpec.parse(text)), *create(ProtocolSpec.parse(text)).bounds
    if kind == "scalar" and text in PROBABILITY:
        with pytest.raises(ProtocolError, match=f"{protocol.name} needs the probability of a class, but wrapped:Net predicts a number"):
            perform(model(kind), protocol, method)
        return
    found = values(perform(model(kind), protocol, method))
    assert ((found >= low - 1e-9) & (found <= high + 1e-9))[np.isfinite(found)].all()
    # The probability of RISE is that of the kind, and the head of a pair is not a layer whose weights are shuffled first.
    shuffled = ("randomisation:stages=2", "smooth-randomisation:stages=2:samples=2") if kind == "binary" else ()
    apart = PROBABILITY | {"sds:target=prediction", *shuffled}
    if kind != "probabilities" and text not in apart and not method.startswith("RISE"):
        np.testing.assert_allclose(found, values(perform(plain(kind), protocol, method)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["sigmoid", "binary", "probabilities"])
def test_incremental_deletion_averages_the_probability_of_the_kind(kind: str) -> None:
    records = perform(model(kind), create(ProtocolSpec.parse("ids:steps=5")), "Random")
    whole, count = pictures(ITEMS, SIZE), len(model(kind).class_names)
    z = model(kind).module(whole).detach()
    if kind == "binary":
        z = torch.cat([-z, z], 1)
    expected = z if kind == "probabilities" else 1 / (1 + (-z).exp())
    first = [record.details["curve"][0] for record in records]  # type: ignore[index]
    np.testing.assert_allclose(first, [float(expected[i, i % count]) for i in range(ITEMS)], rtol=1e-5)


def test_the_probabilities_of_all_labels_are_measured_and_of_exclusive_classes_only_the_highest() -> None:
    images = pictures(ITEMS, SIZE)
    batch = Batch(tuple("abcd"), images, torch.zeros(ITEMS, dtype=torch.long))
    z = made(Net)(images).detach()
    labels = Prediction().measure(EvalContext(model("sigmoid")), batch, batch.labels)
    torch.testing.assert_close(labels["probabilities"], 1 / (1 + (-z).exp()))
    exclusive = Prediction().measure(EvalContext(plain("sigmoid")), batch, batch.labels)
    assert set(exclusive) == {"class", "probability"}
    assert torch.equal(labels["class"], exclusive["class"])
    assert Prediction().measure(EvalContext(model("scalar")), batch, batch.labels)["class"].tolist() == [0] * ITEMS
