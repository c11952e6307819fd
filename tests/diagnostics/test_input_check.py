"""Whether the input goes in as expected: against a network that is right only with the normalisation that it was made for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from attrlib.data.labels import match_classes
from attrlib.diagnostics.input_check import InputCheck, Trial, alternatives, check_input
from attrlib.errors import DataError, ProtocolError
from attrlib.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from attrlib.training.accuracy import accuracies

HALF = ((0.5,) * 3, (0.5,) * 3)
COUNT = 24


class Bright(nn.Module):
    """Tells dark pictures from bright ones, if grey is 0: logits of -scale * mean and scale * mean."""

    def __init__(self, scale: float = 4.0, outputs: int = 2):
        super().__init__()
        self.scale, self.outputs = nn.Parameter(torch.tensor(scale)), outputs

    def forward(self, images: Tensor) -> Tensor:
        mean = self.scale * images.mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)[:, : self.outputs]


def model_of(mean: Sequence[float], std: Sequence[float], outputs: str = "auto", **options: object) -> attrlib.Classifier:
    return attrlib.wrap_model(Bright(**options), 8, mean, std, outputs=outputs, crop=1.0)  # type: ignore[arg-type]


@pytest.fixture
def data(tmp_path: Path) -> attrlib.Dataset:
    """Pictures of grey levels from 0.2 to 0.48, of class 0, and from 0.52 to 0.8, of class 1."""
    for k, level in enumerate([*np.linspace(0.2, 0.48, COUNT // 2), *np.linspace(0.52, 0.8, COUNT // 2)]):
        folder = tmp_path / "grey" / str(int(level > 0.5))
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 8), (round(255 * level),) * 3).save(folder / f"{k}.png")
    return attrlib.load_dataset(str(tmp_path / "grey"))


def test_the_accuracy_of_each_normalisation_is_that_of_the_training_package(data: attrlib.Dataset) -> None:
    model = model_of((0.0,) * 3, (1.0,) * 3)
    found = check_input(model, data)
    classes = match_classes(data.class_names, model.class_names)
    for trial in found.trials:
        other = model_of(trial.changes["mean"], trial.changes["std"]) if "mean" in trial.changes else model
        assert trial.values.sum() == accuracies(other, data, classes, 0).clean, trial.name
    assert found.labelled
    assert found.trials[0].values.mean() == 0.5


def test_the_normalisation_that_the_network_was_made_for_is_named(data: attrlib.Dataset) -> None:
    found = check_input(model_of((0.0,) * 3, (1.0,) * 3), data)
    assert found.better is not None
    assert (found.better.changes["mean"], found.better.changes["std"]) == HALF
    assert found.better.values.mean() == 1
    assert "with the normalisation −1 to 1 the accuracy is 100 % instead of 50 %" in found.sentence


def test_nothing_is_named_where_the_input_is_right(data: attrlib.Dataset) -> None:
    found = check_input(model_of(*HALF), data)
    assert found.better is None
    assert "no other preprocessing gives a significantly higher accuracy" in found.sentence
    assert f"({COUNT} pictures)" in found.sentence


def test_without_labels_the_highest_probabilities_are_compared(tmp_path: Path, data: attrlib.Dataset) -> None:
    for file in (tmp_path / "grey").glob("*/*.png"):
        file.rename(tmp_path / "grey" / file.name)
    for folder in (tmp_path / "grey" / "0", tmp_path / "grey" / "1"):
        folder.rmdir()
    flat, model = attrlib.load_dataset(str(tmp_path / "grey")), model_of(*HALF)
    found = check_input(model, flat)
    levels = np.array([np.asarray(item.image)[0, 0, 0] / 255 for item in flat])
    # The highest probability of logits -z and z is the sigmoid of 2|z|, with z = 4 (level - 0.5) / 0.5.
    expected = 1 / (1 + np.exp(-2 * np.abs(4 * (levels - 0.5) / 0.5)))
    np.testing.assert_allclose(found.trials[0].values, expected, rtol=1e-5)
    assert found.measure == "mean top-1 probability"
    assert not any("0 to 255" in trial.name for trial in found.trials)


def test_a_limit_takes_the_same_pictures_for_every_trial_and_says_how_many(data: attrlib.Dataset) -> None:
    found = check_input(model_of(*HALF), data, limit=10)
    assert {len(trial.values) for trial in found.trials} == {10}
    again = check_input(model_of(*HALF), data, limit=10)
    assert all(np.array_equal(a.values, b.values) for a, b in zip(found.trials, again.trials, strict=True))


def test_the_values_are_those_of_single_pictures_and_the_module_is_unchanged(data: attrlib.Dataset) -> None:
    model = model_of((0.2,) * 3, (0.7,) * 3)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    model.module.train()
    found = check_input(model, data)
    assert model.module.training
    assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())
    squash = next(trial for trial in found.trials if trial.changes.get("fit") == "squash")
    right = []
    for index in range(len(data)):
        image = replace(model.preprocessing, fit="squash")(data[index].image)
        right.append(int(model(image[None]).argmax()) == data.label(index))
    assert squash.values.tolist() == right


def test_a_picture_that_cannot_be_read_is_left_out_and_counted(tmp_path: Path, data: attrlib.Dataset) -> None:
    (tmp_path / "grey" / "0" / "0.png").write_bytes(b"no picture")
    found = check_input(model_of(*HALF), attrlib.load_dataset(str(tmp_path / "grey")))
    assert (found.count, found.unreadable) == (COUNT - 1, 1)


def test_alternatives_leave_out_what_is_chosen() -> None:
    names = [trial.name for trial in alternatives(Preprocessing((8, 8), IMAGENET_MEAN, IMAGENET_STD, fit="squash"), True)]
    assert names == [
        "the chosen preprocessing", "the normalisation −1 to 1", "the normalisation 0 to 1", "the normalisation 0 to 255",
        "a crop instead of squashing",
    ]  # fmt: skip


def test_other_channels_have_the_normalisations_of_one_number() -> None:
    grey = [trial.changes for trial in alternatives(Preprocessing((8, 8), (0.5,), (0.5,)), True)]
    assert grey == [{}, {"mean": (0.0,), "std": (1.0,)}, {"mean": (0.0,), "std": (1 / 255,)}, {"fit": "squash"}]


def test_a_difference_that_chance_explains_is_not_named() -> None:
    chosen, other = np.array([1.0, 0, 1, 0, 1, 0, 1, 0]), np.array([1.0, 1, 1, 0, 1, 0, 1, 0])
    assert InputCheck((Trial("a", {}, chosen), Trial("b", {}, other)), True).better is None
    assert InputCheck((Trial("a", {}, np.zeros(8)), Trial("b", {}, np.ones(8))), True).better is not None


def test_numbers_and_classes_that_do_not_match_are_refused(tmp_path: Path, data: attrlib.Dataset) -> None:
    with pytest.raises(ProtocolError, match="predicts a number"):
        check_input(model_of(*HALF, outputs="scalar"), data)
    (tmp_path / "grey" / "1").rename(tmp_path / "grey" / "zebra")
    with pytest.raises(DataError, match="zebra"):
        check_input(model_of(*HALF), attrlib.load_dataset(str(tmp_path / "grey")), by="name")
