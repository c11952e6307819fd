"""Random logit and smooth parameter randomisation against plain loops with SciPy."""

from collections.abc import Callable

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import torch
from support.judged import SIZE, TARGETS, Model, evaluate, given, steep_model, values
from support.method_nets import pictures
from torch import Tensor, nn

from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.errors import ProtocolError
from attrlib.methods import resolve
from attrlib.models import Layer
from attrlib.protocols import EvalContext, ExplanationRequest, create
from attrlib.specs import MethodSpec, ProtocolSpec


def spied(model: Model, method: str) -> tuple[list[ExplanationRequest], Callable[[ExplanationRequest], tuple[Tensor, Layer]]]:
    """Return a method that keeps what it is asked."""
    asked: list[ExplanationRequest] = []
    inner = Evaluator(model, InMemoryCache()).explainer(resolve(MethodSpec.parse(method)))

    def explain(request: ExplanationRequest) -> tuple[Tensor, Layer]:
        asked.append(request)
        return inner(request)

    return asked, explain


@pytest.mark.parametrize("absolute", ["false", "true"])
def test_random_logit_is_the_rank_correlation_with_the_map_of_another_class(absolute: str) -> None:
    model, images = steep_model(), pictures(3, *SIZE)
    asked, explain = spied(model, "IxG")
    found = evaluate(f"random-logit:absolute={absolute}", model, images, explain)
    (request,) = asked
    expected = []
    for row, (target, other) in enumerate(request.targets.tolist()):
        assert target == TARGETS[row] != other
        maps = [attrlib.explain(model, images[row : row + 1], "IxG", [each]).maps.flatten().double().numpy() for each in (target, other)]
        maps = [np.abs(each) for each in maps] if absolute == "true" else maps
        expected.append(scipy.stats.spearmanr(*maps).statistic)
        assert found[row].details["other"] == [other]
    assert values(found) == pytest.approx(expected, abs=2e-3)
    assert np.ptp(expected) > 0.01


def test_the_other_class_is_drawn_evenly_and_by_the_item_alone() -> None:
    model = steep_model()
    classes = len(model.class_names)
    images, targets = pictures(40, *SIZE), [2] * 40
    maps = torch.randn(40, 2, *SIZE, generator=torch.Generator().manual_seed(0))
    found = [int(o.details["other"][0]) for o in evaluate("random-logit", model, images, given(maps), targets)]
    assert set(found) == set(range(classes)) - {2}
    some = [int(o.details["other"][0]) for o in evaluate("random-logit", model, images[:7], given(maps[:7]), targets[:7])]
    assert some == found[:7]


def test_a_map_that_ignores_the_class_scores_1() -> None:
    model = steep_model()
    _, explain = spied(model, "Sobel")
    assert values(evaluate("random-logit", model, pictures(3, *SIZE), explain)) == pytest.approx([1, 1, 1])


def test_a_model_of_one_class_is_refused() -> None:
    model = attrlib.wrap_model(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 1)), 8, class_names=["only"], outputs="sigmoid")
    with pytest.raises(ProtocolError, match="compares two classes"):
        create(ProtocolSpec("random-logit")).check(model)


def test_smooth_randomisation_averages_maps_over_the_same_noise_at_each_stage() -> None:
    model, images = steep_model(), pictures(3, *SIZE)
    asked, explain = spied(model, "IxG")
    found = evaluate("smooth-randomisation:stages=2:samples=3:noise=0.3", model, images, explain)
    assert len(asked) == 9
    assert all(torch.equal(asked[k].images, asked[k + 3 * stage].images) for k in range(3) for stage in (1, 2))
    assert asked[0].model is model
    assert all(request.model is not model for request in asked[3:])
    for row in range(3):
        spread = float(images[row].max() - images[row].min())
        noise = torch.stack([asked[k].images[row] - images[row] for k in range(3)])
        generator = EvalContext(model).generator(f"image {row}", "smooth", 1)
        assert torch.allclose(noise[1], 0.3 * spread * torch.randn(images.shape[1:], generator=generator), atol=1e-5)
        means = []
        for stage in range(3):
            own = [
                attrlib.explain(request.model, request.images[row : row + 1], "IxG", [TARGETS[row]]).maps
                for request in asked[3 * stage : 3 * stage + 3]
            ]
            means.append(torch.cat(own).double().mean(0).flatten().numpy())
        expected = [scipy.stats.spearmanr(means[0], other).statistic for other in means[1:]]
        assert found[row].details["stages"] == pytest.approx(expected, abs=2e-3)
        assert found[row].value == pytest.approx(np.mean(expected), abs=2e-3)
