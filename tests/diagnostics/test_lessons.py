"""Results and drawings of the lessons beyond the protocols, against plain loops, closed forms and NumPy."""

import re

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from support.nets import CLASSES, Plain, made
from torch import nn

from attrlib.data.images import Photo
from attrlib.diagnostics.infidelity_sweep import NoiseView, infidelity_by_noise
from attrlib.diagnostics.localisation_grid import GridMap, GridMaps, map_grid, smoothing_curves
from attrlib.diagnostics.mask_leakage import FOLDS, PENALTY, mask_leakage, read_classes
from attrlib.diagnostics.shared_deletion import delete_alike
from attrlib.diagnostics.small_benchmark import method_ranks, rank_correlations, score_at_once
from attrlib.diagnostics.target_slopes import target_slopes
from attrlib.engine.cache import InMemoryCache
from attrlib.errors import DataError, ProtocolError, SpecError, TargetError
from attrlib.figures.grids import draw_seen, mark_impossible
from attrlib.figures.lines import Axis, lines_svg
from attrlib.methods import resolve
from attrlib.postprocess import resize
from attrlib.protocols import create
from attrlib.protocols.context import EvalContext
from attrlib.protocols.faithfulness import noise
from attrlib.specs import AggregateView, MethodSpec, ProtocolSpec, TargetSpec

SIDE = 16


def photos(count: int, seed: int = 0) -> list[Photo]:
    draw = np.random.default_rng(seed)
    return [Photo(Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), np.uint8)), f"p{k}") for k in range(count)]


def model(seed: int = 0, **options) -> attrlib.Classifier:
    return attrlib.wrap_model(made(Plain, seed=seed), SIDE, crop=1.0, **options)


def spec(text: str) -> MethodSpec:
    return resolve(MethodSpec.parse(text))


# The same deletion


def test_patches_are_deleted_for_all_models_in_the_order_of_the_first_ones_map():
    models, shown, targets = [model(0), model(1)], photos(2), [3, 1]
    result = delete_alike(models, shown, targets, spec("IxG"), grid=4)
    assert result.probabilities.shape == (2, 2, 17)
    for column, (photo, target) in enumerate(zip(shown, targets, strict=True)):
        image = models[0].preprocess(photo.image)[None]
        map_ = attrlib.explain(models[0], photo, "IxG", target=target).maps[0, 0].double().numpy()
        order = np.argsort(-map_.reshape(4, 4, 4, 4).sum((1, 3)).ravel(), kind="stable")
        deleted = image.clone()
        for step in range(17):
            if step:
                row, col = divmod(int(order[step - 1]), 4)
                deleted[..., 4 * row : 4 * row + 4, 4 * col : 4 * col + 4] = 0
            for number, each in enumerate(models):
                with torch.no_grad():
                    expected = float(each(deleted.clone()).softmax(1)[0, target])
                assert float(result.probabilities[number, column, step]) == pytest.approx(expected, abs=1e-6)
    assert torch.allclose(result.curves, result.probabilities.sum(1) / 2)


def test_models_of_different_preprocessing_are_refused():
    with pytest.raises(ProtocolError, match="input size or normalisation"):
        delete_alike([model(), attrlib.wrap_model(made(Plain), SIDE, crop=0.5)], photos(1), [0], spec("IxG"))


# Leakage


def test_a_mask_is_the_highest_share_of_the_map():
    classifier, shown = model(), photos(10)
    result = mask_leakage(classifier, shown, [k % CLASSES for k in range(10)], spec("IxG"), 0.25)
    for k, photo in enumerate(shown):
        values = attrlib.explain(classifier, photo, "IxG", target=k % CLASSES).maps[0, 0].numpy()
        assert (result.masks[k].numpy() == (values > np.sort(values.ravel())[-SIDE * SIDE // 4 - 1])).all()
    assert result.chance == pytest.approx(0.2)
    assert result.read.n == 10


def test_classes_are_read_as_by_ridge_regression_on_the_other_folds():
    draw = np.random.default_rng(0)
    features, labels = draw.normal(size=(20, 3)), draw.integers(0, 3, 20)
    result = read_classes(torch.tensor(features), torch.tensor(labels)).numpy()
    one_hot = np.eye(3)[labels]
    for fold in range(FOLDS):
        held_out = np.arange(20) % FOLDS == fold
        x, y = features[~held_out] - features[~held_out].mean(0), one_hot[~held_out] - one_hot[~held_out].mean(0)
        # The primal form, as rows of zeros that pull the weights to zero.
        penalty = PENALTY * (x**2).sum() / len(x)
        weights = np.linalg.lstsq(np.vstack([x, np.sqrt(penalty) * np.eye(3)]), np.vstack([y, np.zeros((3, 3))]), rcond=None)[0]
        scores = (features[held_out] - features[~held_out].mean(0)) @ weights + one_hot[~held_out].mean(0)
        assert (result[held_out] == scores.argmax(1)).all()


def test_informative_features_predict_the_class_and_noise_does_not():
    labels = torch.arange(200) % 4
    assert (read_classes(torch.nn.functional.one_hot(labels).double(), labels) == labels).all()
    noisy = read_classes(torch.randn(200, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), labels)
    assert 0.1 < float((noisy == labels).double().mean()) < 0.4


@pytest.mark.parametrize(("count", "share", "error"), [(4, 0.1, DataError), (10, 0.0, SpecError), (10, 1.0, SpecError)])
def test_leakage_needs_pictures_and_a_share(count, share, error):
    with pytest.raises(error):
        mask_leakage(model(), photos(count), [0] * count, spec("Random"), share)


# Infidelity by noise


class Linear(nn.Module):
    """w . x for each class, without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bchw,kchw->bk", x, self.weight)


def test_infidelity_of_a_linear_model_is_the_squared_noise_along_the_difference_to_the_gradient():
    classifier, photo = attrlib.wrap_model(Linear(), SIDE, crop=1.0), photos(1)[0]
    maps = [attrlib.explain(classifier, photo, name, target=2, layer="Input") for name in ("Gradient", "Random")]
    stds = [0.01, 1.0]
    result = infidelity_by_noise(classifier, photo, maps, stds, samples=4, seed=5)
    gradient = classifier.module.weight[2].detach().double().sum(0)
    for column, std in enumerate(stds):
        drawn = torch.stack([noise(EvalContext(classifier, 5), photo.digest, k, (SIDE, SIDE), std)[0] for k in range(4)]).double()
        drops = (drawn * gradient).sum((1, 2))
        assert float(result.nothing[column]) == pytest.approx(float(drops.square().mean()), rel=1e-3)
        expected = ((drawn * maps[1].maps[0, 0].double()).sum((1, 2)) - drops).square().mean()
        assert float(result.raw[1, column]) == pytest.approx(float(expected), rel=1e-3)
        assert float(result.raw[0, column]) < 1e-6 * float(result.nothing[column])
        assert float(result.normalised[1, column]) <= float(result.nothing[column]) * (1 + 1e-9)
    seen = np.asarray(result.noisy[0], dtype=float) - np.asarray(photo.image, dtype=float)
    assert 0 < np.abs(seen).max() < 20 < np.abs(np.asarray(result.noisy[1], dtype=float) - np.asarray(photo.image, dtype=float)).max()


# Targets


def test_slopes_of_targets_of_a_linear_model_have_a_closed_form():
    classifier, photo, shares = attrlib.wrap_model(Linear(), SIDE, crop=1.0), photos(1)[0], (0.0, 0.01, 0.02, 1.0)
    specs = [TargetSpec.parse(text) for text in ("logit", "probability", "versus:other=4", "contrast:k=2:by=logits", "negative")]
    result = target_slopes(classifier, photo, 2, specs, shares)
    x, w = (
        classifier.preprocess(photo)[None].double().numpy().ravel(),
        classifier.module.weight.detach().double().numpy().reshape(CLASSES, -1),
    )
    near = sorted((k for k in range(CLASSES) if k != 2), key=lambda k: abs(w[k] @ x - w[2] @ x))[:2]
    weights = [
        np.eye(CLASSES)[2],
        None,
        np.eye(CLASSES)[2] - np.eye(CLASSES)[4],
        np.eye(CLASSES)[2] - np.eye(CLASSES)[near].mean(0),
        -np.eye(CLASSES)[2],
    ]
    for column, share in enumerate(shares):
        z = w @ (share * x)
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        for row, weight in enumerate(weights):
            value, gradient = (p[2], p[2] * (w[2] - p @ w)) if weight is None else (weight @ z, weight @ w)
            assert float(result.values[row, column]) == pytest.approx(value, rel=1e-3, abs=1e-5)
            assert float(result.slopes[row, column]) == pytest.approx(np.linalg.norm(gradient), rel=1e-3, abs=1e-5)
    assert result.less == ((), (), (4,), tuple(sorted(near)), (2,))


@pytest.mark.parametrize("text", ["channel:layer=Final", "versus:other=2", "versus"])
def test_slopes_need_targets_that_are_functions_of_the_logits(text):
    with pytest.raises(TargetError):
        target_slopes(model(), photos(1)[0], 2, [TargetSpec.parse(text)], [1.0])


# A few images at once


def test_scores_at_once_are_those_of_a_run(tmp_path):
    classifier = attrlib.wrap_model(made(Plain), 32, class_names=[f"c{k}" for k in range(CLASSES)], crop=1.0)
    draw = np.random.default_rng(0)
    for k in range(4):
        folder = tmp_path / "data" / f"c{k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{k}.png")
    data, methods, protocols = attrlib.load_dataset(tmp_path / "data"), ["IxG", "Random"], ["sds", "infidelity:samples=2"]
    result = score_at_once(classifier, data, [2, 0], [create(ProtocolSpec.parse(p)) for p in protocols], [spec(m) for m in methods], seed=3)
    from attrlib.store import Store

    run = attrlib.compare(protocols, classifier, methods, data, seed=3, store=Store(folder=tmp_path / "store"))
    scores = {(str(p), str(m)): s for (p, m), s in run.scores.items()}
    for row, protocol in enumerate(protocols):
        for column, method in enumerate(methods):
            known = dict(zip(scores[protocol, method].ids, scores[protocol, method].values, strict=True))
            assert result[row, column].tolist() == pytest.approx([known[data.item_id(k)] for k in (2, 0)], rel=1e-6)


def test_methods_are_ranked_by_their_means_as_scipy_ranks_them():
    protocols = [create(ProtocolSpec(name)) for name in ("sds", "infidelity", "mass")]
    scores = np.random.default_rng(0).integers(0, 4, (3, 7, 5)).astype(float)
    scores[0, 2, :3] = scores[1, 4] = np.nan
    places = method_ranks(torch.from_numpy(scores), protocols)
    for k, protocol in enumerate(protocols):
        means = [np.mean(row[~np.isnan(row)]) if not np.isnan(row).all() else np.nan for row in scores[k]]
        signed = np.nan_to_num(-np.array(means) if protocol.higher_is_better else np.array(means), nan=np.inf)
        assert places[k].tolist() == stats.rankdata(signed).tolist()
    correlations = rank_correlations(places)
    assert list(correlations) == [(0, 1), (0, 2), (1, 2)]
    for (a, b), value in correlations.items():
        assert value == pytest.approx(stats.spearmanr(places[a], places[b]).statistic, abs=1e-12)


def test_smoothing_moves_localisation_and_correlation_as_scipy_says():
    draw = torch.Generator().manual_seed(0)
    maps, reference = (
        GridMaps([GridMap(torch.randn(1, 1, side, side, generator=draw), (32, 32), 2, 1) for _ in range(2)]) for side in (32, 8)
    )
    curves = smoothing_curves(maps, reference, [0, 9])
    for k, view in enumerate((AggregateView(), AggregateView(smoothing=9))):
        shown = [each.shown(view) for each in maps.maps]
        assert curves.localisation[k] == pytest.approx(np.mean([score for _, score in shown]), abs=1e-12)
        large = [resize(each.maps, each.size)[0, 0] for each in reference.maps]
        expected = [stats.spearmanr(a.flatten(), b.flatten()).statistic for (a, _), b in zip(shown, large, strict=True)]
        assert curves.correlation[k] == pytest.approx(np.mean(expected), abs=1e-9)
    assert curves.localisation[0] != curves.localisation[1]


def test_infidelity_over_that_of_zeros_gives_order_and_what_is_no_better():
    raw, fitted, nothing = (
        np.array([[2.0, 3.9], [1.0, 8.0], [1.5, 2.0]]),
        np.array([[0.5, 1.0], [1.0, 4.0], [0.9, 3.0]]),
        np.array([1.0, 4.0]),
    )
    view = NoiseView(torch.from_numpy(raw), torch.from_numpy(fitted), torch.from_numpy(nothing), ())
    for flag, values in ((False, raw), (True, fitted)):
        assert np.array_equal(view.relative(flag), values / nothing)
        assert np.array_equal(view.order(flag), np.argsort(values / nothing, 0).T)
        assert np.array_equal(view.uninformative(flag), values / nothing > 0.9)


def test_missing_requirements_of_a_protocol_are_reported_at_once():
    classifier = attrlib.wrap_model(made(Plain), 32)
    with pytest.raises(DataError):
        score_at_once(classifier, "birds", [0], [create(ProtocolSpec("sds"))], [spec("IxG")])


# Grids


def test_attribution_outside_the_cell_is_all_but_the_cell():
    values = torch.arange(16.0).view(1, 1, 4, 4)
    outside = GridMap(values, (4, 4), 2, 1).outside
    expected = values[0, 0].clone()
    expected[:2, 2:] = 0
    assert torch.equal(outside, expected)


def test_outside_the_cell_in_difull_the_gradient_is_zero_and_random_is_not():
    classifier, shown = model(), photos(4)
    result = [
        map_grid(classifier, shown, ProtocolSpec("difull"), 2, 0, MethodSpec(name, "Input"), InMemoryCache())
        for name in ("Gradient", "Random")
    ]
    assert float(result[0].outside.abs().max()) == 0
    assert float(result[1].outside.abs().max()) > 0


def test_cells_that_are_not_seen_are_grey_and_the_others_as_they_were():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8))
    before = np.asarray(picture, dtype=float)
    whole, cut = (np.asarray(draw_seen(picture, 3, 2, faded), dtype=float) for faded in (0.0, 1.0))
    inner = (slice(120, 216), slice(120, 216))
    assert (whole[:112] == before[:112]).all()
    assert (cut[inner] == before[inner]).all()
    assert cut[:112].std() < 0.3 * before[:112].std()
    assert np.ptp(cut[:112], axis=2).max() <= 10 < np.ptp(before[:112], axis=2).mean()


def test_stripes_are_where_attribution_is_and_nowhere_else():
    outside = torch.zeros(64, 64)
    outside[32:, :] = -1.0
    outside[:16, :] = 0.01
    drawn = np.asarray(mark_impossible(Image.new("RGB", (64, 64), (250, 250, 250)), outside, 1.0)).astype(int)
    assert (drawn[:30] == 250).all()
    striped = (drawn[34:] != 250).any(2)
    assert 0.4 < striped.mean() < 0.8
    assert (np.asarray(mark_impossible(Image.new("RGB", (8, 8)), torch.zeros(8, 8), 0.0)) == 0).all()


# Lines


def points(svg: str) -> list[list[tuple[float, float]]]:
    return [[tuple(map(float, p.split(","))) for p in line.split()] for line in re.findall(r'<polyline points="([^"]+)"', svg)]


def test_a_line_runs_through_its_values_and_is_named_at_its_end():
    svg = lines_svg({"a": [0, 1, 0.5], "b < c": [0.25, float("nan"), 0.25]}, ["x", "y", "z"], Axis("v", 0, 1), at=1)
    (low, high, middle), gap = points(svg)
    assert high[1] < middle[1] < low[1]
    assert middle[1] == pytest.approx((low[1] + high[1]) / 2, abs=0.1)
    assert high[0] - low[0] == pytest.approx(middle[0] - high[0], abs=0.3)
    assert len(gap) == 2
    assert ">b &lt; c</text>" in svg
    assert svg.count("<circle") == 5


def test_ranks_run_down_and_a_log_scale_has_equal_steps_for_equal_factors():
    (first, second), (third, _) = points(lines_svg({"a": [1, 3], "b": [2, 2]}, ["x", "y"], Axis("rank", 1, 3, down=True)))
    assert first[1] < third[1] < second[1]
    ((a, b, c),) = points(lines_svg({"a": [1e-4, 1e-2, 1]}, ["x", "y", "z"], Axis("v", log=True)))
    assert a[1] - b[1] == pytest.approx(b[1] - c[1], abs=0.2)


def test_values_that_a_log_scale_cannot_show_are_left_out_and_no_values_draw_an_empty_chart():
    assert [len(line) for line in points(lines_svg({"a": [0, 1, 10]}, ["x", "y", "z"], Axis("v", log=True)))] == [2]
    assert points(lines_svg({"a": [float("nan")] * 2}, ["x", "y"], Axis("v"))) == []


def test_names_at_one_height_do_not_cover_each_other():
    svg = lines_svg({name: [1, 1] for name in "abcde"}, ["x", "y"], Axis("v", 0, 1))
    heights = sorted(float(y) for y in re.findall(r'y="([\d.]+)"[^>]*font-weight="bold"', svg))
    assert len(heights) == 5
    assert min(np.diff(heights)) >= 15
