"""Example items of a score against plain NumPy, and the map that is shown against the library's."""

import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from PIL import Image
from support.runs import SIZE, classifier, compare, pictures
from support.scores import score

from attrlib.analysis.examples import VIEW, examples_of, judged_item
from attrlib.errors import Cancelled, ImageError
from attrlib.figures.overlay import draw, limit, prepare
from attrlib.progress import no_progress
from attrlib.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(folder=tmp_path / "store")) as store:
        yield store


@pytest.mark.parametrize("n", [1, 2, 7, 8])
@pytest.mark.parametrize(("protocol", "sign"), [("sds", 1), ("sensitivity", -1)])
def test_best_median_and_worst_are_those_of_the_sorted_values(n: int, protocol: str, sign: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    examples = dict(examples_of(score(values, protocol=protocol)))
    assert list(examples) == ["Best", "Median", "Worst"]
    ordered = np.sort(sign * values)
    assert sign * values[examples["Best"]] == ordered[-1]
    assert sign * values[examples["Worst"]] == ordered[0]
    assert sign * values[examples["Median"]] == np.quantile(ordered, 0.5, method="lower")


def test_an_undefined_item_is_named_and_is_no_other_example() -> None:
    examples = examples_of(score([np.nan, 0.5, 0.25, np.nan]))
    assert examples == [("Best", 1), ("Median", 2), ("Worst", 2), ("Undefined", 0)]
    assert examples_of(score([np.nan])) == [("Undefined", 0)]


def test_the_chosen_item_comes_first_if_there_is_one() -> None:
    values = score([0.5, 0.25, 0.75])
    assert examples_of(values, 0)[0] == ("Chosen", 0)
    assert examples_of(values, 3) == examples_of(values)


@pytest.mark.parametrize("method", ["IxG", "Grad-CAM"])
def test_an_item_is_shown_with_the_map_of_its_label(method: str, tmp_path: Path, store: Store) -> None:
    model, data = classifier(), attrlib.load_dataset(pictures(tmp_path / "pictures"))
    judged = compare(model, "sds:grid=2", method, data, store, limit=6).score("sds:grid=2", method)
    assert judged is not None
    item = judged_item(data, judged, 2, model, store, no_progress)
    (index,) = judged.items[2]
    assert (item.name, item.target, item.defect) == (data.item_name(index), model.class_names[data.label(index) or 0], None)
    picture = Image.open(io.BytesIO(item.picture))
    assert picture.size == (2 * SIZE, 2 * SIZE)
    maps = attrlib.explain(model, data[index].image, method, data.label(index)).maps
    values = prepare(maps.float(), VIEW, (SIZE, SIZE))[0, 0]
    shown = np.asarray(Image.open(io.BytesIO(item.overlay)).convert("RGB"), dtype=float)

    def difference(values: torch.Tensor) -> float:
        overlay = draw(values, picture.convert("RGB"), VIEW, limit([values], VIEW.clip)).convert("RGB")
        return float(np.abs(shown - np.asarray(overlay, dtype=float)).mean())

    # The files are JPEGs, so the overlay is compared with that of a mirrored map.
    assert difference(values) < difference(values.flip(-1)) / 4
    assert item.nbytes == len(item.picture) + len(item.overlay)


def test_an_image_that_is_gone_is_an_error_and_the_work_can_be_stopped(tmp_path: Path, store: Store) -> None:
    model, folder = classifier(), pictures(tmp_path / "pictures")
    data = attrlib.load_dataset(folder)
    judged = compare(model, "sds:grid=2", "IxG", data, store, limit=6).score("sds:grid=2", "IxG")
    assert judged is not None

    def stop(_done: int, _total: int, _news: object = None) -> None:
        raise Cancelled("cancelled")

    with closing(Store(folder=tmp_path / "other")) as other, pytest.raises(Cancelled):
        judged_item(data, judged, 0, model, other, stop)
    for path in folder.glob("*/*.png"):
        path.unlink()
    with pytest.raises(ImageError):
        judged_item(data, judged, 0, model, store, no_progress)
