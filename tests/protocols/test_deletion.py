"""SDS, IDSDS and incremental deletion against plain loops, SciPy, and networks whose curve has a closed form."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import scipy.stats
import torch
from support import method_nets
from support.engine import evaluate_items
from support.method_nets import Linear, Rectified, made, pictures
from support.recorded import Recorded
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.engine.results import Score
from attrlib.errors import ProtocolError
from attrlib.methods import resolve
from attrlib.models import Layer
from attrlib.models.layers import Layout
from attrlib.protocols import Batch, EvalBatch, EvalContext, Explain, ExplanationRequest, Outcome, create
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec, digest

Model = attrlib.Classifier
SIZES = {"square": (32, 32), "wide": (24, 44)}
TARGETS = (2, 0, 4)


def given(maps: Tensor, kind: str = "NCHW") -> Explain:
    """A method that always returns the given maps (B,1,h,w)."""
    layer = Layer("given", "given", Layout(kind, 1, *maps.shape[2:]))  # type: ignore[arg-type]
    return lambda request: (maps, layer)


def evaluate(
    protocol: str,
    model: Model,
    images: Tensor,
    targets: Sequence[int],
    explain: Explain | str,
    ids: Sequence[str] = (),
    seed: int = 0,
) -> list[Outcome]:
    """Return the outcomes of a protocol for a method, or for given maps, without the engine."""
    own, context = create(ProtocolSpec.parse(protocol)), EvalContext(model, seed)
    if isinstance(explain, str):
        explain = Evaluator(model, InMemoryCache(), seed).explainer(resolve(MethodSpec.parse(explain)))
    labels = torch.tensor(list(targets))
    batch = Batch(tuple(ids) or tuple(f"image {i}" for i in range(len(images))), images, labels)
    measured = {m: m.measure(context, batch, labels) for m in own.measurements}
    return own.evaluate(EvalBatch(context, batch, labels, measured, explain))


def values(outcomes: Sequence[Outcome]) -> np.ndarray:
    return np.array([outcome.value for outcome in outcomes])


def steep() -> nn.Module:
    """Two convolutions with a head whose probabilities vary."""
    net = made(Rectified, torch.tanh)
    with torch.no_grad():
        net.fc.weight *= 40
    return net


def recorded(size: tuple[int, int]) -> tuple[Model, list[Tensor]]:
    module = Recorded(steep()).eval()
    model = attrlib.wrap_model(module, size)
    # The probes of the model run once, before the first result.
    _ = model.behaviour
    module.seen.clear()
    return model, module.seen


def replaced(seen: Sequence[Tensor], images: Tensor) -> Tensor:
    """Return the values that replaced the pixels of the images, each of which was deleted at least once."""
    found = torch.full_like(images, math.nan)
    for shown in seen:
        found = torch.where(shown != images, shown, found)
    return found


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    return SIZES[request.param]


def steep_model(size: tuple[int, int]) -> Model:
    return attrlib.wrap_model(steep(), size)


def noise_maps(size: tuple[int, int], count: int = 3, seed: int = 5) -> Tensor:
    return pictures(count, *size, seed=seed)[:, :1]


# What replaces deleted pixels ------------------------------------------------------------------------------------------


def scipy_blur(images: Tensor) -> Tensor:
    """A Gaussian of sigma 58 over 51 pixels, or over as many as reflection without the border pixel allows."""
    values = images.double().numpy()
    for axis in (2, 3):
        half = min(25, images.shape[axis] - 1)
        kernel = scipy.stats.norm.pdf(np.arange(-half, half + 1), scale=58)
        values = scipy.ndimage.convolve1d(values, kernel / kernel.sum(), axis=axis, mode="mirror")
    return torch.from_numpy(values).float()


@pytest.mark.parametrize("size", [(64, 64), (224, 56), (48, 80), (30, 44), (12, 20)])
def test_the_blurred_baseline_is_a_gaussian_of_sigma_58_reflected_at_the_border(size: tuple[int, int]) -> None:
    model, seen = recorded(size)
    images = pictures(2, *size)
    evaluate("sds:grid=2:baseline=blur", model, images, [0, 1], given(noise_maps(size, 2)))
    found = replaced(seen, images)
    assert torch.allclose(found, scipy_blur(images), atol=1e-4)
    if min(size) > 50:
        assert torch.allclose(found, gaussian_blur(images, [51, 51], [58.0, 58.0]), atol=1e-4)


def test_deleted_patches_are_zero_the_mean_colour(size: tuple[int, int]) -> None:
    model, seen = recorded(size)
    images = pictures(2, *size)
    evaluate("sds", model, images, [0, 1], given(noise_maps(size, 2)))
    assert (replaced(seen, images) == 0).all()


def random_baseline(protocol: str, images: Tensor, ids: Sequence[str], seed: int = 0) -> Tensor:
    size = (images.shape[2], images.shape[3])
    model, seen = recorded(size)
    evaluate(protocol, model, images, [0] * len(images), given(noise_maps(size, len(images))), ids, seed)
    return replaced(seen, images)


def test_the_random_baseline_is_uniform_and_depends_only_on_the_seed_and_the_image(size: tuple[int, int]) -> None:
    images, ids = pictures(2, *size), ("a", "b")
    found = random_baseline("sds:grid=4:baseline=random", images, ids)
    assert scipy.stats.kstest(found.flatten(), scipy.stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert abs(np.corrcoef(found.flatten(1))[0, 1]) < 0.1
    assert abs(np.corrcoef(found[0].flatten(1))).sum() - 3 < 0.3
    assert torch.equal(random_baseline("sds:grid=2:baseline=random", images.flip(0), ids[::-1]).flip(0), found)
    assert torch.equal(random_baseline("sds:grid=4:baseline=random", images[1:], ids[1:]), found[1:])
    assert (random_baseline("sds:grid=4:baseline=random", images, ids, seed=1) != found).float().mean() > 0.99
    assert (random_baseline("sds:grid=4:baseline=random", images, ("c", "d")) != found).float().mean() > 0.99


# Single deletion -------------------------------------------------------------------------------------------------------


def sign_of(maps: np.ndarray, sign: str) -> np.ndarray:
    return {"signed": maps, "positive": np.where(maps > 0, maps, 0), "absolute": np.abs(maps)}[sign]


def cell_slices(size: tuple[int, int], grid: int) -> list[tuple[slice, slice]]:
    """Row by row."""
    rows, columns = (np.arange(0, side + 1, side // grid) for side in size)
    return [(slice(*rows[i : i + 2]), slice(*columns[j : j + 2])) for i in range(grid) for j in range(grid)]


def single_deletion(
    model: Model, images: Tensor, targets: Sequence[int], maps: Tensor, instead: Tensor, grid: int, output: str, sign: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the correlations and the sums of the patches, from one forward pass for the images and one for each deleted patch."""
    where = cell_slices((images.shape[2], images.shape[3]), grid)
    logits = [model(images).detach()]
    for rows, columns in where:
        deleted = images.clone()
        deleted[:, :, rows, columns] = instead[:, :, rows, columns]
        logits.append(model(deleted).detach())
    correlations, sums = [], []
    for i, target in enumerate(targets):
        of_image = np.array([each[i].double().numpy() for each in logits])
        outputs = scipy.special.softmax(of_image, axis=1)[:, target] if output == "probability" else of_image[:, target]
        own = sign_of(maps[i, 0].double().numpy(), sign)
        sums.append([own[rows, columns].sum() for rows, columns in where])
        correlations.append(scipy.stats.spearmanr(outputs[0] - outputs[1:], sums[-1]).statistic)
    return np.array(correlations), np.array(sums)


CASES = [
    (2, "zeros", "logit", "signed"),
    (3, "zeros", "logit", "absolute"),
    (4, "zeros", "logit", "signed"),
    (4, "zeros", "probability", "positive"),
    (4, "random", "logit", "absolute"),
    (4, "blur", "probability", "signed"),
    (7, "zeros", "probability", "signed"),
    (7, "random", "logit", "positive"),
]


@pytest.mark.parametrize(("grid", "baseline", "output", "sign"), CASES)
@pytest.mark.parametrize("cell", [(8, 8), (5, 9)])
def test_sds_matches_a_plain_loop(cell: tuple[int, int], grid: int, baseline: str, output: str, sign: str) -> None:
    size = (grid * cell[0], grid * cell[1])
    model, seen = recorded(size)
    images, maps = pictures(3, *size), noise_maps(size)
    found = evaluate(f"sds:grid={grid}:baseline={baseline}:output={output}:sign={sign}", model, images, TARGETS, given(maps))
    assert sum(map(len, seen)) == 3 * (1 + grid**2)
    expected, sums = single_deletion(model, images, TARGETS, maps, replaced(seen, images), grid, output, sign)
    assert np.abs(expected).max() > 0.05, "a comparison with zeros proves nothing"
    assert np.allclose(values(found), expected, rtol=0, atol=1e-9)
    assert np.allclose([outcome.details["sums"] for outcome in found], sums)


def test_the_class_is_the_label_or_the_prediction() -> None:
    size = SIZES["wide"]
    model, images = steep_model(size), pictures(6, *size)
    predicted = model(images).argmax(1).tolist()
    labels = [(k + 1) % method_nets.CLASSES for k in predicted]
    units = [EvalItem(f"u{i}", (i,), (label,)) for i, label in enumerate(labels)]
    batch = Batch(tuple(u.id for u in units), images, torch.tensor(labels))
    for target, classes in (("label", labels), ("prediction", predicted)):
        records = evaluate_items(
            Evaluator(model, InMemoryCache()),
            create(ProtocolSpec.parse(f"sds:target={target}")),
            resolve(MethodSpec("Gradient")),
            units,
            batch,
        )
        maps = attrlib.explain(model, images, "Gradient", classes).maps
        expected, _ = single_deletion(model, images, classes, maps, torch.zeros_like(images), 4, "logit", "signed")
        assert np.allclose([record.value for record in records.values()], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("grid", [2, 4, 7])
@pytest.mark.parametrize("method", ["IxG", "IG:steps=3"])
def test_input_x_gradient_of_a_linear_model_scores_exactly_1(grid: int, method: str) -> None:
    size = (4 * grid, 6 * grid)
    model = attrlib.wrap_model(made(Linear, *size), size)
    found = evaluate(f"sds:grid={grid}", model, pictures(3, *size), TARGETS, method)
    assert values(found) == pytest.approx([1, 1, 1], abs=1e-12)
    assert values(evaluate(f"sds:grid={grid}", model, -pictures(3, *size), TARGETS, method)) == pytest.approx([1, 1, 1], abs=1e-12)


class Counts(nn.Module):
    """Integer logits: the number of bright pixels in a quarter of the image. Most patches tie."""

    def forward(self, x: Tensor) -> Tensor:
        quarter = x[:, 0, : x.shape[2] // 2, : x.shape[3] // 2]
        return torch.stack([(quarter > 0.8).flatten(1).sum(1), (quarter < -0.8).flatten(1).sum(1)], 1).float()


def test_ties_on_both_sides_get_average_ranks() -> None:
    size = (16, 16)
    model, images = attrlib.wrap_model(Counts(), size), pictures(4, *size)
    maps = (pictures(4, 2, 2)[:, :1] * 2).round().repeat_interleave(8, 2).repeat_interleave(8, 3)
    found = evaluate("sds", model, images, [0, 1, 0, 1], given(maps))
    expected, sums = single_deletion(model, images, [0, 1, 0, 1], maps, torch.zeros_like(images), 4, "logit", "signed")
    assert all(len(set(row)) <= 4 for row in sums)
    assert np.isfinite(expected).all()
    assert np.allclose(values(found), expected, rtol=0, atol=1e-9)


def test_softmax_drops_differ_when_the_probability_is_nearly_1() -> None:
    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([20 + 0.1 * x.sum((1, 2, 3)) / x[0].numel() ** 0.5, torch.zeros(len(x))], 1)

    model, images = attrlib.wrap_model(Sure(), 16), pictures(3, 16)
    found = evaluate("sds:output=probability", model, images, [0, 0, 0], "IxG")
    assert values(found) == pytest.approx([1, 1, 1], abs=1e-12)


def bilinear(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (B,h,w) bilinearly between the centres of pixels, constant beyond the outermost ones."""
    for axis, side in ((1, size[0]), (2, size[1])):
        own = maps.shape[axis]
        places = (np.arange(side) + 0.5) * own / side - 0.5
        maps = np.apply_along_axis(lambda line, own=own, places=places: np.interp(places, np.arange(own), line), axis, maps)
    return maps


@pytest.mark.parametrize(("small", "size"), [((7, 7), (224, 224)), ((3, 5), (28, 44)), ((16, 16), (32, 32)), ((9, 6), (28, 44))])
def test_a_low_resolution_map_is_magnified_bilinearly(small: tuple[int, int], size: tuple[int, int]) -> None:
    model = attrlib.wrap_model(made(Linear, *size), size)
    maps = pictures(2, *small, seed=3)[:, :1]
    found = evaluate("sds", model, pictures(2, *size), [0, 1], given(maps))
    large = bilinear(maps[:, 0].double().numpy(), size)
    expected = [[large[i][cell].sum() for cell in cell_slices(size, 4)] for i in range(2)]
    assert np.allclose([o.details["sums"] for o in found], expected, atol=1e-3)


def test_a_cam_is_magnified_bilinearly_and_tokens_keep_their_squares() -> None:
    images = pictures(2, 64)
    for name, method in (("functional", "Grad-CAM"), ("vit_tiny", "IxG@Middle")):
        model = method_nets.model(name)
        maps = attrlib.explain(model, images, method, [1, 3]).maps[:, 0].double().numpy()
        large = bilinear(maps, (64, 64)) if name == "functional" else np.kron(maps, np.ones((64 // maps.shape[1],) * 2))
        found = evaluate("sds", model, images, [1, 3], method)
        expected = [[large[i][cell].sum() for cell in cell_slices((64, 64), 4)] for i in range(2)]
        assert np.ptp(expected) > 0
        assert np.allclose([o.details["sums"] for o in found], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_token_keeps_its_value_where_patch_borders_cut_its_square() -> None:
    maps = pictures(2, 4)[:, :1]
    found = evaluate("sds:grid=3", steep_model((24, 24)), pictures(2, 24), [0, 1], given(maps, "tokens"))
    large = np.kron(maps[:, 0].double().numpy(), np.ones((6, 6)))
    expected = [[large[i][cell].sum() for cell in cell_slices((24, 24), 3)] for i in range(2)]
    assert np.allclose([o.details["sums"] for o in found], expected)


# Undefined -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", ["signed", "positive", "absolute"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1 / 3, 3.1e-5, -7e8])
@pytest.mark.parametrize("grid", [4, 7])
def test_a_constant_map_is_undefined_at_the_size_of_the_input(grid: int, value: float, sign: str) -> None:
    size = (8 * grid, 9 * grid)
    found = evaluate(f"sds:grid={grid}:sign={sign}", steep_model(size), pictures(2, *size), [0, 1], given(torch.full((2, 1, *size), value)))
    assert np.isnan(values(found)).all()


@pytest.mark.parametrize("kind", ["NCHW", "NHWC", "tokens"])
@pytest.mark.parametrize(("small", "side"), [(7, 224), (14, 224), (8, 64), (6, 64), (16, 64), (5, 20), (12, 380), (9, 300)])
def test_a_constant_map_is_undefined_at_the_resolution_of_every_layer(small: int, side: int, kind: str) -> None:
    constants = torch.cat([torch.tensor([0.0, 1.0, 0.1, -1 / 3]), pictures(1, 2, 2).flatten()])
    maps = constants.view(-1, 1, 1, 1).expand(-1, 1, small, small).contiguous()
    count = len(constants)
    protocol, context, batch = create(ProtocolSpec("sds")), EvalContext(steep_model((20, 20))), Batch(("",) * count, *empty(count, side))
    outputs = torch.arange(17.0).repeat(count, 1)
    work = EvalBatch(context, batch, batch.labels, {protocol.measurements[0]: {"logit": outputs}}, given(maps, kind))
    assert np.isnan(values(protocol.evaluate(work))).all()


def empty(count: int, side: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(1, 3, side, side).expand(count, -1, -1, -1), torch.zeros(count, dtype=torch.long)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_only_images_with_a_non_finite_map_or_a_constant_output_are_undefined(broken: float) -> None:
    size = (16, 16)
    images, maps = pictures(4, *size), noise_maps(size, 4)
    maps[1, 0, 3, 5] = broken
    images[2] = 0
    model = steep_model(size)
    assert np.isnan(values(evaluate("sds", model, images, [0, 1, 2, 3], given(maps)))).tolist() == [False, True, True, False]
    constant = steep()
    nn.init.zeros_(constant.fc.weight)
    outcomes = evaluate("sds", attrlib.wrap_model(constant, size), images, [0] * 4, given(noise_maps(size, 4)))
    assert np.isnan(values(outcomes)).all()


class Overflows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x[:, 0, :2, :2].flatten(1) * 1e38) * 1e38 * torch.tensor([0.0, 1.0, 1.0, 1.0])


def test_an_image_whose_output_overflows_is_undefined() -> None:
    model = attrlib.wrap_model(Overflows(), 16)
    assert np.isnan(values(evaluate("sds", model, pictures(2, 16), [1, 0], given(noise_maps((16, 16), 2))))).all()


def test_undefined_images_are_counted_and_left_out_or_count_as_zero() -> None:
    scores = {}
    for policy in ("drop", "zero"):
        spec = ProtocolSpec.parse(f"sds:undefined={policy}")
        run = RunSpec(ModelSpec("tiny"), "data", (spec,), (MethodSpec("IxG"),))
        each = np.array([0.5, math.nan, -0.2, math.nan, 0.9])
        scores[policy] = Score(run, create(spec), each, tuple("abcde"), tuple((i,) for i in range(5)), ({},) * 5)
        assert scores[policy].undefined == 2
    assert scores["drop"].mean == pytest.approx(0.4)
    assert scores["drop"].ci95 == pytest.approx(scipy.stats.t.interval(0.95, 2, 0.4, scipy.stats.sem([0.5, -0.2, 0.9])))
    assert scores["zero"].mean == pytest.approx(0.24)
    assert create(ProtocolSpec("idsds")).undefined_value != 0, "the reference leaves them out"


# Chance, and the model's domain ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [2, 4])
def test_random_maps_are_at_chance(grid: int) -> None:
    images, count = pictures(600, 16), 600
    model = steep_model((16, 16))
    units = [EvalItem(f"u{i}", (i,), (i % 5,)) for i in range(count)]
    batch = Batch(tuple(u.id for u in units), images, torch.tensor([u.labels[0] for u in units]))
    bench, protocol = Evaluator(model, InMemoryCache(), rows=200), create(ProtocolSpec.parse(f"sds:grid={grid}"))
    records = evaluate_items(bench, protocol, resolve(MethodSpec("Random")), units, batch)
    found = np.array([record.value for record in records.values()])
    spread = 1 / (grid**2 - 1) ** 0.5
    assert abs(found.mean() - protocol.chance_level) < 3 * spread / count**0.5
    assert found.std() == pytest.approx(spread, rel=0.1)


def test_idsds_is_refused_with_advice_on_a_model_that_is_not_deletion_tuned() -> None:
    module = made(Rectified, torch.tanh)
    with pytest.raises(ProtocolError, match=r"(?s)Rectified was not fine-tuned.*use sds.*fine-tune the model on deleted patches"):
        create(ProtocolSpec("idsds")).check(attrlib.wrap_model(module, 16))
    create(ProtocolSpec("idsds")).check(attrlib.wrap_model(module, 16, deletion_tuned=True))
    create(ProtocolSpec("sds")).check(attrlib.wrap_model(module, 16))


@pytest.mark.parametrize("name", ["sds", "idsds"])
@pytest.mark.parametrize(
    ("size", "grid", "advice"), [((8, 20), 3, "grid=2, 4$"), ((8, 20), 8, "grid=2, 4$"), ((9, 9), 4, "grid=3, 9$"), ((13, 9), 2, "")]
)
def test_a_grid_that_does_not_divide_the_images_into_equal_patches_is_refused_and_valid_grids_are_named(
    name: str, size: tuple[int, int], grid: int, advice: str
) -> None:
    model = attrlib.wrap_model(made(Linear, *size), size, deletion_tuned=True)
    with pytest.raises(ProtocolError, match=rf"^{name}: .*{size[0]} x {size[1]} px.*{grid} x {grid} equal patches.*{advice}"):
        create(ProtocolSpec.parse(f"{name}:grid={grid}")).check(model)
    for fitting in advice.removeprefix("grid=").removesuffix("$").split(", "):
        if fitting:
            create(ProtocolSpec.parse(f"{name}:grid={fitting}")).check(model)


def test_sds_idsds_and_both_policies_share_scores_and_all_methods_share_the_outputs() -> None:
    model, seen = recorded((16, 16))
    model.deletion_tuned = True
    bench, images = Evaluator(model, InMemoryCache()), pictures(3, 16)
    units = [EvalItem(f"u{i}", (i,), (i,)) for i in range(3)]
    batch = Batch(tuple(u.id for u in units), images, torch.arange(3))
    found, keys, passes = [], set(), []
    for protocol in ("sds", "idsds", "sds:undefined=zero", "idsds:output=logit"):
        for method in ("Random", "Sobel"):
            own, spec = create(ProtocolSpec.parse(protocol)), resolve(MethodSpec(method))
            keys.add(digest(bench.keys.score(own, spec)))
            seen.clear()
            found.append([record.value for record in evaluate_items(bench, own, spec, units, batch).values()])
            passes.append(sum(map(len, seen)))
    assert len(keys) == 2
    assert found[0::2] == [found[0]] * 4
    assert found[1::2] == [found[1]] * 4
    assert passes[:1] == [3 * 17]
    assert not any(passes[2:]), "outputs that are known were computed again"
    assert sum(passes[1:2]) <= 3 * 17


# Incremental deletion --------------------------------------------------------------------------------------------------


class Additive(nn.Module):
    """Logit 0 is the sum over pixels and channels of weight times value, logit 1 is 0."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, height, width) / (height * width) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        total = (self.weight * x).sum((1, 2, 3))
        return torch.stack([total, torch.zeros_like(total)], 1)


def contributions(model: Model, images: Tensor) -> Tensor:
    return (model.module.weight.detach() * images).sum(1, keepdim=True)


ADDITIVE = (6, 10)
COMBINATIONS = [(mode, order) for mode in ("deletion", "insertion") for order in ("ascending", "descending")]


@pytest.mark.parametrize(("mode", "order"), COMBINATIONS)
@pytest.mark.parametrize("steps", [2, 7, 32, 60, 75])
def test_the_curve_of_an_additive_model_has_a_closed_form(mode: str, order: str, steps: int) -> None:
    model = attrlib.wrap_model(made(Additive, *ADDITIVE), ADDITIVE)
    images = pictures(3, *ADDITIVE)
    maps = contributions(model, images)
    found = evaluate(f"ids:mode={mode}:order={order}:steps={steps}", model, images, [0, 0, 1], given(maps))
    counts = np.array([math.floor(60 * i / steps) for i in range(steps)])
    for outcome, own, target in zip(found, maps.double().numpy().reshape(3, 60), [0, 0, 1], strict=True):
        ordered = np.sort(own) if order == "ascending" else np.sort(own)[::-1]
        done = np.concatenate([[0], np.cumsum(ordered)])[counts]
        logit = own.sum() - done if mode == "deletion" else done
        expected = scipy.special.expit(logit if target == 0 else -logit)
        assert np.allclose(outcome.details["curve"], expected, atol=1e-5)
        assert outcome.value == pytest.approx(expected.mean(), abs=1e-5)
        assert np.ptp(expected) > 0.04


@pytest.mark.parametrize(("mode", "order"), COMBINATIONS)
def test_higher_or_lower_is_better_depending_on_mode_and_order(mode: str, order: str) -> None:
    model = attrlib.wrap_model(made(Additive, *ADDITIVE), ADDITIVE)
    images = pictures(3, *ADDITIVE)
    protocol = f"ids:mode={mode}:order={order}"
    right, wrong = (values(evaluate(protocol, model, images, [0] * 3, given(s * contributions(model, images)))) for s in (1, -1))
    better = create(ProtocolSpec.parse(protocol)).higher_is_better
    assert better == ((mode, order) in [("deletion", "ascending"), ("insertion", "descending")])
    assert ((right > wrong) == better).all()


def incremental(
    model: Model, images: Tensor, maps: Callable[[Tensor], Tensor], instead: Tensor, targets: Sequence[int], mode: str, order: str,
    steps: int, sign: str, update: bool,
) -> np.ndarray:  # fmt: skip
    """The curves (B,steps), image by image, pixel by pixel."""
    begin, end = (images, instead) if mode == "deletion" else (instead, images)
    pixels, curves = images[0, 0].numel(), []
    for i, target in enumerate(targets):
        ranked, current, done, curve = maps(images[i : i + 1]), begin[i : i + 1].clone(), [], []
        for step in range(steps):
            if update and step:
                ranked = maps(current)
            own = sign_of(ranked.double().numpy().ravel(), sign)
            order_of_all = np.argsort(own if order == "ascending" else -own, kind="stable")
            left = [p for p in order_of_all.tolist() if p not in done]
            done += left[: int(np.floor(pixels * step / steps)) - len(done)]
            for p in done:
                at = divmod(p, images.shape[3])
                current[0, :, at[0], at[1]] = end[i, :, at[0], at[1]]
            curve.append(float(model(current).detach().double().softmax(1)[0, target]))
        curves.append(curve)
    return np.array(curves)


def reacting(images: Tensor) -> Tensor:
    """Maps that follow the picture even where it was deleted, where they are neither lowest nor highest."""
    return (images[:, :1] - 0.7 * images[:, 1:2].roll(1, 3) + 0.3).sin()


@pytest.mark.parametrize(("mode", "order"), COMBINATIONS)
@pytest.mark.parametrize(
    ("baseline", "sign", "update"),
    [
        ("zeros", "signed", False),
        ("random", "absolute", False),
        ("blur", "positive", False),
        ("zeros", "signed", True),
        ("random", "absolute", True),
    ],
)
def test_ids_matches_a_plain_loop(mode: str, order: str, baseline: str, sign: str, update: bool) -> None:
    size = (8, 12)
    model, images = steep_model(size), pictures(2, *size)
    layer = Layer("given", "given", Layout("NCHW", 1, *size))
    asked: list[Tensor] = []

    def explain(request: ExplanationRequest) -> tuple[Tensor, Layer]:
        asked.append(request.images)
        assert request.targets.tolist() == [[3], [1]]
        return reacting(request.images), layer

    options = f"mode={mode}:order={order}:steps=9:baseline={baseline}:sign={sign}:update={update}"
    found = evaluate(f"ids:{options}", model, images, [3, 1], explain)
    instead = {
        "zeros": torch.zeros_like(images),
        "blur": scipy_blur(images),
        "random": random_baseline("ids:mode=insertion:steps=2:baseline=random", images, ["image 0", "image 1"]),
    }[baseline]
    assert update or len(asked) == 1
    expected = incremental(model, images, reacting, instead, [3, 1], mode, order, 9, sign, update)
    assert np.ptp(expected, axis=1).min() > 0.005
    assert np.allclose([o.details["curve"] for o in found], expected, atol=1e-5)
    assert values(found) == pytest.approx(expected.mean(1), abs=1e-6)


@pytest.mark.parametrize("update", [False, True])
def test_deleted_pixels_stay_deleted_and_their_number_is_rounded_down(update: bool) -> None:
    size = (7, 9)
    model, seen = recorded(size)
    images = pictures(2, *size)
    layer = Layer("given", "given", Layout("NCHW", 1, *size))
    evaluate(f"ids:steps=11:update={update}", model, images, [0, 1], lambda request: (reacting(request.images), layer))
    gone = torch.stack([(shown == 0).all(1) for shown in seen[-11:]])
    assert gone.flatten(2).sum(2).tolist() == [[math.floor(63 * i / 11)] * 2 for i in range(11)]
    assert (gone[1:] >= gone[:-1]).all()


@pytest.mark.parametrize("steps", [4, 12, 60])
def test_insertion_of_the_most_relevant_is_deletion_of_the_least_relevant_read_backwards(steps: int) -> None:
    model = steep_model(ADDITIVE)
    images, maps = pictures(3, *ADDITIVE), noise_maps(ADDITIVE)
    curves = {
        name: np.array([o.details["curve"] for o in evaluate(f"ids:{name}:steps={steps}", model, images, TARGETS, given(maps))])
        for name in ("mode=deletion:order=ascending", "mode=insertion:order=descending", "mode=deletion", "mode=deletion:order=descending")
    }
    deleted, inserted, default, other = curves.values()
    assert np.allclose(inserted[:, 1:], deleted[:, :0:-1], atol=1e-6)
    assert np.array_equal(default, deleted)
    assert not np.allclose(other, deleted, atol=1e-3)


@pytest.mark.parametrize(("mode", "order"), COMBINATIONS)
@pytest.mark.parametrize("levels", [1, 3])
def test_ties_are_broken_in_reading_order(mode: str, order: str, levels: int) -> None:
    size = (6, 8)
    model, seen = recorded(size)
    images = pictures(1, *size)
    maps = torch.arange(48).remainder(levels).view(1, 1, *size).float()
    evaluate(f"ids:mode={mode}:order={order}:steps=6", model, images, [0], given(maps))
    key = maps.flatten().int().tolist()
    ranked = sorted(range(48), key=lambda p: (key[p] if order == "ascending" else -key[p], p))
    for step, shown in enumerate(seen[-6:]):
        changed = (shown == 0).all(1).flatten() if mode == "deletion" else (shown != 0).all(1).flatten()
        assert changed.nonzero()[:, 0].tolist() == sorted(ranked[: 8 * step])


def test_ids_ranks_the_pixels_of_the_resized_map() -> None:
    # Magnified four times, multiples of 1/16 have values that float32 holds exactly, so that equal pixels stay equal.
    size = (12, 16)
    model, small = steep_model(size), (16 * noise_maps((3, 4), 2)).round() / 16
    large = torch.from_numpy(bilinear(small[:, 0].double().numpy(), size))[:, None]
    images = pictures(2, *size)
    for kind, maps in (("NCHW", large), ("tokens", small.repeat_interleave(4, 2).repeat_interleave(4, 3))):
        assert np.allclose(
            values(evaluate("ids", model, images, [0, 1], given(small, kind))),
            values(evaluate("ids", model, images, [0, 1], given(maps))),
            atol=1e-4,
        )


@pytest.mark.parametrize("update", [False, True])
def test_ids_of_a_map_that_is_not_finite_is_undefined(update: bool) -> None:
    size = (8, 8)
    fine, broken = noise_maps(size), noise_maps(size)
    broken[1, 0, 2, 2] = math.nan
    calls = iter([fine, fine, broken, fine] if update else [broken])
    layer = Layer("given", "given", Layout("NCHW", 1, *size))
    found = values(
        evaluate(f"ids:steps=4:update={update}", steep_model(size), pictures(3, *size), TARGETS, lambda _: (next(calls, fine), layer))
    )
    assert np.isnan(found).tolist() == [False, True, False]


def test_the_defaults_are_those_of_the_paper() -> None:
    ids, idsds = create(ProtocolSpec("ids")), create(ProtocolSpec("idsds"))
    assert (ids.mode, ids.order, ids.steps, ids.baseline, ids.update, ids.higher_is_better) == (
        "deletion",
        "ascending",
        32,
        "zeros",
        False,
        True,
    )
    assert (idsds.grid, idsds.baseline, idsds.output, idsds.sign, idsds.undefined) == (4, "zeros", "logit", "signed", "drop")
    assert replace(idsds, undefined="zero").key() == idsds.key()
