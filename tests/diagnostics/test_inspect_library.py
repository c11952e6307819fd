"""Results and drawings of Inspect's tools against plain loops, SciPy and the protocols."""

import math
from xml.etree import ElementTree

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from support.engine import evaluate_items
from support.nets import Plain, made
from torch import Tensor

from attrlib.data.images import Photo, open_photo
from attrlib.diagnostics.deletion_curve import STEPS, delete_in_order
from attrlib.diagnostics.map_comparison import compare_maps, twin_correlation
from attrlib.diagnostics.single_deletion import cell_outputs, cell_score
from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.errors import Cancelled, ProtocolError
from attrlib.figures.cells import cell_scatter, draw_cells, short
from attrlib.figures.colours import table
from attrlib.figures.deletion import NEXT, curve_svg, draw_deleted
from attrlib.methods import Attribution, resolve
from attrlib.protocols import Batch, create
from attrlib.specs import MethodSpec, ProtocolSpec, TargetSpec, ViewSpec
from pages.shared import selection

HEIGHT, WIDTH, TARGET = 16, 24, 2
VIEW = ViewSpec(clip=100.0)


@pytest.fixture(scope="module")
def model() -> attrlib.Classifier:
    return attrlib.wrap_model(made(Plain), (HEIGHT, WIDTH))


@pytest.fixture(scope="module")
def photo() -> Photo:
    return open_photo(Image.fromarray(np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8)))


@pytest.fixture(scope="module")
def attribution(model, photo) -> Attribution:
    return attrlib.explain(model, photo, "IxG", target=TARGET)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def logits(model: attrlib.Classifier, image: Tensor) -> np.ndarray:
    with torch.no_grad():
        return model.module(image[None])[0].double().numpy()


def probability(model: attrlib.Classifier, image: Tensor) -> float:
    return float(scipy.special.softmax(logits(model, image))[TARGET])


def official(protocol: str, model: attrlib.Classifier, photo: Photo, method: str):
    """Return a photo's score as a run gives it."""
    images = model.preprocess(photo.image)[None]
    batch, unit = Batch((photo.digest,), images, torch.tensor([TARGET])), EvalItem(photo.digest, (0,), (TARGET,))
    bench = Evaluator(model, InMemoryCache())
    return next(
        iter(evaluate_items(bench, create(ProtocolSpec.parse(protocol)), resolve(MethodSpec.parse(method)), [unit], batch).values())
    )


# Comparing maps


def test_a_difference_is_taken_at_the_size_of_the_picture_in_each_maps_own_unit():
    a, b = noise(1, 1, 4, 6), 1000 * noise(1, 1, 8, 12, seed=1)
    result = compare_maps(a, b, (HEIGHT, WIDTH), VIEW)
    large = [torch.nn.functional.interpolate(m.double(), (HEIGHT, WIDTH), mode="bilinear")[0, 0] for m in (a, b)]
    scaled = [m / m.abs().max() for m in large]
    assert torch.allclose(result.difference, scaled[0] - scaled[1], atol=1e-6)
    assert result.top == pytest.approx(1)
    assert result.correlation == pytest.approx(scipy.stats.spearmanr(*(m.flatten() for m in large)).statistic, abs=1e-3)


def test_maps_can_be_subtracted_as_they_are_and_the_view_counts():
    a, b = noise(1, 1, HEIGHT, WIDTH), noise(1, 1, HEIGHT, WIDTH, seed=1)
    raw = compare_maps(a, b, (HEIGHT, WIDTH), VIEW, own_units=False)
    assert torch.equal(raw.difference, (a.double() - b.double())[0, 0])
    positive = compare_maps(a, b, (HEIGHT, WIDTH), ViewSpec(sign="positive"))
    assert float(positive.first.min()) == 0
    expected = scipy.stats.spearmanr(a.clamp_min(0).flatten(), b.clamp_min(0).flatten()).statistic
    assert positive.correlation == pytest.approx(expected)
    assert compare_maps(a, 3 * a, (HEIGHT, WIDTH), VIEW).correlation == pytest.approx(1)


def test_a_constant_map_has_a_difference_but_no_rank_correlation():
    result = compare_maps(noise(1, 1, 4, 6), torch.zeros(1, 1, 4, 6), (HEIGHT, WIDTH), VIEW)
    assert math.isnan(result.correlation)
    assert torch.equal(result.difference, result.first)


def test_the_correlation_with_a_twin_is_that_of_parameter_randomisation():
    a, b = noise(1, 1, 4, 6), noise(1, 1, 4, 6, seed=1)
    assert twin_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a.flatten(), b.flatten()).statistic)
    assert twin_correlation(a, torch.zeros_like(a)) == 0
    assert math.isnan(twin_correlation(torch.zeros_like(a), a))
    assert math.isnan(twin_correlation(a, torch.full_like(a, math.nan)))


# Patches


@pytest.mark.parametrize(("grid", "output"), [(4, "logit"), (2, "probability"), (8, "logit")])
def test_drops_and_sums_of_patches_are_those_of_a_plain_loop(model, photo, attribution, grid, output):
    result = cell_score(cell_outputs(model, photo, TARGET, grid), attribution, output)
    image, map_ = model.preprocess(photo.image), attribution.maps[0, 0].double()
    says = (lambda x: float(logits(model, x)[TARGET])) if output == "logit" else (lambda x: probability(model, x))
    drops, sums = [], []
    for top in range(0, HEIGHT, HEIGHT // grid):
        for left in range(0, WIDTH, WIDTH // grid):
            cell = (slice(top, top + HEIGHT // grid), slice(left, left + WIDTH // grid))
            changed = image.clone()
            changed[:, cell[0], cell[1]] = 0
            drops.append(says(image) - says(changed))
            sums.append(float(map_[cell].sum()))
    assert result.drops.numpy() == pytest.approx(np.array(drops), abs=1e-5)
    assert result.sums.numpy() == pytest.approx(np.array(sums), rel=1e-5)
    assert result.correlation == pytest.approx(scipy.stats.spearmanr(drops, sums).statistic, abs=1e-3)


@pytest.mark.parametrize(("baseline", "method"), [("zeros", "IxG@Input"), ("random", "IxG@Middle"), ("blur", "IxG@Final")])
def test_a_photos_score_is_that_of_a_run(model, photo, baseline, method):
    result = cell_score(cell_outputs(model, photo, TARGET, 4, baseline), attrlib.explain(model, photo, method, target=TARGET))
    assert result.correlation == official(f"sds:baseline={baseline}", model, photo, method).value


def test_it_is_idsds_only_where_the_model_is_deletion_tuned(model, photo, attribution):
    tuned = attrlib.wrap_model(made(Plain), (HEIGHT, WIDTH), deletion_tuned=True)
    assert cell_score(cell_outputs(model, photo, TARGET), attribution).name == "SDS"
    assert cell_score(cell_outputs(tuned, photo, TARGET), attribution).name == "IDSDS"


def test_cells_that_do_not_fit_are_refused_and_work_can_be_cancelled(model, photo):
    with pytest.raises(ProtocolError, match="choose grid=2, 4, 8"):
        cell_outputs(model, photo, TARGET, 5)
    seen = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 3:
            raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        cell_outputs(model, photo, TARGET, 4, on_progress=stop)
    assert seen == [(k, 17) for k in range(4)]


# Deletion


@pytest.mark.parametrize("order", ["descending", "ascending"])
@pytest.mark.parametrize(("method", "baseline"), [("IxG@Input", "zeros"), ("IxG@Final", "blur"), ("IxG@Middle", "random")])
def test_the_curve_of_pixels_is_that_of_incremental_deletion(model, photo, order, method, baseline):
    path = delete_in_order(model, photo, attrlib.explain(model, photo, method, target=TARGET), order, None, baseline)
    record = official(f"ids:order={order}:steps={STEPS}:baseline={baseline}", model, photo, method)
    assert path.probabilities[:-1].tolist() == pytest.approx(record.details["curve"], abs=1e-6)
    assert path.area == pytest.approx(record.value, abs=1e-6)


@pytest.mark.parametrize("order", ["descending", "ascending"])
def test_cells_go_in_order_of_their_sums(model, photo, attribution, order):
    path = delete_in_order(model, photo, attribution, order, 4)
    image, map_ = model.preprocess(photo.image), attribution.maps[0, 0].double()
    corners = [(top, left) for top in range(0, HEIGHT, 4) for left in range(0, WIDTH, 6)]
    corners.sort(key=lambda c: float(map_[c[0] : c[0] + 4, c[1] : c[1] + 6].sum()), reverse=order == "descending")
    assert path.steps == 16
    for step, (top, left) in enumerate(corners):
        assert float(path.probabilities[step]) == pytest.approx(probability(model, image), abs=1e-5)
        following = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        following[top : top + 4, left : left + 6] = True
        assert torch.equal(path.following(step), following)
        image[:, top : top + 4, left : left + 6] = 0
        assert torch.equal(path.deleted(step + 1), (image == 0).all(0))
    assert float(path.probabilities[-1]) == pytest.approx(probability(model, torch.zeros_like(image)), abs=1e-5)


def test_a_path_leads_from_the_whole_picture_to_none_of_it(model, photo, attribution):
    path = delete_in_order(model, photo, attribution)
    assert not path.deleted(0).any()
    assert path.deleted(path.steps).all()
    assert not path.following(path.steps).any()
    for step in range(path.steps):
        assert torch.equal(path.deleted(step) | path.following(step), path.deleted(step + 1))
    red, green, blue = (round(255 * m) for m in model.preprocessing.mean)
    assert (path.replacement_values == (red, green, blue)).all()


def test_an_invalid_grid_or_order_is_refused(model, photo, attribution):
    with pytest.raises(ProtocolError, match="5 x 5"):
        delete_in_order(model, photo, attribution, grid=5)
    with pytest.raises(ProtocolError, match="descending"):
        delete_in_order(model, photo, attribution, order="sideways")


# Figures


def test_cells_have_the_colour_of_their_value_and_bear_it():
    photo = Image.new("RGB", (96, 64), (128, 128, 128))
    values = torch.linspace(-1, 1, 256).double()
    sheet = np.asarray(draw_cells(photo.resize((256, 256)), values, ViewSpec(opacity=1.0, sign="absolute"), 1.0))
    middles = sheet[8::16, 8::16].reshape(-1, 3).astype(int)
    assert np.abs(middles - table("BlueOrange")[(np.linspace(0, 1, 256) * 255).round().astype(int)]).max() <= 1
    written, bare = (np.asarray(draw_cells(photo, torch.zeros(n * n), ViewSpec(opacity=1.0), 1.0)) for n in (4, 16))
    assert (written < 100).any()
    assert not (bare < 100).any()


@pytest.mark.parametrize(("value", "top", "text"), [(0.123, 0.5, "0.12"), (-512.4, 800.0, "-512"), (2e-5, 3e-5, "2.0e-05")])
def test_a_number_has_the_digits_that_matter(value, top, text):
    assert short(value, top) == text


def test_a_point_of_the_scatter_tells_its_cell():
    trace = cell_scatter(torch.arange(16.0), torch.arange(16.0) * 2, "logit").data[0]
    assert (trace.x[6], trace.y[6], trace.text[6]) == (12, 6, "row 2, column 3")


def test_deleted_pixels_are_replaced_and_the_next_ones_marked():
    photo = Image.new("RGB", (48, 32), (10, 200, 30))
    gone, following = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    gone[:4, :6], following[8:12, 12:18] = True, True
    instead = np.full((HEIGHT, WIDTH, 3), 99, dtype=np.uint8)
    outlined, tinted = (np.asarray(draw_deleted(photo, gone, following, instead, outlined=outline)) for outline in (True, False))
    for sheet in (outlined, tinted):
        assert (sheet[:8, :12] == 99).all()
        assert (sheet[-1, -1] == (10, 200, 30)).all()
    assert (outlined[16, 24:36] == NEXT).all()
    assert (outlined[19:21, 28:32] == (10, 200, 30)).all()
    assert (tinted[16:24, 24:36, 0] > 180).all()


def test_the_point_of_the_curve_stands_at_its_step():
    svg = ElementTree.fromstring(curve_svg(torch.linspace(1, 0, 11), 5))
    circle = svg.find("{http://www.w3.org/2000/svg}circle")
    line = svg.find("{http://www.w3.org/2000/svg}polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
    assert len(points) == 11
    assert (float(circle.get("cx")), float(circle.get("cy"))) == points[5]
    assert points[5] == pytest.approx(((points[0][0] + points[-1][0]) / 2, (points[0][1] + points[-1][1]) / 2), abs=0.1)
    assert points[0][1] < points[-1][1]


# ML-Att


def test_methods_at_all_three_layers_become_widgets_and_come_back():
    text = "IxG@Input,IxG@Middle,IxG@Final,IG@Input:steps=3,IG@Middle:steps=3,IG@Final:steps=3,IG@Input,IG@Middle,IG@Final"
    methods = [resolve(MethodSpec.parse(part)) for part in text.split(",")]
    layer, entries, params, target = selection.as_widgets(methods)
    assert (layer, entries[:2], params["IG"]["steps"]) == (selection.ALL_LAYERS, ["IxG", "IG"], 3)
    assert selection.chosen_methods(entries, layer, params, target) == (methods, [])
    assert selection.by_layer(methods)
    assert not selection.by_layer(methods[1:])
    assert not selection.by_layer([])
    assert selection.as_widgets(methods[:2])[0] == selection.DEFAULT_LAYER


def test_a_method_typed_with_a_layer_keeps_it():
    result, problems = selection.chosen_methods(["IxG", "IG@Final"], selection.ALL_LAYERS, {}, TargetSpec())
    assert [f"{m.name}@{m.layer}" for m in result] == ["IxG@Input", "IxG@Middle", "IxG@Final", "IG@Final"]
    assert not problems
