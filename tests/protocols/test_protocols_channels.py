"""Every protocol on data and models of one, four and twelve channels, from the picture to the score and to what is shown."""

import operator
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from support.nets import CLASSES, Banded, made, reading_first

import attrlib
from attrlib.aggregation.view import Aggregation
from attrlib.analysis.examples import judged_item
from attrlib.bands import Bands
from attrlib.data.datasets import Dataset, Item, load_dataset
from attrlib.data.images import open_photo
from attrlib.diagnostics.deletion_curve import delete_in_order
from attrlib.diagnostics.infidelity_sweep import infidelity_by_noise
from attrlib.errors import DataError, ProtocolError
from attrlib.protocols import PROTOCOLS
from attrlib.specs import AggregateView, MethodSpec, ProtocolSpec, RunSpec
from attrlib.store import Store

CHANNELS = (1, 4, 12)
SIZE = 32
ITEMS = 10
LEVELS = (0.2, 0.35, 0.5, 0.65, 0.8)
MEAN, STD = (0.5,), (0.25,)
TEXTS = {
    "ids": "ids:steps=4",
    "srg": "srg:steps=4",
    "deletion": "deletion:steps=4",
    "insertion": "insertion:steps=4",
    "irof": "irof:segments=12:steps=4",
    "infidelity": "infidelity:samples=3:noise=0.5",
    "gridpg": "gridpg:confidence=0",
    "difull": "difull:confidence=0",
    "dipart": "dipart:confidence=0",
    "sensitivity": "sensitivity:samples=2",
    "robustness": "robustness:tolerance=1",
    "randomisation": "randomisation:stages=2",
    "smooth-randomisation": "smooth-randomisation:stages=2:samples=2",
    "faithfulness": "faithfulness:samples=4:grid=4",
    "mufidelity": "mufidelity:samples=4:grid=4",
    "sensitivity-n": "sensitivity-n:samples=4:grid=4",
}
# Performance information curves need pictures of one or three channels that are not recognised when they are blurred.
SCORED = [name for name in PROTOCOLS if name not in ("parts", "funnybirds", "sic", "aic")]
on_every_model = pytest.mark.parametrize("channels", CHANNELS)


class Banded12(Dataset):
    """Pictures of 16 bits of which only the first band matters, with masks; the same items for any number of bands."""

    name = "bands"
    class_names = tuple(f"class {k}" for k in range(CLASSES))
    has_masks = True

    def __init__(self, bands: int):
        self.bands = bands

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        k = range(ITEMS)[operator.index(index)]
        level = LEVELS[self.label(k)]
        values = (65535 * (level + np.random.default_rng(k).uniform(-0.1, 0.1, (40, 50, 1)))).astype(np.uint16)
        others = np.random.default_rng(100 + k).integers(0, 65536, (40, 50, 11), np.uint16, endpoint=False)
        bands = Bands(np.concatenate([values, others], axis=2)[..., : self.bands])
        mask = np.zeros((40, 50), bool)
        mask[10:30, 5 + k : 25 + k] = True
        return Item(bands.rgb(), self.label(k), self.item_id(k), f"item {k}", {"object": mask}, bands)

    def label(self, index: int) -> int:
        return index % CLASSES

    def item_id(self, index: int) -> str:
        return f"{index:032d}"


@cache
def net() -> Banded:
    """A network that tells the classes by the level of the first band: its logits are fitted to 2 m t - t^2 for mean m and level t."""
    module = reading_first(made(Banded, 3), 3)
    assert isinstance(module, Banded)
    model = attrlib.wrap_model(module, SIZE, MEAN * 3, STD * 3)
    images = torch.stack([model.preprocess(item) for item in Banded12(3)])
    with torch.no_grad():
        features = torch.stack([model.split(model.layer("Final")).fresh().before(image[None])[0].mean((1, 2)) for image in images])
        features = torch.cat([features, torch.ones(ITEMS, 1)], 1)
        levels, mean = torch.tensor(LEVELS), model.preprocessing.denormalise(images)[:, 0].mean((1, 2))
        fitted = torch.linalg.lstsq(features, 1000 * (2 * mean[:, None] * levels - levels**2)).solution
        module.fc.weight.copy_(fitted[:-1].T)
        module.fc.bias.copy_(fitted[-1])
    assert model(images).argmax(1).tolist() == [k % CLASSES for k in range(ITEMS)]
    return module


def wrapped(channels: int) -> attrlib.Classifier:
    return attrlib.wrap_model(reading_first(net(), channels), SIZE, MEAN * channels, STD * channels, deletion_tuned=True)


def scored(protocol: str, channels: int, tmp_path: Path, method: str = "IxG") -> attrlib.Score:
    with closing(Store(folder=tmp_path / str(channels))) as store:
        return attrlib.score(TEXTS.get(protocol, protocol), wrapped(channels), method, Banded12(channels), limit=6, store=store)


@on_every_model
@pytest.mark.parametrize("protocol", SCORED)
def test_bands_that_the_model_does_not_read_change_no_score(protocol: str, channels: int, tmp_path: Path) -> None:
    found, expected = (scored(protocol, count, tmp_path) for count in (channels, 3))
    assert np.isfinite(found.mean)
    assert found.ids == expected.ids
    # The random weights of a layer of another shape are others, and superpixels are those of the picture as it is shown.
    if protocol not in ("randomisation", "smooth-randomisation", "complexity-rise", "irof"):
        assert np.allclose(found.values, expected.values, rtol=1e-3, atol=1e-5, equal_nan=True)


@on_every_model
@pytest.mark.parametrize("change", ["brightness", "contrast", "sharpness", "saturation"])
def test_filters_of_the_robustness_protocol_work_band_by_band(change: str, channels: int, tmp_path: Path) -> None:
    protocol = f"robustness:tolerance=1:change={change}"
    if change == "saturation":
        with pytest.raises(ProtocolError, match=f"saturation needs colours, and .* reads {channels} channel"):
            scored(protocol, channels, tmp_path)
    else:
        assert np.isfinite(scored(protocol, channels, tmp_path).mean)


@on_every_model
def test_grids_examples_and_diagnostics_show_the_input(channels: int, tmp_path: Path) -> None:
    model, data = wrapped(channels), Banded12(channels)
    spec = RunSpec(model.spec, data.name, (ProtocolSpec.parse("gridpg:confidence=0"),), (MethodSpec.parse("IxG"),), limit=4)
    with closing(Store(folder=tmp_path / "store")) as store:
        result = attrlib.compare(spec.protocols, model, spec.methods, data, limit=4, store=store)
        view = Aggregation(spec, model, data, store)
        row = view.row(spec.methods[0], AggregateView())
        (example,) = view.examples(row, [0], AggregateView())
        score = next(iter(result.scores.values()))
        item = judged_item(data, score, 0, model, store, lambda *_args: None)
    assert example.picture.mode == "RGB"
    grey = np.asarray(example.picture)
    assert bool((grey == grey[..., :1]).all()) == (channels == 1)
    assert item.picture
    photo = open_photo(data[0].bands.values)
    attribution = attrlib.explain(model, photo, "IxG", 1)
    assert delete_in_order(model, photo, attribution, "descending", 4).replacement_values.shape == (SIZE, SIZE, 3)
    noisy = infidelity_by_noise(model, photo, [attribution], [0.1], samples=2).noisy
    assert [(image.mode, image.size) for image in noisy] == [("RGB", (SIZE, SIZE))]


def test_a_picture_of_other_bands_is_left_out_and_named(tmp_path: Path) -> None:
    for k in range(4):
        folder = tmp_path / "data" / f"class {k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(k).integers(0, 65536, (40, 50, 4), np.uint16)
        tifffile.imwrite(folder / f"{k}.tif", values, photometric="minisblack", planarconfig="contig")
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "data" / "class 0" / "plain.png")
    net = made(lambda: torch.nn.Sequential(Banded(4), torch.nn.Linear(CLASSES, 2)))
    model = attrlib.wrap_model(net, SIZE, (0.5,) * 4, (0.5,) * 4, class_names=["class 0", "class 1"])
    with closing(Store(folder=tmp_path / "store")) as store:
        result = attrlib.compare(["sds"], model, ["IxG"], str(tmp_path / "data"), store=store)
        (score,) = result.scores.values()
        assert len(score.values) == 4
        assert any("plain.png is grey or RGB, but the model reads 4 channels" in note for note in result.notes)
        grey = attrlib.wrap_model(made(Banded, 12), SIZE, (0.5,) * 12, (0.5,) * 12)
        with pytest.raises(DataError, match="has 4 bands, but the model reads 12 channels"):
            attrlib.score("sds", grey, "IxG", load_dataset(str(tmp_path / "data")), store=store, target="prediction")
