"""R-OMS against a plain loop over the same orders, and models whose probabilities with deleted patches are known."""

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from support.engine import evaluate_items
from support.judged import SIZE, TARGETS, Mass, evaluate, given, noise_maps, probability, steep_model, values
from support.method_nets import pictures
from torch import Tensor, nn

from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.errors import ProtocolError
from attrlib.methods import resolve
from attrlib.protocols import Batch, EvalContext, create
from attrlib.specs import MethodSpec, ProtocolSpec


@pytest.mark.parametrize("baseline", ["zeros", "mean"])
def test_roms_matches_a_plain_loop(baseline: str) -> None:
    model, images = steep_model(), pictures(3, *SIZE)
    found = evaluate(f"roms:grid=2:baseline={baseline}", model, images, given(noise_maps()))
    for i, target in enumerate(TARGETS):
        order = torch.randperm(4, generator=EvalContext(model).generator(f"image {i}", "order")).tolist()
        shown, curve = images[i].clone(), [probability(model, images[i], target)]
        for patch in order[:3]:
            row, column = divmod(patch, 2)
            fill = images[i].mean((1, 2)) if baseline == "mean" else torch.zeros(3)
            shown[:, row * 4 : row * 4 + 4, column * 6 : column * 6 + 6] = fill[:, None, None]
            curve.append(probability(model, shown, target))
        assert np.ptp(curve) > 1e-3
        assert np.allclose(found[i].details["curve"], curve, atol=1e-5)
        assert found[i].value == pytest.approx(np.mean(curve[1:]), abs=1e-6)


def test_the_orders_depend_on_the_seed_and_the_image_only() -> None:
    orders = [EvalContext(steep_model(), seed).generator(item, "order").initial_seed() for seed in (0, 1) for item in ("a", "b")]
    assert len(set(orders)) == 4


def test_a_model_whose_probability_is_the_share_of_what_is_left_scores_a_half() -> None:
    model, images = attrlib.wrap_model(Mass(), SIZE), torch.ones(2, 3, *SIZE)
    assert values(evaluate("roms:grid=4", model, images, given(noise_maps(count=2)), (0, 0))) == pytest.approx([0.5, 0.5], abs=1e-5)


class Sure(nn.Module):
    """The same logits for every image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([0.0, 3.0, 1.0]).expand(len(x), -1) + 0 * x.sum((1, 2, 3))[:, None]


@pytest.mark.parametrize("baseline", ["zeros", "linear", "border", "inpainting"])
def test_a_model_that_ignores_what_is_deleted_keeps_its_probability_and_every_method_has_the_same_score(baseline: str) -> None:
    model, images = attrlib.wrap_model(Sure(), SIZE), pictures(2, *SIZE)
    protocol = create(ProtocolSpec.parse(f"roms:grid=2:baseline={baseline}"))
    items = [EvalItem(f"u{i}", (i,), (0,)) for i in range(2)]
    batch, evaluator = Batch(("u0", "u1"), images, torch.zeros(2, dtype=torch.long)), Evaluator(model, InMemoryCache())
    for method in ("Sobel", "Random"):
        records = evaluate_items(evaluator, protocol, resolve(MethodSpec(method)), items, batch)
        # The class is the one that the model predicts, not the label.
        assert [record.value for record in records.values()] == pytest.approx([float(torch.tensor([0.0, 3, 1]).softmax(0)[1])] * 2)


def test_a_grid_that_does_not_divide_the_images_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"^roms: .*8 x 12 px.*3 x 3 equal patches; choose grid=2, 4$"):
        create(ProtocolSpec.parse("roms:grid=3")).check(steep_model())
