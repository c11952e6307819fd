"""Model cards, their checkpoints, new heads, data held out or kept decoded, and `python -m attrlib finetune`."""

import hashlib
import json
import math
import os
import shlex
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import safetensors.torch
import scipy.stats
import torch
from PIL import Image
from support.training import HALF, Pictures, Tiny, coloured, noise
from typer.testing import CliRunner, Result

import attrlib.cli
import attrlib.cli.finetune
import attrlib.models.cards
import attrlib.training.finetune
from attrlib.data.datasets import load_dataset
from attrlib.data.derived import Kept, hold_out
from attrlib.data.labels import with_description
from attrlib.errors import Cancelled, DataError, ImageError, ModelError, SpecError, TrainingError
from attrlib.models import Card, card_of, list_models, load_model, shipped, smallest, with_classes
from attrlib.models.architectures import ARCHITECTURES, Architecture, FixupResNet
from attrlib.models.architectures.catalogue import HE
from attrlib.models.preprocessing import Preprocessing
from attrlib.specs import ModelSpec
from attrlib.statistics import proportion
from attrlib.training import Recipe, Training, TrainingProgress, train_checkpoint

SIZE = 16
PREPROCESSING = Preprocessing((SIZE, SIZE), HALF, (0.25, 0.25, 0.5), "bicubic", 0.9)
RECIPE = Recipe(epochs=5, batch=8, lr=0.1, deletion=2, baseline="random", scale=0.6, amp=False, seed=3)
NAMES = ("blue", "green", "red", "turquoise", "yellow")
ORDER = (2, 1, 0, 4, 3)
"""The index into `COLOURS` of each class name."""


@pytest.fixture(scope="module", autouse=True)
def _tiny_architecture() -> Iterator[None]:
    """`attrlib:tiny`, which takes images of 16 px."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny", Architecture(Tiny, "a test's own", HE, PREPROCESSING))
        yield


def pictures(folder: Path, each: int, start: int = 0, names: Sequence[str] = NAMES) -> Path:
    """A folder of class folders."""
    source = coloured(each, start)
    for name, colour in zip(names, ORDER, strict=False):
        (folder / name).mkdir(parents=True)
        for k, image in enumerate(image for image, label in zip(source.images, source.kinds, strict=True) if label == colour):
            image.save(folder / name / f"{k}.png", compress_level=1)
    return folder


class Made:
    """A checkpoint made from folders."""

    def __init__(self, folder: Path, recipe: Recipe = RECIPE) -> None:
        self.data, self.report = pictures(folder / "train", 8), pictures(folder / "report", 5, start=200)
        start = ModelSpec("attrlib:tiny", "random:0")
        self.training = Training(start, str(self.data), recipe, report=str(self.report), pair="its_twin")
        self.out = folder / "out" / "own.safetensors"
        self.card = train_checkpoint(self.training, self.out, folder / "state", "cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Path:
    """The checkpoint with its card, to be damaged."""
    for suffix in (".safetensors", ".json"):
        (tmp_path / f"own{suffix}").write_bytes(made.out.with_suffix(suffix).read_bytes())
    return tmp_path / "own.safetensors"


def count_right(model: attrlib.Classifier, folder: Path) -> tuple[int, int]:
    right, files = 0, sorted(folder.glob("*/*.png"))
    for file in files:
        right += model.class_names[int(model(model.preprocess(Image.open(file))[None]).argmax())] == file.parent.name
    return right, len(files)


# Cards ------------------------------------------------------------------------------------------------------------------


def test_a_card_survives_a_round_trip(made: Made) -> None:
    assert Card.read(made.out.with_suffix(".json")) == made.card
    assert card_of(made.out) == made.out.with_suffix(".json")
    assert card_of(str(made.out)) == made.out.with_suffix(".json")
    assert sorted(os.listdir(made.out.parent)) == ["own.json", "own.safetensors"]


def test_a_card_describes_the_training(made: Made) -> None:
    card = made.card
    assert (card.architecture, card.class_names, card.preprocessing) == ("attrlib:tiny", NAMES, PREPROCESSING)
    assert card.recipe == asdict(RECIPE)
    assert card.deletion == {"grid": 2, "baseline": "random"}
    assert (card.seed, card.pair, card.data) == (3, "its_twin", str(made.data))
    assert card.parameters == 3 * 8 * 9 + 8 + 2 * 8 + 8 * 5 + 5
    assert 1 <= card.epoch <= 5
    assert card.seconds > 0
    assert card.digest == hashlib.blake2b(made.out.read_bytes(), digest_size=16).hexdigest()
    assert card.accuracy["data"] == str(made.report)
    for name in ("clean", "deleted"):
        found = card.accuracy[name]
        interval = scipy.stats.binomtest(round(found["mean"] * 25), 25).proportion_ci(method="wilson")
        assert (found["n"], found["undefined"]) == (25, 0)
        assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))


def test_a_checkpoint_with_a_card_needs_nothing_else(made: Made) -> None:
    model = load_model(made.out, "cpu")
    assert model.spec == ModelSpec("attrlib:tiny", str(made.out))
    assert (model.class_names, model.preprocessing, model.deletion_tuned) == (NAMES, PREPROCESSING, True)
    file = safetensors.torch.load_file(made.out)
    state = model.module.state_dict()
    assert file.keys() == state.keys()
    for key, value in file.items():
        assert value.dtype == (torch.float16 if value.ndim > 1 else state[key].dtype)
        assert torch.equal(value.to(state[key]), state[key])
    other = load_model("attrlib:tiny", "cpu", checkpoint=made.out)
    assert (other.class_names, other.preprocessing, other.deletion_tuned, other.digest) == (NAMES, PREPROCESSING, True, model.digest)


def test_the_accuracy_on_the_card_is_that_of_the_file(made: Made) -> None:
    right, count = count_right(load_model(made.out, "cpu"), made.report)
    assert right / count == made.card.accuracy["clean"]["mean"]
    assert right >= 15


def test_a_model_trained_without_deletion_is_not_tuned_but_its_accuracy_on_deleted_images_is_measured(tmp_path: Path) -> None:
    made = Made(tmp_path, replace(RECIPE, deletion=0, epochs=1))
    assert made.card.deletion is None
    assert made.card.accuracy["deleted"]["n"] == 25
    assert not load_model(made.out, "cpu").deletion_tuned
    assert "tuned" not in made.card.summary()


def test_without_report_data_accuracy_is_measured_on_the_held_out_data(tmp_path: Path) -> None:
    training = Training(ModelSpec("attrlib:tiny", "random:0"), str(pictures(tmp_path / "train", 20)), replace(RECIPE, epochs=1))
    card = train_checkpoint(training, tmp_path / "own.safetensors", tmp_path / "state", "cpu")
    assert card.accuracy["data"] == f"{tmp_path / 'train'} (held out)"
    assert card.accuracy["clean"]["n"] == 10


def test_of_a_folder_of_splits_the_training_split_is_trained_on(tmp_path: Path) -> None:
    pictures(tmp_path / "root" / "train", 4)
    pictures(tmp_path / "root" / "val", 2, start=200)
    training = Training(
        ModelSpec("attrlib:tiny", "random:0"), str(tmp_path / "root"), replace(RECIPE, epochs=1), report=str(tmp_path / "root")
    )
    card = train_checkpoint(training, tmp_path / "own.safetensors", tmp_path / "state", "cpu")
    assert (card.data, card.accuracy["data"]) == (str(tmp_path / "root" / "train"), str(tmp_path / "root" / "val"))
    assert card.accuracy["clean"]["n"] == 10


def test_data_with_several_labels_are_refused(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "train", 1)
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name};other\n" for path in folder.glob("*/*.png")]
    (tmp_path / "list.csv").write_text("file,label\n" + "".join(rows))
    training = Training(ModelSpec("attrlib:tiny", "random:0"), str(tmp_path / "list.csv"), RECIPE)
    with pytest.raises(DataError, match=r"list\.csv have several labels, but the outputs of attrlib:tiny are exclusive classes"):
        train_checkpoint(training, tmp_path / "own.safetensors", tmp_path / "state", "cpu")


GOOD = {"architecture": "attrlib:tiny", "class_names": list(NAMES), "preprocessing": asdict(PREPROCESSING)}
BAD: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"architecture": "attrlib:tiny", "class_na',
    "binary": bytes(range(256)),
    "null": b"null",
    "number": b"5",
    "list": b"[1, 2]",
    "nothing": b"{}",
    "foreign": b'{"name": "a-package", "version": "1.0.0", "scripts": {}}',
    "deep": b"[" * 100_000,
    "huge": json.dumps(GOOD).encode() + b" " * (1 << 20),
    "unknown field": json.dumps(GOOD | {"colour": "red"}).encode(),
    "preprocessing": json.dumps(GOOD | {"preprocessing": 5}).encode(),
    "unknown preprocessing": json.dumps(GOOD | {"preprocessing": asdict(PREPROCESSING) | {"shape": 1}}).encode(),
}
WRONG: dict[str, Any] = {
    "architecture": 5,
    "class_names": "abcde",
    "class_names ": [1, 2, 3, 4, 5],
    "data": ["x"],
    "recipe": "long",
    "deletion": "yes",
    "accuracy": [0.5],
    "parameters": "many",
    "seconds": None,
    "pair": 3,
    "digest": {},
}
WRONG_PREPROCESSING: dict[str, Any] = {
    "size": ["a", "b"],
    "size ": 16,
    "size  ": [0, 0],
    "size   ": [math.inf, 16],
    "mean": ["a", "b", "c"],
    "std": [0, 0, 0],
    "std ": [1, 1],
    "crop": "all",
    "interpolation": ["bilinear"],
    "fit": "stretch",
}
BAD |= {f"{name}={value}": json.dumps(GOOD | {name.strip(): value}).encode() for name, value in WRONG.items()}
BAD |= {
    f"{name}={value}": json.dumps(GOOD | {"preprocessing": asdict(PREPROCESSING) | {name.strip(): value}}).encode()
    for name, value in WRONG_PREPROCESSING.items()
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_an_invalid_card_is_refused_in_one_line(copied: Path, content: bytes) -> None:
    beside = copied.with_suffix(".json")
    beside.write_text(json.dumps(GOOD))
    assert load_model(copied, "cpu").class_names == NAMES
    beside.write_bytes(content)
    for call in (
        lambda: Card.read(beside),
        lambda: load_model(copied, "cpu"),
        lambda: load_model("attrlib:tiny", "cpu", checkpoint=copied),
    ):
        with pytest.raises(ModelError) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": [200_000, 200_000]}, r"input size .* is not valid: give .* from 1 to 2048"),
        ({"size": [16, 2049]}, r"input size .* is not valid: give .* from 1 to 2048"),
        ({"crop": 0.005}, "crop=0.005 is not valid: give .* from 0.1 to 2"),
        ({"size": [2048, 16], "crop": 0.4}, "crop that is too small for its size; set crop to 0.5 or more"),
        ({"mean": [math.nan] * 3}, "mean and std are not valid: give"),
        ({"std": [0.5, math.inf, 0.5]}, "mean and std are not valid: give"),
    ],
    ids=str,
)
def test_a_card_that_would_fill_memory_or_has_no_numbers_is_refused(copied: Path, given: dict[str, Any], message: str) -> None:
    beside = copied.with_suffix(".json")
    beside.write_text(json.dumps(GOOD | {"preprocessing": asdict(PREPROCESSING) | given}))
    for call in (lambda: Card.read(beside), lambda: load_model(copied, "cpu")):
        with pytest.raises(ModelError, match=message):
            call()


@pytest.mark.parametrize("given", [{"size": [2048, 2048], "crop": 0.5}, {"crop": 0.1}], ids=str)
def test_a_card_at_the_bounds_is_read(copied: Path, given: dict[str, Any]) -> None:
    beside = copied.with_suffix(".json")
    beside.write_text(json.dumps(GOOD | {"preprocessing": asdict(PREPROCESSING) | given}))
    assert Card.read(beside).preprocessing.crop == given["crop"]


def test_a_card_names_a_bounded_number_of_classes(tmp_path: Path) -> None:
    card = tmp_path / "own.json"
    card.write_text(json.dumps(GOOD | {"class_names": ["a"] * 100_000}))
    assert len(Card.read(card).class_names) == 100_000
    card.write_text(json.dumps(GOOD | {"class_names": ["a"] * 100_001}))
    with pytest.raises(ModelError, match="more than 100000 class_names"):
        Card.read(card)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("architecture", "attrlib:tyni", "unknown attrlib model 'tyni'.*tiny"),
        ("architecture", "wrapped:Tiny", "unknown model 'wrapped:Tiny'"),
        ("architecture", "../../etc/passwd", "unknown model"),
        ("architecture", "", "unknown model"),
        ("class_names", ["a", "b"], "has 5 classes, but its model card names 2; use the card that belongs to it"),
    ],
)
def test_a_card_of_another_model_is_refused(copied: Path, field: str, value: object, message: str) -> None:
    copied.with_suffix(".json").write_text(json.dumps(GOOD | {field: value}))
    with pytest.raises(ModelError, match=message):
        load_model(copied, "cpu")


@pytest.mark.parametrize("name", ["", ".", "/", "~nobody_of_that_name/x.pth", "x" * 5000, "missing.pth", "a\0b.pth"])
def test_a_missing_file_has_no_card(name: str) -> None:
    assert card_of(name) is None
    if name:
        with pytest.raises(ModelError):
            load_model("attrlib:tiny", "cpu", checkpoint=name)


def test_weights_that_cannot_be_written_are_an_error_and_the_same_call_writes_them_later(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "file" / "own.safetensors"
    out.parent.touch()
    with pytest.raises(
        TrainingError,
        match=r"own\.safetensors cannot be written .*the training state is saved, so free disk space and run the same command again",
    ):
        train_checkpoint(made.training, out, tmp_path / "state", "cpu")
    out.parent.unlink()
    seen: list[TrainingProgress] = []
    train_checkpoint(made.training, out, tmp_path / "state", "cpu", seen.append)
    assert seen == []
    assert out.read_bytes() == made.out.read_bytes()


@pytest.mark.parametrize("name", ["own.pth", "own", "own.safetensors.gz"])
def test_weights_must_have_the_suffix_safetensors(tmp_path: Path, name: str) -> None:
    training = Training(ModelSpec("attrlib:tiny", "random:0"), "nowhere", RECIPE)
    with pytest.raises(SpecError, match=f"{name!r} is not a valid file name for weights; choose one that ends with .safetensors"):
        train_checkpoint(training, tmp_path / name, tmp_path / "state")


@pytest.mark.parametrize("count", [0, 1, 7, 49, 50])
def test_a_share_has_wilson_s_interval(count: int) -> None:
    found, interval = proportion(count, 50), scipy.stats.binomtest(count, 50).proportion_ci(method="wilson")
    assert (found.mean, found.n, found.undefined) == (count / 50, 50, 0)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_the_interval_of_a_share_is_within_0_and_1_and_undefined_for_no_items() -> None:
    for n in range(1, 400):
        for count in (0, n):
            found = proportion(count, n)
            assert 0 <= found.low <= found.mean <= found.high <= 1
    for count, n in ((0, 0), (-1, 5), (6, 5)):
        with pytest.raises(DataError, match="is not a valid proportion"):
            proportion(count, n)


# Starting from checkpoints --------------------------------------------------------------------------------------------------


def test_tuning_starts_from_a_checkpoint_and_the_new_one_loads_without_the_old(made: Made, copied: Path, tmp_path: Path) -> None:
    """As `--model FILE`; the old file may be gone afterwards."""
    training = Training(ModelSpec(str(copied)), str(made.data), replace(RECIPE, epochs=1, lr=0.0))
    card = train_checkpoint(training, tmp_path / "new.safetensors", tmp_path / "state", "cpu")
    weights = safetensors.torch.load_file(copied)
    copied.unlink()
    copied.with_suffix(".json").unlink()
    assert card.architecture == "attrlib:tiny"
    new = load_model(tmp_path / "new.safetensors", "cpu")
    assert new.class_names == NAMES
    # The learning rate was 0.
    assert torch.equal(new.module.state_dict()["conv.weight"], weights["conv.weight"].float())


@pytest.fixture
def in_assets(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The checkpoint as a shipped model with the name `own`."""
    monkeypatch.setattr(attrlib.models.cards, "ASSETS", copied.parent)
    attrlib.models.cards.shipped.cache_clear()
    yield copied
    monkeypatch.undo()
    attrlib.models.cards.shipped.cache_clear()


def test_a_shipped_model_is_loaded_by_name(in_assets: Path) -> None:
    model = load_model("own", "cpu")
    assert (model.class_names, model.preprocessing, model.deletion_tuned) == (NAMES, PREPROCESSING, True)
    assert model.digest == load_model(in_assets, "cpu").digest
    (info,) = (info for info in list_models() if info.name == "own")
    assert (info.source, "deletion-tuned" in info.note) == ("shipped", True)
    assert load_model("own", "cpu", pretrained=False).digest != model.digest


def test_the_card_of_a_tuned_shipped_model_names_its_architecture(in_assets: Path, made: Made, tmp_path: Path) -> None:
    training = Training(ModelSpec("own"), str(made.data), replace(RECIPE, epochs=1))
    out = tmp_path / "elsewhere" / "new.safetensors"
    assert train_checkpoint(training, out, tmp_path / "state", "cpu").architecture == "attrlib:tiny"
    assert load_model(out, "cpu").class_names == NAMES


def test_other_weights_of_a_shipped_model_load_by_its_name(in_assets: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.pth"
    torch.save(Tiny(5).state_dict(), other)
    model = load_model("own", "cpu", checkpoint=other)
    assert len(model.class_names) == 5
    assert not model.deletion_tuned


# New heads -------------------------------------------------------------------------------------------------------------------


def named(names: Sequence[str] = NAMES, build: Callable[[int], torch.nn.Module] = Tiny) -> attrlib.Classifier:
    """A model of those classes in which all weights differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny", Architecture(build, "", HE, PREPROCESSING))
        model = load_model("attrlib:tiny", "cpu", pretrained=False, seed=7)
    module = build(len(names))
    generator = torch.Generator().manual_seed(1)
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = torch.rand(tensor.shape, generator=generator).to(tensor)
    return attrlib.Classifier(module.eval(), PREPROCESSING, model.spec, names)


HEADS = {
    "fewer": (("green", "yellow"), (1, 4)),
    "two": (("red", "blue"), (2, 0)),
    "as many": (tuple(reversed(NAMES)), (4, 3, 2, 1, 0)),
    "more": ((*NAMES, "red", "blue"), (0, 1, 2, 3, 4, 2, 0)),
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_new_head_copies_the_rows_of_known_classes_and_all_other_weights(kind: str) -> None:
    names, rows = HEADS[kind]
    old = named()
    before = old.digest
    new = with_classes(old, names, rows)
    assert new.class_names == names
    assert (new.preprocessing, new.spec, new.deletion_tuned) == (old.preprocessing, old.spec, False)
    own, other = new.module.state_dict(), old.module.state_dict()
    for key in other:
        expected = other[key][list(rows)] if key.startswith("fc.") else other[key]
        assert own[key].dtype == expected.dtype
        assert torch.equal(own[key], expected), key
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(new(x), old(x)[:, list(rows)], atol=1e-6)
    assert old.digest == before


@pytest.mark.parametrize("count", [3, 5, 8])
def test_a_head_for_unknown_classes_is_drawn_from_the_seed_and_all_other_weights_are_copied(count: int) -> None:
    old, names = named(), [f"new {k}" for k in range(count)]
    state = torch.get_rng_state()
    new, again, other = with_classes(old, names), with_classes(old, names), with_classes(old, names, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    own = new.module.state_dict()
    for key, value in old.module.state_dict().items():
        if key.startswith("fc."):
            assert own[key].shape[0] == count
            assert torch.equal(own[key], again.module.state_dict()[key])
            assert not torch.equal(own[key], other.module.state_dict()[key])
            assert not torch.equal(own[key], value)
        else:
            assert torch.equal(own[key], value), key


def test_a_layer_as_wide_as_the_number_of_classes_is_not_mistaken_for_the_head() -> None:
    names = [f"class of {k}" for k in range(8)]
    old = named(names)
    new = with_classes(old, names[:3], (5, 6, 7)).module.state_dict()
    assert torch.equal(new["conv.weight"], old.module.state_dict()["conv.weight"])
    assert torch.equal(new["fc.weight"], old.module.state_dict()["fc.weight"][5:])


def test_the_head_of_other_architectures_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    build = lambda n: FixupResNet((1, 1, 1, 1), 4, False, n)  # noqa: E731
    monkeypatch.setitem(ARCHITECTURES, "tiny", Architecture(build, "", HE, PREPROCESSING))
    old = named(build=build)
    x = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(with_classes(old, ["red", "blue"], (2, 0))(x), old(x)[:, [2, 0]], rtol=1e-4)


def test_a_new_head_for_a_wrapped_model_is_refused() -> None:
    with pytest.raises(ModelError, match=r"is a wrapped module.*replace the head"):
        with_classes(attrlib.wrap_model(Tiny(), SIZE), ["a", "b"])


def test_known_classes_start_from_their_rows(made: Made, tmp_path: Path) -> None:
    data = pictures(tmp_path / "some", 4)
    for name in ("green", "turquoise"):
        for file in (data / name).iterdir():
            file.unlink()
    start = attrlib.training.finetune._model(Training(ModelSpec(str(made.out)), ""), load_dataset(data), "cpu")
    assert start.class_names == ("blue", "red", "yellow")
    old = load_model(made.out, "cpu").module.state_dict()
    assert torch.equal(start.module.state_dict()["fc.weight"], old["fc.weight"][[0, 2, 4]])
    assert torch.equal(start.module.state_dict()["conv.weight"], old["conv.weight"])


def test_classes_in_another_order_are_matched_by_name(made: Made) -> None:
    data = Pictures([noise(0)], [0], 5)
    data.class_names = tuple(reversed(NAMES))
    start = attrlib.training.finetune._model(Training(ModelSpec(str(made.out)), ""), data, "cpu")
    assert start.class_names == NAMES
    assert start.digest == load_model(made.out, "cpu").digest


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("n01440764", "n01440764 tench, Tinca tinca"),
        ("n99999999", "n99999999"),
        ("tench", "tench"),
        ("n01440764 x", "n01440764 x"),
        ("", ""),
    ],
)
def test_wnids_are_described(name: str, described: str) -> None:
    assert with_description(name) == described


# Data held out or kept ---------------------------------------------------------------------------------------------------------


def uneven() -> Pictures:
    """40, 21, 10, 2 and 1 of five classes, and six without a label, mixed."""
    labels: list[int | None] = [0] * 40 + [1] * 21 + [2] * 10 + [3] * 2 + [4] + [None] * 6
    order = np.random.default_rng(0).permutation(len(labels))
    return Pictures([noise(int(k)) for k in order], [labels[k] for k in order], 5)


def test_the_held_out_items_are_a_share_of_each_class_and_disjoint_from_the_rest() -> None:
    data = uneven()
    rest, held = hold_out(data, 0.1, 0)
    ids = [{part.item_id(k) for k in range(len(part))} for part in (rest, held)]
    assert not ids[0] & ids[1]
    assert ids[0] | ids[1] == {str(k) for k, label in enumerate(data.kinds) if label is not None}
    assert Counter(held.label(k) for k in range(len(held))) == {0: 4, 1: 2, 2: 1, 3: 1}
    assert Counter(rest.label(k) for k in range(len(rest))) == {0: 36, 1: 19, 2: 9, 3: 1, 4: 1}
    for part in (rest, held):
        assert part.class_names == data.class_names
        for k in range(len(part)):
            assert (part[k].id, part[k].label) == (part.item_id(k), part.label(k))
            assert part[k].image.tobytes() == data.images[int(part.item_id(k))].tobytes()
    assert (rest.name, held.name) == ("p", "p (held out)")


def test_the_held_out_items_depend_on_the_seed() -> None:
    def ids(seed: int) -> set[str]:
        held = hold_out(uneven(), 0.3, seed)[1]
        return {held.item_id(k) for k in range(len(held))}

    assert ids(0) == ids(0)
    # 12 of 40 and 6 of 21: that two draws are equal is as good as impossible.
    assert len({frozenset(ids(seed)) for seed in range(5)}) == 5


class Counting(Pictures):
    """Counts how often a picture is opened."""

    opened = 0

    def __getitem__(self, index: int) -> Any:
        self.opened += 1
        return super().__getitem__(index)


def test_kept_items_are_opened_once_and_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Counting([noise(k) for k in range(6)], [0, 1, None, 0, 1, 2], 3, broken=(4,))
    kept = Kept(plain)
    assert (len(kept), kept.name, kept.class_names) == (6, "p", plain.class_names)
    for _ in range(3):
        for k in (0, 1, 2, 3, 5, -1):
            found = kept[k]
            assert (found.label, found.id, found.name) == (plain.kinds[k], str(k % 6), str(k % 6))
            assert found.image.tobytes() == plain.images[k].tobytes()
            assert (kept.label(k), kept.item_id(k % 6)) == (plain.kinds[k], str(k % 6))
    assert plain.opened == 5
    with pytest.raises(ImageError, match="picture 4 is broken"):
        kept[4]
    with pytest.raises(IndexError):
        kept[6]


@pytest.mark.parametrize("room", [0, 1, 3.5])
def test_kept_items_stay_within_their_share_of_the_memory(monkeypatch: pytest.MonkeyPatch, room: float) -> None:
    """A pixel of a colour picture takes four bytes."""
    memory = type("Memory", (), {"available": int(8 * room * 4 * 20 * 20)})
    monkeypatch.setattr(attrlib.data.derived.psutil, "virtual_memory", lambda: memory)
    plain = Counting([noise(k) for k in range(6)], [0] * 6, 1)
    kept = Kept(plain, share=0.125)
    for _ in range(2):
        assert [kept[k].image.tobytes() for k in range(6)] == [image.tobytes() for image in plain.images]
    assert plain.opened == 12 - int(room)


# The command ---------------------------------------------------------------------------------------------------------------------


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(attrlib.cli.app, [str(a) for a in arguments])


def command(data: Path, out: Path, *more: object) -> list[object]:
    small = ("--epochs", 3, "--batch", 8, "--lr", 0.1, "--deletion", 2, "--amp", "false", "--device", "cpu")
    return ["finetune", "--model", "attrlib:tiny", "--checkpoint", "random:0", "--data", data, "--out", out, *small, *more]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "some colours", 8)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Run the command without interruption."""
    out = tmp_path_factory.mktemp("whole") / "own model.safetensors"
    result = invoke(*command(data, out))
    assert result.exit_code == 0, (result.output, result.exception)
    return out, result


def test_the_command_writes_a_checkpoint_and_reports_its_accuracy(whole: tuple[Path, Result]) -> None:
    out, result = whole
    card = Card.read(out.with_suffix(".json"))
    assert (card.recipe["epochs"], card.recipe["deletion"], card.recipe["weight_decay"]) == (3, 2, 1e-4)
    assert load_model(out, "cpu").deletion_tuned
    lines = result.stdout.splitlines()
    for line, name in zip(lines, ("clean", "deleted"), strict=False):
        found = card.accuracy[name]
        assert line.split()[:2] == [name, f"{found['mean']:.1%}"]
        assert f"[{found['low']:.1%}, {found['high']:.1%}]" in line
        assert f"{found['n']} images of" in line
    assert f"wrote {out} and own model.json" in lines[2]
    assert sorted(os.listdir(out.parent)) == ["own model.json", "own model.safetensors"], "the state is gone"


def test_the_suggested_next_command_runs_in_a_shell(whole: tuple[Path, Result], data: Path, tmp_path: Path) -> None:
    words = shlex.split(whole[1].stdout.splitlines()[-1])
    assert words[:6] == ["python", "-m", "attrlib", "score", "--model", str(whole[0])]
    assert words[words.index("--protocol") + 1] == "idsds"
    assert words[-2:] == ["--data", "DATA"]
    result = invoke(*command(data, tmp_path / "a.safetensors", "--epochs", 1, "--report", data, "--preset", "scratch", "--deletion", 0))
    words = shlex.split(result.stdout.splitlines()[-1])
    assert words[words.index("--protocol") + 1] == "sds"
    assert words[-2:] == ["--data", str(data)]


def test_json_is_one_line_with_the_card(whole: tuple[Path, Result], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.safetensors"
    result = invoke(*command(data, out, "--json"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    found = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found == {"out": str(out)} | json.loads(out.with_suffix(".json").read_text())
    assert out.read_bytes() == whole[0].read_bytes(), "the same command, the same weights"


def test_fractions_train_from_the_start_on_each_share_of_the_same_data(whole: tuple[Path, Result], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.safetensors"
    result = invoke(*command(data, out, "--fractions", "0.5, 1", "--json"))
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)["models"]
    assert [(Path(m["out"]).name, m["recipe"]["fraction"]) for m in found] == [("own_50.safetensors", 0.5), ("own_100.safetensors", 1.0)]
    assert sorted(os.listdir(tmp_path)) == [f"own_{share}.{kind}" for share in (100, 50) for kind in ("json", "safetensors")]
    assert (tmp_path / "own_100.safetensors").read_bytes() == whole[0].read_bytes(), "the whole share is training without shares"
    assert (tmp_path / "own_50.safetensors").read_bytes() != whole[0].read_bytes()


def test_fractions_resume_with_the_one_that_was_stopped(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, trained = tmp_path / "own.safetensors", []

    def stopped(training: Training, *others: Any) -> Card:
        def watched(found: TrainingProgress) -> None:
            trained.append((training.recipe.fraction, found.epoch))
            if stop and training.recipe.fraction == 1:
                raise Cancelled("cancelled")

        return train_checkpoint(training, *others[:-1], watched)

    monkeypatch.setattr(attrlib.cli.finetune, "train_checkpoint", stopped)
    stop = True
    assert invoke(*command(data, out, "--fractions", "0.5,1")).exit_code == 130
    assert {fraction for fraction, _ in trained} == {0.5, 1.0}
    stop = False
    trained.clear()
    assert invoke(*command(data, out, "--fractions", "0.5,1")).exit_code == 0
    assert {fraction for fraction, _ in trained} == {1.0}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cancelled_training_resumes_with_the_same_command(
    whole: tuple[Path, Result], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    out, seen = tmp_path / "own.safetensors", []

    def interrupted(*arguments: Any) -> Card:
        *others, on_progress = arguments

        def watched(found: TrainingProgress) -> None:
            seen.append(found.epoch)
            if found.epoch == 2 and kill:
                os.kill(os.getpid(), number)
            on_progress(found)

        return train_checkpoint(*others, watched)

    monkeypatch.setattr(attrlib.cli.finetune, "train_checkpoint", interrupted)
    before = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    kill = True
    result = invoke(*command(data, out))
    assert result.exit_code == 130, result.output
    assert f"stopped: finished epochs are kept in {tmp_path / 'own.training'}; run the same command to resume" in result.stderr
    assert "cancelled" in result.stderr
    assert result.stdout == ""
    assert os.listdir(tmp_path) == ["own.training"]
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == before
    kill = False
    seen.clear()
    assert invoke(*command(data, out)).exit_code == 0
    assert set(seen) == {2, 3}
    assert out.read_bytes() == whole[0].read_bytes()
    assert not (tmp_path / "own.training").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--epochs", 0), "epochs=0 is out of range"),
        (("--epochs", "many"), "epochs='many' is not valid"),
        (("--fractions", "0.5,2"), "fraction=2 is out of range"),
        (("--fractions", ""), "fraction='' is not valid"),
        (("--deletion", 33), "deletion=33 is out of range"),
        (("--deletion", 17), "cannot be divided into 17 x 17 patches; choose a smaller deletion"),
        (("--baseline", "black"), "unknown baseline 'black'"),
        (("--preset", "ids"), "unknown preset 'ids'"),
        (("--model", "attrlib:tyni"), "unknown attrlib model 'tyni'. Did you mean tiny"),
        (("--checkpoint", "missing.pth"), "there is no file 'missing.pth'"),
        (("--data", "missing"), "unknown data set 'missing'"),
        (("--select", "missing"), "unknown data set 'missing'"),
        (("--report", "missing"), "unknown data set 'missing'"),
        (("--out", "own.pth"), "choose one that ends with .safetensors"),
        (("--device", "quantum"), "device 'quantum' cannot be used"),
        (("--select", "photos"), "classes of the data match none of the model's"),
    ],
)
def test_an_invalid_flag_is_refused_in_one_line_and_nothing_is_trained(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[object, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(attrlib.training.finetune, "train", lambda *_args: pytest.fail("it trained"))
    result = invoke(*command(data, tmp_path / "own.safetensors", *more))
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_a_divergence_ends_in_one_line_and_keeps_the_state(data: Path, tmp_path: Path) -> None:
    result = invoke(*command(data, tmp_path / "own.safetensors", "--lr", 100, "--weight-decay", 10, "--epochs", 40))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Try a lower lr (now 100)" in result.stderr.splitlines()[-1]
    assert os.listdir(tmp_path) == ["own.training"]


def test_the_smallest_shipped_model_of_a_data_set_is_found() -> None:
    cards = {name: Card.read(path) for name, path in shipped().items()}
    for tuned in (False, True):
        fitting = {
            name: card.parameters for name, card in cards.items() if card.data == "birds:train" and (card.deletion is not None) == tuned
        }
        assert smallest("birds", tuned) == min(fitting, key=lambda name: (fitting[name], name))
    assert smallest("nothing like this", True) is None
