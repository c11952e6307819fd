"""Faithfulness correlation, MuFidelity and sensitivity-n against SciPy on the inputs that the model saw, and closed forms."""

from collections.abc import Sequence

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import torch
from support.method_nets import Linear, Rectified, made, pictures
from support.recorded import Recorded
from torch import Tensor

from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.errors import ProtocolError
from attrlib.methods import resolve
from attrlib.models import Layer
from attrlib.models.layers import Layout
from attrlib.protocols import Batch, EvalBatch, EvalContext, Explain, Outcome, create
from attrlib.protocols.subsets import SHARES, OutputsOfSubsets, patch_of, pearson, subsets
from attrlib.specs import MethodSpec, ProtocolSpec

SIZE = (13, 20)
TARGETS = (2, 0, 4)
IDS = ("a", "b", "c")
NAMES = ("faithfulness", "mufidelity", "sensitivity-n")


def given(maps: Tensor) -> Explain:
    return lambda request: (maps, Layer("given", "given", Layout("NCHW", 1, *maps.shape[2:])))


def evaluate(
    protocol: str, model: attrlib.Classifier, explain: Explain | str, seed: int = 0, which: Sequence[int] = (0, 1, 2)
) -> list[Outcome]:
    own, context, rows = create(ProtocolSpec.parse(protocol)), EvalContext(model, seed), list(which)
    if isinstance(explain, str):
        explain = Evaluator(model, InMemoryCache(), seed).explainer(resolve(MethodSpec.parse(explain)))
    labels = torch.tensor(TARGETS)[rows]
    batch = Batch(tuple(IDS[k] for k in rows), pictures(3, *SIZE)[rows], labels)
    measured = {m: m.measure(context, batch, labels) for m in own.measurements}
    return own.evaluate(EvalBatch(context, batch, labels, measured, explain))


def values(outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome.value for outcome in outcomes]


@pytest.mark.parametrize(("name", "correlate"), [("faithfulness", scipy.stats.pearsonr), ("mufidelity", scipy.stats.spearmanr)])
@pytest.mark.parametrize("output", ["logit", "probability"])
def test_values_match_scipy_on_the_inputs_that_the_model_saw(name: str, correlate: object, output: str) -> None:
    model = attrlib.wrap_model(Recorded(made(Rectified, torch.tanh)).eval(), SIZE)
    maps, images, samples = pictures(3, *SIZE, seed=4)[:, :1], pictures(3, *SIZE), 12
    model.module.seen.clear()
    found = values(evaluate(f"{name}:grid=4:samples={samples}:share=0.3:output={output}", model, given(maps)))
    seen = torch.cat(model.module.seen)[-(samples + 1) * 3 :].unflatten(0, (samples + 1, 3))
    assert torch.equal(seen[0], images)
    for row, target in enumerate(TARGETS):
        drops, sums = [], []
        for k in range(1, samples + 1):
            gone = (seen[k, row] == 0).all(0) & (images[row] != 0).any(0)
            assert 0.2 < float(gone.float().mean()) < 0.45
            assert torch.equal(seen[k, row][:, ~gone], images[row][:, ~gone])
            with torch.no_grad():
                before, after = model.module.net(images[row][None])[0], model.module.net(seen[k, row][None])[0]
            if output == "probability":
                before, after = before.double().softmax(0), after.double().softmax(0)
            drops.append(float(before[target] - after[target]))
            sums.append(float(maps[row, 0].double()[gone].sum()))
        assert found[row] == pytest.approx(correlate(drops, sums).statistic, abs=1e-4)  # type: ignore[operator]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1.0, -2.0, 1e-20])
def test_the_attribution_of_a_linear_model_scores_1_whatever_its_scale(name: str, scale: float) -> None:
    model = attrlib.wrap_model(made(Linear, *SIZE), SIZE)
    maps = attrlib.explain(model, pictures(3, *SIZE), "IxG", TARGETS).maps
    assert values(evaluate(f"{name}:samples=8", model, given(scale * maps))) == pytest.approx([np.sign(scale)] * 3, abs=1e-3)
    assert values(evaluate(f"{name}:samples=8", model, "IxG")) == pytest.approx([1, 1, 1], abs=1e-3)


def test_random_maps_are_at_chance() -> None:
    model = attrlib.wrap_model(made(Rectified, torch.tanh), SIZE)
    found = [value for seed in range(30) for value in values(evaluate("faithfulness:samples=30", model, "Random", seed))]
    assert abs(np.mean(found)) < 4 * np.std(found) / len(found) ** 0.5


def test_sensitivity_n_is_the_mean_of_faithfulness_over_the_sizes() -> None:
    model, maps = attrlib.wrap_model(made(Rectified, torch.tanh), SIZE), given(pictures(3, *SIZE, seed=4)[:, :1])
    by_size = [values(evaluate(f"faithfulness:samples=9:share={share}", model, maps)) for share in SHARES]
    found = evaluate("sensitivity-n:samples=9", model, maps)
    assert values(found) == pytest.approx(np.mean(by_size, 0), abs=1e-12)
    assert np.allclose([outcome.details["correlations"] for outcome in found], np.transpose(by_size), atol=1e-12)


def test_the_protocols_share_their_passes() -> None:
    one, other, several = (create(ProtocolSpec(name)).measurements for name in NAMES)
    assert one == other == (OutputsOfSubsets(9, 16, 50, "zeros"),)
    assert [m.count for m in several] == [4, 8, 16, 32, 65]
    assert one[0] in several


def test_subsets_have_their_size_and_depend_on_seed_and_item_only() -> None:
    context = EvalContext(attrlib.wrap_model(made(Linear, *SIZE), SIZE))
    drawn = subsets(context, "a", 5, 7, 40)
    assert drawn.sum(1).tolist() == [7] * 40
    assert torch.equal(subsets(context, "a", 5, 7, 9), drawn[:9])
    assert drawn.any(0).all()
    for other in (subsets(context, "b", 5, 7, 40), subsets(EvalContext(context.model, 1), "a", 5, 7, 40)):
        assert not torch.equal(other, drawn)


@pytest.mark.parametrize("grid", [2, 9, 13])
def test_patches_cover_the_image_evenly(grid: int) -> None:
    patches = patch_of(SIZE, grid)
    counts = torch.bincount(patches.flatten(), minlength=grid**2)
    height, width = SIZE
    assert len(counts) == grid**2
    assert int(counts.min()) >= (height // grid) * (width // grid)
    assert int(counts.max()) <= -(-height // grid) * -(-width // grid)


@pytest.mark.parametrize("name", NAMES)
def test_more_patches_than_pixels_are_refused(name: str) -> None:
    model = attrlib.wrap_model(made(Linear, *SIZE), SIZE)
    create(ProtocolSpec.parse(f"{name}:grid=13")).check(model)
    with pytest.raises(ProtocolError, match=f"{name}: images of 13 x 20 px have no 14 x 14 patches; choose grid=9 or less"):
        create(ProtocolSpec.parse(f"{name}:grid=14")).check(model)


@pytest.mark.parametrize("name", NAMES)
def test_maps_without_a_correlation_are_undefined(name: str) -> None:
    model, maps = attrlib.wrap_model(made(Rectified, torch.tanh), SIZE), pictures(3, *SIZE, seed=4)[:, :1].clone()
    maps[0], maps[1, 0, 2, 2] = 0, np.nan
    assert np.isnan(values(evaluate(f"{name}:samples=5", model, given(maps)))).tolist() == [True, True, False]


def test_pearson_matches_scipy_and_is_undefined_for_constant_rows() -> None:
    a, b = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)), torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    expected = [scipy.stats.pearsonr(x, y).statistic for x, y in zip(a.double(), b.double(), strict=True)]
    assert pearson(a, b).tolist() == pytest.approx(expected, abs=1e-12)
    b[2] = 3
    assert pearson(a, b).isnan().tolist() == [False, False, True, False]
