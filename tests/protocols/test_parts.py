"""Part removal against plain loops with SciPy, on birds and on rectangles with known contributions."""

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from support.engine import evaluate_items
from support.method_nets import made
from support.runs import pictures
from torch import Tensor, nn

from attrlib.data.birds import PARTS, BirdScene
from attrlib.data.birds.classes import CLASS_NAMES
from attrlib.data.datasets import Dataset, Item, load_dataset
from attrlib.data.derived import Subset
from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.engine.loader import Loader
from attrlib.errors import DataError, ProtocolError
from attrlib.methods import resolve
from attrlib.protocols import Batch, ExplanationRequest, create
from attrlib.protocols.parts import FEWEST
from attrlib.specs import MethodSpec, ProtocolSpec
from attrlib.store import Record, Store

SIZE = 48
LIMIT = 4


class Small(nn.Module):
    """Random, and with as many classes as there are birds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 5, 2, 2), nn.Conv2d(8, 12, 3, 2, 1)
        self.fc = nn.Linear(12, len(CLASS_NAMES))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def birds_model() -> attrlib.Classifier:
    return attrlib.wrap_model(made(Small), SIZE, class_names=CLASS_NAMES, crop=1.0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path / "cache"))
    with closing(Store(folder=tmp_path / "store")) as own:
        yield own


def by_hand(model: attrlib.Classifier, index: int, output: str, target: str, sign: str) -> tuple[float, list[float], list[bool]]:
    """Return the score of input times gradient for one bird, the sums over its parts, and which parts are visible."""
    scene = BirdScene("test", index)
    net = model.module

    def seen(without: Sequence[str]) -> Tensor:
        return model.preprocess(Image.fromarray(scene.render(without)))[None]

    def value(x: Tensor, k: int) -> float:
        with torch.no_grad():
            logits = net(x)[0].double()
        return float(logits[k] if output == "logit" else torch.exp(logits[k]) / torch.exp(logits).sum())

    x = seen([]).requires_grad_()
    logits = net(x)
    k = scene.label if target == "label" else int(logits.argmax())
    (gradient,) = torch.autograd.grad(logits[0, k], x)
    values = (x * gradient).detach()[0].sum(0).double().numpy()
    values = {"signed": values, "absolute": np.abs(values), "positive": np.maximum(values, 0)}[sign]
    sums, drops, shown = [], [], []
    for part, mask in scene.masks().items():
        small = np.asarray(Image.fromarray(mask).resize((SIZE, SIZE), Image.Resampling.NEAREST))
        shown.append(bool(small.any()))
        sums.append(float(values[small].sum()))
        drops.append(value(x.detach(), k) - value(seen([part]), k))
    where = [p for p in range(len(PARTS)) if shown[p]]
    score = scipy.stats.spearmanr([drops[p] for p in where], [sums[p] for p in where]).statistic if len(where) >= 3 else math.nan
    return score, sums, shown


@pytest.mark.parametrize(
    ("output", "target", "sign"),
    [("logit", "label", "signed"), ("probability", "prediction", "absolute"), ("logit", "prediction", "positive")],
)
def test_a_run_on_birds_matches_a_plain_loop(birds_model: attrlib.Classifier, store: Store, output: str, target: str, sign: str) -> None:
    before = birds_model.digest
    text = f"parts:output={output}:target={target}:sign={sign}"
    found = attrlib.compare([text], birds_model, ["IxG", "Gradient"], "birds", limit=LIMIT, store=store)
    score = next(score for (_, method), score in found.scores.items() if str(method) == "IxG")
    assert len(score.values) == LIMIT
    assert [images for (images,) in score.items] == load_dataset("birds").order(0)[:LIMIT]
    for value, (index,), details in zip(score.values, score.items, score.details, strict=True):
        expected, sums, shown = by_hand(birds_model, index, output, target, sign)
        assert details["sums"] == pytest.approx(sums, rel=1e-3, abs=1e-6)
        assert details["shown"] == shown
        assert value == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert len(set(score.values)) > 1
    assert birds_model.digest == before


def test_cached_results_are_reused_and_a_policy_changes_only_the_mean(birds_model: attrlib.Classifier, store: Store) -> None:
    first = attrlib.compare(["parts"], birds_model, ["IxG"], "birds", limit=LIMIT, store=store)
    again = attrlib.compare(["parts:undefined=zero"], birds_model, ["IxG"], "birds", limit=LIMIT, store=store)
    assert (first.computed, again.computed, again.cached) == (LIMIT, 0, LIMIT)
    (one,), (other,) = first.scores.values(), again.scores.values()
    assert one.values.tobytes() == other.values.tobytes()


# Rectangles: the part is what is not black -------------------------------------------------------------------------------

SIDE = 16
PLACES = {"a": (0, 0), "b": (0, 8), "c": (8, 0), "d": (8, 8), "e": (4, 12)}
"""Corners of rectangles of 4 x 6 px, 4 x 4 the last; none overlap."""


class Flat(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 5))


class Kinked(Flat):
    """Linear for logits above -100, as all are here."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x) + 100) - 100


class Rectangles(Dataset):
    """Coloured rectangles on black; each picture has some of them, and a removed one is black."""

    class_names, has_masks, parts = tuple(f"class {k}" for k in range(5)), True, tuple(PLACES)

    def __init__(self, shown: Sequence[str]):
        self.name, self.shown = "rectangles", shown

    def __len__(self) -> int:
        return len(self.shown)

    def mask(self, index: int, part: str) -> np.ndarray:
        found = np.zeros((SIDE, SIDE), bool)
        if part in self.shown[index]:
            top, left = PLACES[part]
            found[top : top + 4, left : left + 6] = True
        return found

    def picture(self, index: int, without: str = "") -> Image.Image:
        values = np.random.default_rng(index).integers(1, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        kept = np.any([self.mask(index, part) for part in PLACES if part != without], axis=0)
        return Image.fromarray(values * kept[:, :, None])

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        masks = {part: self.mask(index, part) for part in PLACES}
        return Item(self.picture(index), self.label(index), self.item_id(index), str(index), masks)

    def without(self, index: int, part: str) -> Image.Image:
        return self.picture(index, part)

    def label(self, index: int) -> int:
        return index % 5

    def item_id(self, index: int) -> str:
        return f"{index:032x}"


def linear(net: type[nn.Module] = Flat) -> attrlib.Classifier:
    """Linear in pixels from 0 to 1: black pixels contribute to no class."""
    return attrlib.wrap_model(made(net), SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), crop=1.0)


def perform(
    model: attrlib.Classifier, data: Dataset, text: str = "parts", method: str = "IxG", which: Sequence[int] | None = None
) -> list[Record]:
    protocol = create(ProtocolSpec.parse(text))
    loader = Loader(model, data, protocol.needs)
    indices = range(len(data)) if which is None else which
    chunk = tuple(EvalItem(data.item_id(k), (k,), (data.label(k) or 0,)) for k in indices)
    units, batch = loader.get(chunk)
    assert batch is not None
    return list(evaluate_items(Evaluator(model, InMemoryCache()), protocol, resolve(MethodSpec.parse(method)), units, batch).values())


def test_the_score_is_exactly_1_if_attributions_equal_the_drops() -> None:
    data, model = Rectangles(["abcde", "abce", "bcd", "abcde", "ade"]), linear()
    found = perform(model, data)
    assert [record.value for record in found] == [1.0] * 5
    for index, record in enumerate(found):
        x = model.preprocess(data.picture(index))[None]
        drops = [float((model(x) - model(model.preprocess(data.picture(index, part))[None]))[0, index % 5].detach()) for part in PLACES]
        assert record.details["sums"] == pytest.approx(drops, abs=1e-4)
        assert record.details["shown"] == [float(part in data.shown[index]) for part in PLACES]


def test_an_invisible_part_is_left_out_of_the_correlation() -> None:
    """Were it counted, its sum and drop of 0 would be ranked among the others."""
    found = perform(linear(), Rectangles(["abd", "abd", "abcde"]), method="Random")
    full = perform(linear(), Rectangles(["abd"]), method="Random")
    assert found[0].value == full[0].value
    for record, shown in zip(found, ("abd", "abd", "abcde"), strict=True):
        assert [s == 1 for s in record.details["shown"]] == [part in shown for part in PLACES]  # type: ignore[union-attr]
        assert [s == 0 for s in record.details["sums"]] == [part not in shown for part in PLACES]  # type: ignore[union-attr]
    # Three ranks can only have these correlations.
    assert all(min(abs(record.value - r) for r in (-1, -0.5, 0.5, 1)) < 1e-9 for record in found[:2])


@pytest.mark.parametrize("method", ["Random", "Gradient"])
@pytest.mark.parametrize("sign", ["signed", "absolute", "positive"])
def test_values_match_scipy_over_the_visible_parts(method: str, sign: str) -> None:
    data, model = Rectangles(["abcde", "abde", "bcde", "abc", "acde", "abcde"]), linear()
    found = perform(model, data, f"parts:sign={sign}", method)
    images = torch.stack([model.preprocess(data.picture(k)) for k in range(6)])
    maps = Evaluator(model, InMemoryCache()).explainer(resolve(MethodSpec.parse(method)))
    values, _ = maps(
        ExplanationRequest(model, images, torch.tensor([[k % 5] for k in range(6)]), keys=tuple(data.item_id(k) for k in range(6)))
    )
    signed = {"signed": values, "absolute": values.abs(), "positive": values.clamp_min(0)}[sign].double()[:, 0].numpy()
    for k, record in enumerate(found):
        x = model(images[k : k + 1])[0, k % 5]
        drops = [float((x - model(model.preprocess(data.picture(k, part))[None])[0, k % 5]).detach()) for part in data.shown[k]]
        sums = [signed[k][data.mask(k, part)].sum() for part in data.shown[k]]
        assert record.value == pytest.approx(scipy.stats.spearmanr(drops, sums).statistic, abs=1e-9)
    assert len({round(record.value, 6) for record in found}) > 1


@pytest.mark.parametrize("shown", ["", "a", "ab"])
def test_fewer_than_three_visible_parts_are_undefined(shown: str) -> None:
    assert FEWEST == 3
    first, second = perform(linear(), Rectangles([shown, "abc"]))
    assert math.isnan(first.value)
    assert second.value == 1


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1, keepdim=True) * 0 + torch.arange(5.0)


def test_it_is_undefined_if_no_part_matters_or_the_map_is_constant() -> None:
    model = attrlib.wrap_model(Constant(), SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), crop=1.0)
    for method in ("IxG", "Random"):
        assert all(math.isnan(record.value) for record in perform(model, Rectangles(["abcde", "abc"]), method=method))


@pytest.mark.parametrize(("policy", "mean"), [("drop", 1.0), ("zero", 0.5)])
def test_undefined_images_are_left_out_of_the_mean_or_count_as_zero(store: Store, policy: str, mean: float) -> None:
    data = Rectangles(["abcde", "ab", "abcd", ""])
    found = attrlib.compare([f"parts:undefined={policy}"], linear(Kinked), ["IxG"], data, store=store)
    (score,) = found.scores.values()
    assert sum(np.isnan(score.values)) == 2
    assert score.summary.mean == mean
    assert score.summary.undefined == (2 if policy == "drop" else 0)


def test_a_run_of_a_linear_model_ends(store: Store) -> None:
    found = attrlib.compare(["parts"], linear(), ["IxG"], Rectangles(["abcde"]), store=store)
    assert [score.summary.mean for score in found.scores.values()] == [1.0]


def test_batches_and_order_change_nothing() -> None:
    data, model = Rectangles(["abcde", "abde", "bcde", "abc"]), linear()
    whole = perform(model, data, method="Random")
    for which in ([3, 0], [2], [1, 2, 3]):
        assert [r.value for r in perform(model, data, method="Random", which=which)] == [whole[k].value for k in which]


# Data ----------------------------------------------------------------------------------------------------------------------


def test_it_is_refused_on_data_without_parts_with_the_reason(birds_model: attrlib.Classifier, store: Store, tmp_path: Path) -> None:
    needs = (
        "parts needs images with single parts of the object removed, which this data set does not have; choose another protocol or data set"
    )
    with pytest.raises(ProtocolError, match=f"^{needs}$"):
        create(ProtocolSpec("parts")).check(birds_model, ("masks",))
    create(ProtocolSpec("parts")).check(birds_model, ("masks", "parts"))
    folder = pictures(tmp_path / "pictures", 1)
    with pytest.raises(ProtocolError, match=needs):
        attrlib.compare(["parts"], birds_model, ["IxG"], folder, store=store)
    with pytest.raises(DataError, match="have no version without 'beak'"):
        load_dataset(folder).without(0, "beak")


def test_birds_and_their_subsets_have_parts_and_pictures_without_each_part() -> None:
    birds = load_dataset("birds")
    few = Subset(birds, (7, 3))
    assert birds.offers == few.offers == ("masks", "parts", "scenes")
    assert birds.parts == few.parts == PARTS
    expected = BirdScene("test", 3).render(["wing"])
    assert np.array_equal(np.asarray(few.without(1, "wing")), expected)
    assert np.array_equal(np.asarray(birds.without(3, "wing")), expected)
    assert not np.array_equal(np.asarray(birds[3].image), expected)
    with pytest.raises(DataError, match="nose"):
        birds.without(3, "nose")


def test_parts_are_rendered_only_if_a_protocol_needs_them(
    birds_model: attrlib.Classifier, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    original = type(load_dataset("birds")).without
    monkeypatch.setattr(
        type(load_dataset("birds")), "without", lambda self, index, part: asked.append((index, part)) or original(self, index, part)
    )
    attrlib.compare(["sds", "mass"], birds_model, ["IxG"], "birds", limit=2, store=store)
    assert asked == []
    attrlib.compare(["parts"], birds_model, ["IxG", "Gradient", "Random"], "birds", limit=2, store=store)
    assert len(asked) == len(set(asked)) == 2 * len(PARTS)


def test_grids_are_loaded_without_counterfactuals(birds_model: attrlib.Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_dataset("birds")
    monkeypatch.setattr(type(data), "without", lambda *_args: pytest.fail("rendered for a grid"))
    loader = Loader(birds_model, data, {"parts"})
    _, batch = loader.get((EvalItem("grid", (0, 1, 2, 3), (0, 1, 2, 3)),))
    assert isinstance(batch, Batch)
    assert batch.images.shape == (1, 3, 2 * SIZE, 2 * SIZE)
    assert batch.parts is batch.without is None
