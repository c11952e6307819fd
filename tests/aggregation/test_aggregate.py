"""AggAtt against closed forms, and from cached maps at any smoothing against the protocols."""

import json
import math
import shutil
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from attrlib.aggregation.panels import line_of, view_of
from attrlib.aggregation.view import Aggregation
from attrlib.binning import SHARES, aggregate, localisation
from attrlib.cli import app
from attrlib.data.images import Photo
from attrlib.diagnostics.localisation_grid import map_grid
from attrlib.engine.plan import make_plan
from attrlib.engine.run import run
from attrlib.errors import AttrlibError, SpecError
from attrlib.figures.aggatt import bin_names, draw_bin, mosaic, outlined, panel
from attrlib.figures.by_layer import POINTS, Scores, boxes
from attrlib.specs import AggregateSpec, AggregateView, MethodSpec, ModelSpec, ProtocolSpec, RunSpec, at_layers
from attrlib.store import Store

SIDE = 32
CLASSES = 4


def spots(inside: list[float], outside: float = 1.0) -> Tensor:
    """Maps (N,1,4,4) of 2 x 2 grids with one value at the first pixel of cell 0, another at the last of cell 3."""
    maps = torch.zeros(len(inside), 1, 4, 4)
    maps[:, 0, 0, 0] = torch.tensor(inside)
    maps[:, 0, 3, 3] = outside
    return maps


# The arithmetic ------------------------------------------------------------------------------------------------------------


def test_a_hundred_maps_fill_the_bins_of_the_paper() -> None:
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0)).tolist()
    values = [0.0] * 100
    for rank, position in enumerate(order):
        values[position] = float(100 - rank)
    result = aggregate(spots(values))
    assert result.edges == (0, 2, 5, 50, 95, 98, 100)
    assert result.sizes == (2, 3, 45, 45, 3, 2)
    assert result.order == tuple(order)
    means = [
        sum(100 - rank for rank in range(first, last)) / (last - first) for first, last in zip(result.edges, result.edges[1:], strict=False)
    ]
    assert result.bins[:, 0, 0, 0].tolist() == pytest.approx(means)
    assert result.bins[:, 0, 3, 3].tolist() == [1.0] * 6
    assert result.bins.flatten(1).count_nonzero(1).tolist() == [2] * 6
    assert result.scores[order[0]] == pytest.approx(100 / 101)


def test_the_bins_of_225_maps_are_shares_of_225() -> None:
    result = aggregate(torch.full((225, 1, 2, 2), 0.5))
    assert result.edges == (0, *(round(share * 225) for share in SHARES[1:-1]), 225)
    assert torch.equal(result.bins, torch.full((6, 1, 2, 2), 0.5))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 19, 49, 51])
def test_any_number_of_maps_works_and_none_is_lost(count: int) -> None:
    result = aggregate(spots([float(k) for k in range(count)]))
    assert sum(result.sizes) == count == len(result.order)
    assert sorted(p for b in range(6) for p in result.members(b)) == list(range(count))
    for size, values in zip(result.sizes, result.bins, strict=True):
        assert bool(values.isnan().all()) is (size == 0)


def test_equal_scores_are_sorted_by_the_sum_inside_and_then_stay_in_order() -> None:
    inside = [1.0, 3.0, 3.0, 2.0]
    result = aggregate(spots(inside, outside=0.0))
    assert result.scores.tolist() == [1.0] * 4
    assert result.order == (1, 2, 3, 0)


@pytest.mark.parametrize("cell", range(4))
def test_the_target_cell_decides(cell: int) -> None:
    maps = torch.zeros(4, 1, 4, 4)
    for k in range(4):
        maps[k, 0, k // 2 * 2, k % 2 * 2] = 1
    result = aggregate(maps, target_cell=cell)
    assert result.order[0] == cell
    assert result.scores.tolist() == [float(k == cell) for k in range(4)]


def test_negative_values_count_only_in_the_signed_average() -> None:
    maps = spots([2.0] * 100)
    maps[:, 0, 1, 1] = -4
    positive, signed = aggregate(maps), aggregate(maps, signed=True)
    assert positive.bins[2, 0, 1, 1] == 0
    assert signed.bins[2, 0, 1, 1] == -4
    assert positive.order == signed.order
    assert signed.scale == 4
    assert signed.shown[2, 0, 1, 1] == -1


def test_one_scale_for_all_bins_is_the_value_at_index_0_995_n() -> None:
    maps = torch.rand(100, 1, 20, 20, generator=torch.Generator().manual_seed(1))
    result = aggregate(maps, size=(40, 40))
    values = sorted(result.bins.flatten().tolist())
    assert result.scale == values[int(0.995 * len(values))]
    assert float(result.shown.max()) == 1
    assert float((result.shown * result.scale - result.bins)[result.bins <= result.scale].abs().max()) < 1e-6


def test_bins_are_not_normalised_map_by_map() -> None:
    result = aggregate(spots([10.0, 1.0] * 50, outside=0.0))
    assert sorted(result.bins[:, 0, 0, 0].tolist(), reverse=True) == pytest.approx([10, 10, 10, 1, 1, 1])


def test_maps_are_resized_before_they_are_cut_off_and_scored() -> None:
    native = torch.randn(60, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    large = torch.nn.functional.interpolate(native, size=(16, 16), mode="bilinear", align_corners=False)
    small, full = aggregate(native, size=(16, 16)), aggregate(large)
    assert small.order == full.order
    assert torch.allclose(small.bins, full.bins, atol=1e-6)
    first = large[list(full.order[:1])].clamp_min(0).mean(0)
    assert torch.allclose(full.bins[0], first, atol=1e-6)


def test_examples_go_from_the_middle_outwards() -> None:
    result = aggregate(spots([float(100 - k) for k in range(100)]))
    assert result.examples[0] == (1, 0)
    assert result.examples[1] == (3, 2, 4)
    assert result.examples[2][:5] == (27, 26, 28, 25, 29)
    assert sorted(result.examples[3]) == list(range(50, 95))


def test_maps_that_are_not_finite_are_left_out() -> None:
    maps = spots([float(k) for k in range(10)])
    maps[3, 0, 2, 2], maps[5, 0, 2, 2] = math.nan, math.inf
    result = aggregate(maps)
    assert set(result.order) == set(range(10)) - {3, 5}
    assert result.scores[[3, 5]].isnan().all()
    assert result.edges[-1] == 8
    assert result.bins[2].isfinite().all()


def test_single_images_are_sorted_by_the_given_scores() -> None:
    maps = torch.arange(1.0, 5).view(4, 1, 1, 1).expand(4, 1, 3, 3)
    result = aggregate(maps, grid=1, scores=torch.tensor([0.2, math.nan, 0.9, -0.5]))
    assert result.order == (2, 0, 3)
    assert result.bins[2].unique().tolist() == [2.0]  # edges 0, 0, 0, 2, 3, 3, 3 of three maps: 3 and 1


def test_maps_that_are_all_zero_have_no_scale() -> None:
    result = aggregate(torch.zeros(50, 1, 4, 4))
    assert result.scale == 0
    assert not result.shown.any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(maps=torch.zeros(3, 2, 4, 4)), r"maps \(N,1,h,w\)"),
        (dict(maps=torch.zeros(0, 1, 4, 4)), "N at least 1"),
        (dict(maps=torch.zeros(2, 1, 4, 4), target_cell=4), "cells 0 to 3"),
        (dict(maps=torch.zeros(2, 1, 5, 5)), "equal cells"),
        (dict(maps=torch.zeros(2, 1, 4, 4), scores=torch.zeros(3)), "do not fit 2 maps"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        aggregate(**arguments)


def test_the_verb_is_public() -> None:
    assert attrlib.aggregate is aggregate
    assert float(localisation(spots([3.0]), 2, 0)[0]) == 0.75


# From the store ------------------------------------------------------------------------------------------------------------


class Colours(torch.nn.Module):
    """A confident classifier of red, green, blue and grey, with layers Middle and Final."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.pool = torch.nn.AvgPool2d(4)
        self.last = torch.nn.Conv2d(4, 4, 1, bias=False)
        self.relu = torch.nn.ReLU()
        self.average = torch.nn.AdaptiveAvgPool2d(1)
        self.fc = torch.nn.Linear(4, CLASSES)
        with torch.no_grad():
            for p in self.parameters():
                torch.nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(3))
            self.first.weight[:3, :, 1, 1] += torch.eye(3)
            self.last.weight[:, :, 0, 0] += torch.eye(4)
            self.fc.weight[:3] += 40 * (torch.eye(4)[:3] - 0.3)
            self.fc.bias.copy_(torch.tensor([0.0, 0, 0, 3]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.last(self.pool(self.relu(self.first(x)))))
        return self.fc(self.average(x).flatten(1))


@pytest.fixture(scope="module")
def model() -> attrlib.Classifier:
    return attrlib.wrap_model(
        Colours().eval(), SIDE, (0, 0, 0), (1, 1, 1), ["red", "green", "blue", "grey"], {"Middle": "first", "Final": "last"}, crop=1.0
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of noisy pictures in one colour each."""
    root = tmp_path_factory.mktemp("colours")
    draw = np.random.default_rng(0)
    for k, name in enumerate(("red", "green", "blue", "grey")):
        (root / name).mkdir()
        for i in range(14):
            values = draw.uniform(0, 60, (SIDE, SIDE, 3))
            values[:, :, k if k < 3 else slice(0, 0)] += 150
            Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(folder=tmp_path_factory.mktemp("store"))


METHODS = (MethodSpec("IxG"), MethodSpec("IxG", "Final"))


def spec(setting: str, folder: Path, methods: tuple[MethodSpec, ...] = METHODS, limit: int | None = 6) -> RunSpec:
    return RunSpec(ModelSpec("wrapped:Colours"), str(folder), (ProtocolSpec.parse(setting),), methods, limit)


@pytest.mark.parametrize("setting", ["difull", "gridpg", "dipart"])
def test_scores_at_any_smoothing_are_those_of_the_protocol(setting: str, model, folder, store) -> None:
    data = attrlib.load_dataset(folder)
    run_spec = spec(f"{setting}:confidence=0.5", folder)
    before = run(make_plan(run_spec, model, data, store))
    aggregation = Aggregation(run_spec, model, data, store)
    for method in METHODS:
        plain = aggregation.row(method, AggregateView())
        assert plain.values.tolist() == before.scores[run_spec.protocols[0], method].values.tolist()
        view = AggregateView(smoothing=17)
        row = aggregation.row(method, view)
        assert row.kernel == view.kernel(row.side[0], 2 * SIDE) == aggregation.kernel(method, view) > 0
        smoothed = spec(f"{setting}:confidence=0.5:smoothing={row.kernel}", folder, (method,))
        expected = run(make_plan(smoothed, model, data, store)).scores[smoothed.protocols[0], method]
        assert row.values.tolist() == pytest.approx(expected.values.tolist(), abs=1e-12)
        assert row.aggregate.scores.tolist() == pytest.approx([d["shares"][0] for d in expected.details], abs=1e-9)
        assert row.aggregate.bins.shape == (6, 1, 2 * SIDE, 2 * SIDE)


def test_nothing_is_computed_and_no_image_is_opened_for_cached_maps(model, folder, store, monkeypatch) -> None:
    data = attrlib.load_dataset(folder)
    run_spec = spec("difull:confidence=0.5", folder)
    run(make_plan(run_spec, model, data, store))
    aggregation = Aggregation(run_spec, model, data, store)

    def fail(*_args: object, **_options: object) -> None:
        raise AssertionError("computed, or opened")

    monkeypatch.setattr("attrlib.engine.evaluator.attribute_each", fail)
    monkeypatch.setattr(type(data), "__getitem__", fail)
    for smoothing in (0, 9, 33):
        assert aggregation.row(METHODS[0], AggregateView(smoothing=smoothing)).summary.n == 6


def test_a_map_that_is_no_longer_cached_is_computed_again(model, folder, tmp_path) -> None:
    data, run_spec = attrlib.load_dataset(folder), spec("gridpg:confidence=0.5", folder, METHODS[1:], 3)
    store = Store(folder=tmp_path)
    run(make_plan(run_spec, model, data, store))
    aggregation = Aggregation(run_spec, model, data, store)
    before = aggregation.row(METHODS[1], AggregateView(smoothing=9))
    store.prune(0)
    after = aggregation.row(METHODS[1], AggregateView(smoothing=9))
    assert torch.allclose(before.aggregate.bins, after.aggregate.bins, rtol=0, atol=0, equal_nan=True)
    assert before.values.tolist() == after.values.tolist()


def test_a_cancelled_run_shows_its_cached_results(model, folder, tmp_path) -> None:
    data, run_spec, store = attrlib.load_dataset(folder), spec("difull:confidence=0.5", folder, METHODS[:1], None), Store(folder=tmp_path)

    def stop(event: object) -> None:
        if event.done >= 4 and event.scores:  # type: ignore[attr-defined]
            raise attrlib.Cancelled("enough")

    with pytest.raises(attrlib.Cancelled):
        run(make_plan(run_spec, model, data, store), stop)
    aggregation = Aggregation(run_spec, model, data, store)
    row = aggregation.row(METHODS[0], AggregateView())
    assert 4 <= row.summary.n < len(run(make_plan(run_spec, model, data, store)).scores[run_spec.protocols[0], METHODS[0]].values)
    assert sum(row.aggregate.sizes) == row.summary.n


def test_single_images_are_sorted_by_a_protocol_on_them(model, folder, store) -> None:
    data, run_spec = attrlib.load_dataset(folder), spec("sds", folder, METHODS, 8)
    scores = run(make_plan(run_spec, model, data, store)).scores
    aggregation = Aggregation(run_spec, model, data, store)
    row = aggregation.row(METHODS[0], AggregateView())
    assert row.values.tolist() == scores[run_spec.protocols[0], METHODS[0]].values.tolist()
    ranked = [row.values[k] for k in row.aggregate.order]
    assert ranked == sorted(ranked, reverse=True)
    assert row.aggregate.bins.shape == (6, 1, SIDE, SIDE)
    assert aggregation.examples(row, row.aggregate.order[:2], AggregateView())[0].picture.size == (SIDE, SIDE)


def test_examples_show_the_grid_the_score_and_the_classes(model, folder, store) -> None:
    data, run_spec = attrlib.load_dataset(folder), spec("difull:confidence=0.5", folder)
    run(make_plan(run_spec, model, data, store))
    aggregation = Aggregation(run_spec, model, data, store)
    row = aggregation.row(METHODS[1], AggregateView(cell=3))
    (example,) = aggregation.examples(row, row.aggregate.order[:1], AggregateView(cell=3))
    assert example.names[0] == example.names[3]
    assert len(set(example.names)) == 3
    assert example.picture.size == (2 * SIDE, 2 * SIDE)
    assert example.score == float(row.aggregate.scores.max())
    assert example.score == pytest.approx(float(localisation(example.values[None, None], 2, 3)[0]), abs=1e-9)


@pytest.mark.parametrize("setting", ["sds", "difull:confidence=0.5"])
def test_an_unreadable_item_is_left_out_together_with_its_score(setting: str, model, folder, tmp_path) -> None:
    shutil.copytree(folder, tmp_path / "data")
    data, run_spec = attrlib.load_dataset(tmp_path / "data"), spec(setting, tmp_path / "data", METHODS[1:], 8)
    store, view = Store(folder=tmp_path / "store"), AggregateView()
    paths = list(data.paths())
    run(make_plan(run_spec, model, data, store))
    aggregation = Aggregation(run_spec, model, data, store)
    before = aggregation.row(METHODS[1], view)
    order, images = before.aggregate.order, {k: before.items[k].images for k in before.aggregate.order}
    for index in images[order[0]]:
        Path(paths[index]).write_bytes(b"no picture")
    lost = set(images[order[0]])
    left = [k for k in order if not lost & set(images[k])]
    assert order[0] not in left
    assert left
    with pytest.raises(attrlib.ImageError):
        aggregation.example(before, order[0], view)
    examples = aggregation.examples(before, order, view)
    assert [(e.item, e.score) for e in examples] == [(before.items[k], float(before.aggregate.scores[k])) for k in left]


def test_a_chunk_of_unreadable_items_is_left_out_of_a_row(model, folder, tmp_path) -> None:
    shutil.copytree(folder, tmp_path / "data")
    data, run_spec = attrlib.load_dataset(tmp_path / "data"), spec("sds", tmp_path / "data", METHODS[1:], None)
    store, view = Store(folder=tmp_path / "store"), AggregateView()
    paths = list(data.paths())
    run(make_plan(run_spec, model, data, store))
    aggregation = Aggregation(run_spec, model, data, store)
    before, step = aggregation.row(METHODS[1], view), aggregation._group.chunk_size
    assert len(before.items) > step
    scores = dict(zip(before.items, before.values.tolist(), strict=True))
    for item in before.items[:step]:
        Path(paths[item.images[0]]).write_bytes(b"no picture")
    after = aggregation.row(METHODS[1], view)
    assert after.items == before.items[step:]
    assert after.values.tolist() == [scores[item] for item in after.items]
    for item in after.items:
        Path(paths[item.images[0]]).write_bytes(b"no picture")
    with pytest.raises(attrlib.ImageError, match="none of the"):
        aggregation.row(METHODS[1], view)


@pytest.mark.parametrize(
    ("setting", "view", "says"),
    [
        ("difull:confidence=0.5:smoothing=9", AggregateView(), "set in the view"),
        ("difull:confidence=0.5", AggregateView(cell=1), "not a target cell"),
        ("difull:confidence=0.6", AggregateView(), "start the run"),
    ],
)
def test_an_invalid_view_is_refused(setting: str, view: AggregateView, says: str, model, folder, tmp_path) -> None:
    data, store = attrlib.load_dataset(folder), Store(folder=tmp_path)
    run_spec = spec(setting, folder, METHODS[1:], 2)
    if "0.6" not in setting:
        run(make_plan(run_spec, model, data, store))
    with pytest.raises(SpecError, match=says):
        Aggregation(run_spec, model, data, store).row(METHODS[1], view)


def test_a_custom_grid_scores_as_in_the_protocol(model, store) -> None:
    photos = [Photo(Image.new("RGB", (40, 40), colour), str(k)) for k, colour in enumerate(["red", "green", "blue", "gray"])]
    grid_map = map_grid(model, photos, ProtocolSpec("difull"), 1, 1, MethodSpec("IxG"), store)
    assert grid_map.maps.shape == (1, 1, 2 * SIDE, 2 * SIDE)
    values, score = grid_map.shown(AggregateView())
    assert score == 1.0
    assert values[:, :SIDE].abs().sum() == 0
    assert grid_map.shown(AggregateView(smoothing=33))[1] < 1
    with pytest.raises(SpecError, match="4 images"):
        map_grid(model, photos[:3], ProtocolSpec("difull"), 1, 1, MethodSpec("IxG"), store)
    with pytest.raises(SpecError, match="no grids"):
        map_grid(model, photos, ProtocolSpec("sds"), 1, 1, MethodSpec("IxG"), store)


# Link, command line, figures -----------------------------------------------------------------------------------------------


def test_kernels_cover_the_same_share_at_every_resolution() -> None:
    view = AggregateView(smoothing=129)
    assert [view.kernel(side, 224) for side in (224, 28, 14)] == [129, 17, 9]
    assert AggregateView().kernel(224, 224) == AggregateView(smoothing=1).kernel(224, 224) == 0
    assert AggregateView(smoothing=9).kernel(7, 224) == 0
    with pytest.raises(SpecError, match="even"):
        AggregateView(smoothing=8)


def test_a_link_restores_the_view(folder) -> None:
    aggregate_spec = AggregateSpec(spec("gridpg:grid=3", folder), AggregateView(cell=2, smoothing=33, average="signed"))
    fields = dict(pair.split("=", 1) for pair in aggregate_spec.link().lstrip("?").split("&"))
    result, problems = AggregateSpec.read_link(fields, AggregateSpec(spec("difull", folder)))
    assert (result, problems) == (aggregate_spec, [])


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ({"smoothing": "8"}, "even"),
        ({"average": "median"}, "average"),
        ({"limit": "-3"}, "limit"),
        ({"setting": "@"}, "protocol"),
        ({"x": "1"}, "field"),
    ],
)
def test_nonsense_in_a_link_keeps_the_default_and_is_named(field: dict[str, str], says: str, folder) -> None:
    default = AggregateSpec(spec("difull", folder))
    result, problems = AggregateSpec.read_link(field, default)
    assert result == default
    assert len(problems) == 1
    assert says in problems[0]


def test_every_method_runs_at_every_layer() -> None:
    assert [str(m) for m in at_layers([MethodSpec("IxG"), MethodSpec("IG", "Middle")], ["Input", "Final"])] == [
        "IxG@Input",
        "IxG@Final",
        "IG@Middle",
    ]
    assert at_layers([MethodSpec("IxG")], []) == (MethodSpec("IxG"),)


def test_the_command_writes_the_panel_and_the_numbers(folder, model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("attrlib.cli.aggregate.load_model", lambda *_args, **_options: model)
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path / "cache"))
    line = ["aggregate", "--data", str(folder), "--setting", "difull:confidence=0.5", "--methods", "IxG", "--layers", "Input,Final"]
    line += ["--limit", "5", "--smoothing", "9", "--out", str(tmp_path / "out"), "--json"]
    first = CliRunner().invoke(app, line)
    assert first.exit_code == 0, first.output
    numbers = json.loads((tmp_path / "out" / "aggatt.json").read_text())
    assert [row["method"] for row in numbers["rows"]] == ["IxG@Input", "IxG@Final"]
    assert [sum(b["size"] for b in row["bins"]) for row in numbers["rows"]] == [5, 5]
    assert numbers["rows"][0]["kernel"] == 9
    assert Image.open(tmp_path / "out" / "aggatt.png").width > 1000
    again = json.loads(CliRunner().invoke(app, line).stdout)
    assert (again["computed"], again["cached"]) == (0, 10)
    assert again["rows"] == numbers["rows"]


@pytest.mark.parametrize(
    ("flag", "says"), [(["--smoothing", "4"], "even"), (["--setting", "gridgp"], "gridpg"), (["--cell", "1"], "not a target cell")]
)
def test_the_command_says_what_is_wrong_in_one_line(flag, says, folder, model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("attrlib.cli.aggregate.load_model", lambda *_args, **_options: model)
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path))
    line = ["aggregate", "--data", str(folder), "--methods", "IxG", "--limit", "2", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*line, *(["--setting", "difull:confidence=0.5"] if "--setting" not in flag else []), *flag])
    assert result.exit_code == 2
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_figures_draw_bins_examples_and_boxes(model, folder, store) -> None:
    data, run_spec = attrlib.load_dataset(folder), spec("difull:confidence=0.5", folder)
    run(make_plan(run_spec, model, data, store))
    aggregation, view = Aggregation(run_spec, model, data, store), AggregateView()
    rows = [aggregation.row(method, view) for method in METHODS]
    lines = [line_of(aggregation, row, view) for row in rows]
    assert all(len(line.best) and len(line.worst) for line in lines)
    sheet = panel(lines, view_of(view))
    assert sheet.height > 2 * 128
    empty = rows[0].aggregate.sizes.index(0)
    assert len(draw_bin(rows[0].aggregate, empty, view_of(view)).getcolors()) == 1
    filled = draw_bin(rows[0].aggregate, 2, view_of(view), 64)
    assert filled.getpixel((0, 0)) == (255, 255, 255)
    scores = [Scores("IxG", "Input", rows[0].values), Scores("IxG", "Final", rows[1].values)]
    figure = boxes(scores, "DiFull", 0.25, 1.0)
    assert [trace.name for trace in figure.data] == ["IxG"]
    assert figure.data[0].boxpoints == "all"
    assert [scores[k].values[i] for k, i in figure.data[0].customdata] == list(figure.data[0].y)
    assert boxes([Scores("IxG", "Input", np.arange(POINTS + 1.0))], "DiFull", None, None).data[0].boxpoints is False
    assert sorted(set(figure.data[0].x)) == ["Final", "Input"]
    assert [shape.y0 for shape in figure.layout.shapes] == [0.25, 1.0]
    assert mosaic([filled] * 3).size == (224, 224)
    single = Image.new("RGB", (8, 8))
    assert outlined(single, 0, 1) is single
    assert bin_names() == ["0–2 %", "2–5 %", "5–50 %", "50–95 %", "95–98 %", "98–100 %"]


def test_maps_and_pictures_in_memory_are_counted(model, folder, store) -> None:
    data, run_spec = attrlib.load_dataset(folder), spec("difull:confidence=0.5", folder)
    run(make_plan(run_spec, model, data, store))
    aggregation = Aggregation(run_spec, model, data, store)
    assert aggregation.nbytes == 0
    row = aggregation.row(METHODS[0], AggregateView())
    maps = len(row.items) * len(aggregation.cells) * row.side[0] * row.side[1] * 4
    assert aggregation.nbytes == maps
    picture = aggregation.picture(row.items[0])
    aggregation.picture(row.items[0])
    assert aggregation.nbytes == maps + 3 * picture.width * picture.height


def test_errors_are_those_of_the_library(model, folder, store) -> None:
    data = attrlib.load_dataset(folder)
    with pytest.raises(AttrlibError, match="one protocol"):
        Aggregation(RunSpec(model.spec, str(folder), (ProtocolSpec("sds"), ProtocolSpec("difull")), METHODS), model, data, store)
