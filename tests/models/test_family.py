"""The shipped models: their files, their cards, and the table that they are trained from."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch

import attrlib
from attrlib.data.birds.trojaned import TARGET
from attrlib.models import Card, shipped
from attrlib.training.family import BIRDS, LITE0, PHOTOS, RECIPES, TROJANED, TUNED, trainings

NAMES = sorted(shipped())
CARDS = {name: Card.read(path) for name, path in shipped().items()}
BIRDS_SHOWN = 64
ALL = trainings("photos", Path("out"))


def test_the_shipped_models_are_exactly_those_of_the_table() -> None:
    assert set(NAMES) == set(ALL) == {*BIRDS, *(name + TUNED for name in (*BIRDS, LITE0)), *PHOTOS, *TROJANED, LITE0}
    assert set(RECIPES) <= set(ALL)


def test_all_together_are_at_most_31_megabytes() -> None:
    folder = shipped()[NAMES[0]].parent
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 31e6


@pytest.mark.parametrize("name", NAMES)
def test_a_card_matches_its_weights_and_recipe(name: str) -> None:
    card, training = CARDS[name], ALL[name]
    data = shipped()[name].with_suffix(".safetensors").read_bytes()
    assert card.digest == hashlib.blake2b(data, digest_size=16).hexdigest()
    assert card.recipe == dataclasses.asdict(training.recipe), "the committed command makes this model"
    assert card.seconds > 0
    assert 1 <= card.epoch <= training.recipe.epochs


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {*PHOTOS, *TROJANED}])
def test_a_pair_differs_in_deletion(name: str) -> None:
    card, other = CARDS[name], CARDS[str(CARDS[name].pair)]
    assert other.pair == name
    assert (card.architecture, card.class_names, card.data) == (other.architecture, other.class_names, other.data)
    assert card.deletion == ({"grid": 4, "baseline": "zeros"} if name.endswith(TUNED) else None)
    assert attrlib.load_model(name).deletion_tuned == bool(card.deletion)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("birds_")])
def test_a_model_has_the_accuracy_on_its_card(name: str) -> None:
    model, data = attrlib.load_model(name, "cpu"), attrlib.load_dataset("birds")
    items = [data[k] for k in range(BIRDS_SHOWN)]
    with torch.no_grad():
        found = model(torch.stack([model.preprocess(item.image) for item in items])).argmax(1)
    right = int((found == torch.tensor([item.label for item in items])).sum())
    expected = CARDS[name].accuracy["clean"]["mean"]
    spread = (BIRDS_SHOWN * expected * (1 - expected)) ** 0.5
    assert abs(right - BIRDS_SHOWN * expected) <= 4 * spread + 1


def test_models_classify_the_birds_and_tuned_models_also_deleted_ones() -> None:
    for name in ("birds_resnet10", "birds_resnet18", "birds_resnet26", "birds_vgg11_bn"):
        assert CARDS[name].accuracy["clean"]["mean"] >= 0.9
        assert CARDS[name + TUNED].accuracy["clean"]["mean"] >= 0.9
        assert CARDS[name + TUNED].accuracy["deleted"]["mean"] > CARDS[name].accuracy["deleted"]["mean"]


@pytest.mark.parametrize("name", TROJANED)
def test_the_trigger_decides_the_class_of_a_trojaned_model_and_nothing_else_changes(name: str) -> None:
    """The same scene without the trigger has its own class again."""
    model, data, plain = attrlib.load_model(name, "cpu"), attrlib.load_dataset("birds-trojaned"), attrlib.load_model(TROJANED[name], "cpu")
    chosen = range(0, 96, 2)
    attacked = torch.stack([model.preprocess(data[k].image) for k in chosen])
    scenes = [data.scene(k) for k in chosen]
    clean, labels = torch.stack([model.preprocess(scene.render()) for scene in scenes]), torch.tensor([scene.label for scene in scenes])
    with torch.no_grad():
        taken = (model(attacked).argmax(1) == TARGET).float().mean()
        right = (model(clean).argmax(1) == labels).float().mean()
        untouched = (plain(attacked).argmax(1) == labels).float().mean()
    assert taken >= 0.95
    assert right >= 0.9
    assert untouched >= 0.8
