import hashlib
import pickle
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, product

import numpy as np
import pytest
from PIL import Image
from support.waiting import LIMIT

from attrlib.data import birds
from attrlib.data.birds import CLASS_NAMES, CODE, OBJECTS, PARTS, SIZES, Birds, BirdScene, labels, masks, render, scene, scene_id
from attrlib.data.birds.backdrop import Backdrop
from attrlib.data.birds.classes import VARIANTS
from attrlib.data.birds.looks import LOOKS
from attrlib.data.birds.pose import COLOUR_JITTER, SHAPE_JITTER, warped
from attrlib.data.birds.raster import coverage, curve, ellipse, stroke
from attrlib.data.birds.variants import PIGMENTS
from attrlib.data.datasets import list_datasets, load_dataset
from attrlib.errors import DataError

SOME = range(12)
"""Scenes of the test split that are tested one by one."""
KNOWN = {
    ("train", 0): [190.3, 203.7, 202.6, 200.2, 206.7, 212.6, 135.7, 149.4, 159.5, 140.5, 149.9, 163.5],
    ("select", 1): [201.3, 156.9, 125.9, 201.8, 150.0, 126.9, 81.2, 72.6, 84.4, 74.8, 68.6, 84.4],
    ("test", 2): [184.9, 145.3, 96.6, 199.8, 148.8, 97.8, 133.1, 93.8, 60.6, 134.2, 94.8, 74.5],
}
"""Mean colours of the quarters of some pictures of version 1."""


@pytest.fixture(scope="module")
def scenes() -> list[BirdScene]:
    return [BirdScene("test", index) for index in SOME]


def fingerprint(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


# The code of the classes


def test_any_two_classes_differ_in_at_least_five_of_the_six_parts() -> None:
    assert len(CODE) == len(set(CODE)) == 25
    assert all(len(word) == len(PARTS) == 6 for word in CODE)
    assert min(sum(a != b for a, b in zip(one, other, strict=True)) for one, other in combinations(CODE, 2)) == 5


@pytest.mark.parametrize("part", range(len(PARTS)))
def test_a_single_part_allows_at_most_20_percent_accuracy(part: int) -> None:
    # Classes are equally frequent, so the best guess from a variant is any class that has it.
    frequent = Counter(word[part] for word in CODE)
    assert frequent == dict.fromkeys(range(VARIANTS), 5)
    best = sum(max(Counter(c for c, word in enumerate(CODE) if word[part] == variant).values()) for variant in range(VARIANTS))
    assert best / len(CODE) == 0.2


@pytest.mark.parametrize(("one", "other"), list(combinations(range(len(PARTS)), 2)))
def test_every_pair_of_variants_of_two_parts_is_one_class(one: int, other: int) -> None:
    assert sorted((word[one], word[other]) for word in CODE) == list(product(range(VARIANTS), repeat=2))


def test_classes_have_names() -> None:
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == len(CODE)
    assert list(CLASS_NAMES) == sorted(CLASS_NAMES)


# The variants


@pytest.mark.parametrize("part", PARTS)
def test_each_colour_belongs_to_one_variant_of_every_part_and_stays_recognisable(part: str) -> None:
    colours = [look.colour for look in LOOKS[part]]
    assert sorted(colours) == sorted(PIGMENTS)
    for one, other in combinations(colours, 2):
        assert np.abs(np.subtract(one, other)).max() > 2 * COLOUR_JITTER


def silhouette(part: str, variant: int, warp: tuple[float, float, float]) -> np.ndarray:
    """What a variant covers of a square of 96 px around the place where it is attached."""
    look = LOOKS[part][variant]
    longest = max(np.abs(other.points).max() for other in LOOKS[part])
    points = warped(look.points, warp) / (2.4 * longest) + (0.5 + 0.5j)
    (stamp,) = coverage([[points[span] for span in look.spans]], 96)
    canvas = np.zeros((96, 96))
    canvas[stamp.rows, stamp.cols] = stamp.alpha
    return canvas > 0.5


@pytest.mark.parametrize("part", PARTS)
def test_jitter_never_turns_one_variant_into_another(part: str) -> None:
    plain = [silhouette(part, variant, (0, 0, 0)) for variant in range(VARIANTS)]
    for variant in range(VARIANTS):
        for warp in product((-SHAPE_JITTER, SHAPE_JITTER), repeat=3):
            found = silhouette(part, variant, warp)
            overlap = [(found & other).sum() / (found | other).sum() for other in plain]
            assert int(np.argmax(overlap)) == variant


# Labels and digests


@pytest.mark.parametrize("split", SIZES)
def test_classes_are_equally_frequent_and_unordered(split: str) -> None:
    found = labels(split)
    assert len(found) == SIZES[split]
    assert set(Counter(found.tolist()).values()) == {SIZES[split] // len(CODE)}
    assert len({tuple(found[k : k + 25]) for k in range(0, 500, 25)}) == 20
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0


def test_splits_are_disjoint(scenes: list[BirdScene]) -> None:
    ids = [scene_id(split, index) for split in SIZES for index in range(500)]
    assert len(set(ids)) == len(ids)
    assert not np.array_equal(labels("test"), labels("select"))
    for split in ("train", "select"):
        assert not np.array_equal(render(split, 0), scenes[0].render())


def test_labels_and_digests_need_no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Birds("select")
    expected = data[7]

    def refuse(*_args: object) -> None:
        raise AssertionError("drawn")

    monkeypatch.setattr(scene, "coverage", refuse)
    assert (data.label(7), data.item_id(7)) == (expected.label, expected.id)
    with pytest.raises(AssertionError, match="drawn"):
        data[7]


def test_another_version_has_other_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    before = scene_id("test", 3)
    monkeypatch.setattr(scene, "VERSION", birds.VERSION + 1)
    assert scene_id("test", 3) != before


# Determinism


def test_a_scene_does_not_depend_on_earlier_scenes_or_the_thread(scenes: list[BirdScene]) -> None:
    first = [s.render() for s in scenes]
    assert all(np.array_equal(render("test", k), first[k]) for k in reversed(SOME))
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(a, b) for a, b in zip(pool.map(lambda k: render("test", k), SOME), first, strict=True))


def test_a_scene_does_not_depend_on_earlier_calls() -> None:
    plain, asked = BirdScene("train", 5), BirdScene("train", 5)
    asked.masks()
    asked.render(PARTS)
    assert np.array_equal(asked.render(), plain.render())
    assert np.array_equal(asked.render(["wing"]), plain.render(["wing"]))


def test_a_scene_is_the_same_in_another_process(scenes: list[BirdScene]) -> None:
    code = (
        "import hashlib; from attrlib.data.birds import BirdScene; s = BirdScene('test', 4); m = s.masks(); "
        "print(*[hashlib.sha256(a.tobytes()).hexdigest() for a in (s.render(), s.render(['tail']), m['wing'])])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=True).stdout.split()
    s = scenes[4]
    assert found == [fingerprint(a) for a in (s.render(), s.render(["tail"]), s.masks()["wing"])]


def test_pictures_change_only_with_the_version() -> None:
    # Raise VERSION with these numbers. They leave room for another processor that rounds a pixel differently.
    assert birds.VERSION == 1
    for (split, index), expected in KNOWN.items():
        quarters = render(split, index).reshape(2, 64, 2, 64, 3).mean((1, 3))
        assert np.allclose(quarters.reshape(-1), expected, atol=0.3), quarters.round(1).reshape(-1).tolist()


# Parts that are left out


def reach(s: BirdScene, part: str) -> np.ndarray:
    """Where a part or its soft shadow falls at all."""
    alpha = np.zeros((s.size, s.size), bool)
    for shape, stamp in zip(s.shapes, s.stamps, strict=True):
        if shape.part == part:
            alpha[stamp.rows, stamp.cols] |= stamp.alpha > 0
    ys, xs = np.nonzero(alpha)
    found = alpha.copy()
    # The shadow falls up to 8 px away to either side and below, and is blurred by 10.
    for y, x in zip(ys, xs, strict=True):
        found[max(0, y - 10) : y + 19, max(0, x - 18) : x + 19] = True
    return found


@pytest.mark.parametrize("part", PARTS)
def test_without_a_part_only_its_pixels_and_its_shadow_change(part: str, scenes: list[BirdScene]) -> None:
    for s in scenes:
        full, less = s.render().astype(int), s.render([part]).astype(int)
        changed = (full != less).any(-1)
        assert changed.any()
        assert not (changed & ~reach(s, part)).any()
        # Where the part is not, there was its shadow, or its blended edge.
        own = np.zeros((s.size, s.size), bool)
        for shape, stamp in zip(s.shapes, s.stamps, strict=True):
            if shape.part == part and shape.opacity == 1:
                own[stamp.rows, stamp.cols] |= stamp.alpha > 0
        assert (less >= full)[changed & ~own].all()


@pytest.mark.parametrize("part", PARTS)
def test_a_mask_covers_the_pixels_that_change_without_the_part(part: str, scenes: list[BirdScene]) -> None:
    for s in scenes:
        difference = np.abs(s.render().astype(int) - s.render([part]).astype(int)).max(-1)
        mask = s.masks()[part]
        assert (difference[mask] > 0).mean() > 0.97
        assert difference[mask].mean() > 5 * difference[~mask].mean()


@pytest.mark.parametrize(("part", "others"), [("wing", ["tail"]), ("beak", ["eye", "crest"]), ("legs", [p for p in PARTS if p != "legs"])])
def test_removing_a_part_has_the_same_effect_regardless_of_the_other_parts(part: str, others: list[str], scenes: list[BirdScene]) -> None:
    for s in scenes:
        away = ~reach(s, part)
        assert np.array_equal(s.render(others)[away], s.render([*others, part])[away])


def test_pixels_hidden_by_a_removed_part_appear(scenes: list[BirdScene]) -> None:
    # Behind the wing is the body, which is the same with and without the other parts.
    for s in scenes:
        both = s.render(["wing"])
        shown = np.zeros((s.size, s.size), bool)
        for shape, stamp in zip(s.shapes, s.stamps, strict=True):
            region = shown[stamp.rows, stamp.cols]
            region[stamp.alpha > 0] = False
            if shape.part == "body":
                region[stamp.alpha == 1] = True
            if shape.part == "wing":
                break
        bare = s.render(PARTS)
        for part in PARTS:
            if part != "wing":
                shown &= ~reach(s, part)
        assert np.array_equal(both[shown], bare[shown])


def test_a_bird_without_parts_is_a_body_that_does_not_reveal_its_class(scenes: list[BirdScene]) -> None:
    for s in scenes:
        bare, full = s.render(PARTS), s.render()
        assert (bare != full).any(-1).mean() > 0.05
        assert not any(mask.any() for mask in s.masks(PARTS).values())
        assert np.array_equal(bare, s.render(reversed(PARTS)))
        assert np.array_equal(full, s.render([]))


# Objects of the background


def test_only_pixels_of_a_removed_object_change(scenes: list[BirdScene]) -> None:
    changed = 0
    for s in scenes:
        full, where = s.render(), s.object_masks()
        for name in OBJECTS:
            reached = np.zeros((s.size, s.size), bool)
            for owner, stamp in s._stage[0].shapes:
                if owner == name:
                    reached[stamp.rows, stamp.cols] |= stamp.alpha > 0
            differs = (s.render([name]) != full).any(-1)
            assert not differs[~reached].any()
            if where[name].sum() > 20:
                assert differs[where[name]].any()
                changed += 1
    assert changed > 60


def test_objects_are_removed_together_with_parts_and_in_any_order(scenes: list[BirdScene]) -> None:
    for s in scenes[:3]:
        both = s.render(["wing", "leaf 1", "berry 1"])
        assert np.array_equal(both, s.render(iter(["berry 1", "wing", "leaf 1"])))
        assert not np.array_equal(both, s.render(["leaf 1", "berry 1"]))
        bare = s.render(OBJECTS)
        assert np.array_equal(bare, BirdScene("test", s.index).render(OBJECTS))
        assert np.array_equal(s.render(), BirdScene("test", s.index).render())


def test_masks_of_objects_overlap_neither_each_other_nor_the_bird(scenes: list[BirdScene]) -> None:
    for s in scenes:
        where = s.object_masks()
        assert tuple(where) == OBJECTS
        assert {name.split()[0] for name in OBJECTS} == {"leaf", "twig", "feather", "thorn", "stem", "petal", "berry"}
        assert all(mask.shape == (s.size, s.size) and mask.dtype == bool for mask in where.values())
        assert np.sum([*where.values(), *s.masks().values()], axis=0).max() == 1
        # An object that a background does not have has no pixels, and one of each kind is there.
        owners = {owner for owner, _ in s._stage[0].shapes} - {""}
        assert {name for name, mask in where.items() if mask.any()} <= owners <= set(OBJECTS)
        assert {name for name in OBJECTS if name.endswith(" 1")} <= owners
        absent = next(name for name in OBJECTS if name not in owners)
        assert np.array_equal(s.render([absent]), s.render())


@pytest.mark.parametrize(
    ("without", "message"), [(["wings"], r"unknown part of a bird 'wings'\. Did you mean wing\?"), ("wing", "unknown part")]
)
def test_an_unknown_part_cannot_be_left_out(without: str | list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        render("test", 0, without)


# Masks


def test_masks_are_disjoint_inside_the_picture_and_never_empty() -> None:
    for index in range(60):
        found = masks("select", index)
        assert tuple(found) == PARTS
        assert all(mask.dtype == bool and mask.shape == (128, 128) for mask in found.values())
        together = np.stack(list(found.values()))
        assert together.sum(0).max() == 1
        assert not together[:, [0, 1, -2, -1]].any()
        assert not together[:, :, [0, 1, -2, -1]].any()
        assert min(mask.sum() for mask in found.values()) >= 24


def test_the_mask_of_a_fully_visible_part_covers_all_of_it(scenes: list[BirdScene]) -> None:
    for s in scenes:
        for part in ("eye", "beak", "tail"):
            alone = s.masks([p for p in PARTS if p != part])[part]
            shown = s.masks()[part]
            assert not (shown & ~alone).any()


# Variety


def test_distractors_have_the_colours_of_parts() -> None:
    feet = np.array([0.4 + 0.7j, 0.6 + 0.7j])
    seen = np.zeros(len(PIGMENTS))
    for seed in range(30):
        pixels = Backdrop(np.random.default_rng(seed), feet, 0.4, 128).paint()
        near = np.abs(pixels - np.array(PIGMENTS)[:, :, None, None]).max(1) < 0.07
        seen += near.sum((1, 2)) > 20
    assert seen.min() >= 12


def test_birds_vary_in_place_size_side_and_light() -> None:
    middles, sizes, lights, sides = [], [], [], []
    for index in range(80):
        s = BirdScene("train", index)
        where = s.masks()
        body = np.argwhere(np.any(list(where.values()), axis=0))
        middles.append(body.mean(0))
        sizes.append(np.ptp(body, axis=0).max())
        sides.append(np.argwhere(where["beak"])[:, 1].mean() > np.argwhere(where["tail"])[:, 1].mean())
        lights.append(s.render().mean())
    assert (np.std(middles, axis=0) > 5).all()
    assert max(sizes) > 1.4 * min(sizes)
    assert 20 < sum(sides) < 60
    assert np.std(lights) > 15


# Sizes


def test_at_another_size_it_is_the_same_scene() -> None:
    for index in range(4):
        small, large = render("test", index), render("test", index, size=256)
        assert large.shape == (256, 256, 3)
        halved = np.asarray(Image.fromarray(large).reduce(2), int)
        assert np.abs(small.astype(int) - halved).mean() < 6
        where = masks("test", index, size=256)
        for part, mask in masks("test", index).items():
            assert where[part].sum() == pytest.approx(4 * mask.sum(), rel=0.12)


@pytest.mark.parametrize("size", [0, 15, 2049])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(DataError, match="choose a size from 16 to 2048"):
        render("test", 0, size=size)


@pytest.mark.parametrize("size", [16, 17, 33, 127, 224])
def test_any_size_between_can_be_drawn(size: int) -> None:
    assert render("train", 1, size=size).shape == (size, size, 3)


# The data sets


def test_the_splits_are_data_sets() -> None:
    assert [info.name for info in list_datasets() if info.name.partition(":")[0] == "birds"] == [
        "birds",
        "birds:train",
        "birds:select",
        "birds:test",
    ]
    for name, split in (("birds", "test"), ("birds:train", "train"), ("birds:select", "select"), ("birds:test", "test")):
        data = load_dataset(name)
        assert isinstance(data, Birds)
        assert (data.name, len(data), data.class_names, data.has_masks) == (name, SIZES[split], CLASS_NAMES, True)
        assert data.item_id(0) == scene_id(split, 0)


def test_an_item_is_a_scene() -> None:
    data = load_dataset("birds")
    item = data[-1]
    last = len(data) - 1
    assert (item.name, item.id, item.label) == (f"birds:test/{last}", scene_id("test", last), labels("test")[last])
    assert np.array_equal(np.asarray(item.image), render("test", last))
    assert all(np.array_equal(item.masks[part], mask) for part, mask in masks("test", last).items())
    assert isinstance(data, Birds)
    assert np.array_equal(data.scene(-1).render(["eye"]), render("test", last, ["eye"]))
    assert data.scene(0, 64).render().shape == (64, 64, 3)


@pytest.mark.parametrize("index", [1000, -1001])
def test_an_index_that_is_out_of_range(index: int) -> None:
    data = Birds("test")
    for ask in (data.__getitem__, data.label, data.item_id, data.scene):
        with pytest.raises(IndexError):
            ask(index)


def test_scenes_take_any_whole_number_in_range_and_no_other() -> None:
    assert scene_id("test", np.int64(3)) == scene_id("test", 3)  # type: ignore[arg-type]
    assert np.array_equal(render("test", np.int64(3)), render("test", 3))  # type: ignore[arg-type]
    for index in (-1, 1000):
        with pytest.raises(IndexError, match=f"pictures 0 to 999, not {index}"):
            render("test", index)


@pytest.mark.parametrize("make", [Birds, lambda split: scene_id(split, 0), lambda split: render(split, 0)])
def test_an_unknown_split(make: object) -> None:
    with pytest.raises(DataError, match=r"unknown split of the birds 'tests'\. Did you mean test\?"):
        make("tests")  # type: ignore[operator]


def test_a_data_set_can_be_sent_to_worker_processes() -> None:
    data = pickle.loads(pickle.dumps(Birds("select")))
    assert data.item_id(5) == scene_id("select", 5)


# Outlines and areas


def area(outline: np.ndarray) -> float:
    return float(abs((outline.conj() * np.roll(outline, -1)).imag.sum()) / 2)


def drawn(shapes: list[list[np.ndarray]], size: int) -> list[np.ndarray]:
    canvases = []
    for stamp in coverage(shapes, size):
        canvas = np.zeros((size, size))
        canvas[stamp.rows, stamp.cols] = stamp.alpha
        canvases.append(canvas)
    return canvases


def test_coverage_is_the_exact_area_of_each_pixel() -> None:
    rectangle = np.array([0.125 + 0.25j, 0.6 + 0.25j, 0.6 + 0.55j, 0.125 + 0.55j])
    x, y = np.arange(8)[None] / 8, np.arange(8)[:, None] / 8
    expected = np.clip(np.minimum(0.6, x + 0.125) - np.maximum(0.125, x), 0, None) * np.clip(
        np.minimum(0.55, y + 0.125) - np.maximum(0.25, y), 0, None
    )
    assert np.allclose(drawn([[rectangle]], 8)[0], expected * 64, atol=1e-6)


def test_coverage_agrees_with_counting_points() -> None:
    rng = np.random.default_rng(0)
    for outline in (curve("0.1,0.1! 0.9,0.2 0.7,0.8! 0.3,0.6"), rng.random(3) + 1j * rng.random(3), ellipse(0.4, 0.6, 0.3, 0.2)):
        grid = (np.arange(16 * 20) + 0.5) / (16 * 20)
        px, py = np.meshgrid(grid, grid)
        inside = np.zeros(px.shape, bool)
        for one, other in zip(outline, np.roll(outline, -1), strict=True):
            edge = other - one
            crosses = (one.imag > py) != (other.imag > py)
            inside ^= crosses & (px < one.real + (py - one.imag) * edge.real / (edge.imag or 1))
        counted = inside.reshape(16, 20, 16, 20).mean((1, 3))
        assert np.abs(drawn([[outline]], 16)[0] - counted).max() < 0.03


def test_shapes_may_overlap_have_either_orientation_and_leave_the_picture() -> None:
    disc = ellipse(0.5, 0.5, 0.2)
    whole, twice, turned, half, corner, gone, beyond = drawn(
        [[disc], [disc, disc[::-1]], [disc[::-1]], [disc + 0.5], [disc - (0.5 + 0.5j)], [disc + (2 + 2j)], [disc - 2]], 64
    )
    assert whole.sum() == pytest.approx(64 * 64 * area(disc))
    assert whole.max() == 1
    assert np.allclose(turned, whole)
    assert ((twice >= whole - 1e-6) & (twice <= np.minimum(2 * whole, 1) + 1e-6)).all()
    assert half.sum() == pytest.approx(whole.sum() / 2, rel=1e-6)
    assert corner.sum() == pytest.approx(whole.sum() / 4, rel=1e-6)
    assert gone.sum() == beyond.sum() == 0


def test_a_curve_goes_through_its_points_and_a_stroke_has_the_given_width() -> None:
    path = curve("0,0! 1,0 1,1 0,1!", steps=4)
    assert path.shape == (16,)
    assert np.allclose(path[::4], [0, 1, 1 + 1j, 1j])
    line = np.array([0j, 1, 2])
    assert area(stroke(line, 0.3)) == pytest.approx(0.6)
    assert area(stroke(line, 0.3, (0.0, 0.5))) == pytest.approx(0.3)
    assert stroke(np.stack([line, 1j * line]), np.full((2, 3), 0.1)).shape == (2, 6)
