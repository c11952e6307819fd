"""Train a checkpoint and its model card from a model and a data set, as `python -m attrlib finetune` does."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from attrlib.data.datasets import Dataset, load_dataset
from attrlib.data.derived import Kept, hold_out
from attrlib.data.labels import match_classes, with_description
from attrlib.errors import DataError, SpecError, TrainingError
from attrlib.models import Card, Classifier, load_model, with_classes
from attrlib.models.added import architecture_of
from attrlib.progress import Listener, no_listener
from attrlib.specs import ModelSpec, digest
from attrlib.statistics import proportion
from attrlib.training.accuracy import accuracies, check_labelled
from attrlib.training.recipe import Recipe
from attrlib.training.train import TrainingProgress, train

HELD_OUT = 0.1
"""Share of the training data that selects the best epoch if no selection data are given."""
GRID = 4
"""Patches per side of the grid on which accuracy on deleted images is measured for models trained without deletion."""


@dataclass(frozen=True)
class Training:
    """A training to run: the model and its initial weights, and the data.

    Attributes:
        model: The model, and the weights to start from.
        data: Name of the data to train on.
        recipe: Settings of the training.
        select: Name of the data that selects the best epoch; None holds out a tenth of the training data.
        report: Name of the data that the reported accuracies are measured on; None uses the selection data, and the card says so.
        pair: Name of the same model with, or without, deletion, for the card.
    """

    model: ModelSpec
    data: str
    recipe: Recipe = field(default_factory=Recipe)
    select: str | None = None
    report: str | None = None
    pair: str | None = None

    @property
    def id(self) -> str:
        """Return the digest that names the state of the training."""
        return digest(asdict(self))


def train_checkpoint(
    training: Training,
    out: Path,
    folder: Path,
    device: str = "auto",
    on_progress: Listener[TrainingProgress] = no_listener,
    datasets: Mapping[str, Dataset] | None = None,
) -> Card:
    """Train a model, and write the weights and their model card.

    The weights are written to `out` (.safetensors, matrices in float16), and the card beside it (.json). After an interruption, the
    same call resumes. If the classes of the data are not those of the model, the head is replaced; if the model has all of them,
    their rows are copied.

    Args:
        training: The training to run.
        out: The file to write the weights to.
        folder: Folder of the state from which an interrupted training resumes.
        device: `auto`, or the name of a torch device.
        on_progress: Progress callback.
        datasets: Data sets that are already loaded, by name.

    Raises:
        DataError: The data have fewer than two classes, no labelled images, or several labels per image and the model exclusive classes.
        ImageError: None of the training images can be read.
        ModelError: The model cannot be loaded, or its head cannot be replaced.
        SpecError: `out` does not end with .safetensors, or a setting is not valid.
        TrainingError: The training diverged, or a file cannot be read or written.
    """
    if out.suffix != ".safetensors":
        raise SpecError(f"{out.name!r} is not a valid file name for weights; choose one that ends with .safetensors")
    at_hand = dict(datasets or {})
    whole_set = at_hand.get(training.data) or Kept(load_dataset(training.data, training=True))
    if len(whole_set.class_names) < 2:
        raise DataError(
            f"{whole_set.name} has {len(whole_set.class_names)} class(es), but training needs at least 2; choose a folder of class folders"
        )
    if training.select is None:
        data, select = hold_out(whole_set, HELD_OUT, training.recipe.seed)
    else:
        data, select = whole_set, at_hand.get(training.select) or Kept(load_dataset(training.select))
    report = select if training.report is None else at_hand.get(training.report) or load_dataset(training.report)
    check_labelled(report)
    model = _model(training, whole_set, _place(device))
    if whole_set.multi_label and model.outputs.exclusive:
        raise DataError(
            f"the images of {whole_set.name} have several labels, but the outputs of {model.name} are exclusive classes; load it with outputs=sigmoid"
        )
    _check_size(model, training.recipe)
    classes, of_select, of_report = (match_classes(d.class_names, model.class_names) for d in (data, select, report))
    trained = train(model, data, classes, select, of_select, training.recipe, folder, on_progress)
    if int(os.environ.get("RANK", 0)):
        return Card(str(training.model), model.class_names, model.preprocessing)
    state = {name: _rounded(tensor) for name, tensor in trained.state.items()}
    model.module.load_state_dict(state)
    # The card describes the file, so the accuracies are those of the rounded weights.
    right = accuracies(model, report, of_report, training.recipe.deletion or GRID, training.recipe.baseline)
    data_bytes = safetensors.torch.save(state)
    card = Card(
        architecture=architecture_of(model.architecture),
        class_names=model.class_names,
        preprocessing=model.preprocessing,
        data=whole_set.name,
        recipe=asdict(training.recipe),
        deletion={"grid": training.recipe.deletion, "baseline": training.recipe.baseline} if training.recipe.deletion else None,
        accuracy={
            "data": report.name,
            "clean": asdict(proportion(right.clean, right.count)),
            "deleted": asdict(proportion(right.deleted or 0, right.count)),
        },
        parameters=sum(p.numel() for p in model.module.parameters()),
        seed=training.recipe.seed,
        seconds=round(trained.seconds, 1),
        epoch=trained.epoch,
        pair=training.pair,
        left_out=len(trained.left_out),
        digest=hashlib.blake2b(data_bytes, digest_size=16).hexdigest(),
        outputs=model.outputs.kind,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for path, content in ((out, data_bytes), (out.with_suffix(".json"), card.text().encode())):
            part = path.with_name(path.name + ".part")
            part.write_bytes(content)
            part.replace(path)
    except OSError as error:
        raise TrainingError(
            f"{out} cannot be written ({error.strerror}); the training state is saved, so free disk space and run the same command again"
        ) from None
    return card


def _model(training: Training, data: Dataset, device: str) -> Classifier:
    start = load_model(training.model.architecture, device, **training.model.options())
    try:
        rows: Sequence[int] | None = match_classes(data.class_names, start.class_names)
    except DataError:
        rows = None
    names = [with_description(name) for name in data.class_names]
    if rows is None or len(names) != len(start.class_names):
        return with_classes(start, names, rows, training.recipe.seed)
    if all(name == f"class {k}" for k, name in enumerate(start.class_names)):
        # Its classes have no names yet: the data name them.
        start.class_names = tuple(name for _, name in sorted(zip(rows, names, strict=True)))
    return start


def _place(device: str) -> str:
    """Return the device of this process: under `torchrun`, each process uses a different GPU."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "auto" and local is not None and torch.cuda.is_available() else device


def _check_size(model: Classifier, recipe: Recipe) -> None:
    if min(model.input_size) < recipe.deletion:
        raise SpecError(
            f"images of {model.input_size[0]} x {model.input_size[1]} px cannot be divided into {recipe.deletion} x {recipe.deletion} patches; choose a smaller deletion"
        )


def _rounded(tensor: Tensor) -> Tensor:
    """Round matrices to float16; keep other tensors (biases, scales, statistics) exact."""
    return (tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor).contiguous()
