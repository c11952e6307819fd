"""HSIC and Sobol against their definitions in NumPy, closed forms and SciPy's estimator."""

import math
from collections.abc import Callable

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import torch
from support import method_nets
from support.method_nets import maps, pictures
from support.numbers import SEED, close
from torch import Tensor, nn

from attrlib.methods import AttributionContext, attribute_all
from attrlib.methods.sensitivity import HSIC, factor, jansen, sobol_sequence
from attrlib.specs import MethodSpec

SIDE = 8


class Cells(nn.Module):
    """Logits that are functions of the means of the four quarters of an image, which are 1 in a white image."""

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        quarters = x.unflatten(3, (2, SIDE // 2)).unflatten(2, (2, SIDE // 2)).mean((1, 3, 5)).flatten(1)
        return self.logits(quarters)


def of_cells(logits: Callable[[Tensor], Tensor]) -> attrlib.Classifier:
    return attrlib.wrap_model(Cells(logits), SIDE)


def white(count: int = 1) -> Tensor:
    return torch.ones(count, 3, SIDE, SIDE)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return a list to which every call of `perturbed` adds all its masks (n,h,w) and outputs (n,B)."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    own = AttributionContext.perturbed

    def watched(context: AttributionContext, *args: object, **options: object) -> object:
        parts = list(own(context, *args, **options))  # type: ignore[arg-type]
        seen.append(tuple(torch.cat(part).numpy() for part in zip(*parts, strict=True)))  # type: ignore[arg-type]
        return iter(parts)

    monkeypatch.setattr(AttributionContext, "perturbed", watched)
    return seen


# HSIC ----------------------------------------------------------------------------------------------------------------------


def hsic(mask: np.ndarray, outputs: np.ndarray) -> float:
    """The definition: tr(K H L H) / n^2 with Dirac's kernel of a binary mask, and a Gaussian kernel of the outputs."""
    n = len(mask)
    distances = np.abs(outputs[:, None] - outputs[None])
    apart = np.sort(distances[distances > 1e-6 * np.abs(outputs).max()])
    kernel = np.where(mask[:, None] == mask[None], 0.5, -0.5)
    gram = np.exp(-(distances**2) / (2 * apart[(len(apart) - 1) // 2] ** 2))
    centre = np.eye(n) - 1 / n
    return float(np.trace(kernel @ centre @ gram @ centre)) / n**2


@pytest.mark.parametrize(("name", "layer"), [("not_square", "Input"), ("functional", "Middle"), ("vit_tiny", "blocks.1")])
@pytest.mark.parametrize(("p", "output"), [(0.5, "probability"), (0.3, "logit")])
def test_hsic_is_its_definition(name: str, layer: str, p: float, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, model = recorded(monkeypatch), method_nets.model(name)
    images = pictures(2, *model.input_size)
    found = maps(model, images, "HSIC", layer, samples=40, cells=3, p=p, output=output)
    ((masks, outputs),) = seen
    assert set(np.unique(masks)) == {0.0, 1.0}
    assert (masks.mean(0) == round(40 * p) / 40).all(), "every cell is visible equally often"
    expected = [
        [[hsic(masks[:, 0, i, j], outputs[:, k].astype(float)) for j in range(masks.shape[3])] for i in range(masks.shape[2])]
        for k in range(2)
    ]
    assert close(found[:, 0], torch.tensor(expected), 1e-3)


def test_hsic_of_an_output_that_depends_on_one_cell_has_a_closed_form() -> None:
    # The outputs are a and b in half of the masks each, at distance s: L is 1 or exp(-1/2), and HSIC = (1 - exp(-1/2)) / 4.
    model = of_cells(lambda q: torch.stack([3 * q[:, 1] - 1, q.sum(1)], 1))
    found = maps(model, white(), "HSIC", targets=[0], cells=2, samples=400, output="logit")[0, 0]
    assert float(found[0, -1]) == pytest.approx((1 - math.exp(-0.5)) / 4, rel=1e-4)
    assert found.unique().numel() == 4
    others = [float(found[i, j]) for i, j in ((0, 0), (-1, 0), (-1, -1))]
    assert max(others) < 0.02 * float(found[0, -1]), "those of independent cells are of order 1/n"


def test_hsic_sees_a_dependence_without_a_mean_effect() -> None:
    """An output that is +-1 by the parity of two cells has the same mean under each; together they decide it, one alone tells nothing."""
    parity = of_cells(lambda q: torch.stack([(2 * q[:, 0] - 1) * (2 * q[:, 1] - 1), q[:, 2] + 2 * q[:, 3]], 1))
    found = maps(parity, white(), "HSIC", targets=[0], cells=2, samples=1000, output="logit")
    assert float(found.max()) < 2e-3
    spread = of_cells(lambda q: torch.stack([q[:, 0] * (2 * q[:, 1] - 1), q[:, 1]], 1))
    values = maps(spread, white(), "HSIC", targets=[0], cells=2, samples=1000, output="logit")[0, 0]
    # The first cell decides whether the output is 0 or +-1, with mean 0 in both cases.
    assert float(values[0, 0]) > 20 * float(values[-1].max())


def test_the_factor_of_a_constant_output_is_zero() -> None:
    assert (factor(torch.full((5,), 0.1).double()) == 0).all()
    rounding = torch.tensor([1.0, 1.0 + 1e-7, 1.0 - 1e-7, 1.0]).double()
    assert (factor(rounding) == 0).all()


@pytest.mark.parametrize("layer", ["Input", "Middle"])
def test_hsic_with_the_masks_of_rise_shares_its_passes_and_measures_the_mask_at_every_position(
    layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, model = recorded(monkeypatch), method_nets.model("functional")
    images = pictures(2, *model.input_size)
    shared = ":samples=30:cells=3:p=0.4"
    specs = [MethodSpec.parse(f"{text}{shared}", layer) for text in ("RISE", "HSIC")]
    specs[1] = MethodSpec.parse(f"HSIC{shared}:masks=rise", layer)
    rise, together = attribute_all(model, specs, images, [0, 3])
    ((masks, outputs),) = seen
    alone = attribute_all(model, specs[1:], images, [0, 3])[0]
    assert torch.equal(together.maps, alone.maps)
    assert torch.equal(rise.maps, attribute_all(model, specs[:1], images, [0, 3])[0].maps)
    flat = masks.reshape(30, -1).astype(float)
    centred = flat - flat.mean(0)
    for k in range(2):
        y = outputs[:, k].astype(float)
        distances = np.abs(y[:, None] - y[None])
        apart = np.sort(distances[distances > 1e-6 * np.abs(y).max()])
        gram = np.exp(-(distances**2) / (2 * apart[(len(apart) - 1) // 2] ** 2))
        expected = 2 * np.einsum("ip,ij,jp->p", centred, gram, centred) / 30**2
        assert close(together.maps[k].flatten(), torch.from_numpy(expected), 1e-3)


def test_hsic_of_a_logit_does_not_take_the_probabilities_of_rise() -> None:
    model, images = method_nets.model("functional"), pictures(1, 64)
    spec = "HSIC:samples=12:cells=3:masks=rise:output=logit"
    together = attribute_all(model, [MethodSpec.parse("RISE:samples=12:cells=3:p=0.5"), MethodSpec.parse(spec)], images, [0])[1]
    assert torch.equal(together.maps, attribute_all(model, [MethodSpec.parse(spec)], images, [0])[0].maps)


def test_the_design_is_balanced_and_its_cells_are_independent() -> None:
    design = HSIC(samples=2000, p=0.3)._design(20, torch.Generator().manual_seed(SEED)).numpy()
    assert (design.sum(0) == 600).all()
    assert np.abs(np.corrcoef(design.T) - np.eye(20)).max() < 0.1


# Sobol ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layer"), [("not_square", "Input"), ("functional", "Middle"), ("vit_tiny", "blocks.1")])
@pytest.mark.parametrize("output", ["probability", "logit"])
def test_sobol_is_the_estimator_of_scipy(name: str, layer: str, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, model, designs = recorded(monkeypatch), method_nets.model(name), 8
    images = pictures(2, *model.input_size)
    found = maps(model, images, "Sobol", layer, designs=designs, cells=2, output=output)
    ((masks, outputs),) = seen
    corners = masks[:, 0][:, [0, 0, -1, -1], [0, -1, 0, -1]]
    a, b, mixed = corners[:designs], corners[designs : 2 * designs], corners[2 * designs :].reshape(4, designs, 4)
    for cell in range(4):
        assert (mixed[cell, :, cell] == b[:, cell]).all()
        assert (np.delete(mixed[cell], cell, 1) == np.delete(a, cell, 1)).all()
    values = outputs.astype(float).T
    result = scipy.stats.sobol_indices(
        func={
            "f_A": values[:, :designs],
            "f_B": values[:, designs : 2 * designs],
            "f_AB": values[:, 2 * designs :].reshape(2, 4, designs).swapaxes(0, 1),
        },
        n=designs,
    )
    expected = torch.from_numpy(result.total_order)
    assert close(found[:, 0][:, [0, 0, -1, -1], [0, -1, 0, -1]], expected, 1e-3)
    assert all(one.unique().numel() == 4 for one in found)


def test_sobol_of_an_additive_output_is_each_cells_share_of_the_variance() -> None:
    weights = torch.tensor([1.0, -2.0, 0.0, 3.0])
    model = of_cells(lambda q: torch.stack([q @ weights, q[:, 0]], 1))
    found = maps(model, white(), "Sobol", targets=[0], cells=2, designs=1024, output="logit")[0, 0]
    expected = weights.square() / weights.square().sum()
    assert torch.allclose(found[[0, 0, -1, -1], [0, -1, 0, -1]], expected, atol=0.01)


def test_sobol_of_a_product_counts_its_interactions_in_full() -> None:
    # For f = prod_i (1 + c_i (u_i - 1/2)), 1 - S_i = (prod_{j != i} (1 + c_j^2/12) - 1) / (prod_j (1 + c_j^2/12) - 1).
    scales = torch.tensor([3.0, 2.0, 1.0, 0.0])
    model = of_cells(lambda q: torch.stack([(1 + scales * (q - 0.5)).prod(1), q[:, 0]], 1))
    found = maps(model, white(), "Sobol", targets=[0], cells=2, designs=1024, output="logit")[0, 0]
    parts = 1 + scales.double().square() / 12
    expected = 1 - (parts.prod() / parts - 1) / (parts.prod() - 1)
    assert torch.allclose(found[[0, 0, -1, -1], [0, -1, 0, -1]].double(), expected, atol=0.02)
    assert expected.sum() > 1.1


def test_sobol_of_ishigamis_function() -> None:
    # sin x1 + 7 sin^2 x2 + 0.1 x3^4 sin x1 on [-pi, pi]^3; its indices are those of Ishigami and Homma (1990).
    def ishigami(q: Tensor) -> Tensor:
        x = math.pi * (2 * q - 1)
        value = x[:, 0].sin() + 7 * x[:, 1].sin() ** 2 + 0.1 * x[:, 2] ** 4 * x[:, 0].sin()
        return torch.stack([value, q[:, 3]], 1)

    found = maps(of_cells(ishigami), white(), "Sobol", targets=[0], cells=2, designs=1024, output="logit")[0, 0]
    total = 7**2 / 8 + 0.1 * math.pi**4 / 5 + 0.1**2 * math.pi**8 / 18 + 1 / 2
    first, second = 0.5 * (1 + 0.1 * math.pi**4 / 5) ** 2, 7**2 / 8
    third = 0.1**2 * math.pi**8 * 8 / 225
    expected = torch.tensor([(first + third) / total, second / total, third / total, 0.0])
    assert torch.allclose(found[[0, 0, -1, -1], [0, -1, 0, -1]], expected, atol=0.03)


def test_the_sequence_is_scrambled_by_the_seed_and_even() -> None:
    points = sobol_sequence(256, 6, torch.Generator().manual_seed(SEED)).numpy()
    assert points.shape == (256, 6)
    assert scipy.stats.qmc.discrepancy(points) < 0.1 * scipy.stats.qmc.discrepancy(np.random.default_rng(SEED).random((256, 6)))
    assert not np.allclose(points, sobol_sequence(256, 6, torch.Generator().manual_seed(SEED + 1)).numpy())


def test_sobol_of_a_constant_output_is_zero() -> None:
    assert (jansen(torch.full((5, 4, 2), 0.3).double()) == 0).all()
    assert (jansen(0.3 + 1e-8 * torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(0)).double()) == 0).all()


def test_all_targets_of_an_image_share_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    own = AttributionContext._logits

    def counted(context: AttributionContext, inputs: Tensor, owners: Tensor) -> Tensor:
        rows.append(len(owners))
        return own(context, inputs, owners)

    monkeypatch.setattr(AttributionContext, "_logits", counted)
    model = method_nets.model("functional")
    for spec, passes in (("HSIC:samples=20", 20), ("Sobol:designs=2:cells=3", 22)):
        rows.clear()
        attribute_all(model, [MethodSpec.parse(spec)], pictures(1, 64), [0, 1, 2], owners=[0, 0, 0])
        assert sum(rows) == passes
