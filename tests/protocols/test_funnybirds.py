"""FunnyBirds against plain loops that follow the paper's definitions, and in closed form on scenes of blocks and a linear model."""

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from support.method_nets import made
from support.runs import pictures
from torch import Tensor, nn

from attrlib.data.birds import CODE, OBJECTS, PARTS, BirdScene
from attrlib.data.birds.classes import CLASS_NAMES
from attrlib.data.datasets import Dataset, Item, load_dataset
from attrlib.data.derived import Subset
from attrlib.engine.results import Score
from attrlib.errors import DataError, ProtocolError
from attrlib.protocols import create, parts, scenes
from attrlib.protocols.funnybirds import (
    THRESHOLDS,
    SceneMaps,
    SceneOutputs,
    data_check,
    distractibility,
    preservation_and_deletion,
    target_sensitivity,
)
from attrlib.specs import ProtocolSpec
from attrlib.store import Store

CLASSES = tuple(enumerate(CODE))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path / "cache"))
    with closing(Store(folder=tmp_path / "store")) as own:
        yield own


# The paper's definitions as plain loops ---------------------------------------------------------------------------------------


def minimal_sets(label: int, code: Sequence[Sequence[int]]) -> list[set[int]]:
    """Return the smallest sets of parts that only one class has: all sets, without those that no longer tell it if a part is taken away."""

    def tells(chosen: Collection[int]) -> bool:
        return all(any(code[c][k] != code[label][k] for k in chosen) for c in range(len(code)) if c != label)

    every = [set(chosen) for n in range(1, len(code[0]) + 1) for chosen in itertools.combinations(range(len(code[0])), n)]
    return [chosen for chosen in every if tells(chosen) and not any(tells(chosen - {k}) for k in chosen)]


def by_hand(
    label: int,
    code: Sequence[Sequence[int]],
    logits: Callable[[Sequence[str]], Sequence[float]],
    sums: Callable[[int], tuple[float, Mapping[str, float]]],
    part_names: Sequence[str],
    shown: Collection[str],
    seen: Collection[str],
    thresholds: Sequence[float],
) -> dict[str, list[float]]:
    """Return the details of one scene.

    Args:
        label: Its class.
        code: The variant of each part of every class.
        logits: Returns the logits of the scene without some parts and objects.
        sums: Returns, for a class, the sum of its map, and the sum over each part and object by name.
        part_names: Names of the parts.
        shown: Names of the visible parts.
        seen: Names of the visible objects.
        thresholds: The thresholds.
    """
    whole = logits([])
    prediction = int(np.argmax(whole))
    found: dict[str, list[float]] = {name: [] for name in ("csdc", "pc", "dc", "d")}
    total, own = sums(label)
    total_predicted, own_predicted = sums(prediction)
    irrelevant, relevant = [], []
    for name in [*shown, *seen]:
        without = logits([name])[label]
        unchanged = abs(whole[label] - without) < abs(0.05 * whole[label]) or without >= whole[label]
        (irrelevant if unchanged else relevant).append(name)
    for t in thresholds:
        important = [p for p in shown if own[p] > t * total]
        best = 0.0
        for chosen in minimal_sets(label, code):
            names = [part_names[k] for k in chosen]
            if all(name in shown for name in names):
                best = max(best, sum(name in important for name in names) / len(names))
        found["csdc"].append(best if prediction == label else math.nan)
        kept = [p for p in shown if own_predicted[p] > t * total_predicted]
        found["pc"].append(float(np.argmax(logits([p for p in part_names if p not in kept])) == prediction))
        found["dc"].append(float(np.argmax(logits(kept)) != prediction))
        marked = [name for name in irrelevant if own[name] > t * total]
        found["d"].append(1 - len(marked) / len(irrelevant) if irrelevant else math.nan)
    drops, attributed = [whole[label] - logits([p])[label] for p in shown], [own[p] for p in shown]
    constant = len(shown) < 3 or len(set(drops)) == 1 or len(set(attributed)) == 1
    found["sd"] = [math.nan if constant else scipy.stats.spearmanr(drops, attributed).statistic * 0.5 + 0.5]
    found["ts"] = [sensitivity(label, code, logits, sums, part_names, shown)]
    found["accuracy"], found["sums"] = [float(prediction == label)], [own[p] for p in part_names]
    found["relevant"], found["objects"] = [float(sum(name in seen for name in relevant))], [float(len(seen))]
    return found


def sensitivity(
    label: int,
    code: Sequence[Sequence[int]],
    logits: Callable[[Sequence[str]], Sequence[float]],
    sums: Callable[[int], tuple[float, Mapping[str, float]]],
    part_names: Sequence[str],
    shown: Collection[str],
) -> float:
    whole = logits([])
    for a in range(len(code)):
        for b in range(a + 1, len(code)):
            in_a = [p for k, p in enumerate(part_names) if code[a][k] == code[label][k]]
            in_b = [p for k, p in enumerate(part_names) if code[b][k] == code[label][k]]
            if label in (a, b) or len(in_a) != 1 or len(in_b) != 1 or in_a == in_b or not set(in_a + in_b) <= set(shown):
                continue
            without_a, without_b = logits(in_a), logits(in_b)
            if not without_a[a] - whole[a] < without_b[a] - whole[a] or not without_b[b] - whole[b] < without_a[b] - whole[b]:
                continue
            of_a, of_b = sums(a)[1], sums(b)[1]
            return (float(of_a[in_a[0]] > of_b[in_a[0]]) + float(of_b[in_b[0]] > of_a[in_b[0]])) / 2
    return math.nan


def mean_of(found: Mapping[str, Sequence[float]]) -> float:
    """Return the score of a scene."""
    completeness = np.mean(
        [((c + p + d) / 3 + x) / 2 for c, p, d, x in zip(found["csdc"], found["pc"], found["dc"], found["d"], strict=True)]
    )
    return float((completeness + found["sd"][0] + found["ts"][0]) / 3)


# Made-up scores ---------------------------------------------------------------------------------------------------------------


def made_up(seed: int) -> tuple[SceneOutputs, SceneMaps, dict[str, list[float]]]:
    """Return random logits and sums of a bird with hidden parts and objects, and its details by hand."""
    draw = np.random.default_rng(seed)
    n, m, label = len(PARTS), 4, int(draw.integers(25))
    names = [*PARTS, *"wxyz"]
    table = {frozenset(without): draw.normal(size=25) for k in range(n + 1) for without in itertools.combinations(PARTS, k)}
    table |= {frozenset(name): draw.normal(size=25) for name in "wxyz"}
    whole = table[frozenset()]
    for name in names:
        # Some removals must change the label's logit by less than 5 %.
        if draw.random() < 0.4:
            table[frozenset([name])][label] = whole[label] * draw.uniform(0.94, 1.06)
    if draw.random() < 0.7:
        whole[label] = whole.max() + draw.random()
    visible = draw.random(n + m) < 0.8
    maps = draw.normal(0.3, 1, (25, n + m)) * visible
    totals = maps.sum(1) + draw.normal(size=25)

    def sums(of: int) -> tuple[float, Mapping[str, float]]:
        return totals[of], dict(zip(names, maps[of], strict=True))

    shown, seen = ([x for x, there in zip(names, visible, strict=True) if there and (x in PARTS) == part] for part in (True, False))
    found = by_hand(label, CODE, lambda without: table[frozenset(without)], sums, PARTS, shown, seen, THRESHOLDS[::16])
    number = {part: k for k, part in enumerate(PARTS)}
    scene = SceneOutputs(
        label,
        {frozenset(number[p] for p in key): int(value.argmax()) for key, value in table.items() if key <= set(PARTS)},
        torch.from_numpy(np.stack([whole, *(table[frozenset([p])] for p in PARTS)])),
        torch.tensor([table[frozenset(x)][label] for x in "wxyz"]),
        torch.from_numpy(visible[:n]),
        torch.from_numpy(visible[n:]),
        CLASSES,
    )
    predicted = int(whole.argmax())
    a, _, b, _ = scene.pair or (label, 0, label, 0)
    one, other = torch.from_numpy(maps[[a, b], :n])
    values = SceneMaps(
        torch.tensor(totals[label]), torch.from_numpy(maps[label, :n]), torch.from_numpy(maps[label, n:]),
        torch.tensor(totals[predicted]), torch.from_numpy(maps[predicted, :n]), torch.stack([one, other]),
    )  # fmt: skip
    return scene, values, found


def test_every_dimension_matches_plain_loops_on_made_up_scores() -> None:
    kinds: dict[str, set[float]] = {name: set() for name in ("csdc", "pc", "dc", "d", "ts")}
    for seed in range(60):
        scene, maps, expected = made_up(seed)
        for t, csdc, pc, dc, d in zip(THRESHOLDS[::16], expected["csdc"], expected["pc"], expected["dc"], expected["d"], strict=True):
            found = {"csdc": data_check(scene, maps, t), "d": distractibility(scene, maps, t)}
            found["pc"], found["dc"] = preservation_and_deletion(scene, maps, t)
            for name, value in {"csdc": csdc, "pc": pc, "dc": dc, "d": d}.items():
                assert found[name] == pytest.approx(value, nan_ok=True), (seed, name, t)
                kinds[name].add(round(value, 3))
        value = target_sensitivity(scene, maps)
        assert value == pytest.approx(expected["ts"][0], nan_ok=True)
        kinds["ts"].add(value)
        relevant = scene.relevant[len(PARTS) :] & scene.seen
        assert float(relevant.sum()) == expected["relevant"][0]
    # Wrong and right predictions, all and some parts, and every outcome of a comparison occur.
    assert {0.5, 1.0} < kinds["csdc"]
    assert {0.0, 1.0} == kinds["pc"] == kinds["dc"]
    assert {0.0, 0.5, 1.0} <= kinds["ts"]
    assert len(kinds["d"]) > 5


def test_the_data_check_needs_a_visible_set_that_tells_the_class() -> None:
    """Of a bird with a single visible part, no map can mark what tells it."""
    scene, maps, _ = made_up(0)
    scene = replace(scene, predicted={**scene.predicted, frozenset(): scene.label})
    marked = replace(maps, total=torch.tensor(1.0), parts=torch.ones(len(PARTS)))
    for count, expected in ((0, math.nan), (1, math.nan), (2, 1.0)):
        shown = torch.arange(len(PARTS)) < count
        assert data_check(replace(scene, shown=shown), marked, 0.1) == pytest.approx(expected, nan_ok=True)


def test_the_thresholds_are_those_of_the_paper() -> None:
    assert len(THRESHOLDS) == 80
    assert (THRESHOLDS[0], THRESHOLDS[1], THRESHOLDS[-1]) == (0.01, pytest.approx(0.01620253164556962, abs=1e-15), 0.5)
    assert create(ProtocolSpec.parse("funnybirds:threshold=0.2")).thresholds == (0.2,)  # type: ignore[attr-defined]


@pytest.mark.parametrize("label", [0, 7, 24])
def test_sets_and_pairs_of_the_birds(label: int) -> None:
    # Any two parts tell a bird, and no single one does.
    assert sorted(map(sorted, scenes.sufficient_sets(CLASSES, label))) == [list(pair) for pair in itertools.combinations(range(6), 2)]
    pairs = scenes.class_pairs(CLASSES, label)
    assert len(pairs) == 24 * 23 // 2 - 6 * (4 * 3 // 2)
    assert all(CODE[a][i] == CODE[label][i] and CODE[b][j] == CODE[label][j] and a < b and i != j for a, i, b, j in pairs)
    assert pairs == tuple(sorted(pairs, key=lambda pair: (pair[0], pair[2])))


def test_sufficient_sets_of_other_codes() -> None:
    code = ((0, 0, 0), (0, 1, 1), (1, 0, 1), (2, 2, 0))
    for label in range(4):
        found = scenes.sufficient_sets(tuple(enumerate(code)), label)
        assert sorted(map(sorted, found)) == sorted(map(sorted, minimal_sets(label, code)))
    assert scenes.sufficient_sets(tuple(enumerate(code)), 3) == (frozenset({0}), frozenset({1}))
    assert scenes.class_pairs(tuple(enumerate(code)), 0) == ((1, 0, 2, 1), (1, 0, 3, 2), (2, 1, 3, 2))


# Birds ------------------------------------------------------------------------------------------------------------------------


def map_sums(model: attrlib.Classifier, scene: BirdScene, k: int) -> tuple[float, dict[str, float]]:
    """Return the sum of input times gradient for class k, and its sums over the parts and objects."""
    x = model.preprocess(Image.fromarray(scene.render()))[None].requires_grad_()
    (gradient,) = torch.autograd.grad(model.module(x)[0, k], x)
    values = (x * gradient).detach()[0].sum(0).double().numpy()
    masks = {name: small(model, mask) for name, mask in (scene.masks() | scene.object_masks()).items()}
    return float(values.sum()), {name: float(values[mask].sum()) for name, mask in masks.items()}


def small(model: attrlib.Classifier, mask: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize(model.input_size[::-1], Image.Resampling.NEAREST))


def bird_by_hand(model: attrlib.Classifier, index: int, thresholds: Sequence[float]) -> dict[str, list[float]]:
    scene = BirdScene("test", index)
    known: dict[frozenset[str], list[float]] = {}

    def logits(without: Sequence[str]) -> list[float]:
        key = frozenset(without)
        if key not in known:
            with torch.no_grad():
                known[key] = model.module(model.preprocess(Image.fromarray(scene.render(without)))[None])[0].double().tolist()
        return known[key]

    shown, seen = ([name for name, mask in masks.items() if small(model, mask).any()] for masks in (scene.masks(), scene.object_masks()))
    return by_hand(scene.label, CODE, logits, lambda k: map_sums(model, scene, k), PARTS, shown, seen, thresholds)


def test_a_run_on_birds_matches_a_plain_loop(store: Store) -> None:
    model = attrlib.load_model("birds_resnet10")
    before, text = model.digest, "funnybirds:threshold=0.1"
    found = attrlib.compare([text], model, ["IxG"], "birds", limit=3, store=store)
    (score,) = found.scores.values()
    for value, (index,), details in zip(score.values, score.items, score.details, strict=True):
        expected = bird_by_hand(model, index, [0.1])
        assert set(details) == set(expected)
        for name, numbers in expected.items():
            assert details[name] == pytest.approx(numbers, rel=1e-3, abs=1e-3 if name == "sums" else 1e-6, nan_ok=True), name
        assert value == pytest.approx(mean_of(expected), abs=1e-6, nan_ok=True)
    assert len(set(score.values)) > 1
    assert model.digest == before


def test_the_score_averages_over_the_thresholds_and_sd_is_that_of_parts(store: Store) -> None:
    model = attrlib.load_model("birds_resnet10")
    texts = ["parts", "funnybirds", "funnybirds:threshold=0.01", "funnybirds:threshold=0.5"]
    found = attrlib.compare(texts, model, ["IxG"], "birds", limit=2, store=store)
    single, swept, low, high = found.scores.values()
    for row, details in enumerate(swept.details):
        assert [len(details[name]) for name in ("csdc", "pc", "dc", "d")] == [80] * 4  # type: ignore[arg-type]
        assert swept.values[row] == pytest.approx(mean_of(details), abs=1e-12)  # type: ignore[arg-type]
        assert details["sd"] == [(single.values[row] + 1) / 2]
        for name in ("csdc", "pc", "dc", "d"):
            assert [details[name][0], details[name][-1]] == [*low.details[row][name], *high.details[row][name]]  # type: ignore[index,misc]


def test_outputs_are_measured_once_for_all_methods_and_shared_with_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    for kind in (parts.RemovedParts, scenes.RemovedSets):

        def counting(self: object, *given: object, original: Callable[..., object] = kind.measure) -> object:
            measured.append(type(self).__name__)
            return original(self, *given)

        monkeypatch.setattr(kind, "measure", counting)
    model = attrlib.load_model("birds_resnet10")
    attrlib.compare(["parts", "parts:target=prediction"], model, ["Gradient"], "birds", limit=2, store=store)
    assert measured == ["RemovedParts"]
    attrlib.compare(["funnybirds"], model, ["Gradient", "Random"], "birds", limit=2, store=store)
    assert measured == ["RemovedParts", "RemovedSets"]


def test_objects_that_cannot_be_seen_are_not_removed() -> None:
    counted = scenes.RemovedSets().forwards()
    mean = np.mean([sum(mask.any() for mask in BirdScene("test", k).object_masks().values()) for k in range(120)])
    assert counted == 2**6 - 7 + round(float(mean))


# Blocks on black: the logit is the sum of what is seen -------------------------------------------------------------------------

SIDE, BLOCK = 16, 4
PLACES = {"a": (0, 0), "b": (0, 5), "c": (0, 10), "d": (5, 0), "e": (5, 5), "x": (10, 0), "y": (10, 5)}
"""Corners of the blocks of five parts and two objects."""
BLOCKS, THINGS = tuple("abcde"), tuple("xy")
WEIGHTS = {"a": 1.5, "b": 2.5, "c": 3.0, "d": 5.0, "e": 8.0}
"""What a part adds to the logit of the classes that have its variant, which is its channel; the sum is 20."""
CODES = ((0, 0, 0, 0, 0), (0, 1, 1, 1, 1), (1, 0, 1, 1, 1), (1, 1, 1, 1, 1))
"""Class 1 shares a with class 0, class 2 shares b, class 3 nothing: c, d, e, or a with b tell class 0."""
NOTHING = 2.75
"""Bias of class 3: it is predicted if of class 0 at most a or b is seen."""


class BlockScene:
    def __init__(self, label: int, shown: str):
        self.label, self.shown = label, shown

    def render(self, without: Collection[str] = ()) -> np.ndarray:
        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        for name in self.shown:
            if name not in without:
                channel = CODES[self.label][BLOCKS.index(name)] if name in BLOCKS else 2
                picture[self._area(name)][:, :, channel] = 255
        return picture

    def masks(self) -> dict[str, np.ndarray]:
        return {name: self._mask(name) for name in BLOCKS}

    def object_masks(self) -> dict[str, np.ndarray]:
        return {name: self._mask(name) for name in THINGS}

    def _area(self, name: str) -> tuple[slice, slice]:
        top, left = PLACES[name]
        return slice(top, top + BLOCK), slice(left, left + BLOCK)

    def _mask(self, name: str) -> np.ndarray:
        mask = np.zeros((SIDE, SIDE), bool)
        mask[self._area(name)] = name in self.shown
        return mask


class Blocks(Dataset):
    """A scene of each class, with some of the blocks."""

    class_names, has_masks, parts, objects, class_parts = ("w", "x", "y", "z"), True, BLOCKS, THINGS, CODES

    def __init__(self, *shown: str):
        self.name, self.scenes = "blocks", [BlockScene(k % 4, blocks) for k, blocks in enumerate(shown)]

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        scene = self.scenes[index]
        return Item(Image.fromarray(scene.render()), scene.label, self.item_id(index), str(index), scene.masks())

    def without(self, index: int, part: str) -> Image.Image:
        return Image.fromarray(self.scenes[index].render([part]))

    def scene(self, index: int) -> BlockScene:
        return self.scenes[index]

    def label(self, index: int) -> int:
        return self.scenes[index].label

    def item_id(self, index: int) -> str:
        return f"{index:016x}{''.join(f'{ord(c):02x}' for c in self.scenes[index].shown):0>16}"


class Sum(nn.Module):
    """The logit of a class: the weights of the parts in its variants that are seen, and those of the objects."""

    def __init__(self, x: float = 0.0, y: float = 0.0):
        super().__init__()
        weights, bias = torch.zeros(4, 3, SIDE, SIDE), torch.zeros(4)
        for k, code in enumerate(CODES):
            for name, (top, left) in PLACES.items():
                channel, weight = (code[BLOCKS.index(name)], WEIGHTS[name]) if name in BLOCKS else (2, {"x": x, "y": y}[name])
                weights[k, channel, top : top + BLOCK, left : left + BLOCK] = weight / BLOCK**2
        bias[3] = NOTHING
        self.weights, self.bias = nn.Parameter(weights), nn.Parameter(bias)

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.linear(images.flatten(1), self.weights.flatten(1), self.bias)


def summing(x: float = 0.0, y: float = 0.0) -> attrlib.Classifier:
    module = made(Sum)
    module.load_state_dict(Sum(x, y).state_dict())
    return attrlib.wrap_model(module, SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), class_names=Blocks.class_names, crop=1.0)


def scored(model: attrlib.Classifier, data: Dataset, store: Store, method: str = "IxG", text: str = "funnybirds") -> Score:
    found = attrlib.compare([text], model, [method], data, store=store)
    (score,) = found.scores.values()
    return score


def in_order(score: Score) -> list[Mapping[str, Sequence[float]]]:
    """Return the details in the order of the data."""
    return [details for _, details in sorted(zip(score.items, score.details, strict=True), key=lambda pair: pair[0])]  # type: ignore[misc]


def test_a_linear_model_in_closed_form(store: Store) -> None:
    """The sums of the map equal the drops. Their shares are 0.075, 0.125, 0.15, 0.25 and 0.4, and any of c, d and e is enough."""
    score = scored(summing(), Blocks("abcdexy"), store)
    (details,) = in_order(score)
    assert details["csdc"] == details["pc"] == [float(t < 0.4) for t in THRESHOLDS]
    # Without b to e, a alone is not enough; a and b together are.
    assert details["dc"] == [float(t < 0.125) for t in THRESHOLDS]
    assert details["d"] == [1.0] * 80
    assert (details["accuracy"], details["sd"], details["ts"]) == ([1.0], [1.0], [1.0])
    assert (details["relevant"], details["objects"]) == ([0.0], [2.0])
    assert details["sums"] == pytest.approx(list(WEIGHTS.values()))
    low, high = sum(t < 0.125 for t in THRESHOLDS) / 80, sum(t < 0.4 for t in THRESHOLDS) / 80
    assert score.values[0] == pytest.approx((((2 * high + low) / 3 + 1) / 2 + 2) / 3)


def test_relevant_objects_count_against_the_background_and_marked_irrelevant_ones_against_the_map(store: Store) -> None:
    """Of 31, a (1.5) and y (1) are below 5 %, x (10) is not."""
    (details,) = in_order(scored(summing(x=10, y=1), Blocks("abcdexy"), store))
    assert (details["relevant"], details["objects"]) == ([1.0], [2.0])
    assert details["d"] == [0.0 if t < 1 / 31 else 0.5 if t < 1.5 / 31 else 1.0 for t in THRESHOLDS]


def test_without_anything_irrelevant_there_is_no_distractibility(store: Store) -> None:
    score = scored(summing(), Blocks("bcde"), store)
    (details,) = in_order(score)
    assert all(map(math.isnan, details["d"]))
    assert (details["relevant"], details["objects"]) == ([0.0], [0.0])
    assert np.isnan(score.values).all()


def test_what_is_undefined_is_nan_and_the_rest_is_kept(store: Store) -> None:
    """Too few visible parts for SD; no pair, since a is hidden; a wrong prediction, as no part is seen."""
    few, hidden, wrong = (in_order(scored(summing(), Blocks(blocks), store))[0] for blocks in ("cdx", "bcdex", "x"))
    assert math.isnan(few["sd"][0])
    assert few["accuracy"] == [1.0]
    assert math.isnan(hidden["ts"][0])
    assert not math.isnan(hidden["sd"][0])
    assert wrong["accuracy"] == [0.0]
    assert all(map(math.isnan, wrong["csdc"]))
    assert all(math.isfinite(number) for number in (*wrong["pc"], *wrong["dc"], *wrong["d"]))
    for blocks in ("cdx", "bcdex", "x"):
        assert np.isnan(scored(summing(), Blocks(blocks), store).values).all()


def test_a_map_that_is_constant_or_not_finite_is_undefined(store: Store) -> None:
    scene, maps, _ = made_up(0)
    zero = replace(maps, total=torch.tensor(0.0), parts=torch.zeros(6), objects=torch.zeros(4))
    assert distractibility(scene, zero, 0.1) == 1
    protocol, bad = create(ProtocolSpec("funnybirds")), torch.zeros(4, 8, 8, dtype=torch.double)
    bad[2, 0, 0] = math.inf
    masks = torch.zeros(6, 8, 8, dtype=torch.bool)
    for values in (torch.zeros(4, 8, 8, dtype=torch.double), bad):
        outcome = protocol._outcome(scene, values, masks, masks[:4])  # type: ignore[attr-defined]
        assert math.isnan(outcome.value)
    assert all(math.isnan(number) for name in ("csdc", "pc", "dc", "d", "ts") for number in outcome.details[name])


def test_a_map_that_ignores_the_class_has_no_target_sensitivity(store: Store) -> None:
    (details,) = in_order(scored(summing(), Blocks("abcdexy"), store, "Random"))
    assert details["ts"] == [0.0]


# Bad input --------------------------------------------------------------------------------------------------------------------


def test_it_is_refused_on_data_without_scenes_with_the_reason(store: Store, tmp_path: Path) -> None:
    model = summing()
    folder = pictures(tmp_path / "pictures", 1)
    with pytest.raises(
        ProtocolError, match="funnybirds needs images with single parts of the object removed, which this data set does not"
    ):
        attrlib.compare(["funnybirds"], model, ["IxG"], folder, store=store)
    needs = "funnybirds needs scenes that can be drawn without any of their parts and background objects, which this data set does not have"
    with pytest.raises(ProtocolError, match=needs):
        create(ProtocolSpec("funnybirds")).check(model, ("masks", "parts"))
    create(ProtocolSpec("funnybirds")).check(model, ("masks", "parts", "scenes"))
    with pytest.raises(DataError, match="are not scenes that can be drawn again"):
        load_dataset(folder).scene(0)


def test_maps_made_elsewhere_are_refused_as_they_are_of_one_class(store: Store, tmp_path: Path) -> None:
    np.savez(tmp_path / "maps.npz", **{str(k): np.random.default_rng(k).random((SIDE, SIDE)) for k in range(2)})
    with pytest.raises(ProtocolError, match="maps of other classes"):
        attrlib.compare(["funnybirds"], summing(), [], Blocks("abcdexy", "abcdexy"), store=store, maps=tmp_path / "maps.npz")


def test_classes_that_are_matched_in_another_way_are_refused(store: Store) -> None:
    module = made(Sum)
    shuffled = attrlib.wrap_model(module, SIDE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), class_names=("x", "w", "z", "y"), crop=1.0)
    with pytest.raises(ProtocolError, match="matched automatically; leave out classes=order"):
        attrlib.compare(["funnybirds"], shuffled, ["IxG"], Blocks("abcdexy"), store=store, classes="order")
    attrlib.compare(["funnybirds"], shuffled, ["IxG"], Blocks("abcdexy"), store=store)


def test_a_model_that_does_not_know_the_birds_is_refused(store: Store) -> None:
    with pytest.raises(ProtocolError, match="25 of the 25 classes of the data match none of the model's 4: 'bramble chat'"):
        attrlib.compare(["funnybirds"], summing(), ["IxG"], "birds", limit=2, store=store)


def test_a_model_of_numbers_is_refused(store: Store) -> None:
    model = attrlib.wrap_model(made(Sum), SIDE, outputs="scalar", crop=1.0)
    with pytest.raises(ProtocolError, match="compares classes, but wrapped:Sum predicts a number; choose parts:target=prediction"):
        attrlib.compare(["funnybirds"], model, ["IxG"], Blocks("abcdexy"), store=store)
    found = attrlib.compare(["parts:target=prediction"], model, ["IxG"], Blocks("abcdexy"), store=store)
    assert [score.mean for score in found.scores.values()] == [1.0]


def test_birds_and_their_subsets_are_scenes() -> None:
    birds = load_dataset("birds")
    few = Subset(birds, (7, 3))
    assert birds.offers == few.offers == ("masks", "parts", "scenes")
    assert (few.objects, few.class_parts, few.class_names) == (OBJECTS, CODE, CLASS_NAMES)
    expected = BirdScene("test", 3).render(["wing", "leaf 1"])
    assert np.array_equal(few.scene(1).render(["wing", "leaf 1"]), expected)
    assert tuple(few.scene(1).object_masks()) == OBJECTS
