"""GridPG, DiFull and DiPart against plain interpolation and sums, and against the values that theory prescribes."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from support import method_nets, nets
from support.engine import evaluate_items
from support.method_nets import made, pictures
from torch import Tensor, nn

from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluations import find_evaluations
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.engine.memory import Probe
from attrlib.engine.plan import item_seconds
from attrlib.errors import ProtocolError, SpecError
from attrlib.methods import resolve
from attrlib.models import Layer
from attrlib.models.layers import Layout
from attrlib.protocols import PROTOCOLS, Batch, EvalBatch, EvalContext, Explain, ExplanationRequest, Outcome, create
from attrlib.protocols.localisation import localisation
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec, digest
from attrlib.store import Record

Model = attrlib.Classifier
SETTINGS = ("gridpg", "difull", "dipart")


def cut(values: Tensor, n: int, cell: int) -> Tensor:
    row, column = divmod(cell, n)
    return values.chunk(n, 2)[row].chunk(n, 3)[column]


def share(native: Tensor, size: tuple[int, int], n: int, cell: int) -> float:
    """The score of one native map (h,w), step by step."""
    large = F.interpolate(native[None, None].double(), size=size, mode="bilinear", align_corners=False)
    positive = torch.where(large > 0, large, 0.0)
    return float(cut(positive, n, cell).sum() / positive.sum())


def grid_batch(images: Tensor, labels: Sequence[Sequence[int]]) -> Batch:
    return Batch(tuple(f"grid {i}" for i in range(len(images))), images, torch.tensor(labels))


def records(model: Model, protocol: str, method: str, images: Tensor, labels: Sequence[Sequence[int]]) -> list[Record]:
    """The scores of a method as the engine computes them."""
    batch = grid_batch(images, labels)
    units = [EvalItem(name, tuple(range(len(own))), tuple(own)) for name, own in zip(batch.ids, labels, strict=True)]
    found = evaluate_items(
        Evaluator(model, InMemoryCache()), create(ProtocolSpec.parse(protocol)), resolve(MethodSpec.parse(method)), units, batch
    )
    return [found[unit.key("label")] for unit in units]


def judge(protocol: str, maps: dict[int, Tensor] | Tensor, size: int, labels: Sequence[int], model: Model | None = None) -> Outcome:
    """Return the outcome of one grid for given maps (T,h,w), for all targets at once or for the view of each cell."""
    model = model or method_nets.model("functional")

    def explain(request: ExplanationRequest) -> tuple[Tensor, Layer]:
        given = maps if isinstance(maps, Tensor) else maps[int(request.view.split(":")[2])]
        return given[None], Layer("given", "given", Layout("NCHW", 1, *given.shape[1:]))

    return outcome(protocol, explain, torch.zeros(1, 3, size, size), labels, model)


def outcome(protocol: str, explain: Explain, images: Tensor, labels: Sequence[int], model: Model) -> Outcome:
    batch = grid_batch(images, [labels])
    own = create(ProtocolSpec.parse(protocol))
    (found,) = own.evaluate(EvalBatch(EvalContext(model), batch, batch.labels, {}, explain))
    return found


# The score of a map ------------------------------------------------------------------------------------------------------


def one_map(values: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(values)[None, None]


def test_localisation_is_the_share_of_the_positive_attribution_inside() -> None:
    maps = one_map([[1.0, 2, 3, 4], [1, 1, 1, 1], [0, 0, 2, 0], [0, 0, 0, 5]])
    found = [localisation(maps, 2, cell) for cell in range(4)]
    assert [float(value) for value, _ in found] == [5 / 21, 9 / 21, 0, 7 / 21]
    assert [float(inside) for _, inside in found] == [5, 9, 0, 7]


def test_negative_values_count_neither_inside_nor_outside() -> None:
    maps = one_map([[3.0, -100], [1, -7]])
    assert [float(localisation(maps, 2, cell)[0]) for cell in range(4)] == [0.75, 0, 0.25, 0]
    assert float(localisation(maps, 2, 1)[1]) == 0


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-8])
def test_a_map_without_positive_attribution_scores_0(value: float) -> None:
    assert float(localisation(torch.full((1, 1, 3, 3), value), 3, 4)[0]) == 0


@pytest.mark.parametrize(("total", "expected"), [(0.9e-7, 0.0), (1.1e-7, 1.0)])
def test_attribution_counts_if_it_sums_to_at_least_1e_7(total: float, expected: float) -> None:
    maps = torch.zeros(1, 1, 4, 4)
    maps[..., 2:, :2] = total / 4
    found, inside = localisation(maps, 2, 2)
    assert float(found) == expected
    assert float(inside) == pytest.approx(total)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (3, 3)])
def test_a_map_that_is_not_finite_somewhere_is_undefined(bad: float, place: tuple[int, int]) -> None:
    maps = torch.ones(2, 1, 4, 4)
    maps[1, 0, place[0], place[1]] = bad
    found, _ = localisation(maps, 2, 0)
    assert found[0] == 0.25
    assert found[1].isnan()


def test_localisation_sums_in_float64() -> None:
    maps = torch.full((1, 1, 1344, 1344), 0.1)
    maps[..., :336, :336] = 0.3
    large, small = float(np.float32(0.3)) * 336**2, float(np.float32(0.1))
    expected = large / (large + small * (1344**2 - 336**2))
    assert float(localisation(maps, 4, 0)[0]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("side", "expected"), [(14, 0.964605), (28, 0.982223), (56, 0.991091)])
@pytest.mark.parametrize("cell", [0, 3])
def test_a_constant_cell_loses_the_share_that_bilinear_resizing_leaks_into_its_neighbours(side: int, expected: float, cell: int) -> None:
    maps = {}
    for own in (0, 3):
        maps[own] = torch.zeros(1, side, side)
        maps[own][:, own // 2 * side // 2 :][:, : side // 2, own % 2 * side // 2 :][:, :, : side // 2] = 0.7
        assert maps[own].sum() == pytest.approx(0.7 * side**2 / 4, rel=1e-5)
    found = judge("difull", maps, 448, [1, 2, 3, 1])
    shares = found.details["shares"]
    assert shares == pytest.approx([expected] * 2, abs=1e-6)
    assert found.value == pytest.approx(expected, abs=1e-6)
    assert shares[0] == pytest.approx(share(maps[0][0], (448, 448), 2, 0), abs=1e-8)


def test_maps_are_resized_before_negative_values_are_clamped() -> None:
    native = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(0))
    found = judge("gridpg", native, 128, [0, 1, 2, 3])
    expected = [share(native[cell], (128, 128), 2, cell) for cell in range(4)]
    assert found.details["shares"] == pytest.approx(expected, abs=1e-6)
    other_order = [share(native[cell].clamp_min(0), (128, 128), 2, cell) for cell in range(4)]
    assert max(abs(a - b) for a, b in zip(expected, other_order, strict=True)) > 0.01
    assert found.value == pytest.approx(np.mean(expected), abs=1e-6)


def test_maps_of_the_size_of_the_grid_are_not_resized() -> None:
    native = torch.zeros(4, 128, 128)
    native[:, 63, 64] = 1
    assert judge("gridpg", native, 128, [0, 1, 2, 3]).details["shares"] == [0, 1, 0, 0]


def gauss(native: Tensor, size: int) -> Tensor:
    """K x K Gaussian, sigma = K/4, zero padding, as a plain double loop over the kernel."""
    half = size // 2
    weights = torch.tensor(
        [[math.exp(-(r * r + c * c) / (2 * (size / 4) ** 2)) for c in range(-half, half + 1)] for r in range(-half, half + 1)]
    )
    weights /= weights.sum()
    padded = F.pad(native[None], (half,) * 4)[0]
    height, width = native.shape
    return sum(weights[r, c] * padded[r : r + height, c : c + width] for r in range(size) for c in range(size))  # type: ignore[return-value]


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_smoothing_is_applied_to_the_signed_map_at_its_original_resolution(kernel: int) -> None:
    native = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))
    found = judge(f"gridpg:smoothing={kernel}", native, 128, [0, 1, 2, 3])
    by_hand = [share(gauss(native[cell], kernel), (128, 128), 2, cell) for cell in range(4)]
    assert found.details["shares"] == pytest.approx(by_hand, abs=1e-5)
    expected = attrlib.smooth(native[:, None], kernel)[:, 0]
    assert found.details["shares"] == pytest.approx([share(expected[cell], (128, 128), 2, cell) for cell in range(4)], abs=1e-6)
    if kernel > 1:
        plain = judge("gridpg", native, 128, [0, 1, 2, 3]).details["shares"]
        assert np.abs(np.subtract(found.details["shares"], plain)).max() > 0.01


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_even_smoothing_kernel_is_refused(setting: str) -> None:
    with pytest.raises(ProtocolError, match="smoothing=4 is even"):
        create(ProtocolSpec.parse(f"{setting}:smoothing=4"))
    with pytest.raises(SpecError, match="out of range"):
        create(ProtocolSpec.parse(f"{setting}:smoothing=999"))


# Target cells and views -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3])
def test_gridpg_requests_the_labels_of_all_cells_at_once(n: int) -> None:
    labels = [4, 1, 3, 0, 2, 1, 4, 0, 3][: n * n]
    asked: list[ExplanationRequest] = []

    def explain(request: ExplanationRequest) -> tuple[Tensor, Layer]:
        asked.append(request)
        maps = torch.zeros(1, n * n, n, n)
        for place in range(n * n):
            # The attribution to the label of one cell lies in that cell and the next.
            maps[0, place].view(-1)[place] = 3
            maps[0, place].view(-1)[(place + 1) % (n * n)] = 1
        return maps, Layer("given", "given", Layout("NCHW", 1, n, n))

    images = torch.zeros(1, 3, n, n)
    found = outcome(f"gridpg:grid={n}", explain, images, labels, method_nets.model("functional"))
    (request,) = asked
    assert request.targets.tolist() == [labels]
    assert request.images is images
    assert request.keys == ("grid 0",)
    assert request.view
    assert found.details == {"shares": [0.75] * (n * n), "inside": [3.0] * (n * n)}


@pytest.mark.parametrize("setting", ["difull", "dipart"])
@pytest.mark.parametrize("n", [2, 3])
def test_difull_and_dipart_request_both_corners_each_in_a_separate_view(setting: str, n: int) -> None:
    model, labels = method_nets.model("functional"), [4, 1, 3, 0, 2, 1, 0, 3, 4][-n * n :]
    last, asked = n * n - 1, []

    def explain(request: ExplanationRequest) -> tuple[Tensor, Layer]:
        asked.append(request)
        maps = torch.zeros(1, 1, n, n)
        maps[..., 0, 0], maps[..., -1, -1], maps[..., 0, 1] = 1, 2, 1
        return maps, Layer("given", "given", Layout("NCHW", 1, n, n))

    images = pictures(1, 64 * n)
    found = outcome(f"{setting}:grid={n}", explain, F.interpolate(images, size=(n, n)), labels, model)
    assert [request.targets.tolist() for request in asked] == [[[labels[0]]], [[labels[last]]]]
    assert len({request.view for request in asked}) == 2
    assert found.details == {"shares": [0.25, 0.5], "inside": [1.0, 2.0]}
    assert found.value == 0.375
    if setting == "difull":
        for request, cell in zip(asked, (0, last), strict=True):
            assert torch.allclose(request.model(images), model(cut(images, n, cell)), atol=1e-5)


def test_views_of_different_settings_sizes_and_cells_have_different_names() -> None:
    names = set()
    for setting, n in (("gridpg", 2), ("gridpg", 3), ("difull", 2), ("difull", 3), ("dipart", 2), ("dipart", 3)):
        protocol = create(ProtocolSpec.parse(f"{setting}:grid={n}"))
        batch = grid_batch(torch.zeros(1, 3, 64 * n, 64 * n), [[0] * n * n])
        work = EvalBatch(EvalContext(method_nets.model("functional")), batch, batch.labels, {}, lambda request: (torch.zeros(0), None))  # type: ignore[arg-type, return-value]
        for request, _cells in protocol.cell_requests(work):  # type: ignore[attr-defined]
            assert request.view not in names
            names.add(request.view)
    assert len(names) == 2 + 4 * 2


def test_only_grids_with_an_undefined_target_are_undefined() -> None:
    maps = torch.ones(2, 4, 4, 4)
    maps[1, 2, 0, 0] = math.nan
    batch = grid_batch(torch.zeros(2, 3, 4, 4), [[0, 1, 2, 3]] * 2)
    layer = Layer("given", "given", Layout("NCHW", 1, 4, 4))
    work = EvalBatch(EvalContext(method_nets.model("functional")), batch, batch.labels, {}, lambda request: (maps, layer))
    first, second = create(ProtocolSpec.parse("gridpg")).evaluate(work)
    assert first.value == 0.25
    assert math.isnan(second.value)
    assert np.isnan(second.details["shares"]).tolist() == [False, False, True, False]


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_key_contains_everything_a_score_depends_on(setting: str) -> None:
    def key(text: str) -> dict[str, object]:
        return create(ProtocolSpec.parse(text)).key()

    assert key(f"{setting}:confidence=0.5") == key(setting), "the grids' digests say which images passed"
    assert len({digest(key(f"{setting}{more}")) for more in ("", ":grid=3", ":smoothing=9")}) == 3
    assert len({digest(key(name)) for name in SETTINGS}) == 3


@pytest.mark.parametrize(("n", "chance"), [(2, 0.25), (3, 1 / 9), (4, 1 / 16)])
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_chance_level_is_the_score_of_a_uniform_map(setting: str, n: int, chance: float) -> None:
    own = create(ProtocolSpec.parse(f"{setting}:grid={n}"))
    assert own.chance_level == chance
    cells = n * n if setting == "gridpg" else 1
    maps = torch.ones(1, cells, 7, 7)
    layer = Layer("given", "given", Layout("NCHW", 1, 7, 7))
    found = outcome(
        f"{setting}:grid={n}", lambda request: (maps, layer), torch.zeros(1, 3, 12 * n, 12 * n), [0] * n * n, model_for("functional")
    )
    assert found.value == pytest.approx(chance, abs=1e-6)
    assert own.bounds == (0, 1)
    assert own.higher_is_better


def model_for(name: str) -> Model:
    return method_nets.model(name)


# Whole scores, by hand -----------------------------------------------------------------------------------------------------


def ixg(module: nn.Module, grid: Tensor, target: int, crop: tuple[int, int] | None = None) -> Tensor:
    """Return input times gradient (H,W), optionally through one cell."""
    leaf = grid[None].clone().requires_grad_()
    logits = module(leaf.clone() if crop is None else cut(leaf, *crop).clone())
    return (leaf * torch.autograd.grad(logits[0, target], leaf)[0]).detach().sum(1)[0]


LABELS = {2: [[0, 1, 2, 0], [4, 2, 3, 4]], 3: [[0, 1, 2, 3, 4, 1, 2, 3, 0], [3, 1, 2, 0, 4, 1, 2, 0, 3]]}


@pytest.mark.parametrize("n", [2, 3])
def test_a_gridpg_score_is_the_mean_over_the_cells_of_the_shares_of_plain_maps(n: int) -> None:
    model, grids = method_nets.model("functional"), pictures(2, 64 * n)
    found = records(model, f"gridpg:grid={n}", "IxG", grids, LABELS[n])
    for grid, labels, record in zip(grids, LABELS[n], found, strict=True):
        expected = [share(ixg(model.module, grid, label), (64 * n, 64 * n), n, cell) for cell, label in enumerate(labels)]
        assert record.details["shares"] == pytest.approx(expected, abs=1e-4)
        assert record.value == pytest.approx(np.mean(expected), abs=1e-4)


@pytest.mark.parametrize("n", [2, 3])
def test_a_difull_score_at_middle_is_the_mean_over_the_corners_of_the_shares_of_plain_maps(n: int) -> None:
    model, grids = method_nets.model("resnet18"), pictures(1, 64 * n)
    net, labels, last = model.module, LABELS[n][0], n * n - 1

    def middle(images: Tensor) -> Tensor:
        return net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(images))))))

    with torch.no_grad():
        cells = [middle(cut(grids, n, cell)) for cell in range(n * n)]
    whole = torch.cat([torch.cat(cells[row * n : row * n + n], 3) for row in range(n)], 2)
    expected = []
    for cell in (0, last):
        leaf = whole.clone().requires_grad_()
        logits = net.fc(net.avgpool(net.layer4(net.layer3(cut(leaf, n, cell)))).flatten(1))
        (gradient,) = torch.autograd.grad(logits[0, labels[cell]], leaf)
        cam = (gradient.mean((2, 3), keepdim=True) * whole).sum(1).relu()[0]
        expected.append(share(cam, (64 * n, 64 * n), n, cell))
    (found,) = records(model, f"difull:grid={n}", "Grad-CAM@Middle", grids, [labels])
    assert found.details["shares"] == pytest.approx(expected, abs=1e-4)


def test_scores_do_not_depend_on_the_batch() -> None:
    model, grids = method_nets.model("functional"), pictures(3, 128)
    labels = [[0, 1, 2, 0], [1, 2, 3, 1], [2, 4, 0, 2]]
    for setting in SETTINGS:
        for method in ("IxG", "RISE:samples=10:p=0.5", "Grad-CAM@Final"):
            together = records(model, setting, method, grids, labels)
            alone = [records(model, setting, method, grids[[i]], [labels[i]])[0] for i in range(3)]
            assert [r.value for r in together] == pytest.approx([r.value for r in alone], abs=1e-4)


@pytest.mark.parametrize("n", [2, 3])
def test_the_targets_of_gridpg_share_the_passes_of_rise(n: int) -> None:
    model, rows = method_nets.model("functional"), []
    handle = model.module.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    try:
        _ = model.layers
        create(ProtocolSpec.parse(f"gridpg:grid={n}")).views(model)
        rows.clear()
        records(model, f"gridpg:grid={n}", "RISE:samples=10", pictures(2, 64 * n), LABELS[n])
    finally:
        handle.remove()
    assert sum(rows) == 2 * 10
    assert max(rows) <= round(16 / (n * n))


# What theory prescribes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet() -> Model:
    return attrlib.load_model("torchvision:resnet18", "cpu", pretrained=False)


@pytest.fixture(scope="module")
def photos(resnet: Model) -> Tensor:
    """One grid of sample photos."""
    cells = [resnet.preprocess(attrlib.open_image(f"sample:{name}").image) for name in ("cat", "coffee", "coffee", "cat")]
    cells[3] = cells[3].flip(2)
    return torch.cat([torch.cat(cells[:2], 2), torch.cat(cells[2:], 2)], 1)[None]


@pytest.fixture(scope="module")
def labels(resnet: Model, photos: Tensor) -> list[list[int]]:
    """Classes for which there is positive evidence, the first twice."""
    first, second, third = resnet(photos)[0].topk(3).indices.tolist()
    return [[first, second, third, first]]


ABSOLUTE = ("Gradient@{}:channels=abs-sum", "Guided Backprop@{}:channels=abs-sum")


@pytest.mark.parametrize("method", ABSOLUTE)
def test_gridpg_of_a_gradient_before_a_global_pool_is_a_quarter_exactly(
    resnet: Model, photos: Tensor, labels: list[list[int]], method: str
) -> None:
    (found,) = records(resnet, "gridpg", method.format("Final"), photos, labels)
    # Except for the last bit of float32, in which maps are resized.
    assert found.details["shares"] == pytest.approx([0.25] * 4, abs=1e-8)
    assert found.value == pytest.approx(0.25, abs=1e-8)


@pytest.mark.parametrize("method", ABSOLUTE)
@pytest.mark.parametrize("setting", ["difull", "dipart"])
def test_a_gradient_before_a_global_pool_loses_only_the_share_that_resizing_leaks(
    resnet: Model, photos: Tensor, labels: list[list[int]], setting: str, method: str
) -> None:
    (found,) = records(resnet, setting, method.format("Final"), photos, labels)
    assert found.details["shares"] == pytest.approx([0.964606] * 2, abs=1e-5)
    assert found.value == pytest.approx(0.964605, abs=1e-6)


AT_INPUT = (
    "Gradient",
    "Gradient:channels=abs-sum",
    "Guided Backprop",
    "Guided Backprop:channels=abs-sum",
    "IxG",
    "IG:steps=2",
    "Layer-CAM@Input",
)


@pytest.mark.parametrize("method", AT_INPUT)
def test_difull_of_backpropagation_at_the_input_is_1_exactly(resnet: Model, photos: Tensor, labels: list[list[int]], method: str) -> None:
    (found,) = records(resnet, "difull", method, photos, labels)
    assert found.details["shares"] == [1.0, 1.0]
    assert min(found.details["inside"]) > 0
    assert found.value == 1.0


def final_maps(model: Model, setting: str, method: str, grids: Tensor, labels: list[list[int]]) -> Tensor:
    """The maps of all targets, as the protocol asks for them."""
    explain = Evaluator(model, InMemoryCache()).explainer(resolve(MethodSpec.parse(method)))
    batch = grid_batch(grids, labels)
    work = EvalBatch(EvalContext(model), batch, batch.labels, {}, explain)
    requests = create(ProtocolSpec.parse(setting)).cell_requests(work)  # type: ignore[attr-defined]
    return torch.cat([explain(request)[0] for request, _ in requests], 1)


@pytest.mark.parametrize("setting", SETTINGS)
def test_integrated_gradients_before_a_global_pool_are_input_x_gradient(
    resnet: Model, photos: Tensor, labels: list[list[int]], setting: str
) -> None:
    expected = final_maps(resnet, setting, "IxG@Final", photos, labels)
    found = final_maps(resnet, setting, "IG@Final:steps=20", photos, labels)
    assert expected.shape == (1, 4 if setting == "gridpg" else 2, 14, 14)
    assert expected.abs().amax((2, 3)).min() > 0
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_grad_cam_before_a_global_pool_is_the_positive_part_of_input_x_gradient(
    resnet: Model, photos: Tensor, labels: list[list[int]]
) -> None:
    cams = final_maps(resnet, "gridpg", "Grad-CAM@Final", photos, labels)[0].flatten(1)
    parts = final_maps(resnet, "gridpg", "IxG@Final", photos, labels)[0].flatten(1).clamp_min(0)
    for cam, part in zip(cams, parts, strict=True):
        assert part.max() > 0
        factor = cam.sum() / part.sum()
        assert torch.allclose(cam, factor * part, rtol=1e-3, atol=1e-5 * float(cam.max()))


# Where they are not defined ------------------------------------------------------------------------------------------------


def refusals(model: Model, protocol: str, methods: Sequence[str]) -> list[str]:
    """Return why a run would skip each method; empty if it would not."""
    spec = RunSpec(ModelSpec("wrapped"), "photos", (ProtocolSpec.parse(protocol),), tuple(MethodSpec.parse(m) for m in methods))
    data = type("Data", (), {"offers": ()})()
    try:
        _, refused = find_evaluations(spec, data, Evaluator(model, InMemoryCache()))
    except ProtocolError as error:
        return [str(error)] * len(methods)
    reasons = {method: why for _, method, why in refused}
    return [reasons.get(MethodSpec.parse(m), "") for m in methods]


METHODS_AT = ["IxG@Input", "IxG@Middle", "IxG@Final"]


@pytest.mark.parametrize("setting", ["gridpg", "dipart"])
def test_transformers_with_a_class_token_are_refused_with_the_reason(setting: str) -> None:
    assert all(
        re.search("not defined for .*VisionTransformer.*64 x 64 px", why) for why in refusals(model_for("vit_tiny"), setting, METHODS_AT)
    )


def test_difull_of_a_transformer_is_defined_only_at_the_input() -> None:
    at_input, middle, final = refusals(model_for("vit_tiny"), "difull", METHODS_AT)
    assert at_input == ""
    assert "without a position" in middle
    assert "without a position" in final


@pytest.mark.parametrize("setting", ["gridpg", "dipart"])
def test_a_model_without_a_final_layer_is_refused_with_the_reason(setting: str) -> None:
    model = attrlib.wrap_model(made(method_nets.Linear, 16, 16), 16)
    (why,) = refusals(model, setting, ["IxG"])
    assert "has no layer Final" in why
    assert refusals(model, "difull", ["IxG"]) == [""]
    assert records(model, "difull", "IxG", pictures(1, 32), [[1, 2, 3, 1]])[0].value == 1


@pytest.mark.parametrize("setting", ["gridpg", "dipart"])
@pytest.mark.parametrize("net", ["class token", "dense"])
def test_every_refusal_names_the_protocol_and_the_model(setting: str, net: str) -> None:
    module = nets.made(nets.Transformer, 1) if net == "class token" else nets.made(nets.Dense)
    model = attrlib.wrap_model(module, 16)
    with pytest.raises(ProtocolError, match=f"{setting} is not defined for {model.name}: "):
        PROTOCOLS[setting]().check(model)
    PROTOCOLS["difull"]().check(model)


def test_the_parameters_are_those_of_the_paper() -> None:
    for setting in SETTINGS:
        own = create(ProtocolSpec.parse(setting))
        assert (own.grid, own.confidence, own.smoothing) == (2, 0.99, 0)  # type: ignore[attr-defined]
        assert replace(own, grid=3).cells == (tuple(range(9)) if setting == "gridpg" else (0, 8))  # type: ignore[call-arg, attr-defined]
        assert own.corners == (setting != "gridpg")  # type: ignore[attr-defined]
        assert own.items == "grids"
        for bad in ("grid=1", "grid=5", "confidence=1.5", "confidence=-0.1", "smoothing=-1"):
            with pytest.raises(SpecError):
                create(ProtocolSpec.parse(f"{setting}:{bad}"))


def test_the_cost_does_not_depend_on_the_name_of_a_layer_and_falls_with_its_depth() -> None:
    model = method_nets.model("resnet18")
    methods = [f"RISE@{layer}" for layer in ("Input", "layer1", "layer2", "Middle", "layer3", "layer4", "Final")]
    spec = RunSpec(ModelSpec("wrapped"), "photos", (ProtocolSpec.parse("difull"),), tuple(MethodSpec.parse(m) for m in methods))
    (group,), _ = find_evaluations(spec, type("Data", (), {"offers": ()})(), Evaluator(model, InMemoryCache()))
    seconds = {part.method_spec.layer: item_seconds(part, model, Probe(1.0, 2.5, 0)) for part in group.evaluations}
    assert seconds["Middle"] == seconds["layer2"]
    assert seconds["Final"] == seconds["layer4"]
    assert seconds["Input"] > seconds["layer1"] > seconds["layer2"] > seconds["layer3"] > seconds["layer4"]
