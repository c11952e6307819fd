"""Training on several labels per picture and with one logit, against plain loops and scikit-learn's definition of accuracy."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from support.training import HALF, Pictures, Tiny, coloured, noise
from torch import Tensor, nn

from attrlib.data.derived import hold_out
from attrlib.errors import DataError, SpecError
from attrlib.models.cards import Card
from attrlib.models.preprocessing import Preprocessing
from attrlib.models.sources import builder
from attrlib.specs import ModelSpec
from attrlib.training import Recipe, Training, accuracies, train, train_checkpoint
from attrlib.training.loader import TrainLoader

SIZE = 16
RECIPE = Recipe(epochs=2, batch=8, lr=0.05, deletion=0, scale=1.0, flip=False, amp=False, weight_decay=0.0)


class Labelled(Pictures):
    """Pictures with several labels each."""

    multi_label = True

    def __init__(self, images: Sequence[Image.Image], present: Sequence[tuple[int, ...]], classes: int) -> None:
        super().__init__(images, [p[0] if len(p) == 1 else None for p in present], classes)
        self.present = present

    def labels(self, index: int) -> tuple[int, ...]:
        return self.present[index]


PRESENT = [(0, 2), (1,), (0, 1, 2), (), (2,), (0,), (1, 2), (0, 1), (2,)]
DATA = Labelled([noise(k) for k in range(len(PRESENT))], PRESENT, 3)
LABELLED = [k for k, present in enumerate(PRESENT) if present]
HOT = torch.tensor([[float(k in PRESENT[i]) for k in range(3)] for i in LABELLED])


class Flat(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * SIZE * SIZE, count)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


def wrapped(count: int, outputs: str) -> attrlib.Classifier:
    torch.manual_seed(0)
    return attrlib.wrap_model(Flat(count), SIZE, HALF, HALF, crop=1.0, outputs=outputs)


def test_a_batch_says_which_labels_are_present() -> None:
    loader = TrainLoader(DATA, [2, 0, 1], Preprocessing((SIZE, SIZE), HALF, HALF), replace(RECIPE, batch=len(LABELLED)), 4)
    assert loader.indices == LABELLED
    _, targets = next(iter(loader.epoch(0)))
    mapped = {tuple(sorted([2, 0, 1][k] for k in PRESENT[i])) for i in LABELLED}
    assert targets.dtype == torch.bool
    assert {tuple(row.nonzero().flatten().tolist()) for row in targets} == mapped


@pytest.mark.parametrize("kind", ["sigmoid", "binary"])
def test_the_loss_is_the_binary_cross_entropy_of_a_plain_loop(tmp_path: Path, kind: str) -> None:
    data, target = DATA, HOT
    if kind == "binary":
        whole = coloured(4)
        two = [k for k, label in enumerate(whole.kinds) if label in (0, 1)]
        data = Pictures([whole.images[k] for k in two], [whole.kinds[k] for k in two], 2)  # type: ignore[assignment]
        target = torch.tensor(data.kinds, dtype=torch.float)[:, None]
    indices = LABELLED if kind == "sigmoid" else range(len(data))
    model = wrapped(1 if kind == "binary" else 3, kind)
    net = copy.deepcopy(model.module)
    x = torch.stack([model.preprocess(data.images[i]) for i in indices])
    optimizer = torch.optim.SGD(net.parameters(), RECIPE.lr, 0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(net(x), target)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    recipe = replace(RECIPE, epochs=3, batch=len(indices))
    found = train(model, data, range(3), data, range(3), recipe, tmp_path)
    assert [row["loss"] for row in found.history] == pytest.approx(losses, rel=1e-4)


def test_accuracy_counts_pictures_all_of_whose_labels_are_decided_correctly() -> None:
    model = wrapped(3, "sigmoid")
    z = model.module(torch.stack([model.preprocess(DATA.images[i]) for i in LABELLED])).detach()
    expected = sum(bool(((row > 0) == (hot > 0)).all()) for row, hot in zip(z, HOT, strict=True))
    right = accuracies(model, DATA, range(3), 0)
    assert (right.clean, right.count) == (expected, len(LABELLED))
    # A data set of what the model says is right throughout, and one of the opposite never.
    said = [tuple(row.nonzero().flatten().tolist()) for row in z > 0]
    pairs = [(DATA.images[i], labels) for i, labels in zip(LABELLED, said, strict=True) if labels]
    agreeing = Labelled([image for image, _ in pairs], [labels for _, labels in pairs], 3)
    assert accuracies(model, agreeing, range(3), 0).clean == len(pairs) > 0


def test_exclusive_classes_are_right_if_the_most_probable_one_is_present() -> None:
    model = wrapped(3, "softmax")
    z = model.module(torch.stack([model.preprocess(DATA.images[i]) for i in LABELLED])).detach()
    expected = sum(int(row.argmax()) in PRESENT[i] for row, i in zip(z, LABELLED, strict=True))
    assert accuracies(model, DATA, range(3), 0).clean == expected


def test_a_share_of_the_pictures_with_several_labels_is_held_out() -> None:
    rest, held = hold_out(DATA, 0.5, 0)
    ids = [[part.item_id(k) for k in range(len(part))] for part in (rest, held)]
    assert sorted(int(i) for i in [*ids[0], *ids[1]]) == LABELLED
    assert held.labels(0) == PRESENT[int(ids[1][0])]


def test_a_checkpoint_of_labels_is_trained_and_its_card_says_so(tmp_path: Path) -> None:
    rows = ["file,label", *(f"{k}.png,{';'.join(f'kind {c}' for c in PRESENT[k])}" for k in LABELLED)]
    for k in LABELLED:
        DATA.images[k].save(tmp_path / f"{k}.png")
    (tmp_path / "data.csv").write_text("\n".join(rows))
    start = ModelSpec("attrlib:small_resnet10_w16", "random:0", (32, 32), outputs="sigmoid")
    training = Training(start, str(tmp_path / "data.csv"), replace(RECIPE, epochs=1))
    card = train_checkpoint(training, tmp_path / "out.safetensors", tmp_path / "state", "cpu")
    assert (card.outputs, card.class_names) == ("sigmoid", ("kind 0", "kind 1", "kind 2"))
    assert Card.read(tmp_path / "out.json") == card
    assert attrlib.load_model(tmp_path / "out.safetensors", "cpu").outputs.kind == "sigmoid"
    exclusive = replace(training, model=replace(start, outputs="auto"))
    with pytest.raises(DataError, match=r"have several labels, but the outputs of .* are exclusive classes; load it with outputs=sigmoid"):
        train_checkpoint(exclusive, tmp_path / "no.safetensors", tmp_path / "other", "cpu")


def test_one_logit_stays_one_when_two_other_classes_are_learnt(tmp_path: Path) -> None:
    torch.save(builder("attrlib:small_resnet10_w16")({"num_classes": 1}, False).module.state_dict(), tmp_path / "one.pth")
    for k, image in enumerate(noise(k) for k in range(8)):
        (tmp_path / "data" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "data" / "ab"[k % 2] / f"{k}.png")
    start = ModelSpec("attrlib:small_resnet10_w16", str(tmp_path / "one.pth"), (32, 32))
    training = Training(start, str(tmp_path / "data"), replace(RECIPE, epochs=1))
    card = train_checkpoint(training, tmp_path / "out.safetensors", tmp_path / "state", "cpu")
    assert (card.outputs, card.class_names) == ("binary", ("a", "b"))
    assert attrlib.load_model(tmp_path / "out.safetensors", "cpu").outputs.kind == "binary"


def test_cross_entropy_of_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cross-entropy needs exclusive classes"):
        train(wrapped(3, "sigmoid"), DATA, range(3), DATA, range(3), replace(RECIPE, loss="cross-entropy"), tmp_path)


def test_a_network_with_batch_statistics_learns_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = attrlib.wrap_model(Tiny(3), SIZE, HALF, HALF, crop=1.0, outputs="sigmoid")
    history = train(model, DATA, range(3), DATA, range(3), replace(RECIPE, epochs=12, batch=8, lr=0.5), tmp_path).history
    assert history[-1]["loss"] < history[0]["loss"]
